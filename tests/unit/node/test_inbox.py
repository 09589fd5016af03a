"""The inbox: batches and statuses in order, filtered and decoded by who consumes them, faults counted."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from rapini.codec import Codec, join_runs
from rapini.events import Event
from rapini.events.delivery import Delivery
from rapini.node import inbox as inbox_module
from rapini.node.counters import MAX_BAD_EVENT_PLACES, Counters
from rapini.node.inbox import EventRun, Inbox, ReceivedBatch
from rapini.node.status import PeerState, PeerStatus

pack = msgspec.msgpack.encode


class Note(Event, topic="inbox/note"):
    number: int


LOST = PeerStatus(state=PeerState.LOST, peer="peer")


class Desk:
    """An inbox, what was taken from it, and what was counted."""

    def __init__(self, *prefixes: str, name: str = "", relays: Sequence[str] = ()) -> None:
        self.counters = Counters()
        self.inbox = Inbox(self.counters, name, relays)
        self.inbox.prefixes = prefixes
        self.taken: list[ReceivedBatch] = []

    def put(self, data: bytes, count: int, *, peer: str = "peer", incarnation: bytes = b"") -> None:
        self.inbox.put(self._batch(data, count, peer, incarnation))

    def hold(self, data: bytes, count: int) -> None:
        self.inbox.hold(self._batch(data, count, "peer"))

    def _batch(self, data: bytes, count: int, peer: str, incarnation: bytes = b"") -> ReceivedBatch:
        return ReceivedBatch(
            peer=peer,
            epoch=2,
            generation=1,
            delivery=Delivery.BEST_EFFORT,
            first_sequence=0,
            count=count,
            data=data,
            taken=self.taken.append,
            incarnation=incarnation,
        )

    def runs(self) -> list[EventRun]:
        item = self.inbox.get(0)
        assert isinstance(item, list)
        return item


def notes(*numbers: int, topic: str = "inbox/note") -> bytes:
    runs, _ = Codec().encode_run(topic, [Note(number) for number in numbers])
    return join_runs(runs)


def test_batches_and_statuses_come_in_the_order_they_were_put() -> None:
    desk = Desk("")
    desk.put(notes(1), 1)
    desk.inbox.put_status(LOST)
    desk.put(notes(2, 3), 2)
    desk.inbox.end()
    items = list(desk.inbox.items(None))
    assert [[list(run.events) for run in item] if isinstance(item, list) else item for item in items] == [
        [[Note(1)]],
        LOST,
        [[Note(2), Note(3)]],
    ]
    assert desk.inbox.is_ended
    assert desk.inbox.get(None) is None


def test_what_is_held_comes_before_whatever_is_put_after_it() -> None:
    desk = Desk("")
    desk.hold(notes(1), 1)
    assert desk.inbox.get(0) is None
    desk.hold(notes(2), 1)  # the first is let go
    assert [list(run.events) for run in desk.runs()] == [[Note(1)]]
    assert desk.inbox.get(0) is None
    desk.inbox.put_status(LOST)
    desk.hold(notes(3), 1)
    desk.inbox.release()
    desk.inbox.release()
    desk.hold(notes(4), 1)
    desk.inbox.end()
    items = list(desk.inbox.items(None))
    assert [[list(run.events) for run in item] if isinstance(item, list) else item for item in items] == [
        [[Note(2)]],
        LOST,
        [[Note(3)]],
        [[Note(4)]],
    ]


def test_a_release_wakes_an_event_loop_and_a_hold_does_not() -> None:
    desk, calls = Desk(""), []
    desk.inbox.on_put = lambda: calls.append(desk.inbox.get(0))
    desk.hold(notes(1), 1)
    assert not calls
    desk.inbox.release()
    assert len(calls) == 1
    assert isinstance(calls[0], list)
    desk.inbox.release()
    assert len(calls) == 1


def test_a_batch_counts_as_taken_when_the_consumer_gets_it() -> None:
    desk = Desk("")
    desk.put(notes(1), 1)
    assert desk.taken == []
    desk.runs()
    assert [batch.count for batch in desk.taken] == [1]


def test_a_consumer_gets_the_topics_it_asked_for() -> None:
    desk = Desk("a/", "b/")
    runs = [Codec().encode_run(topic, [Note(number)])[0][0] for number, topic in enumerate(["a/1", "c/1", "b/1"])]
    desk.put(join_runs(runs), 3)
    assert [(run.origin.topic, run.origin.peer, run.origin.epoch) for run in desk.runs()] == [
        ("a/1", "peer", 2),
        ("b/1", "peer", 2),
    ]


def test_nothing_to_get_is_none_at_once() -> None:
    desk = Desk("")
    assert desk.inbox.get(0) is None
    assert list(desk.inbox.items(0.001)) == []


def test_each_bad_event_is_counted_at_its_place() -> None:
    desk = Desk("")
    desk.put(pack([("Note", "t", 3, pack([[1], ["x"], [3]]))]), 3)
    (run,) = desk.runs()
    assert list(run.events) == [Note(1), Note(3)]
    assert desk.counters.bad_events == {"peer Note $[0]": 1}


def test_a_batch_that_is_none_costs_all_its_events_and_is_taken_all_the_same() -> None:
    desk = Desk("")
    desk.put(b"\xc0", 7)
    assert desk.runs() == []
    assert (desk.counters.bad_events, len(desk.taken)) == ({"peer  $": 7}, 1)


def test_events_that_were_announced_and_are_not_there_are_counted() -> None:
    desk = Desk("")
    desk.put(notes(1, 2), 5)
    assert len(desk.runs()[0].events) == 2
    assert desk.counters.bad_events == {"peer  $": 3}


def test_names_that_a_peer_invents_do_not_fill_the_memory() -> None:
    desk = Desk("")
    wanted = MAX_BAD_EVENT_PLACES + 50
    for number in range(wanted):
        desk.put(pack([(f"Invented{number}", "t", 1, pack([5]))]), 1)
        desk.runs()
    assert len(desk.counters.bad_events) == MAX_BAD_EVENT_PLACES + 1
    assert desk.counters.bad_events.total() == wanted


def test_statuses_that_nobody_reads_are_bounded_and_counted() -> None:
    desk = Desk("")
    for _ in range(inbox_module.MAX_WAITING_STATUSES + 5):
        desk.inbox.put_status(LOST)
    assert desk.counters.statuses_dropped == 5
    assert desk.inbox.get(0) == LOST
    desk.inbox.put_status(LOST)
    assert desk.counters.statuses_dropped == 5


def test_whoever_waits_elsewhere_is_woken_by_every_put() -> None:
    desk, woken = Desk(""), []
    desk.inbox.on_put = lambda: woken.append(1)
    desk.put(notes(1), 1)
    desk.inbox.put_status(LOST)
    desk.inbox.end()
    assert len(woken) == 3


# -- by two ways ------------------------------------------------------------------------------------------------------


def relayed(first: int, *numbers: int, origin: str = "", hops: int = 1, stream: bytes = b"s" * 16) -> bytes:
    """Numbered notes, relayed if there is an origin."""
    codec = Codec()
    runs, _ = codec.encode_run("inbox/note", [Note(number) for number in numbers], first)
    if not origin:
        return join_runs(runs)
    split, _ = codec.split_batch_untrusted(join_runs(runs))
    passed = [msgspec.structs.replace(run, origin=origin, stream=stream, hops=hops) for run in split]
    return join_runs([codec.forward_run(run) for run in passed])


def numbers_of(desk: Desk) -> list[int]:
    return [event.number for run in desk.runs() for event in run.events if isinstance(event, Note)]


def test_what_came_by_another_way_is_not_delivered_again() -> None:
    desk = Desk("")
    desk.put(relayed(10, 1, 2, 3, origin="sensor"), 3, peer="left")
    desk.put(relayed(10, 1, 2, 3, origin="sensor", hops=4), 3, peer="right")
    desk.put(relayed(12, 3, 4, 5, origin="sensor"), 3, peer="right")
    desk.put(relayed(10, 1, 2, 3, origin="sensor", stream=b"t" * 16), 3, peer="right")
    desk.put(relayed(10, 1, 2, 3, origin="other"), 3, peer="right")
    got = [numbers_of(desk) for _ in range(5)]
    assert got == [[1, 2, 3], [], [4, 5], [1, 2, 3], [1, 2, 3]]
    assert desk.counters.repeated == {"right": 4}
    assert desk.counters.bad_events == {}


def test_the_direct_way_is_one_of_them() -> None:
    desk = Desk("")
    desk.put(relayed(0, 1, 2), 2, peer="sensor", incarnation=b"s" * 16)
    desk.put(relayed(0, 1, 2, 3, origin="sensor"), 3, peer="relay")
    desk.put(relayed(2, 3, 4), 2, peer="sensor", incarnation=b"s" * 16)
    runs = [run for _ in range(3) for run in desk.runs()]
    seen = [(run.origin.peer, run.origin.node, run.origin.hops, run.first_sequence, len(run.events)) for run in runs]
    assert seen == [("sensor", "sensor", 0, 0, 2), ("relay", "sensor", 1, 2, 1), ("sensor", "sensor", 0, 3, 1)]
    assert {run.stream for run in runs} == {b"s" * 16}


def test_ones_own_events_are_not_delivered() -> None:
    desk = Desk("", name="me")
    desk.put(relayed(0, 1, origin="me"), 1)
    assert numbers_of(desk) == []
    assert desk.counters.repeated == {"peer": 1}


def test_only_what_is_delivered_counts_as_seen() -> None:
    """Who subscribes later gets what the other way still brings."""
    desk = Desk("elsewhere/")
    desk.put(relayed(0, 1, origin="sensor"), 1, peer="left")
    assert numbers_of(desk) == []
    desk.inbox.prefixes = ("inbox/",)
    desk.put(relayed(0, 1, origin="sensor"), 1, peer="right")
    assert numbers_of(desk) == [1]


def test_bad_events_do_not_shift_the_numbers_of_their_neighbours() -> None:
    desk = Desk("")
    run = ["Note", "inbox/note", 3, b"\x93\x91\x01\x91\xc0\x91\x03", 10, -1, "sensor", b"s" * 16, 1]
    desk.put(relayed(10, 1, origin="sensor"), 1, peer="left")
    desk.put(msgspec.msgpack.encode([run]), 3, peer="right")
    desk.put(relayed(12, 3, origin="sensor"), 1, peer="left")
    assert [numbers_of(desk) for _ in range(3)] == [[1], [3], []]


def test_a_peer_that_may_not_relay_cannot_take_the_place_of_an_honest_one() -> None:
    desk = Desk("", relays=["relay"])
    desk.put(relayed(0, 66, 67, origin="sensor"), 2, peer="evil")
    desk.put(relayed(0, 1, 2), 2, peer="sensor", incarnation=b"s" * 16)
    desk.put(relayed(2, 3, origin="sensor"), 1, peer="relay")
    assert [numbers_of(desk) for _ in range(3)] == [[], [1, 2], [3]]
    assert desk.counters.repeated == {"evil": 2}
