"""`make bench`: measures on the local stack and prints a table, or with `-o json` one object. Removes what it made."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from bench import topic, transport
from downriver.exits import BadInput
from downriver.output import Format, OutputOption, print_json, report, say
from downriver.settings import load


def bench(
    records: Annotated[int, typer.Option(min=10_000, max=5_000_000, help="Envelopes in the topic.")] = 300_000,
    output: OutputOption = Format.TABLE,
) -> None:
    """Our transport against stock Faust, on one topic of Debezium envelopes. Needs `downriver stack up`."""
    settings = load()
    busy = os.getloadavg()[0]
    if busy > 1:
        say(f"The machine is busy (load average {busy:.1f}): read the ratio, not the rates.")
    rows: list[dict[str, object]] = []
    with topic.filled(settings, records) as name:
        rates: dict[str, float] = {}
        for kind in ("stock", "ours"):
            say(f"measuring {kind} …")
            got = transport.run(kind, name, records)
            if got["records"] != records:
                msg = f"{kind} counted {got['records']} records of {records}"
                raise BadInput(msg)
            rates[kind] = got["records"] / got["seconds"]
            rows.append(
                {
                    "what": f"transport, {kind}",
                    "records": records,
                    "records_per_s": round(rates[kind]),
                    "bytes": got["bytes"],
                    "ratio": round(rates[kind] / rates["stock"], 1),
                }
            )
    if output is Format.JSON:
        print_json({"load_average": busy, "results": rows})
    else:
        report(output, rows)


if __name__ == "__main__":
    typer.run(bench)
