"""The statement that lets ClickHouse read undecoded envelopes into a history table. Pure: a schema and a table's columns in,
SQL out. Knows no table by name: what a table has no column for is not stored.
"""

from __future__ import annotations

from collections.abc import Mapping

from processors.change import EPOCH_BITS, LSN_BITS, NOT_SENT
from processors.sinks.analytics.avro import Envelope, Field, quote, structure

BOOKKEEPING = ("_op", "_kind", "_version", "_is_deleted", "_committed_at", "_transaction", "_before")
"""The columns of every history table that are not the source's; the underscore keeps them apart (addresses have a `kind`)."""
EARLIEST_US, LATEST_US = -2_208_988_800_000_000, 10_413_791_999_999_999
"""What DateTime64(6) holds: 1900-01-01 to the last microsecond of 2299 (ClickHouse docs), in µs since 1970. Anything
outside, infinity included, is stored as the nearer end."""
_TOO_LATE = "^(infinity$|[+]|(2[3-9]|[3-9][0-9])[0-9]{2}-).*"
"""Text of a time after 2299: a year beyond 9999 has a plus."""
_TOO_EARLY = "^(-|(0[0-9]|1[0-8])[0-9]{2}-).*"
"""Text of a time before 1900: a year before Christ has a minus, and so has -infinity."""
_EARLIEST_DAY, _LATEST_DAY = -25_567, 120_529
_US_OF = {
    # how many microseconds one unit is; nanoseconds are divided
    "io.debezium.time.Timestamp": 1_000,
    "org.apache.kafka.connect.data.Timestamp": 1_000,
    "io.debezium.time.MicroTimestamp": 1,
}
_DAYS = ("io.debezium.time.Date", "org.apache.kafka.connect.data.Date")


def insert(table: str, columns: Mapping[str, str], read: Envelope, epoch: int, *, unsent: bool = True) -> str:
    """Return the INSERT that reads `FORMAT AvroConfluent` data with the schema `read` into `<table>_history`.

    Args:
        columns: of the history table, name → type.
        epoch: of the source, for the version (processors.change.pack_version, here in SQL).
        unsent: look for columns that were not sent, and refuse them; False if no record holds their placeholder anywhere.
    """
    stored = {name: type_ for name, type_ in columns.items() if name in read.columns and name not in BOOKKEEPING}
    source = [name for name in ("snapshot", "origin", "lsn", "txId", "ts_us", "ts_ms") if name in read.source]
    values = {name: value(f"row.{quote(name)}", name, read.columns[name], type_) for name, type_ in stored.items()}
    values |= {
        "_op": "checked_op",
        "_kind": "kind",
        "_version": version("kind", "op", "`source.lsn`", epoch),
        "_is_deleted": "op = 'd'",
        "_committed_at": _committed_at(source),
        "_transaction": "toUInt64(ifNull(`source.txId`, 0))" if "txId" in source else "0",
        "_before": _old_values({name: read.columns[name] for name in stored}),
    }
    checked = _checked_op({name: read.columns[name] for name in stored} if unsent else {})
    names = ", ".join(quote(name) for name in values)
    listed = ",\n       ".join(f"{expression} AS {quote('to ' + name)}" for name, expression in values.items())
    return "\n".join(
        (
            f"INSERT INTO {quote(table + '_history')} ({names})",
            f"SELECT {listed}",
            f"FROM (SELECT *, if(op = 'd', before, after) AS row, {_kind(source)} AS kind, {checked} AS checked_op",
            f"      FROM input({_literal(structure(read, source))}))",
            "FORMAT AvroConfluent\n",
        )
    )


def version(kind: str, op: str, lsn: str, epoch: int) -> str:
    """Return the SQL of a change's version: 0 for a snapshot row, else packed; no LSN is an error, as in Python."""
    if not 1 <= epoch < 1 << EPOCH_BITS:
        msg = f"epoch {epoch} is not within 1..{(1 << EPOCH_BITS) - 1}"
        raise ValueError(msg)
    numbers = f"bitOr(bitShiftLeft(toUInt64({epoch}), {LSN_BITS + 1}), bitShiftLeft(toUInt64({lsn}), 1))"
    bad = f"{kind} != 'snapshot' AND NOT ifNull({lsn} > 0 AND {lsn} < {1 << LSN_BITS}, 0)"
    checked = f"throwIf({bad}, 'a streamed change without a usable source.lsn') = 0"
    return f"if({checked} AND {kind} != 'snapshot', assumeNotNull(bitOr({numbers}, {op} != 'd')), 0)"


def value(source: str, name: str, field: Field, target: str) -> str:
    """Return the SQL that turns a field as Avro has it into a column of type `target`.

    Numbers that don't fit raise an error in ClickHouse, never wrap or round; times are clamped (LATEST_US).
    """
    inner = target.removeprefix("LowCardinality(").removeprefix("Nullable(").rstrip(")")
    if inner.startswith("DateTime64(6"):
        return _time(source, field)
    if inner == "Date32" and field.name in _DAYS:
        return _or_null(
            source, f"addDays(toDate32('1970-01-01'), greatest(least({source}, {_LATEST_DAY}), {_EARLIEST_DAY}))"
        )
    if inner == "UUID":
        return _uuid(source, field)
    if field.decimal is not None and inner.startswith("Decimal("):
        return _decimal(source, name, field.decimal, inner + ")")
    if inner.startswith(("Int", "UInt")) and "Int" in field.type:
        return f"accurateCast({source}, {_literal(f'Nullable({inner})' if field.nullable or 'Nullable(' in target else inner)})"
    return source


