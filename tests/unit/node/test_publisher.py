"""The publisher without a loop: routes, one encoding for all, and an account of every event."""

from __future__ import annotations

import threading

import msgspec
import pytest

from rapini import limits
from rapini.codec import Codec
from rapini.errors import EventError, LocalError
from rapini.events import Event, RawEvent
from rapini.node.counters import Counters
from rapini.node.links import LinkRecord
from rapini.node.publisher import Publisher
from rapini.node.sessions import Session
from rapini.node.settings import NodeSettings
from rapini.session.outbox import Batch, Outbox


class Tick(Event, topic="pub/tick", name="test.publisher.Tick"):
    number: int


class Peerage:
    """A publisher and the sessions it sends to; what would go out is collected instead."""

    def __init__(
        self, *names: str, prefixes: tuple[str, ...] = ("pub/",), queue: int = 1 << 30, **options: object
    ) -> None:
        settings = msgspec.convert({"max_batch_delay_s": 0.0, **options}, NodeSettings)
        self.counters = Counters()
        self.sessions: dict[str, Session] = {}
        self.sent: dict[str, list[Batch]] = {}
        for name in names:
            session = Session(name=name, outbox=Outbox(queue), window_bytes=1 << 20, prefixes=prefixes)
            session.record = LinkRecord.__new__(LinkRecord)  # only asked whether it is there
            session.outbox.window_bytes = 1 << 30
            self.sessions[name] = session
            self.sent[name] = []
        self.lock = threading.RLock()
        self.publisher = Publisher(
            settings=settings,
            counters=self.counters,
            lock=self.lock,
            sessions=self.sessions,
            pump=self.pump,
            wake=lambda: None,
        )

    def pump(self, session: Session, now: float) -> None:
        self.sent[session.name] += [item for _, _, item in session.outbox.sendable() if isinstance(item, Batch)]

    def publish(self, *events: Event, topic: str | None = None) -> None:
        self.publisher.publish_many(events, topic)
        self.publisher.flush(0.0)

    def arrived(self, name: str) -> list[Event]:
        runs = [
            run
            for batch in self.sent[name]
            for run in Codec().decode_batch_untrusted(batch.data, self.publisher.strings.pairs)
        ]
        return [event for run in runs for event in run.events]


def test_each_peer_gets_what_it_subscribed_to_in_order() -> None:
    peers = Peerage("a", "b")
    peers.sessions["b"].prefixes = ("raw/",)
    peers.publish(Tick(1), Tick(2))
    peers.publish(RawEvent(b"x"), topic="raw/1")
    peers.publish(Tick(3))
    assert peers.arrived("a") == [Tick(1), Tick(2), Tick(3)]
    assert peers.arrived("b") == [RawEvent(b"x")]
    assert peers.counters.published == {"pub/tick": 3, "raw/1": 1}


def test_ten_peers_cost_one_encoding_and_share_the_bytes() -> None:
    peers = Peerage(*"abcdefghij", max_batch_delay_s=1.0)
    peers.publish(*[Tick(number) for number in range(100)])
    publisher = peers.publisher
    assert publisher.codec.encode_calls == publisher.flushes
    assert len({id(batch.data) for name in peers.sent for batch in peers.sent[name]}) == publisher.flushes
    assert all(len(peers.arrived(name)) == 100 for name in peers.sent)


def test_what_nobody_wants_is_counted_and_not_encoded() -> None:
    peers = Peerage("a", prefixes=())
    peers.publish(Tick(1))
    assert (peers.counters.unrouted, peers.publisher.codec.encode_calls) == ({"pub/tick": 1}, 0)


def test_what_cannot_be_encoded_is_counted_and_the_rest_is_sent() -> None:
    peers = Peerage("a")
    peers.publish(Tick(1), Tick(2**70), Tick(3))
    assert peers.arrived("a") == [Tick(1), Tick(3)]
    assert peers.counters.not_encodable == {"pub/tick": 1}


def test_a_lost_peers_events_are_dropped_under_its_name_and_nobody_elses() -> None:
    peers = Peerage("a", "b")
    peers.sessions["a"].record = None
    peers.publish(Tick(1))
    assert peers.sessions["a"].outbox.dropped == {"peer_lost": {"pub/tick": 1}}
    assert peers.arrived("b") == [Tick(1)]


def test_to_a_departed_peer_nothing_is_owed() -> None:
    peers = Peerage("a")
    peers.sessions["a"].departed("peer_left", 1000.0)
    peers.publish(Tick(1))
    assert (peers.sessions["a"].outbox.dropped, peers.counters.unrouted) == ({}, {"pub/tick": 1})


def test_every_batch_fits_a_frame_however_large_the_events_are() -> None:
    """A flush of large events made a frame over the limit, for which the peer ended the link."""
    peers = Peerage("a", max_batch_delay_s=1.0)
    events = [RawEvent(bytes(1 << 20)) for _ in range(40)]
    peers.publish(*events, topic="pub/raw")
    assert len(peers.sent["a"]) > 2
    assert all(len(batch.data) + 13 <= limits.MAX_FRAME_BYTES for batch in peers.sent["a"])
    assert len(peers.arrived("a")) == 40


def test_a_topic_for_each_event_keeps_their_order() -> None:
    peers = Peerage("a", max_batch_delay_s=1.0)
    for number in range(50):
        peers.publisher.publish(Tick(number), f"pub/{number % 3}")
    peers.publisher.flush(0.0)
    assert peers.arrived("a") == [Tick(number) for number in range(50)]


@pytest.mark.parametrize(
    ("event", "topic", "code"),
    [
        (RawEvent(b""), None, "no_topic"),
        (RawEvent(b""), "", "no_topic"),
        (RawEvent(b""), "a\nb", "bad_topic"),
        ("text", "t", "not_an_event"),
        (Event, "t", "not_an_event"),
    ],
    ids=str,
)
def test_what_cannot_be_published_is_refused_and_not_counted(event: Event, topic: str | None, code: str) -> None:
    peers = Peerage("a")
    with pytest.raises((LocalError, EventError)) as caught:
        peers.publish(event, topic=topic)
    assert caught.value.code == code
    assert not peers.counters.published


def test_development_mode_refuses_a_wrong_type_before_it_is_sent() -> None:
    peers = Peerage("a", debug=True)
    with pytest.raises(EventError) as caught:
        peers.publish(Tick("one"))  # type: ignore[arg-type]
    assert (caught.value.code, caught.value.path) == ("wrong_type", "$[0]")
    peers.publish(Tick(1))
    assert peers.arrived("a") == [Tick(1)]


def test_a_closed_publisher_refuses_and_accounts_for_what_waits() -> None:
    peers = Peerage("a", max_batch_delay_s=1.0)
    peers.publish(Tick(0))
    with peers.lock:
        peers.publisher._waiting.append(Tick(1))
        peers.publisher.close()
        peers.publisher.account_for_the_rest()
    assert peers.sessions["a"].outbox.dropped == {"closing": {"pub/tick": 1}}
    assert peers.counters.published == {"pub/tick": 2}
    with pytest.raises(LocalError) as caught:
        peers.publish(Tick(2))
    assert caught.value.code == "closed"
