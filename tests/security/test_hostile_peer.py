"""Invariant: an authenticated peer that breaks the rules costs itself its connection, and nobody else anything."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec
import pytest

from rapini import Node, PeerState, limits
from tests.integration.node.support import Keys, Recorder, eventually, port_of, running
from tests.programs.events import Tick
from tests.security.raw import (
    ACK,
    EVENTS,
    GAP,
    GOODBYE,
    HELLO,
    MAX_COUNT,
    OPENING,
    PING,
    PONG,
    READY,
    REJECT,
    REQUEST,
    RESPONSE,
    SUBSCRIBED,
    SUBSCRIPTIONS,
    WELCOME,
    RawPeer,
    RawServer,
    batch_of,
    events_frame,
    frame,
    rss_bytes,
)

GROWTH_BYTES = 100 << 20
SOON_S = 1.0


@dataclass
class Scene:
    """A server with an honest peer, and the keys of somebody who is not."""

    keys: Keys
    server: Node
    seen: Recorder
    honest: Node
    honest_seen: Recorder
    port: int
    sent: int = 0

    def evil(self, name: str = "evil") -> RawPeer:
        return RawPeer(name, self.port, self.keys.of(name))

    def received_more_than(self, count: int) -> bool:
        return self.server.counters().received.get("evil", 0) > count

    def check_honest(self) -> None:
        """The honest peer noticed nothing: heard at once, never lost, nothing missing."""
        self.sent += 1
        began = time.monotonic()
        self.honest.publish(Tick(sender="honest", number=self.sent))
        self.seen.wait_tick(self.sent, "honest")
        assert time.monotonic() - began < SOON_S
        assert self.server.failure is None
        assert self.seen.states("honest") == ["up"]
        assert self.honest_seen.states("server") == ["up"]
        assert self.seen.ticks("honest") == list(range(1, self.sent + 1))


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """One for all: that is the point."""
    keys = Keys(tmp_path_factory.mktemp("keys"))
    with (
        running(Node("server", **keys.of("server"))) as (server, seen),
        running(Node("honest", **keys.of("honest"))) as (honest, honest_seen),
    ):
        server.subscribe("")
        server.serve("slow/", lambda event, origin: time.sleep(0.5))
        honest.subscribe("answers/")
        honest.connect(server.listen("zmq+tls://127.0.0.1:0"))
        port = port_of(server.listen("tcp+tls://127.0.0.1:0"))
        yield Scene(keys, server, seen, honest, honest_seen, port)


BATCH = batch_of("No.Such", "x", 1, b"\x91\x90")

ASKED = batch_of("Tick", "slow/x", 1, b"\x91\x93\xa1e\x01\xc4\x00")

LARGE = batch_of("Tick", "slow/x", 1, b"\x91\x93\xa1e\x01\xc6" + (3 << 20).to_bytes(4, "big") + bytes(3 << 20))

# what is said once up, and the code of the typed rejection
BREACHES = {
    "hello again": (frame(HELLO, 2, 2, []), "protocol_error"),
    "a welcome": (frame(WELCOME, 2, 1, []), "protocol_error"),
    "ready again": (frame(READY), "protocol_error"),
    "no events": (events_frame(0, 0, BATCH), "protocol_error"),
    "2^32-1 events": (events_frame(0, 2**32 - 1, BATCH), "protocol_error"),
    "numbers beyond all": (events_frame(2**64 - 1, 1, BATCH), "protocol_error"),
    "numbers go back": (events_frame(0, 1, BATCH) + events_frame(0, 1, BATCH), "protocol_error"),
    "a short events frame": (b"\0\0\0\x05\x07abcd", "protocol_error"),
    "taken what was not sent": (frame(ACK, [MAX_COUNT]), "protocol_error"),
    "a negative ack": (frame(ACK, [-1]), "protocol_error"),
    "an ack beyond counting": (frame(ACK, [2**64 - 1]), "protocol_error"),
    "a float": (frame(PING, 1e308), "protocol_error"),
    "unknown kind": (b"\0\0\0\x01\xee", "protocol_error"),
    "empty frame": (b"\0\0\0\0", "protocol_error"),
    "4 GiB announced": (b"\xff\xff\xff\xff\x07", "protocol_error"),
    "nested without end": (b"\0\x01\0\x01\x09" + b"\x91" * 0x10000, "protocol_error"),
    "prefixes with a terminal's commands": (frame(SUBSCRIPTIONS, 1, ["\x1b[2J"]), "protocol_error"),
    "prefixes too long": (frame(SUBSCRIPTIONS, 1, ["x" * 256]), "protocol_error"),
    "too many prefixes": (frame(SUBSCRIPTIONS, 1, ["x"] * 4097), "protocol_error"),
    "prefixes announced without end": (b"\0\0\0\x08\x04\x92\x00\xdd\xff\xff\xff\xff", "protocol_error"),
    "acks of classes without end": (frame(ACK, [0] * 9), "protocol_error"),
    "a gap that was not due": (frame(GAP, 0, 5, 1, "queue_full"), "protocol_error"),
    "a gap of nothing": (frame(GAP, 0, 0, 0, "queue_full"), "protocol_error"),
    "a gap beyond counting": (frame(GAP, 0, 0, 2**63, "queue_full"), "protocol_error"),
    "a gap of another class": (frame(GAP, 3, 0, 1, "queue_full"), "protocol_error"),
    "a gap of a thousand topics": (
        frame(GAP, 0, 0, 1, "queue_full", {str(n): 1 for n in range(1000)}),
        "protocol_error",
    ),
    "a gap in no topic": (frame(GAP, 0, 0, 1, "queue_full", {"a\nb": 1}), "protocol_error"),
    "events of no class": (events_frame(0, 1, BATCH, delivery=9), "protocol_error"),
    "durable events without a stream": (events_frame(0, 1, BATCH, delivery=2), "protocol_error"),
    "a response to nothing": (frame(RESPONSE, 0, "", "", b""), "protocol_error"),
    "a response with a code without end": (frame(RESPONSE, 0, "x" * 65, "", b""), "protocol_error"),
    "a request on no topic": (frame(REQUEST, 0, 1000, "", True, ASKED), "protocol_error"),
    "a request on a terminal's commands": (frame(REQUEST, 0, 1000, "\x1b[2J", True, ASKED), "protocol_error"),
    "a request from the past": (frame(REQUEST, 0, -1, "slow/x", True, ASKED), "protocol_error"),
    "a request for ever": (frame(REQUEST, 0, 2**63, "slow/x", True, ASKED), "protocol_error"),
    "a request without an event": (frame(REQUEST, 0, 1000, "slow/x", True), "protocol_error"),
    "a request for maybe": (frame(REQUEST, 0, 1000, "slow/x", 2, ASKED), "protocol_error"),
    "a request twice": (frame(REQUEST, 0, 1000, "slow/x", True, ASKED) * 2, "protocol_error"),
    "more requests than it may": (
        b"".join(frame(REQUEST, number, 60_000, "slow/x", True, ASKED) for number in range(300)),
        "protocol_error",
    ),
    "requests beyond its credit": (
        b"".join(frame(REQUEST, number, 60_000, "slow/x", True, LARGE) for number in range(2)),
        "protocol_error",
    ),
    "a flood of pings": (frame(PING, 1) * 20_000, "flood"),
    "a flood of pongs": (frame(PONG, 1) * 20_000, "flood"),
    "a flood of stale acks": (frame(ACK, [0]) * 20_000, "flood"),
    "a flood of subscriptions": (frame(SUBSCRIPTIONS, 1, []) * 20_000, "flood"),
    "a flood of large subscriptions": (frame(SUBSCRIPTIONS, 1, [""] * 4096) * 5_000, "flood"),
    "a flood of subscribed": (frame(SUBSCRIBED, MAX_COUNT) * 20_000, "flood"),
}


@pytest.mark.parametrize("what", BREACHES)
def test_breach(scene: Scene, what: str) -> None:
    """A typed rejection, `lost` here, nobody else notices."""
    said, code = BREACHES[what]
    with scene.evil() as evil:
        evil.come_up()
        since = scene.seen.count
        evil.link.settimeout(5)
        evil.say(said)
        scene.check_honest()
        if len(said) < 1 << 20:  # else the kernel may throw the answer away with what was not read
            assert evil.hear(REJECT)[0] == code
        _, status = scene.seen.wait_status(PeerState.LOST, "evil", since=since)
        assert status.code == code
        assert str(status).isprintable()
        assert evil.ended()
    scene.check_honest()


Say = Callable[[RawPeer], bytes]

# what is said in place of, or around, the greeting
GREETINGS: dict[str, tuple[Say, str]] = {
    "an epoch without a next": (lambda p: frame(HELLO, 2, 2, p.greeting(known_epoch=MAX_COUNT)), "protocol_error"),
    "a window beyond counting": (lambda p: frame(HELLO, 2, 2, p.greeting(window_bytes=2**63)), "protocol_error"),
    "a negative window": (lambda p: frame(HELLO, 2, 2, p.greeting(window_bytes=-1)), "protocol_error"),
    "a short incarnation": (lambda p: frame(HELLO, 2, 2, p.greeting(incarnation=b"x")), "protocol_error"),
    "another's name": (lambda p: frame(HELLO, 2, 2, p.greeting(node="honest")), "identity_mismatch"),
    "a role": (lambda p: frame(HELLO, 2, 2, p.greeting(role="manager")), "role_mismatch"),
    "another cluster": (lambda p: frame(HELLO, 2, 2, p.greeting(cluster="other")), "cluster_mismatch"),
    "a name that ends a line": (lambda p: frame(HELLO, 2, 2, p.greeting(node="evil\n")), "protocol_error"),
    "no version of ours": (lambda p: frame(HELLO, 3, 2**63, p.greeting()), "version"),
    "events first": (lambda p: events_frame(0, 1, BATCH), "protocol_error"),
    "hello and events": (lambda p: frame(HELLO, 2, 2, p.greeting()) + events_frame(0, 1, BATCH), "protocol_error"),
    "hello twice": (lambda p: frame(HELLO, 2, 2, p.greeting()) * 2, "protocol_error"),
    "a large frame": (lambda p: b"\0\x02\0\0\x01", "protocol_error"),
    "received what was never sent": (lambda p: frame(HELLO, 2, 2, p.greeting(received=[5])), ""),
}


@pytest.mark.parametrize("what", GREETINGS)
def test_greeting(scene: Scene, what: str) -> None:
    """Refused with the reason, or harmless; no event of it gets through either way."""
    say, code = GREETINGS[what]
    before = scene.server.counters().received.get("evil", 0)
    with scene.evil() as evil:
        evil.say(say(evil))
        if code:
            assert evil.hear(REJECT)[0] == code
            assert evil.ended()
        else:
            assert evil.hear(WELCOME)
    scene.check_honest()
    assert scene.server.counters().received.get("evil", 0) == before


def test_more_than_its_credit(scene: Scene) -> None:
    """While nobody consumes, what waits here is bounded by the credit, though the sender does not care for it."""
    before = rss_bytes()
    scene.seen.pause()
    try:
        with scene.evil() as evil:
            evil.come_up()
            batch = batch_of("No.Such", "x", 1, b"\x91\x91\xc6" + (200_000).to_bytes(4, "big") + bytes(200_000))
            evil.link.settimeout(5)
            sent = 0
            while sent < 1000 and evil.say(events_frame(sent, 1, batch)):
                sent += 1
            assert sent < 1000 or evil.ended()
        eventually(lambda: "evil" not in {peer.name for peer in scene.server.peers()})
        assert rss_bytes() - before < GROWTH_BYTES
    finally:
        scene.seen.resume()
    scene.check_honest()


def test_new_credit_by_reconnecting(scene: Scene) -> None:
    """Each channel brings new credit; what earlier ones left is bounded all the same (`overloaded`)."""
    before = rss_bytes()
    scene.seen.pause()
    codes = []
    try:
        batch = batch_of("No.Such", "x", 1, b"\x91\x91\xc6" + (15 << 20).to_bytes(4, "big") + bytes(15 << 20))
        for _ in range(10):
            with scene.evil() as evil:
                evil.hello()
                try:
                    evil.hear(WELCOME, 2)
                except AssertionError:
                    codes += [body[0] for kind, body in evil.heard if kind == REJECT]
                    continue
                evil.say(frame(SUBSCRIPTIONS, 0, []), frame(SUBSCRIBED, 0))
                evil.hear(SUBSCRIPTIONS)
                evil.say(frame(READY))
                evil.hear(READY)
                count = scene.server.counters().received.get("evil", 0)
                evil.link.settimeout(5)
                evil.say(events_frame(0, 1, batch))
                eventually(functools.partial(scene.received_more_than, count))
        assert codes
        assert set(codes) == {"overloaded"}
        assert rss_bytes() - before < GROWTH_BYTES
    finally:
        scene.seen.resume()
    scene.check_honest()


def test_one_byte_events(scene: Scene) -> None:
    """A batch of millions of tiny events is one bad batch, not millions of objects."""
    before = rss_bytes()
    bad = sum(scene.server.counters().bad_events.values())
    number = 8_000_000
    with scene.evil() as evil:
        evil.come_up()
        evil.link.settimeout(5)
        events = b"\xdd" + number.to_bytes(4, "big") + b"\x90" * number
        evil.say(events_frame(0, 1000, batch_of("No.Such", "x", number, events)))
        evil.say(events_frame(1000, 1000, b"\xdd\xff\xff\xff\xff" + b"\x94" * 1000))
        eventually(lambda: sum(scene.server.counters().bad_events.values()) > bad + 1000)
        assert rss_bytes() - before < GROWTH_BYTES
        scene.check_honest()


@pytest.mark.parametrize("window", [0, 1, 2**62])
def test_windows_of_any_size(scene: Scene, window: int) -> None:
    """A peer that grants nothing still gets one batch at a time; one that grants everything is held to the queue."""
    before = rss_bytes()
    with scene.evil() as evil:
        evil.come_up("", window_bytes=window)
        for number in range(200):
            scene.server.publish(Tick(sender="server", number=number, pad=bytes(100_000)))  # 20 MB; it reads nothing
            if number % 20 == 0:
                scene.check_honest()
        kept = {peer.name: peer.queued_bytes for peer in scene.server.peers()}
        assert kept["evil"] <= (8 << 20) + 200_000
        assert rss_bytes() - before < GROWTH_BYTES
        first = evil.hear(EVENTS)
        assert first
        dropped = scene.server.counters().dropped["evil"]
        assert sum(dropped["queue_full"].values()) > 0


def test_answers_that_are_not_read(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asks and does not listen is cut off at a bound (made small here, so that it is reached soon)."""
    monkeypatch.setattr(limits, "MAX_UNSENT_BYTES", 64 * 1024)
    with running(Node("server", **keys.of("server"), max_batch_events=4)) as (server, seen):
        port = port_of(server.listen("tcp+tls://127.0.0.1:0"))
        with RawPeer("evil", port, keys.of("evil")) as evil:
            evil.come_up("", window_bytes=2**62)
            for number in range(8000):
                server.publish(Tick(sender="server", number=number, pad=bytes(1000)))
            for _ in range(4):
                evil.say(frame(PING, 1) * 1000)
            _, status = seen.wait_status(PeerState.LOST, "evil")
            assert status.code == "not_reading"
        assert server.failure is None


