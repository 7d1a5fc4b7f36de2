"""`downriver connectors offsets`: the positions that Connect has stored, as its REST API and Strimzi write them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import orjson
import typer

from connectors import leftovers, live, lsn, source, transition
from connectors.connect import ConnectClient
from connectors.deploying import ContextOption
from connectors.files import Connector
from connectors.health import Offset
from connectors.state_command import YesOption, agree
from downriver.exits import BadInput, DownriverError
from downriver.output import Format, OutputOption, print_json, say, stdout
from downriver.settings import Settings

app = typer.Typer(help="Show, replace or delete the positions that Kafka Connect has stored for a connector.")
Name = Annotated[str, typer.Argument(help="A connector.")]


@app.command()
def get(name: Name, context: ContextOption = None, output: OutputOption = Format.TABLE) -> None:
    """Show the stored positions. `-o json` is the document that `set` takes: {"offsets": [{"partition", "offset"}]}."""
    with live.client(live.in_use(context), live.PATIENCE_S, say) as client:
        live.named(client, [name])
        positions = client.positions(name)
    if output is Format.JSON:
        print_json({"offsets": positions})
        return
    for position in positions:
        found = Offset.read(position.get("offset") or {})
        by = "a snapshot" if found and found.snapshot else "streaming"
        stdout.print(f"{lsn.told(found.lsn)}, written by {by}" if found else "no position", highlight=False)
        for key in ("partition", "offset"):
            stdout.print(
                f"  {key}: {orjson.dumps(position.get(key)).decode()}", soft_wrap=True, highlight=False, markup=False
            )
    if not positions:
        say(f"{name} has stored no position yet: it begins with a snapshot")


@app.command(name="set")
def set_(
    name: Name,
    file: Annotated[Path, typer.Argument(help='The document, as `get -o json` prints it; "-": from stdin.')],
    *,
    yes: YesOption = False,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Replace stored positions while the connector is stopped.

    A position before the slot's makes the connector refuse to start, or go on in silence without what was committed in between
    (where the slot's restart_lsn is before it); one after it leaves that out, too. Both are told before anything is changed.
    """
    positions = _read(file)
    settings = live.in_use(context)
    with _at_rest(settings, name, "set") as (client, connector):
        stored = client.positions(name)
        if live.captures(connector):
            _refuse_foreign(connector, positions, file)
            for sentence in _consequences(settings, connector, stored, positions):
                say(f"{name}: {sentence}")
        agree(f"set the offsets of {name}", yes=yes)
        client.set_offsets(name, positions)
        after = client.positions(name)
    _told(name, "set", stored, after, output)


