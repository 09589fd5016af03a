"""The table of names and topics: runs refer to it, each channel is told it, and what is not known costs one run."""

from __future__ import annotations

import pytest

from rapini import limits
from rapini.codec import Codec, StringTable, join_runs
from rapini.events import UnknownEvent
from tests.programs.events import Tick

PAIR = ("Tick", "tick/main")


def encoded(codec: Codec, topic: str = "tick/main", first: int = 0) -> bytes:
    runs, _ = codec.encode_run(topic, [Tick(sender="s", number=1)], first)
    return join_runs(runs)


def test_a_run_refers_to_the_table_and_is_shorter() -> None:
    table = StringTable()
    short, long = encoded(Codec(table)), encoded(Codec())
    assert table.pairs == [PAIR]
    assert len(short) <= len(long) - len("Tick") - len("tick/main") + 1
    (run,) = Codec().decode_batch_untrusted(short, table.pairs)
    assert (run.name, run.topic, list(run.events)) == ("Tick", "tick/main", [Tick(sender="s", number=1)])
    assert Codec().decode_batch_untrusted(long) == Codec().decode_batch_untrusted(short, table.pairs)


def test_what_outlives_the_channel_has_its_texts() -> None:
    table = StringTable()
    assert Codec().decode_batch_untrusted(encoded(Codec(table), first=-1))[0].name == "Tick"
    assert table.pairs == []


def test_who_was_not_told_counts_the_run_as_bad_and_recovers() -> None:
    table = StringTable()
    codec = Codec(table)
    batch = encoded(codec) + b""
    (run,) = Codec().decode_batch_untrusted(batch, [])
    assert (len(run.events), sum(bad.count for bad in run.bad)) == (0, 1)
    (run,) = Codec().decode_batch_untrusted(batch, table.pairs)
    assert len(run.events) == 1


def test_the_table_tells_before_a_number_is_used_and_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_STRINGS", 2)
    told: list[int] = []
    table = StringTable(lambda: told.append(len(table.pairs)))
    codec = Codec(table)
    for topic in ("a", "b", "a", "c", "b"):
        (run,) = Codec().decode_batch_untrusted(encoded(codec, topic), table.pairs)
        assert run.topic == topic
    assert told == [1, 2]
    assert [topic for _, topic in table.pairs] == ["a", "b"], "the third has its texts in each run"


def test_a_number_and_texts_at_once_are_the_texts() -> None:
    """A hostile run: the number is looked at only where the texts are empty."""
    import msgspec

    events = msgspec.msgpack.encode([["s", 1]])
    batch = msgspec.msgpack.encode([["Tick", "tick/main", 1, events, 0, 0]])
    (run,) = Codec().decode_batch_untrusted(batch, [("Evil", "evil")])
    assert (run.name, run.topic) == PAIR


def test_unknown_types_have_numbers_too() -> None:
    table = StringTable()
    runs, _ = Codec(table).encode_run("t", [UnknownEvent(type_name="Foreign", encoded=b"\x91\x01")], 0)
    (run,) = Codec().decode_batch_untrusted(join_runs(runs), table.pairs)
    assert (run.name, list(run.events)) == ("Foreign", [UnknownEvent(type_name="Foreign", encoded=b"\x91\x01")])
