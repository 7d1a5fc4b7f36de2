"""`downriver connectors lint, validate, plan, apply, export, import`: connectors as code."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, ParamSpec, TypeVar

import orjson
import typer
from rich.markup import escape
from typer.core import TyperCommand

from connectors import lsn, told
from connectors.apply import Result, judge
from connectors.apply import apply as apply_connectors
from connectors.connect import ConnectClient, Refused
from connectors.connector import SECRET, Connector, masked
from connectors.files import Files, load, look, usable
from connectors.lint import KnownTable, Severity
from connectors.live import named
from connectors.overlays import meant as overlay_meant
from connectors.plan import make
from connectors.shapes import SUFFIX, Shape, as_curl, as_json, as_strimzi, resource_name, without_secrets
from downriver.exits import BadInput, DownriverError, Exit
from downriver.output import Format, OutputOption, print_json, report, say, stdout
from downriver.settings import Settings
from downriver.settings import load as load_settings

P = ParamSpec("P")
R = TypeVar("R")
app = typer.Typer()

KNOWN_TABLES = "processors.tables:TABLES"
"""Named, and looked up when asked for: capture knows nothing of what is downstream, and runs without it."""

FilesArgument = Annotated[
    list[Path] | None,
    typer.Argument(help="Connector files or folders (JSON, YAML, Strimzi); default: the folder connectors/."),
]
ContextOption = Annotated[
    str | None,
    typer.Option("--context", "-c", metavar="NAME", help="The Kafka Connect meant: a name of the setting `contexts`."),
]
OverlayOption = Annotated[
    str | None,
    typer.Option("--overlay", "-e", metavar="ENV", help="Merge overlays/ENV/ into the files; default: the context's."),
]
WAITS_S = 30.0
"""How long a command that only looks is patient with a Connect that starts or rebalances."""


class _OneOnError(TyperCommand):
    """A command whose exit code 2 means something else: wrong arguments end with 1 as every other error of it."""

    def make_context(self, *args: Any, **kwargs: Any) -> Any:
        """Parse the arguments."""
        try:
            return super().make_context(*args, **kwargs)
        except Exception as error:
            if getattr(error, "exit_code", None) == Exit.BAD_INPUT:
                error.exit_code = int(Exit.FAILED)  # type: ignore[attr-defined]
            raise


def _errors_are_1(command: Callable[P, R]) -> Callable[P, R]:
    """Let every error of the command end with 1, for its exit code 2 says something else."""

    @wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except DownriverError as error:
            say(f"[red]error:[/] {escape(str(error))}")
            raise typer.Exit(Exit.FAILED) from None

    return run


@app.command()
def lint(
    files: FilesArgument = None,
    overlay: OverlayOption = None,
    context: ContextOption = None,
    silenced: Annotated[bool, typer.Option("--silenced", help="Also show what is silenced, with the reasons.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Check the files, offline: names, secrets, what loses data or adds latency, tables nobody knows.

    Each finding names its rule, the reason and the fix. A rule that does not hold for one setting is silenced there, with the
    reason: `# lint: RULE REASON` at the end of the line in YAML; an entry in lint.yaml beside the files for JSON, which has no
    comments. docs/connectors.md lists the rules.

    Exit codes: 0 no error (warnings don't count), 1 at least one error, also where a file can't be read.
    """
    settings = load_settings(context)
    found = look(files, overlay_meant(settings, files, overlay), _known_tables())
    if output is Format.JSON:
        print_json([told.finding_record(each) for each in found.findings if silenced or not each.silenced])
    else:
        for line in told.finding_lines(found.findings, silenced=silenced):
            stdout.print(line, soft_wrap=True, highlight=False)
    if found.errors:
        raise typer.Exit(Exit.FAILED)