@app.command()
def reset(
    name: Name,
    *,
    drop_slot: Annotated[
        bool, typer.Option("--drop-slot", help="And the slot, so that the next start makes a new one.")
    ] = False,
    yes: YesOption = False,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Delete every stored position while the connector is stopped: its next start is a new snapshot.

    Snapshot rows create what sinks lack and overwrite nothing; rows deleted in between stay in the sinks until
    `downriver verify` finds them. `downriver connectors reread` brings what changed in between.
    """
    settings = live.in_use(context)
    with _at_rest(settings, name, "reset") as (client, connector):
        stored = client.positions(name)
        if live.captures(connector):
            for sentence in _cost(settings, connector):
                say(f"{name}: {sentence}")
        agree(f"delete the offsets of {name}{' and drop its slot' if drop_slot else ''}", yes=yes)
        client.reset_offsets(name)
        if drop_slot and live.captures(connector) and leftovers.drop_slot(settings, connector):
            say(f"{name}: slot {connector.slot} dropped")
        after = client.positions(name)
    _told(name, "reset", stored, after, output)


@contextmanager
def _at_rest(settings: Settings, name: str, verb: str) -> Iterator[tuple[ConnectClient, Connector]]:
    """Give the client and the connector, which must be stopped for its positions to be changed.

    Raises:
        BadInput: it is not, or there is none.
    """
    with live.client(settings, live.PATIENCE_S, say) as client:
        (there,) = live.named(client, [name])
        transition.require_stopped(client, name, verb)
        yield client, live.described(there)


def _read(file: Path) -> list[dict[str, Any]]:
    """Read the document.

    Raises:
        BadInput: what is wrong with it, and how it must look.
    """
    form = 'it must be {"offsets": [{"partition": {…}, "offset": {…} or null}]}'
    try:
        content = sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
        document: Any = orjson.loads(content)
    except OSError as error:
        msg = f"{file} can't be read: {error.strerror}"
        raise BadInput(msg) from None
    except orjson.JSONDecodeError as error:
        msg = f"{file} is not JSON: {error}; {form}"
        raise BadInput(msg) from None
    positions = document.get("offsets") if isinstance(document, dict) and set(document) == {"offsets"} else None
    good = isinstance(positions, list) and all(
        isinstance(each, dict)
        and set(each) == {"partition", "offset"}
        and isinstance(each["partition"], dict)
        and (each["offset"] is None or isinstance(each["offset"], dict))
        for each in positions
    )
    if not good or not positions:
        msg = f"{file}: {form}"
        raise BadInput(msg)
    found: list[dict[str, Any]] = positions
    return found


def _refuse_foreign(connector: Connector, positions: list[dict[str, Any]], file: Path) -> None:
    """Refuse positions that this connector would never read, and those that are none."""
    for position in positions:
        if position["partition"] != {"server": connector.prefix}:
            partition = orjson.dumps(position["partition"]).decode()
            msg = (
                f'{file}: partition {partition} is not {connector.name}\'s, which is {{"server": "{connector.prefix}"}}'
            )
            raise BadInput(msg)
        offset = position["offset"]
        if offset is None:
            continue
        wrong = [key for key in ("lsn", "lsn_proc", "lsn_commit") if not isinstance(offset.get(key, 0), int)]
        if wrong or Offset.read(offset) is None:
            msg = f"{file}: offset {orjson.dumps(offset).decode()} holds no LSN as a number under lsn, lsn_proc, lsn_commit"
            raise BadInput(msg)


def _consequences(
    settings: Settings, connector: Connector, stored: list[dict[str, Any]], positions: list[dict[str, Any]]
) -> list[str]:
    """Say what the new position means for the data."""
    wanted = next((Offset.read(each["offset"]) for each in positions if each["offset"]), None)
    if wanted is None:
        return ["without a position the next start is a new snapshot"]
    now = next((found for each in stored if (found := Offset.read(each.get("offset") or {}))), None)
    slot = leftovers.find(settings, connector).slot
    told = []
    if slot is None:
        told.append(f"slot {connector.slot} does not exist: the connector won't start from a position without it")
    elif slot.confirmed_lsn is not None and wanted.lsn < slot.confirmed_lsn:
        told.append(
            f"{lsn.told(wanted.lsn)} is before the slot's {lsn.told(slot.confirmed_lsn)}: PostgreSQL sends no changes from "
            "there; the connector will refuse to start, or go on in silence without them"
        )
    if now is not None and wanted.lsn > now.lsn:
        told.append(
            f"changes between {lsn.told(now.lsn)} and {lsn.told(wanted.lsn)} will not be captured: `downriver verify` finds "
            "what sinks then lack"
        )
    elif now is not None and wanted.lsn < now.lsn:
        told.append(f"changes since {lsn.told(wanted.lsn)} come again, which sinks recognise as stale")
    return told


def _cost(settings: Settings, connector: Connector) -> list[str]:
    """Say what a new snapshot reads, from the source's statistics; where it does not tell, that is said."""
    try:
        with source.connected(settings, connector) as connection:
            row = connection.execute(
                "SELECT sum(greatest(reltuples, 0))::bigint AS rows, sum(pg_table_size(oid))::bigint AS bytes FROM pg_class"
                " WHERE oid = ANY(SELECT to_regclass(t) FROM unnest(%s::text[]) t)",
                [list(connector.tables)],
            ).fetchone()
    except DownriverError as error:
        return [f"what a new snapshot costs is not known: {error}"]
    if row is None or row["rows"] is None:
        return []
    return [f"the next start is a new snapshot of about {row['rows']:,} rows, {lsn.size(row['bytes'])} (statistics)"]


def _told(name: str, done: str, before: list[dict[str, Any]], after: list[dict[str, Any]], output: Format) -> None:
    if output is Format.JSON:
        print_json({"connector": name, "done": done, "before": before, "after": after})
        return
    say(f"{name}: offsets {done}; before: {orjson.dumps(before).decode()}; now: {orjson.dumps(after).decode()}")
    say(f"`downriver connectors resume {name}` lets it go on")