def test_connections_without_end(scene: Scene) -> None:
    """One name may have few connections in their greeting: they cost more than a stranger's, uncounted by the gate."""
    crowd = [scene.evil() for _ in range(3 * limits.MAX_GREETING_LINKS)]
    try:
        refused = 0
        for peer in crowd:
            try:
                peer.hear(REJECT, 0.1)
                refused += 1
            except AssertionError:
                pass
        assert refused == 2 * limits.MAX_GREETING_LINKS
        scene.check_honest()
    finally:
        for peer in crowd:
            peer.link.close()


PAYLOADS = {
    "nothing": b"",
    "garbage": b"\xff" * 100,
    "no run": b"\x90",
    "two runs": b"\x92" + ASKED[1:] * 2,
    "two events": batch_of("Tick", "slow/x", 2, b"\x92" + b"\x93\xa1e\x01\xc4\x00" * 2),
    "another topic": batch_of("Tick", "slow/y", 1, b"\x91\x93\xa1e\x01\xc4\x00"),
    "a field of another type": batch_of("Tick", "slow/x", 1, b"\x91\x93\x01\x01\xc4\x00"),
    "nested without end": b"\x91" * 100_000,
}


@pytest.mark.parametrize("wants_reply", [True, False], ids=["asked", "sent"])
@pytest.mark.parametrize("what", PAYLOADS)
def test_a_request_that_holds_no_event_is_answered_and_no_more(scene: Scene, what: str, wants_reply: bool) -> None:
    with scene.evil() as evil:
        evil.come_up()
        evil.say(frame(REQUEST, 7, 5000, "slow/x", wants_reply, PAYLOADS[what]))
        number, code, detail, payload = evil.hear(RESPONSE)
        assert (number, code, payload) == (7, "bad_event", b"")
        assert len(detail) <= limits.MAX_DETAIL_CHARS
    scene.check_honest()


