"""Names in Redis: any value makes one key, which no other value makes, in the same slot as its lease."""

from uuid import UUID

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from redis.crc import key_slot

from processors.sinks.cache.keys import FRAME_MAGIC, encode, fill, lease_key, tag_key, template

PAGE = "products:category:{category}:page:{n}"
texts = st.text(st.characters(), max_size=40)


@given(texts)
@example("{a}@example.com")
@example("a:b%3A*?[]\\ \n\x00ü\ud800")
def test_a_value_round_trips_and_breaks_no_name(value: str) -> None:
    part = encode(value)
    assert part.isascii()
    assert not set(part) & set("{}: *?[]\\\n\r\t\x00\"'") - set("'")
    assert template("user:email:{email}").match(f"user:email:{part}") == {"email": value}


@given(st.tuples(texts, texts), st.tuples(texts, texts))
@example(("a:page:b", "c"), ("a", "b:page:c"))
@example(("a:", "b"), ("a", ":b"))
def test_two_keys_are_equal_only_if_all_parts_are(one: tuple[str, str], other: tuple[str, str]) -> None:
    keys = [fill(PAGE, category=category, n=n) for category, n in (one, other)]
    assert (keys[0] == keys[1]) == (one == other)


@given(texts)
def test_lease_and_value_share_a_hash_slot(email: str) -> None:
    key = fill("user:email:{email}", email=email)
    assert key_slot(lease_key(key).encode()) == key_slot(key.encode())


def test_an_unencoded_brace_would_part_lease_and_value() -> None:
    key = "user:email:{a}@example.com"
    assert key_slot(f"lease:{{{key}}}".encode()) != key_slot(key.encode())


def test_ordinary_values_stay_readable() -> None:
    assert fill("user:email:{email}", email="jo.doe+shop@example.com") == "user:email:jo.doe+shop@example.com"
    assert fill("products:category:{category}:page:{n}", category="Home & Garden", n=3) == (
        "products:category:Home%20&%20Garden:page:3"
    )


def test_a_uuid_and_its_text_make_the_same_key() -> None:
    text = "0190a8b2-7c1d-7e2f-8a3b-4c5d6e7f8091"
    assert fill("product:{product_id}", product_id=UUID(text)) == fill("product:{product_id}", product_id=text)
    assert fill("product:{product_id}", product_id=UUID(text.upper())) == f"product:{text}"


@pytest.mark.parametrize("value", [1.0, True, b"x", None, ["a"]])
def test_a_value_with_more_than_one_spelling_is_refused(value: object) -> None:
    with pytest.raises(TypeError, match="can't hold"):
        encode(value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "word of its own"),
        ("{id}", "word of its own"),
        ("lease:{id}", "word of its own"),
        ("tag:{id}", "word of its own"),
        ("user:{id", "stray brace"),
        ("user:{}", "stray brace"),
        ("my user:{id}", "outside of letters"),
        ("user:*", "outside of letters"),
        ("user:{a}{b}", "set each column off"),
        ("user:{a}-{b}", "set each column off"),
        ("user{id}", "set each column off"),
    ],
)
def test_a_template_that_could_collide_is_refused(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        template(text)


def test_a_reader_that_forgets_a_value_is_told() -> None:
    with pytest.raises(ValueError, match="needs category, n; given: category"):
        fill(PAGE, category="x")


def test_matching_refuses_keys_of_other_templates() -> None:
    assert template("user:{id}").match("user:7") == {"id": "7"}
    assert template("user:{id}").match("user:7:orders") is None
    assert template("user:{id}").match("user:email:a@b") is None
    assert template("user:{id}:orders").scan_pattern == "user:*:orders"


def test_names_of_leases_and_tags_are_apart_from_keys() -> None:
    assert lease_key("product:1") == "lease:{product:1}"
    assert tag_key("users:active") == "tag:{users:active}"


def test_no_text_starts_like_a_framed_value() -> None:
    with pytest.raises(UnicodeDecodeError):
        FRAME_MAGIC.decode()