@app.command()
def validate(
    files: FilesArgument = None,
    overlay: OverlayOption = None,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Let each connector's own code on Kafka Connect check its settings, connection to the source included.

    Exit codes: 0 all are right, 1 a setting is wrong, 2 the files can't be used, 3 Kafka Connect is away.
    """
    settings = load_settings(context)
    connectors = load(files, overlay_meant(settings, files, overlay))
    records: list[dict[str, object]] = []
    with ConnectClient(settings.connect, WAITS_S, say) as client:
        installed = client.plugins()
        for connector in connectors:
            records += _mistakes(client, installed, connector)
    if records or output is Format.JSON:
        report(output, records, ["connector", "key", "value", "error", "place"])
    if records:
        raise typer.Exit(Exit.FAILED)
    if output is Format.TABLE:
        say(f"{len(connectors)} connector(s), every setting is right")


def _mistakes(client: ConnectClient, installed: frozenset[str], connector: Connector) -> list[dict[str, object]]:
    """Return one record for each setting that Connect finds wrong; a secret's value is never repeated."""
    found: list[tuple[str, str]]
    if connector.config["connector.class"] not in installed:
        found = [("connector.class", f"{connector.config['connector.class']} is not installed on this Connect")]
    else:
        try:
            mistakes = client.mistakes({"name": connector.name, **connector.config})
            found = [(key, error) for key, _, error in (mistake.partition(": ") for mistake in mistakes)]
        except Refused as error:
            found = [("", str(error))]
    return [
        {
            "connector": connector.name,
            "key": key,
            "value": masked(key, connector.config[key]) if key in connector.config else None,
            "error": "is not accepted (a secret is not shown)" if SECRET.search(key) else error,
            "place": connector.places.get(key, connector.origin),
        }
        for key, error in found
    ]


@app.command(cls=_OneOnError)
@_errors_are_1
def plan(
    files: FilesArgument = None,
    overlay: OverlayOption = None,
    context: ContextOption = None,
    prune: Annotated[bool, typer.Option("--prune", help="Plan to delete what is ours and has no file.")] = False,
    output: OutputOption = Format.TABLE,
) -> None:
    """Show what `apply` would change, key by key, and what would follow from it: snapshots, lost changes, WAL, moved keys.

    Reads files, Kafka Connect, Kafka and PostgreSQL's catalogs; changes nothing. Secrets are masked. Orphans and unmanaged
    connectors are told when a folder is planned, not single files.

    Exit codes: 0 nothing to do, 2 changes, 1 error (wrong arguments and servers that are away, too).
    """
    settings = load_settings(context)
    found = look(files, overlay_meant(settings, files, overlay))
    connectors = usable(found)
    _whole(found, prune=prune)
    with ConnectClient(settings.connect, WAITS_S, say) as client:
        made = make(settings, client, connectors, whole=found.whole, prune=prune)
    if output is Format.JSON:
        print_json(told.plan_records(made))
    else:
        for line in told.plan_lines(made):
            stdout.print(line, soft_wrap=True, highlight=False)
    if made.changes:
        raise typer.Exit(Exit.BAD_INPUT)  # 2, as `terraform plan -detailed-exitcode` and `git diff` users know it


@app.command()
def apply(
    files: FilesArgument = None,
    overlay: OverlayOption = None,
    context: ContextOption = None,
    allow: Annotated[
        list[str] | None, typer.Option("--allow", metavar="NAME", help="A consequence that loses or re-reads data.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Judge everything as apply does, change nothing.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Delete what is ours by its name and has no file.")] = False,
    wait: Annotated[float, typer.Option(min=0, metavar="SECONDS", help="How long to wait; 0: don't.")] = 120.0,
    output: OutputOption = Format.TABLE,
) -> None:
    """Check the source, create or update the connectors, wait until changes flow.

    Everything is judged before anything is touched: a source that is not ready, settings that a connector refuses, or a
    consequence that loses or re-reads data without its --allow NAME, and nothing is changed at all. Done when every task runs
    and has stored a position that it streamed to: from then on a restart loses nothing. Applying again changes nothing, but
    starts what was stopped or failed.

    Exit codes: 1 a connector was refused, failed or did not get there in time, 2 the files or the source are not ready or
    an --allow is missing, 3 Kafka Connect, Kafka or PostgreSQL is away.
    """
    settings = load_settings(context)
    found = look(files, overlay_meant(settings, files, overlay))
    connectors: list[Path | Connector] = [*usable(found)]
    _whole(found, prune=prune)
    if dry_run:
        _rehearse(settings, usable(found), allow or [], prune=prune, output=output)
        return
    tell_results(apply_connectors(settings, connectors, wait, say, allow=allow or [], prune=prune), output)


def _rehearse(
    settings: Settings, connectors: Sequence[Connector], allow: Sequence[str], *, prune: bool, output: Format
) -> None:
    with ConnectClient(settings.connect, WAITS_S, say) as client:
        made, refused = judge(settings, client, connectors, allow=allow, prune=prune)
    if output is Format.JSON:
        print_json(told.plan_records(made))
    else:
        for line in told.plan_lines(made):
            stdout.print(line, soft_wrap=True, highlight=False)
    for result in refused.values():
        say(f"[red]refused[/] {escape(result.connector)}: {escape(result.error)}")
    if refused:
        raise typer.Exit(Exit.FAILED)


def tell_results(results: Sequence[Result], output: Format) -> None:
    """Report what became of connectors; exit 1 unless all went well."""
    columns = ["connector", "action", "state", "lsn", "error"]
    records = [
        {name: getattr(result, name) for name in columns}
        | {"lsn": None if result.lsn is None else lsn.told(result.lsn)}
        for result in results
    ]
    if output is Format.TABLE:
        records = [record | {"error": str(record["error"]).partition("\n")[0]} for record in records]
    report(output, [{name: record[name] for name in columns} for record in records])
    for result in results:
        if result.error and output is Format.TABLE and "\n" in result.error:
            say(f"\n{escape(result.connector)}\n{escape(result.error)}")
    if not all(result.ok for result in results):
        raise typer.Exit(Exit.FAILED)


@app.command()
def export(
    files: FilesArgument = None,
    form: Annotated[Shape, typer.Option("--format", help="What to write.")] = Shape.JSON,
    out: Annotated[Path | None, typer.Option("--out", metavar="FOLDER", help="One file each; default: stdout.")] = None,
    cluster: Annotated[
        str, typer.Option("--cluster", metavar="NAME", help="Strimzi: the KafkaConnect that it belongs to.")
    ] = "downriver",
    overlay: OverlayOption = None,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Write the connectors of the files, overlay merged in, for other tools: json, strimzi or curl.

    `-o json` tells with --out which files were written; without it the connectors themselves are what is printed.

    Exit codes: 2 the files can't be used.
    """
    settings = load_settings(context)
    connectors = load(files, overlay_meant(settings, files, overlay))
    texts: dict[str, str] = {}
    for connector in connectors:
        if form is Shape.JSON:
            texts[connector.name] = as_json(connector)
        elif form is Shape.STRIMZI:
            texts[connector.name] = as_strimzi(connector, cluster)
            if (name := resource_name(connector.name)) != connector.name:
                say(
                    f"{connector.name} is {name} in Kubernetes, which allows no _: to Connect that is another connector, without "
                    f"a stored offset; delete {connector.name} first, and move its offset (`offsets get`, `offsets set`)"
                )
        else:
            texts[connector.name] = as_curl(connector, settings.connect.url, login=bool(settings.connect.username))
    if out is None:
        joint = "---\n" if form is Shape.STRIMZI else ""
        typer.echo(joint.join(texts.values()) if form is not Shape.JSON or len(texts) == 1 else _array(texts), nl=False)
        return
    out.mkdir(parents=True, exist_ok=True)
    written = {name: out / f"{name}{SUFFIX[form]}" for name in texts}
    for name, path in written.items():
        path.write_text(texts[name], encoding="utf-8")
        say(f"wrote {path}")
    if output is Format.JSON:
        print_json([{"connector": name, "file": path} for name, path in written.items()])


def _array(texts: dict[str, str]) -> str:
    documents = [orjson.loads(text) for text in texts.values()]
    return orjson.dumps(documents, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE).decode()


@app.command("import")
def import_(
    names: Annotated[list[str], typer.Argument(help="Connectors that Kafka Connect has.")],
    out: Annotated[Path, typer.Option("--out", metavar="FOLDER", help="Where the files go.")],
    form: Annotated[Shape, typer.Option("--format", help="json or strimzi.")] = Shape.JSON,
    cluster: Annotated[str, typer.Option("--cluster", metavar="NAME", help="Strimzi: its KafkaConnect.")] = "downriver",
    force: Annotated[bool, typer.Option("--force", help="Overwrite files that are there.")] = False,
    context: ContextOption = None,
    output: OutputOption = Format.TABLE,
) -> None:
    """Write the file of a live connector. A secret that is written out on Connect becomes ${env:…}, and is told.

    Exit codes: 2 there is no such connector, or a file is there already; nothing was written then. 3 Kafka Connect is away.
    """
    settings = load_settings(context)
    if form is Shape.CURL:
        raise BadInput("--format curl: a file of connectors is json or strimzi; `export --format curl` writes commands")
    with ConnectClient(settings.connect, WAITS_S, say) as client:
        live = named(client, names)
    paths = {each.name: out / f"{each.name}{SUFFIX[form]}" for each in live}
    if there := [str(path) for path in paths.values() if path.exists() and not force]:
        msg = f"{', '.join(there)}: is there already; --force overwrites it"
        raise BadInput(msg)
    out.mkdir(parents=True, exist_ok=True)
    records: list[dict[str, object]] = []
    for each in live:
        config, replaced = without_secrets(each.name, each.config)
        connector = Connector(each.name, dict(sorted(config.items())), "Kafka Connect")
        text = as_json(connector) if form is Shape.JSON else as_strimzi(connector, cluster)
        paths[each.name].write_text(text, encoding="utf-8")
        say(f"wrote {paths[each.name]}")
        records.append({"connector": each.name, "file": paths[each.name], "secrets": replaced})
        for key, variable in replaced.items():
            say(
                f"[yellow]{key}[/] held a secret, the file says ${{env:{variable}}}: give the Connect workers that variable"
            )
    found = look([*paths.values()]).findings
    if found:
        worst = sum(each.severity is Severity.ERROR for each in found)
        say(f"lint finds {worst} error(s) and {len(found) - worst} warning(s): `downriver connectors lint {out}`")
    if output is Format.JSON:
        print_json(records)


def _known_tables() -> Sequence[KnownTable] | None:
    """Return what the stream workers know of tables; None where there are none."""
    module, _, attribute = KNOWN_TABLES.partition(":")
    try:
        return tuple(getattr(importlib.import_module(module), attribute))
    except ModuleNotFoundError:
        return None


def _whole(found: Files, *, prune: bool) -> None:
    """Refuse to prune by single files: what they don't name would be deleted.

    Raises:
        BadInput: so it is.
    """
    if prune and not found.whole:
        raise BadInput("--prune needs a folder: by single files every other connector would be an orphan")
