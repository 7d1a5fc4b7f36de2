"""Encodings of the local ClickHouse, and the block and errors that it writes itself."""

from __future__ import annotations

import gzip
import zlib
from typing import Any

import cramjam
import pytest
from clickhouse_connect.driver import compression
from hypothesis import given
from hypothesis import strategies as st

from deploy.local.clickhouse import codecs
from deploy.local.clickhouse.errors import EngineError, from_engine, refused
from deploy.local.clickhouse.native import empty_block

chunks = st.lists(st.binary(max_size=500), max_size=6)


@given(chunks)
def test_lz4_and_zstd_decode_chunk_by_chunk_as_the_client_does_it(pieces: list[bytes]) -> None:
    decoders: dict[str, Any] = {
        "lz4": compression._lz4_decompressor(),  # type: ignore[no-untyped-call]
        "zstd": compression._zstd_decompressor(),  # type: ignore[no-untyped-call]
    }
    for encoding, decoder in decoders.items():
        decoded = b"".join(decoder.decompress(piece) for piece in codecs.compress(pieces, encoding) if piece)
        assert decoded == b"".join(pieces)


@given(chunks)
def test_gzip_and_deflate_are_one_stream(pieces: list[bytes]) -> None:
    assert gzip.decompress(b"".join(codecs.compress(pieces, "gzip"))) == b"".join(pieces)
    assert zlib.decompress(b"".join(codecs.compress(pieces, "deflate"))) == b"".join(pieces)


def test_request_bodies_are_decompressed_by_their_encoding() -> None:
    body = "Umlaute äöü".encode() * 100
    for encoding, packed in {
        "lz4": bytes(cramjam.lz4.compress(body)),
        "zstd": bytes(cramjam.zstd.compress(body)),
        "gzip": gzip.compress(body),
        "identity": body,
        "": body,
    }.items():
        assert codecs.decompress(packed, encoding) == body


@pytest.mark.parametrize(("encoding", "code"), [("lzma", 48), ("gzip", 354), ("lz4", 354), ("zstd", 354)])
def test_what_is_not_in_its_encoding_is_refused_with_a_code(encoding: str, code: int) -> None:
    with pytest.raises(EngineError, match=encoding) as error:
        codecs.decompress(b"neither of them", encoding)
    assert error.value.code == code


def test_the_first_encoding_that_we_have_is_chosen() -> None:
    assert codecs.choose("sdch;q=1, zstd;q=0.5, lz4") == "zstd"
    assert codecs.choose("identity") == ""


def test_an_empty_block_names_its_columns() -> None:
    assert empty_block([("a", "UInt8"), ("ü", "String")]) == b"\x02\x00\x01a\x05UInt8\x02\xc3\xbc\x06String"
    assert empty_block([("x" * 200, "Int8")])[2:4] == b"\xc8\x01"


def test_errors_carry_the_engine_s_code_and_a_server_s_status() -> None:
    error = from_engine(RuntimeError("Streaming query failed: Code: 60. DB::Exception: no such table. (UNKNOWN_TABLE)"))
    assert (error.code, error.status) == (60, 404)
    assert str(error) == "Code: 60. DB::Exception: no such table. (UNKNOWN_TABLE)"
    assert from_engine(RuntimeError("gone")).code == 1002
    assert refused(62, "SYNTAX_ERROR", "Empty query").status == 400
    assert refused(241, "MEMORY_LIMIT_EXCEEDED", "too much").status == 500
