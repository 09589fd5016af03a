"""Whom to ask: turns that nobody's coming and going upsets, keys that stay where they are."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from rapini.node.choosing import Turns, rendezvous

NAMES = st.sets(st.text("abcdef0123456789-", min_size=1, max_size=8), min_size=1, max_size=12)


def test_turns_go_round_by_name_for_each_role_apart() -> None:
    turns = Turns()
    assert [turns.next("a", ["y", "x", "z"]) for _ in range(5)] == ["x", "y", "z", "x", "y"]
    assert turns.next("b", ["x", "y"]) == "x"


@given(NAMES, st.integers(1, 5))
def test_turns_are_fair(names: set[str], rounds: int) -> None:
    turns = Turns()
    assert Counter(turns.next("r", names) for _ in range(rounds * len(names))) == dict.fromkeys(names, rounds)


def test_turns_go_on_when_somebody_comes_or_goes() -> None:
    turns = Turns()
    assert turns.next("r", ["a", "b", "c"]) == "a"
    assert turns.next("r", ["a", "c"]) == "c"
    assert turns.next("r", ["a", "b", "c"]) == "a"
    assert turns.next("r", ["a", "aa", "b"]) == "aa"


@given(NAMES, st.binary(max_size=20))
def test_a_key_moves_only_with_its_owner(names: set[str], key: bytes) -> None:
    owner = rendezvous(key, names)
    for name in names - {owner}:
        assert rendezvous(key, names - {name}) == owner
    assert rendezvous(key, {*names, "zz-new"}) in (owner, "zz-new")


def test_keys_spread_evenly_and_are_the_same_as_text_and_as_bytes() -> None:
    names = [f"worker-{number}" for number in range(8)]
    shares = Counter(rendezvous(f"10.0.{n // 256}.{n % 256}", names) for n in range(8000))
    assert set(shares) == set(names)
    assert max(shares.values()) < 1.25 * 1000
    assert min(shares.values()) > 0.75 * 1000
    assert rendezvous("key", names) == rendezvous(b"key", names)


def test_a_choice_is_the_same_in_every_process_and_version() -> None:
    """Two askers must agree without talking: these are recorded."""
    names = ["w1", "w2", "w3"]
    assert "".join(rendezvous(str(n), names)[1] for n in range(16)) == RECORDED


RECORDED = "3221333111131322"
