"""`downriver schemas`: the contracts as files, the registry made to agree, and migrations judged before they run."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from downriver.exits import BadInput, Exit
from downriver.output import Format, OutputOption, print_json, report, say, stdout
from downriver.settings import load as load_settings
from schemas import contracts as files
from schemas.compatibility import Schema, problems
from schemas.contracts import Contract, Contracts
from schemas.plan import PENDING, Action, Item, differences, same
from schemas.plan import apply as apply_items
from schemas.plan import history as history_of
from schemas.plan import plan as plan_items
from schemas.registry import Refused, RegistryAway, SchemaRegistry

if TYPE_CHECKING:
    from schemas.gate.effects import Effect

app = typer.Typer()

FolderOption = Annotated[Path, typer.Option("--folder", help="Where subjects.yaml and the .avsc files are.")]
Subjects = Annotated[list[str] | None, typer.Argument(help="Subjects; default: all of subjects.yaml.")]
PENDING_EXIT = 2
"""As `terraform plan -detailed-exitcode`: there are differences."""


@app.callback()
def about() -> None:
    """Keep the Avro contracts as files, and judge a migration before it runs."""


@app.command()
def check(
    against: Annotated[
        str | None,
        typer.Option(metavar="REVISION|registry", help="Compare with a git revision, or with what is registered."),
    ] = None,
    folder: FolderOption = files.FOLDER,
    output: OutputOption = Format.TABLE,
) -> None:
    """Check the files: they parse, are named after their records, and may follow what was there before.

    Without --against nothing but the files is read. Compatibility is judged by Apache Avro's checker at the subject's
    level, for captured subjects (level NONE) column by column: what workers would stop at is a finding. It sees files
    only: what a migration makes of them is `downriver schemas gate`.

    Exit codes: 0 nothing found, 1 findings, 2 the files can't be read, 3 the registry is away.
    """
    now = _contracts(folder)
    findings: list[dict[str, object]] = [
        {"subject": each.subject, "finding": f"{each.path.name} is missing: `downriver schemas pull {each.subject}`"}
        for each in now.all
        if each.schema is None
    ]
    if against is not None:
        findings += [
            {"subject": contract.subject, "finding": finding}
            for contract, earlier in _earlier(now, against, folder)
            for finding in _judged(contract, earlier)
        ]
    if findings or output is Format.JSON:
        report(output, findings, ["subject", "finding"])
    compared = f", compared with {against}" if against else ""
    say(f"{len(now.all)} subject(s) checked{compared}: {len(findings)} finding(s)")
    if findings:
        raise typer.Exit(Exit.FAILED)


@app.command()
def plan(
    everything: Annotated[
        bool, typer.Option("--all", help="List subjects that subjects.yaml does not name, too.")
    ] = False,
    folder: FolderOption = files.FOLDER,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show what differs between the files and the registry, in the order in which `apply` would do it.

    Exit codes: 0 nothing, 2 differences, 1 a schema that may not follow what is registered, 3 the registry is away.
    """
    with _registry() as registry:
        items = plan_items(registry, _contracts(folder), everything=everything)
    _tell(items, output)
    _end(items)


@app.command()
def apply(
    dry_run: Annotated[bool, typer.Option(help="Say what would be done, and do nothing.")] = False,
    folder: FolderOption = files.FOLDER,
    output: OutputOption = Format.TABLE,
) -> None:
    """Set the compatibility levels, then register our own schemas. A level comes first: without one, nothing is checked.

    Refused schemas stop everything before anything is changed. Applying again changes nothing.

    Exit codes: 0 done, 1 a schema was refused, 2 captured subjects differ from their pins (`pull`), 3 the registry is away.
    """
    with _registry() as registry:
        contracts = _contracts(folder)
        items = plan_items(registry, contracts)
        refused = [item for item in items if item.action is Action.REFUSED]
        if dry_run or refused:
            _tell(items, output)
            _end(items)
            return
        done = list(apply_items(registry, contracts, items))
        left = [item for item in items if item not in done]
    _tell(done + left, output, done=len(done))
    _end(left)


@app.command()
def pull(
    subjects: Subjects = None,
    folder: FolderOption = files.FOLDER,
    output: OutputOption = Format.TABLE,
) -> None:
    """Write the registry's newest schemas of captured subjects into their files: pin what the tables define.

    Look at `downriver schemas diff` first. Our own schemas are never overwritten: their files are the truth.
    """
    settings = load_settings()
    pulled: list[dict[str, object]] = []
    with _registry() as registry:
        for contract in _contracts(folder).of(subjects or []):
            if not contract.captured:
                if subjects:
                    msg = f"{contract.subject} is our own: its file {contract.path} is the truth; `apply` registers it"
                    raise BadInput(msg)
                continue
            newest = registry.version(contract.subject)
            if newest is None:
                say(f"{contract.subject}: the registry does not have it yet: no row of its table has been captured")
                continue
            if contract.schema is not None and same(contract.schema, newest.schema):
                continue
            pinned = files.other_source(contract.topic, settings.source, files.SOURCE)
            contract.path.write_bytes(files.written(files.retopic(newest.schema, contract.topic, pinned)))
            pulled.append({"subject": contract.subject, "version": newest.number, "file": str(contract.path)})
    if pulled or output is Format.JSON:
        report(output, pulled, ["subject", "version", "file"])
    say(f"{len(pulled)} file(s) written")