def test_one_who_asks_and_does_not_listen(scene: Scene) -> None:
    """Each answer is larger than the question; what waits is bounded, and so is what is asked."""
    before = rss_bytes()
    scene.server.serve("large/", lambda event, origin: Tick("server", 0, bytes(1 << 20)))
    asked = batch_of("Tick", "large/x", 1, b"\x91\x93\xa1e\x01\xc4\x00")
    with scene.evil() as evil:
        evil.come_up(window_bytes=2**62)
        evil.link.settimeout(5)
        evil.say(b"".join(frame(REQUEST, number, 60_000, "large/x", True, asked) for number in range(250)))
        eventually(lambda: scene.server.counters().served.get("ok", 0) >= 250)
        assert rss_bytes() - before < GROWTH_BYTES
        scene.check_honest()
        codes = [evil.hear(RESPONSE)[1] for _ in range(250)]
        assert set(codes) == {"", "overloaded"}
    scene.check_honest()


RUNS = {
    "an origin that ends a line": ["Tick", "x", 1, b"\x91\x90", 0, -1, "sensor\n", bytes(16), 1],
    "a long origin": ["Tick", "x", 1, b"\x91\x90", 0, -1, "s" * 129, bytes(16), 1],
    "a short stream": ["Tick", "x", 1, b"\x91\x90", 0, -1, "sensor", bytes(15), 1],
    "no hop": ["Tick", "x", 1, b"\x91\x90", 0, -1, "sensor", bytes(16), 0],
    "hops without end": ["Tick", "x", 1, b"\x91\x90", 0, -1, "sensor", bytes(16), 2**60],
    "hops of nobody": ["Tick", "x", 1, b"\x91\x90", 0, -1, "", b"", 1],
    "a stream of nobody": ["Tick", "x", 1, b"\x91\x90", 0, -1, "", bytes(16), 0],
    "a number below all": ["Tick", "x", 1, b"\x91\x90", -2],
    "a number beyond all": ["Tick", "x", 1, b"\x91\x90", 2**63],
    "a relayed run without number": ["Tick", "x", 1, b"\x91\x90", -1, -1, "sensor", bytes(16), 1],
}


