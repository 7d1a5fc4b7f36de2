"""Content encodings, both ways: lz4 (frames), zstd, gzip, deflate. Knows nothing of queries."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import cramjam

from deploy.local.clickhouse.errors import NOT_IMPLEMENTED, refused

_MODULES: dict[str, Any] = {
    "lz4": cramjam.lz4,
    "zstd": cramjam.zstd,
    "gzip": cramjam.gzip,
    "deflate": cramjam.zlib,
    "br": cramjam.brotli,
}


def decompress(data: bytes, encoding: str) -> bytes:
    """Return the request body decompressed by its Content-Encoding (empty or identity: as it is).

    Raises:
        EngineError: unknown encoding, or data that is not in it.
    """
    if encoding in ("", "identity") or not data:
        return data
    if encoding not in _MODULES:
        raise refused(NOT_IMPLEMENTED, "NOT_IMPLEMENTED", f"Unknown Content-Encoding {encoding!r}")
    try:
        return bytes(_MODULES[encoding].decompress(data))
    except cramjam.DecompressionError as error:
        raise refused(354, "ZLIB_INFLATE_FAILED", f"The body is not {encoding}: {error}") from None


def choose(accept: str) -> str:
    """Return the first of our encodings that the client's Accept-Encoding names, empty for none."""
    offered = (part.partition(";")[0].strip() for part in accept.split(","))
    return next((name for name in offered if name in _MODULES), "")


def compress(chunks: Iterable[bytes], encoding: str) -> Iterator[bytes]:
    """Compress chunk by chunk into one frame; each piece can be decoded as soon as it arrives."""
    compressor = _MODULES[encoding].Compressor()
    flush: Callable[[], Any] = compressor.flush
    for chunk in chunks:
        compressor.compress(chunk)
        if piece := bytes(flush()):
            yield piece
    yield bytes(compressor.finish())