@app.command()
def diff(subjects: Subjects = None, folder: FolderOption = files.FOLDER, output: OutputOption = Format.TABLE) -> None:
    """Show, column by column, where the registry's newest schemas differ from the files.

    The registry gives a schema that comes back its old number: its newest version need not be what a table sends now.

    Exit codes: 0 nothing, 2 differences, 3 the registry is away.
    """
    told: list[dict[str, object]] = []
    with _registry() as registry:
        for contract in _contracts(folder).of(subjects or []):
            newest = registry.version(contract.subject)
            if newest is None or contract.schema is None or same(contract.schema, newest.schema):
                continue
            for line in differences(contract.schema, newest.schema):
                told.append({"subject": contract.subject, "version": newest.number, "change": line})
    if told or output is Format.JSON:
        report(output, told, ["subject", "version", "change"])
    else:
        say("The registry's newest schemas are the pinned ones.")
    if told:
        raise typer.Exit(PENDING_EXIT)


@app.command()
def history(
    subject: Annotated[str, typer.Argument(help="A subject of the registry.")],
    output: OutputOption = Format.TABLE,
) -> None:
    """List a subject's versions: what each changed, and whether a reader of it can read the one before (BACKWARD)."""
    with _registry() as registry:
        versions = history_of(registry, subject)
        if not versions:
            near = [name for name in registry.subjects() if subject.split("-")[0] in name]
            msg = f"the registry has no subject {subject}" + (f"; it has {', '.join(near)}" if near else "")
            raise BadInput(msg)
    if output is Format.JSON:
        print_json(versions)
        return
    rows = [
        version
        | {
            "changed": "\n".join(str(line) for line in version["changed"]),  # type: ignore[attr-defined]
            "compatible": "yes" if version["compatible"] else "\n".join(version["why"]),  # type: ignore[arg-type]
        }
        for version in versions
    ]
    report(output, rows, ["version", "id", "changed", "compatible"])