@pytest.mark.parametrize("what", RUNS)
def test_a_run_of_an_impossible_origin_is_one_bad_run(scene: Scene, what: str) -> None:
    bad = sum(scene.server.counters().bad_events.values())
    with scene.evil() as evil:
        evil.come_up()
        evil.say(events_frame(0, 1, msgspec.msgpack.encode([RUNS[what]])))
        eventually(lambda: sum(scene.server.counters().bad_events.values()) == bad + 1)
        assert [peer.name for peer in scene.server.peers()] == ["evil", "honest"]
    scene.check_honest()


def test_goodbye_and_come_again(scene: Scene) -> None:
    """Fifty whole lives in a row, each with something half said at its end."""
    for number in range(50):
        with scene.evil() as evil:
            evil.come_up("tick/")
            evil.say(frame(GOODBYE, "x" * 10_000, "\x1b]0;owned\x07\n" * 100), events_frame(number, 1, BATCH)[:-3])
    scene.check_honest()
    left = scene.seen.wait_status(PeerState.LEFT, "evil")[1]
    assert left.code == "unknown_reason"
    assert left.detail.isprintable()
    assert len(left.detail) <= limits.MAX_DETAIL_CHARS


# -- those we dial ----------------------------------------------------------------------------------------------------


FIRST_WORDS = {
    "ping": frame(PING, 1),
    "reject": frame(REJECT, "closed", "", 0),
    "welcome": frame(WELCOME, 2, 1, []),
    "empty frame": b"\0\0\0\0",
    "4 GiB": b"\xff\xff\xff\xff",
}