def _uuid(source: str, field: Field) -> str:
    """toUUID makes NULL of a nullable text that is no UUID; a cast of one that is not nullable raises."""
    if not field.nullable:
        return f"CAST(assumeNotNull({source}), 'UUID')"
    filled = f"ifNull({source}, '00000000-0000-0000-0000-000000000000')"
    return f"if({source} IS NULL, NULL, CAST({filled}, 'UUID'))"


def _time(source: str, field: Field) -> str:
    if field.name in _US_OF or field.name == "io.debezium.time.NanoTimestamp":
        unit = _US_OF.get(field.name)
        if unit is None:
            number = f"intDiv({source}, 1000)"
        else:
            # clamped before it is multiplied: an infinite timestamp is near the end of 64 bits
            number = f"greatest(least({source}, {LATEST_US // unit}), {-(-EARLIEST_US // unit)}) * {unit}"
        clamped = f"fromUnixTimestamp64Micro(toInt64(greatest(least({number}, {LATEST_US}), {EARLIEST_US})), 'UTC')"
        return _or_null(source, clamped)
    # ISO text; what is no time at all stays as it is, and the parser's error names it
    late = f"replaceRegexpOne({source}, '{_TOO_LATE}', '2299-12-31T23:59:59.999999Z')"
    return f"parseDateTime64BestEffort(replaceRegexpOne({late}, '{_TOO_EARLY}', '1900-01-01T00:00:00Z'), 6, 'UTC')"


def _or_null(source: str, expression: str) -> str:
    """Keep NULL what is NULL: least() and greatest() leave NULLs out instead of passing them on."""
    return f"if({source} IS NULL, NULL, {expression})"


def _decimal(source: str, name: str, sent: tuple[int, int], target: str) -> str:
    precision, scale = (int(part) for part in target.removeprefix("Decimal(").removesuffix(")").split(","))
    if sent[1] <= scale and sent[0] - sent[1] <= precision - scale:
        return source
    # ClickHouse would cut off digits without a word
    wide = f"CAST({source}, 'Nullable(Decimal(76, {max(scale, sent[1])}))')"
    bad = (
        f"ifNull(abs({wide}) >= toDecimal256('1{'0' * (precision - scale)}', 0) OR round({wide}, {scale}) != {wide}, 0)"
    )
    return f"if(throwIf({bad}, {_literal(f'{name} does not fit {target}')}) = 0, {source}, {source})"


def _old_values(columns: Mapping[str, Field]) -> str:
    """Return the SQL of the map of what an update changed: column → its old value as text.

    Both rows become text in one cast each: with an expression for each column, ClickHouse spent a third of a small insert
    on analysing this part of the statement alone (docs/decisions/0012).
    """
    texts = _literal("Tuple(" + ", ".join(f"{quote(name)} Nullable(String)" for name in columns) + ")")
    old, new = (f"tupleToNameValuePairs(CAST(assumeNotNull({row}), {texts}))" for row in ("before", "after"))
    changed = f"arrayFilter((old, new) -> isDistinctFrom(old.2, new.2), {old}, {new})"
    exact = "".join(  # the cast leaves out a decimal's last zeros
        f"pair.1 = {_literal(name)}, CAST(toDecimalString(before.{quote(name)}, {field.decimal[1]}), 'Nullable(String)'), "
        for name, field in columns.items()
        if field.decimal is not None
    )
    if exact:
        changed = f"arrayMap(pair -> (pair.1, multiIf({exact}pair.2)), {changed})"
    empty = "CAST(map(), 'Map(String, Nullable(String))')"
    return f"if(op = 'u' AND before IS NOT NULL, CAST({changed}, 'Map(String, Nullable(String))'), {empty})"


def _kind(source: list[str]) -> str:
    """Return the SQL of the change's kind; as processors.decode has it, the source block alone decides."""
    snapshot = "ifNull(`source.snapshot`, 'false') != 'false'" if "snapshot" in source else "0"
    repair = "ifNull(`source.origin`, '') != ''" if "origin" in source else "0"
    return f"multiIf({snapshot}, 'snapshot', {repair}, 'repair', 'streamed')"


def _checked_op(columns: Mapping[str, Field]) -> str:
    """Return `op`, or an error for an envelope that would be stored wrong."""
    no_row = "op NOT IN ('c', 'u', 'd', 'r') OR if(op = 'd', before, after) IS NULL"
    texts = [name for name, field in columns.items() if field.type in ("String", "Nullable(String)")]
    fits = f"throwIf({no_row}, 'an envelope without the row that its op needs') = 0"
    if texts:
        not_sent = " OR ".join(f"ifNull(row.{quote(name)} = {_literal(NOT_SENT)}, 0)" for name in texts)
        fits += f" AND throwIf({not_sent}, 'a column was not sent: its table needs REPLICA IDENTITY FULL') = 0"
    return f"if({fits}, op, op)"


def _committed_at(source: list[str]) -> str:
    microseconds = "`source.ts_ms` * 1000"
    if "ts_us" in source:
        microseconds = f"ifNull(`source.ts_us`, {microseconds})"
    return f"fromUnixTimestamp64Micro(toInt64(greatest(least({microseconds}, {LATEST_US}), {EARLIEST_US})), 'UTC')"


def _literal(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
