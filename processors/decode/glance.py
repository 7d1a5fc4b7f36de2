"""A few columns of a record, read without decoding the others: for rules that compare prices, keys that hold a category.

Built from the schema: one function for each field that knows where the field ends, and, for the wanted ones, one that
reads it. An Avro library decodes whole records only, at several times the cost (docs/benchmarks.md). Anything unusual
raises, and the caller has the library decode the whole record, which then says what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from processors.decode.tail import number
from processors.decode.values import Convert, converter

Skip = Callable[[bytes, int], int]
"""(data, where a value starts) → where it ends. Raises Odd, or IndexError beyond the data."""
Read = Callable[[bytes], Any]
"""The bytes of one value → the value."""
STRING, OPTIONAL_STRING = 1, 2
SOME = 2
"""The second branch of a union, as Avro writes it; the first is null."""
LONG_OR_ODD = 0x81
"""Bits of a length's first byte: more bytes follow, or it is negative."""
MAX_VARINT = 9
"""Bytes. Only some random 64-bit numbers take 10, and they may overflow: the library judges them."""


class Odd(Exception):
    """The bytes are not what is usual, though they may be right."""


@dataclass(frozen=True, slots=True)
class Glance:
    """Reads some fields of a record. Build it with `of`."""

    fields: tuple[tuple[str, int, Skip, Read | None], ...]
    """Name, STRING or OPTIONAL_STRING or neither, and what finds the end and reads."""

    def read(self, data: bytes, start: int) -> tuple[dict[str, Any], int]:
        """Return the wanted columns of the record that starts there, and where it ends, which may lie beyond the data.

        Raises:
            Exception: of any kind: decode the whole record.
        """
        row = {}
        for name, kind, skip, read in self.fields:
            # short strings, the most by far, without a call
            if kind == STRING and not (length := data[start]) & LONG_OR_ODD:
                end = start + 1 + (length >> 1)
                if read is _text:
                    row[name] = data[start + 1 : end].decode()
                    start = end
                    continue
            elif kind == OPTIONAL_STRING and data[start] == SOME and not (length := data[start + 1]) & LONG_OR_ODD:
                end = start + 2 + (length >> 1)
            else:
                end = skip(data, start)
            if read is not None:
                row[name] = read(data[start:end])
            start = end
        return row, start

    @classmethod
    def of(
        cls, record: Mapping[str, Any], named: Mapping[str, Mapping[str, Any]], columns: Collection[str]
    ) -> Glance | None:
        """Build it for a parsed record schema and the wanted columns; None if one of them can't be read this way.

        Args:
            named: the named types of the whole schema.
        """
        types = {each["name"]: each["type"] for each in record["fields"]}
        reads = {name: _reader(types[name]) for name in columns if name in types}
        if None in reads.values():
            return None
        skips = {name: _skipper(type_, named) for name, type_ in types.items()}
        return cls(tuple((name, _KINDS.get(skip, 0), skip, reads.get(name)) for name, skip in skips.items()))


def _skipper(type_: Any, named: Mapping[str, Mapping[str, Any]]) -> Skip:
    """Return what finds the end of a value of that type."""
    if isinstance(type_, list):
        return _union([_skipper(branch, named) for branch in type_], type_)
    if isinstance(type_, str):
        return _PRIMITIVES.get(type_) or _structure(named[type_], named)
    return _structure(type_, named)


def _structure(type_: Mapping[str, Any], named: Mapping[str, Mapping[str, Any]]) -> Skip:
    match type_["type"]:
        case "record":
            skip = _all([_skipper(each["type"], named) for each in type_["fields"]])
        case "array":
            skip = _blocks(_skipper(type_["items"], named))
        case "map":
            skip = _blocks(_all([_string, _skipper(type_["values"], named)]))
        case "enum":
            skip = _varint
        case "fixed":
            skip = _fixed(int(type_["size"]))
        case inner:  # a primitive with attributes
            skip = _skipper(inner, named)
    return skip


def _fixed(size: int) -> Skip:
    return lambda _data, start: start + size


def _union(skips: list[Skip], branches: list[Any]) -> Skip:
    if len(skips) == 2 and branches[0] == "null":
        some = skips[1]
        if some is _string:
            return _optional_string

        def optional(data: bytes, start: int) -> int:
            branch = data[start]
            if branch == SOME:
                return some(data, start + 1)
            if branch:
                raise Odd
            return start + 1

        return optional

    def any_branch(data: bytes, start: int) -> int:
        branch = data[start]
        if branch & LONG_OR_ODD:
            raise Odd
        return skips[branch >> 1](data, start + 1)

    return any_branch


def _all(skips: list[Skip]) -> Skip:
    def each(data: bytes, start: int) -> int:
        for skip in skips:
            start = skip(data, start)
        return start

    return each


def _blocks(skip: Skip) -> Skip:
    def blocks(data: bytes, start: int) -> int:
        while True:
            end = _varint(data, start)
            count = number(data[start:end])
            if count == 0:
                return end
            if count < 0:  # its size in bytes follows: no connector writes so
                raise Odd
            for _ in range(count):
                end = skip(data, end)
                if end > len(data):
                    raise Odd
            start = end

    return blocks


def _string(data: bytes, start: int) -> int:
    end = _varint(data, start)
    count = number(data[start:end])
    if count < 0:
        raise Odd
    return end + count


def _optional_string(data: bytes, start: int) -> int:
    branch = data[start]
    if branch == SOME:
        return _string(data, start + 1)
    if branch:
        raise Odd
    return start + 1


def _varint(data: bytes, start: int) -> int:
    end = start
    while data[end] & 0x80:
        end += 1
    if end - start >= MAX_VARINT:
        raise Odd
    return end + 1


def _boolean(data: bytes, start: int) -> int:
    if data[start] > 1:
        raise Odd
    return start + 1


def _reader(type_: Any) -> Read | None:
    """Return what reads a value of that type, None if only the library can."""
    if isinstance(type_, list):
        if len(type_) != 2 or type_[0] != "null":
            return None
        some = _reader(type_[1])
        return None if some is None else lambda data: some(data[1:]) if data[0] else None
    kind = type_ if isinstance(type_, str) else type_["type"]
    if kind not in _READERS:
        return None
    plain, convert = _READERS[kind], converter(type_)
    return plain if convert is None else _converted(plain, convert)


def _converted(plain: Read, convert: Convert) -> Read:
    return lambda data: convert(plain(data))


def _payload(data: bytes) -> bytes:
    """Return what follows the length."""
    if len(data) < 0x40:
        return data[1:]
    return data[_varint(data, 0) :]


def _text(data: bytes) -> str:
    return _payload(data).decode()


_PRIMITIVES: dict[str, Skip] = {
    "string": _string,
    "bytes": _string,
    "int": _varint,
    "long": _varint,
    "boolean": _boolean,
    "null": _fixed(0),
    "float": _fixed(4),
    "double": _fixed(8),
}
_KINDS: dict[Skip, int] = {_string: STRING, _optional_string: OPTIONAL_STRING}
_READERS: dict[str, Read] = {
    "string": _text,
    "bytes": _payload,
    "int": number,
    "long": number,
    "boolean": lambda data: data == b"\x01",
}