@pytest.mark.parametrize("what", FIRST_WORDS)
def test_a_responder_that_speaks_in_the_same_breath_as_its_opening(what: str) -> None:
    """It broke the rules before we could greet it; that once ended the I/O thread."""
    with (
        RawServer("evil") as listener,
        running(Node("n", reconnect="never")) as (node, seen),
    ):
        node.connect(f"tcp+plain://127.0.0.1:{listener.port}", wait_s=0)
        with listener.accept() as evil:
            evil.link.recv(len(OPENING))
            evil.say(OPENING + FIRST_WORDS[what])
            _, status = seen.wait(lambda item: getattr(item, "state", None) is PeerState.REJECTED)
            assert status.code in ("protocol_error", "closed")
            assert evil.ended()
        assert node.failure is None


WELCOMES: dict[str, Say] = {
    "an old epoch": lambda p: frame(WELCOME, 2, 0, p.greeting()),
    "a huge epoch": lambda p: frame(WELCOME, 2, 2**63, p.greeting()),
    "another version": lambda p: frame(WELCOME, 7, 1, p.greeting()),
    "a strange rejection": lambda p: frame(REJECT, "\x1b[31m" * 1000, "\n\x00" * 5000, MAX_COUNT),
    "twice": lambda p: frame(WELCOME, 2, 1, p.greeting()) * 2,
    "a hello back": lambda p: frame(HELLO, 2, 2, p.greeting()),
    "a flood in place of a word": lambda p: frame(SUBSCRIPTIONS, 1, []) * 10_000,
}