@app.command()
def accept(
    subject: Annotated[
        str | None, typer.Argument(help="The value subject of a captured table; none: list what waits.")
    ] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="A column whose end or new type is accepted.")
    ] = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Let workers go on with a table that a migration took something away from; without arguments, list what waits.

    A stopped table stands still, in this sink only, at the first record that it can't go on with; all others go on.
    Accepting a dropped column makes it NULL in the sinks from there on, and accepting a new type stores what comes.
    It may be accepted before the migration runs, so that nothing stops. Without --column: whatever waits for the subject.

    Exit codes: 0 accepted, or nothing waits; 2 something waits (or no such subject), 3 the registry is away.
    """
    from schemas.agreed import Agreements

    with _registry() as registry:
        agreements = Agreements(registry)
        if subject is None:
            waiting = [
                {"subject": f"{topic}{files.VALUE}", "column": name, "problem": told}
                for topic in agreements.topics()
                for name, told in agreements.read(topic).waiting.items()
            ]
            if waiting or output is Format.JSON:
                report(output, waiting, ["subject", "column", "problem"])
            else:
                say("No table waits for a decision.")
            if waiting:
                raise typer.Exit(PENDING_EXIT)
            return
        topic = subject.removesuffix(files.VALUE)
        held = agreements.read(topic)
        if not held.columns:
            msg = f"no worker has seen a record of {subject}; `downriver schemas accept` lists what waits"
            raise BadInput(msg)
        names = column or sorted(held.waiting)
        if unknown := [name for name in names if name not in held.columns]:
            msg = f"{subject} has no column {', '.join(unknown)}; it has {', '.join(held.columns)}"
            raise BadInput(msg)
        after = agreements.update(topic, lambda now: now.accept(*names))
    report(output, [{"subject": subject, "column": name, "accepted": name in after.accepted} for name in names])
    if not names:
        say(f"Nothing waits for {subject}.")


@app.command()
def gate(
    migrations: Annotated[list[Path], typer.Argument(metavar="MIGRATION.sql…", help="SQL files, run in this order.")],
    pg_bin: Annotated[
        Path | None, typer.Option("--pg-bin", metavar="FOLDER", help="Where pg_dump and psql are.")
    ] = None,
    folder: FolderOption = files.FOLDER,
    output: OutputOption = Format.TABLE,
) -> None:
    """Tell what a SQL migration does to capture and to every sink, before it runs anywhere.

    It runs in a scratch database made from the current one's schema, in a transaction that is never committed. For every
    captured table: the verdict, what happens in each sink, what to do first and afterwards. JSON holds the schemas that
    Debezium will send, too. It sees no rows: whether data fit a new type or a NOT NULL, only a run on a copy can tell.
    Alembic writes such a file by `alembic upgrade --sql`.

    Exit codes: 0 workers follow by themselves, 1 something has to be done first, or a table stops, or capture breaks,
    2 a file or a statement can't be judged, 3 PostgreSQL is away.
    """
    from connectors.files import load as load_connectors
    from schemas.gate.effects import Verdict, worst
    from schemas.gate.judge import for_source, judge

    settings = load_settings()
    connectors = for_source(load_connectors(), settings.source)
    judged = judge(settings, connectors, _contracts(folder), migrations, pg_bin)
    if output is Format.JSON:
        print_json(
            {
                "verdict": worst(judged.effects),
                "tables": [asdict(effect) for effect in judged.effects],
                "notes": judged.notes,
                "schemas": judged.schemas,
            }
        )
    else:
        for effect in judged.effects:
            _tell_effect(effect)
        for note in judged.notes:
            stdout.print(f"note: {note}", markup=False, soft_wrap=True)
        if not judged.effects:
            say("No captured table changes for those who read its changes.")
    if worst(judged.effects) not in (Verdict.SAME, Verdict.FOLLOWED):
        raise typer.Exit(Exit.FAILED)


@contextmanager
def _registry() -> Iterator[SchemaRegistry]:
    """Give the client; a registry that is away ends the command with code 3."""
    registry = SchemaRegistry(load_settings().registry)
    try:
        yield registry
    except RegistryAway as error:
        from downriver.exits import ServerAway

        msg = f"{error}; `downriver stack status` shows the local one, DOWNRIVER_REGISTRY__URL names another"
        raise ServerAway(msg) from None
    except Refused as error:
        msg = f"{error}. What was done before stands; `downriver schemas plan` shows what is left"
        raise Refused(msg) from None
    finally:
        registry.close()


def _contracts(folder: Path) -> Contracts:
    return files.load(folder, load_settings().source)


def _earlier(now: Contracts, against: str, folder: Path) -> Iterator[tuple[Contract, Sequence[Schema]]]:
    """Yield each contract with the schemas that it follows, oldest first."""
    if against == "registry":
        with _registry() as registry:
            for contract in now.all:
                found = [registry.version(contract.subject, number) for number in registry.versions(contract.subject)]
                yield contract, [version.schema for version in found if version is not None]
        return
    from schemas.revision import at

    before = at(against, folder)
    source = load_settings().source
    known = {each.subject: each.schema for each in (files.renamed(c, source) for c in (before.all if before else ()))}
    for contract in now.all:
        schema = known.get(contract.subject)
        yield contract, [schema] if schema is not None else []


def _judged(contract: Contract, earlier: Sequence[Schema]) -> list[str]:
    """Return why the contract may not follow; a captured one, which has no level, is judged column by column."""
    if contract.schema is None or not earlier:
        return []
    if not contract.captured:
        return problems(contract.level, contract.schema, earlier)
    from schemas.rows import STOPS, columns, steps

    found = steps(columns(earlier[-1]), columns(contract.schema))
    return [f"workers stop at this: {step}" for step in found if step.kind in STOPS]


def _tell(items: Sequence[Item], output: Format, *, done: int | None = None) -> None:
    rows = [asdict(item) | ({"done": place < done} if done is not None else {}) for place, item in enumerate(items)]
    if output is Format.JSON:
        print_json(rows)
        return
    if not items:
        say("The registry agrees with the files: nothing to do.")
        return
    columns = ["subject", "action", "before", "after"] + (["done"] if done is not None else [])
    report(output, rows, columns)
    for item in items:
        if item.detail:
            stdout.print(f"\n{item.subject}", *(f"  {line}" for line in item.detail), sep="\n", markup=False)
    if any(item.action in (Action.PARTED, Action.UNPINNED) for item in items):
        say(
            "\nTables define captured subjects: `downriver schemas diff`, then `downriver schemas pull` to pin what is there."
        )


def _tell_effect(effect: Effect) -> None:
    """Print one table's effect as a person reads it: what, where, what first, what then."""
    lines = [f"{effect.table}: {effect.verdict}"]
    lines += [f"  {step}" for step in effect.steps]
    lines += [f"  {why}" for why in effect.why]
    for sink, told in effect.sinks.items():
        lines += [f"  in {sink}: {line}" for line in told]
    lines += [f"  first {number}. {line}" for number, line in enumerate(effect.before, 1)]
    lines += [f"  then  {number}. {line}" for number, line in enumerate(effect.after, 1)]
    lines += [f"  Avro {line}" for line in effect.avro]
    stdout.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)


def _end(items: Sequence[Item]) -> None:
    if any(item.action is Action.REFUSED for item in items):
        raise typer.Exit(Exit.FAILED)
    if any(item.action in PENDING for item in items):
        raise typer.Exit(PENDING_EXIT)
