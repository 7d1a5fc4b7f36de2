"""Which names go into which UNLINK."""

from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from processors.sinks.cache.keys import encode, lease_key, tag_key
from processors.sinks.cache.unlink import NAMES, by_slot, commands

names = st.lists(st.text(max_size=8).map(lambda text: f"k:{encode(text)}"), unique=True, max_size=60)


@given(names, names)
def test_every_name_is_deleted_once_and_in_a_cluster_each_command_stays_in_one_slot(
    keys: list[str], tags: list[str]
) -> None:
    wanted = sorted([*keys, *map(lease_key, keys), *map(tag_key, tags)])
    for cluster in (False, True):
        made = list(commands(keys, tags, cluster=cluster))
        assert sorted(name for command in made for name in command) == wanted
        if cluster:
            assert all(len({key_slot(name.encode()) for name in command}) == 1 for command in made)
            assert len(made) == len({key_slot(name.encode()) for name in wanted})


def test_a_lease_is_in_one_command_with_its_value_however_many_there_are() -> None:
    keys = [f"product:{number}" for number in range(1_777)]
    for cluster in (False, True):
        made = list(commands(keys, ["a", "b", "c"], cluster=cluster))
        assert max(map(len, made)) <= NAMES
        together = {key for command in made for key in keys if key in (held := set(command)) and lease_key(key) in held}
        assert together == set(keys)


def test_one_slot_with_more_names_than_a_command_holds_is_cut() -> None:
    keys = [f"k:{{same}}:{number}" for number in range(NAMES + 1)]
    assert [len(piece) for piece in by_slot(keys, cluster=True)] == [NAMES, 1]
    assert [len(piece) for piece in by_slot(keys, cluster=False)] == [NAMES, 1]