@pytest.mark.parametrize("what", WELCOMES)
def test_a_responder_that_answers_wrongly(keys: Keys, what: str) -> None:
    """Refused with a code that is one, in text that is printable; the back-off is bounded whatever it asks for."""
    with (
        RawServer("evil", keys.of("evil")) as listener,
        running(Node("n", **keys.of("n"), reconnect="never")) as (node, seen),
    ):
        node.connect(f"tcp+tls://127.0.0.1:{listener.port}", wait_s=0)
        with listener.accept() as evil:
            evil.hear(HELLO)
            evil.say(WELCOMES[what](evil))
            _, status = seen.wait(
                lambda item: getattr(item, "state", None) in (PeerState.REJECTED, PeerState.LOST), timeout_s=5
            )
            assert status.code in ("protocol_error", "version", "unknown_reason")
            assert str(status).isprintable()
        assert node.failure is None
        assert set(node.counters().rejected) <= {"protocol_error", "version", "unknown_reason"}


def test_codes_of_peers_do_not_fill_memory(keys: Keys) -> None:
    """A peer that refuses us with ever new reasons."""
    with (
        RawServer("evil", keys.of("evil")) as listener,
        running(Node("n", **keys.of("n"), backoff_first_s=0.001, backoff_max_s=0.001, backoff_rejected_s=0.001)) as (
            node,
            _,
        ),
    ):
        node.connect(f"tcp+tls://127.0.0.1:{listener.port}", wait_s=0)
        for number in range(230):
            with listener.accept() as evil:
                evil.say(frame(REJECT, f"reason_{number}", "", 1))
        eventually(lambda: sum(node.counters().rejected.values()) >= 229)
        assert len(node.counters().rejected) <= 201
