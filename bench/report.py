"""What is left of a run: a JSON file beside the others, and docs/benchmarks.md, whose measured part is written anew.

The document keeps what stands between its marks of other runs: where the time goes is written by `python -m bench profile`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from datetime import datetime
from pathlib import Path

import orjson

from bench.results import OURS, Findings
from bench.worker import FOLDER

DOCUMENT = Path("docs/benchmarks.md")
HEAD = """# Benchmarks

Ratios within one run on one machine, so that they can be read elsewhere; rates depend on the machine and stand beside.
Every benchmark compares what its sink holds in the end with what it must hold, value by value, and fails if it differs.
`make bench` writes the figures below, `python -m bench profile SINK` where the time goes. How each is measured stands at the end.
"""
TAIL = """## How it is measured

- The work: Debezium envelopes of `products` in Avro, Confluent framing, schemas at the real registry, lz4, 8 partitions;
  every record about a product of its own, or, for hot documents, about one of 1,000, with the row before and after.
- Downriver is `downriver worker SINK`, started as a user starts it, watched through its Prometheus page, five times a
  second. Its time runs from the first record fetched to the last one delivered: written, confirmed, with a verdict.
- Quix Streams runs its own Avro deserialiser and, for search, its own sink (into an index with our mapping, without its
  question to `GET /`); for the cache and for analytics, which it has no sink for, the smallest that does the work. Its
  time runs from the first record to the last write answered. It guards no versions, and dead-letters nothing.
- Scaling: the records of a topic are written in one transaction, which ends once every worker owns partitions: all start
  on all of the work. The servers, the workers and the benchmark share the same cores.
- Commit to visible: the shop's workload on a database of its own, its own connectors, all three workers; the clock runs
  from the commit in PostgreSQL to the moment at which a reader of the sink sees the change, over all tables.
"""


def save(findings: Findings, at: datetime) -> Path:
    """Write the findings as JSON into the benchmark folder; return the file."""
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"bench-{at:%Y%m%d-%H%M%S}.json"
    path.write_bytes(orjson.dumps(findings.as_json() | {"at": at}, default=str, option=orjson.OPT_INDENT_2))
    return path


def write(findings: Findings, at: datetime, command: str, document: Path = DOCUMENT) -> None:
    """Replace the measured part of the document; make the document if there is none."""
    replace_part("figures", figures(findings, at, command), document)


def replace_part(name: str, text: str, document: Path = DOCUMENT) -> None:
    """Replace what stands between the marks of `name`, or add it in front of the tail."""
    begin, end = f"<!-- {name}: written by bench -->", f"<!-- end of {name} -->"
    body = f"{begin}\n{text.strip()}\n{end}"
    held = document.read_text(encoding="utf-8") if document.exists() else f"{HEAD}\n{TAIL}"
    pattern = re.compile(f"{re.escape(begin)}.*?{re.escape(end)}", re.DOTALL)
    if pattern.search(held):
        made = pattern.sub(lambda _: body, held)
    else:
        front, _, tail = held.partition("## How it is measured")
        made = f"{front}{body}\n\n## How it is measured{tail}"
    document.write_text(made, encoding="utf-8")


def figures(findings: Findings, at: datetime, command: str) -> str:
    """Return the measured part: targets, ratios, scaling, memory, latency, and on what machine."""
    about = findings.machine
    versions = ", ".join(f"{name} {number}" for name, number in about["versions"].items())
    parts = [
        f"## Figures of {at:%Y-%m-%d %H:%M} UTC",
        f"`{command}` on {about['cores']} cores, {about['memory_gib']} GiB, {about['system']}, Python {about['python']}; "
        f"load average at the start {about['load_average']}; {versions}.",
    ]
    if about["remarks"]:
        parts.append("**Read with care:** " + "; ".join(about["remarks"]) + ".")
    parts.append(f"Everything equal: **{'no' if findings.wrong else 'yes'}**." + _list(findings.wrong))
    if findings.missing:
        parts.append("Missing, and so not compared:" + _list(findings.missing))
    targets = findings.targets()
    if targets:
        met = {True: "met", False: "**missed**", None: "not measured"}
        rows = [(each["what"], each["wanted"], each["found"], met[each["met"]]) for each in targets]
        parts.append("### Targets\n\n" + markdown(("what", "wanted", "found", ""), rows))
    parts.append("### Side by side\n\n" + _measured(findings))
    if findings.memory:
        heads = ("sink", "records", "start", "most", "end")
        memory = [
            (
                each["sink"],
                f"{each['records']:,}",
                *(f"{each[name]:.0f}" for name in ("start_mib", "max_mib", "end_mib")),
            )
            for each in findings.memory
        ]
        parts.append("### Memory of one worker, MiB\n\n" + markdown(heads, memory))
    if findings.latency:
        columns = ("changes/s", "sink", "measured", "p50", "p99", "max")
        latency = [
            (
                f"{each['rate']:,.0f} ({each['reached']:,.0f} reached)",
                each["sink"],
                f"{each['count']:,}",
                *(f"{each[name]:.2f}" for name in ("p50_s", "p99_s", "max_s")),
            )
            for each in findings.latency
        ]
        parts.append("### Commit to visible, seconds\n\n" + markdown(columns, latency))
    return "\n\n".join(parts)


def markdown(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a Markdown table."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(str(cell) for cell in line) + " |" for line in lines)


def _measured(findings: Findings) -> str:
    rows = []
    for each in findings.measured:
        ratio = None if each.who == OURS or each.work == "scaling" else findings.ratio(each.work, each.who)
        rows.append(
            (
                each.work,
                each.who,
                "not measured" if each.rate is None else f"{each.rate:,.0f}",
                "" if ratio is None else f"{ratio:.2f}x",
                each.note,
            )
        )
    return markdown(("work", "who", "records/s", "Downriver is", "remark"), rows)


def _list(lines: Sequence[str]) -> str:
    return "".join(f"\n- {line}" for line in lines)
