"""How the reader half frames what it stores."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.asyncio import Redis

from processors.sinks.cache.reader import Cache, Stored, decode_value, encode_value

generations = st.lists(st.binary(min_size=16, max_size=16), max_size=127).map(tuple)


@given(st.builds(Stored, st.none() | st.binary(max_size=200), generations))
def test_what_is_framed_is_read_back(stored: Stored) -> None:
    assert decode_value(encode_value(stored)) == stored


def test_no_row_and_an_empty_value_differ() -> None:
    assert encode_value(Stored(None)) != encode_value(Stored(b""))


@given(st.text())
def test_a_text_is_never_taken_for_a_framed_value(text: str) -> None:
    with pytest.raises(ValueError, match="something else than the reader half"):
        decode_value(text.encode())


def test_a_cut_value_is_refused() -> None:
    whole = encode_value(Stored(b"", (b"g" * 16,)))
    with pytest.raises(ValueError, match="ends within"):
        decode_value(whole[:-1])


def test_a_client_that_decodes_is_refused() -> None:
    with pytest.raises(ValueError, match="decode_responses"):
        Cache(Redis(decode_responses=True))


async def test_more_tags_than_a_frame_can_count_are_refused() -> None:
    async def load(_: str) -> bytes:
        raise AssertionError

    with pytest.raises(ValueError, match="128 tags"):
        await Cache(Redis()).get_or_load("k", load, 1, tags=map(str, range(128)))
