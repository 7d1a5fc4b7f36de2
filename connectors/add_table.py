"""A table joins a running lane: its topic, the publication, the settings, then its rows; nothing else is disturbed.

In this order nothing is lost: the publication comes before the settings, so every change that the new settings let through
was published; and the rows are re-read after both, as updates that stand after whatever changed them before. The other
tables are not read again: the connector goes on from its stored position. Every step may be repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
from psycopg import sql

from connectors import captured, preflight, source, topics, transition
from connectors.connect import ConnectClient
from connectors.connector import HEARTBEAT_TABLE, Connector, listed
from downriver.exits import BadInput, DownriverError
from downriver.settings import Settings

LISTS = ("table.include.list", "column.exclude.list", "message.key.columns", "transforms", "predicates")
"""Settings that grow by what the new table needs."""
ADDABLE = ("transforms.", "predicates.")
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Joining:
    """What adding the table changes.

    Attributes:
        wanted: the connector as it will be.
        changed: setting → before and after.
        to_publish: the publication lacks the table.
        untrue: columns whose NULLs will arrive as their default.
    """

    table: str
    live: Connector
    wanted: Connector
    changed: Mapping[str, tuple[str, str]]
    to_publish: bool
    untrue: tuple[str, ...] = ()


def plan(settings: Settings, live: Connector, wanted: Connector, table: str, exclude: tuple[str, ...] = ()) -> Joining:
    """Say what must be done, and refuse what is not this table's alone.

    Args:
        live: as Connect has it.
        wanted: as its file says; the table is added to it where it is not there yet.
        exclude: columns of the table to leave out.

    Raises:
        BadInput: the table is not ready, or file and Connect differ in something else.
        ServerAway: PostgreSQL can't be asked.
    """
    if not re.fullmatch(r"\w+\.\w+", table) or table == HEARTBEAT_TABLE:
        msg = f"{table!r} is no table to add: write schema.table"
        raise BadInput(msg)
    wanted = with_table(wanted, table, exclude)
    changed = {
        key: (live.config.get(key, ""), wanted.config.get(key, ""))
        for key in sorted(set(live.config) | set(wanted.config))
        if live.config.get(key, "") != wanted.config.get(key, "")
    }
    if foreign := [f"{key}: {_why(key, *changed[key], table)}" for key in changed if _why(key, *changed[key], table)]:
        lines = "".join(f"\n  {each}" for each in foreign)
        msg = (
            f"{wanted.origin} and Kafka Connect differ in more than {table}, nothing was changed:{lines}\n"
            "bring them together first: `downriver connectors plan`"
        )
        raise BadInput(msg)
    findings = [each for each in preflight.check(settings, [wanted]) if not _publishable(each, wanted, table)]
    if findings:
        lines = "".join(f"\n  {each}" for each in findings)
        msg = f"the source is not ready for {table}, nothing was changed:{lines}"
        raise BadInput(msg)
    with source.connected(settings, wanted) as connection:
        published = {row["name"] for row in connection.execute(source.PUBLISHED, {"name": wanted.publication})}
        untrue = [each for each in captured.untrue(connection, table) if f"{table}.{each}" not in wanted.excluded]
    return Joining(table, live, wanted, changed, table not in published, () if wanted.keeps_null else tuple(untrue))


def with_table(connector: Connector, table: str, exclude: tuple[str, ...]) -> Connector:
    """Return the connector with the table in its list, and the columns left out."""
    config = dict(connector.config)
    tables = connector.tables
    if table not in tables:
        at = tables.index(HEARTBEAT_TABLE) if HEARTBEAT_TABLE in tables else len(tables)
        config["table.include.list"] = ",".join((*tables[:at], table, *tables[at:]))
    left_out = listed(config, "column.exclude.list")
    new = [f"{table}.{column}" for column in exclude if f"{table}.{column}" not in left_out]
    if new:
        config["column.exclude.list"] = ",".join((*left_out, *new))
    return replace(connector, config=config)


def write(path: Path, before: Connector, wanted: Connector) -> bool:
    """Bring a connector file up to date, its layout unchanged; return whether it had to be.

    Raises:
        BadInput: the file does not hold the setting as one string in a line of its own, or can't be written.
    """
    changed = {key: wanted.config[key] for key in LISTS[:2] if wanted.config.get(key) != before.config.get(key)}
    if not changed:
        return False
    try:
        text = path.read_text(encoding="utf-8")
        for key, value in changed.items():
            pattern = (
                rf'("{re.escape(key)}"\s*:\s*)"[^"\\]*"'
                if path.suffix == ".json"
                else rf"^(\s*{re.escape(key)}:\s*)\S.*$"
            )
            quoted = f'"{value}"' if path.suffix == ".json" else value
            text, count = re.subn(pattern, lambda found, new=quoted: found[1] + new, text, flags=re.MULTILINE)  # type: ignore[misc]
            if count == 0 and path.suffix == ".json" and key == "column.exclude.list":
                pattern = r'^(\s*)("table\.include\.list"\s*:\s*"[^"\\]*"\s*,)'
                text, count = re.subn(pattern, rf'\1\2\n\1"{key}": "{value}",', text, flags=re.MULTILINE)
            if count != 1:
                msg = f"{path}: {key} can't be written there by itself; write: {key} = {value}, and repeat this"
                raise BadInput(msg)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        msg = f"{path} can't be written: {error.strerror}"
        raise BadInput(msg) from None
    return True


def join(settings: Settings, client: ConnectClient, joining: Joining, tell: Tell, wait_s: float) -> None:
    """Make the topic, publish the table, give the connector its settings; return when it goes on.

    Raises:
        BadInput: Connect refuses the settings; the publication has the table by then, which harms nothing.
        DownriverError: PostgreSQL refuses, or the connector does not go on.
    """
    wanted, name = joining.wanted, joining.wanted.name
    if mistakes := client.mistakes({"name": name, **wanted.config}):
        msg = f"Kafka Connect refuses the settings of {name}, nothing was changed: {'; '.join(mistakes)}"
        raise BadInput(msg)
    for topic in topics.ensure(settings.kafka, [wanted]):
        tell(f"topic {topic} made")
    if joining.to_publish:
        publish(settings, wanted, joining.table)
        tell(f"publication {wanted.publication} carries {joining.table}")
    if joining.changed:
        # a task with the old settings would pass over the new rows, and store that it did: none may be left
        transition.stop(client, name, wait_s)
        stored = client.positions(name)
        try:
            client.put(name, wanted.config)
        finally:
            client.resume(name)
        now = transition.flowing(client, name, stored, wait_s)
        if "FAILED" in transition.states(now):
            msg = f"connector {name} failed with the new settings: `downriver connectors status` says why; then repeat this"
            raise DownriverError(msg)
        tell(f"connector {name} captures {joining.table} and goes on from where it was")


def publish(settings: Settings, connector: Connector, table: str) -> None:
    """Add the table to the connector's publication.

    Raises:
        DownriverError: PostgreSQL refuses; the statement for its owner is told.
    """
    statement = sql.SQL("ALTER PUBLICATION {} ADD TABLE {}").format(
        sql.Identifier(connector.publication), sql.Identifier(*table.split(".", 1))
    )
    with source.connected(settings, connector) as connection:
        try:
            connection.execute(statement)
        except psycopg.errors.DuplicateObject:
            return  # somebody was faster
        except psycopg.Error as error:
            msg = (
                f"PostgreSQL refuses {statement.as_string()}: {str(error).splitlines()[0]}; the publication's owner may"
            )
            raise DownriverError(msg) from None


def _publishable(finding: preflight.Finding, connector: Connector, table: str) -> bool:
    """Tell whether the finding is what adding the table mends."""
    return finding.thing == f"publication {connector.publication}" and finding.value == f"lacks {table}"


def _why(key: str, before: str, after: str, table: str) -> str:
    """Say why a difference is not the new table's; empty if it is."""
    if key in LISTS:
        old, new = _entries(key, before), _entries(key, after)
        if removed := [entry for entry in old if entry not in new]:
            return f"{', '.join(removed)} would go"
        added = [entry for entry in new if entry not in old]
        if key in {"table.include.list", "column.exclude.list", "message.key.columns"}:
            foreign = [entry for entry in added if entry != table and not entry.startswith((f"{table}.", f"{table}:"))]
            return f"{', '.join(foreign)} would come" if foreign else ""
        return ""
    if key.startswith(ADDABLE) and not before:
        return ""
    return f"is {before!r} on Kafka Connect and {after!r} in the file"


def _entries(key: str, value: str) -> list[str]:
    separator = ";" if key == "message.key.columns" else ","
    return [entry.strip() for entry in value.split(separator) if entry.strip()]
