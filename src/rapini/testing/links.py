"""Two session links joined in memory, with a clock that the test moves.

Ships to users, who test with it what their programs make of a peer; Rapini's own tests do too. No socket, no thread and
no waiting: what one link has to say is handed to the other, whole or cut anywhere, until both are silent.

    pair = joined_pair(subscriptions=((), ("conn/",)))
    pair.initiator.link.send_events(0, 1, batch, pair.clock.now)
    settle(pair)
    assert pair.responder.seen(EventsReceived)

By default both ends are plain and play their parts by themselves: they greet and admit whoever comes. With
``is_automatic=False`` the test does that. `channels` takes others, such as those of two `TlsMaterial`s.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, TypeVar

from rapini.defaults import HANDSHAKE_TIMEOUT_S
from rapini.secure.channel import Channel
from rapini.secure.plain import PlainChannel
from rapini.session.link import Link, Timing
from rapini.session.messages import Epoch, Greeting, Incarnation
from rapini.session.outcomes import ChannelOpened, GreetingReceived, LinkOutcome

__all__ = ["LinkEnd", "LinkPair", "ManualClock", "greeting_of", "joined_pair", "settle"]

_T = TypeVar("_T")
_MAX_ROUNDS: Final = 1000
"""Two links that still have something to say after so many exchanges have gone mad."""


@dataclass(slots=True)
class ManualClock:
    """Monotonic seconds that pass when the test says so."""

    now: float = 1000.0

    def advance(self, seconds: float) -> float:
        """Let time pass; returns the new time."""
        self.now += seconds
        return self.now


def greeting_of(
    node: str,
    *,
    cluster: str = "test",
    role: str = "",
    incarnation: bytes = b"",
    window_bytes: int = 1 << 20,
    known_incarnation: bytes = b"",
    known_epoch: int = 0,
    received: Sequence[int] = (),
) -> Greeting:
    """What a node says of itself; its incarnation follows from its name unless given."""
    return Greeting(
        cluster=cluster,
        node=node,
        role=role,
        incarnation=incarnation or incarnation_of(node),
        window_bytes=window_bytes,
        known_incarnation=known_incarnation,
        known_epoch=known_epoch,
        received=list(received),
    )


def incarnation_of(node: str, run: int = 0) -> Incarnation:
    """Sixteen bytes that differ by node and run, and are the same in every test."""
    return Incarnation(hashlib.sha256(f"{node} {run}".encode()).digest()[:16])


@dataclass(slots=True)
class LinkEnd:
    """One end: a link, what it says of itself, what it reported so far."""

    link: Link
    greeting: Greeting
    clock: ManualClock
    is_automatic: bool = True
    """Whether it greets and admits by itself."""
    happened: list[LinkOutcome] = field(default_factory=list)
    """Everything the link reported, in order."""
    sent: list[bytes] = field(default_factory=list)
    """Everything it gave out, as it was taken: a transcript to cut, damage and splice."""

    def react(self) -> None:
        """Take the link's outcomes; greet and admit if that is this end's part."""
        while outcomes := self.link.outcomes():
            self.happened += outcomes
            for outcome in outcomes if self.is_automatic else ():
                if isinstance(outcome, ChannelOpened) and self.link.is_initiator:
                    self.link.greet(self.greeting, self.clock.now)
                elif isinstance(outcome, GreetingReceived) and not self.link.is_closed:
                    self.admit()

    def admit(self) -> None:
        """Admit the peer, with the epoch after the last known one if that is ours to choose."""
        offered = self.link.offered_epoch
        if not self.link.is_initiator:
            self.link.greet(self.greeting, self.clock.now)
        peer = self.link.greeting
        known = max(self.greeting.known_epoch, peer.known_epoch if peer is not None else 0)
        self.link.admit(offered if offered is not None else Epoch(known + 1), self.clock.now)

    def data(self) -> bytes:
        """Take what the link has to say."""
        self.react()
        data = self.link.data_to_send()
        if data:
            self.sent.append(data)
        return data

    def receive(self, data: bytes) -> None:
        """Give the link something to hear."""
        self.link.receive(data, self.clock.now)
        self.react()

    def seen(self, kind: type[_T]) -> list[_T]:
        """The outcomes of one kind so far, in order."""
        return [outcome for outcome in self.happened if isinstance(outcome, kind)]


@dataclass(slots=True)
class LinkPair:
    """Two ends, joined."""

    initiator: LinkEnd
    responder: LinkEnd
    clock: ManualClock
    cuts: Iterator[int] = field(default_factory=lambda: iter(()))
    """Sizes of the pieces in which bytes arrive; when they run out, as they were sent."""

    @property
    def ends(self) -> tuple[LinkEnd, LinkEnd]:
        """The initiator and the responder."""
        return self.initiator, self.responder

    def exchange(self) -> bool:
        """Carry what both have to say now; whether there was anything."""
        moved = False
        for sender, receiver in (self.ends, self.ends[::-1]):
            data = sender.data()
            moved = moved or bool(data)
            for piece in _pieces(data, self.cuts):
                receiver.receive(piece)
        return moved

    def advance(self, seconds: float, *, step: float = 0.1) -> None:
        """Let time pass in steps: timers run and what they say is carried over."""
        for _ in range(round(seconds / step)):
            self.clock.advance(step)
            for end in self.ends:
                run_timer(end)
            settle(self)

    def cut(self) -> None:
        """The connection ends under both, as a reset; what was not carried over is gone."""
        for end in self.ends:
            end.link.transport_ended("reset", "the cable was cut", self.clock.now)
            end.react()


def joined_pair(
    cuts: Iterable[int] = (),
    *,
    names: tuple[str, str] = ("alpha", "beta"),
    greetings: tuple[Greeting, Greeting] | None = None,
    channels: tuple[Channel, Channel] | None = None,
    cluster: str = "test",
    subscriptions: tuple[tuple[str, ...], tuple[str, ...]] = ((), ()),
    timing: Timing | None = None,
    clock: ManualClock | None = None,
    is_automatic: bool = True,
) -> LinkPair:
    """Make two links of fresh channels; nothing has been said yet: see `settle`.

    Args:
        cuts: Sizes of the pieces in which bytes arrive, both ways taken together; then everything as it was sent.
        names: Of the initiator and the responder.
        greetings: In place of the usual ones.
        channels: Of the initiator and the responder; plain ones by default.
        cluster: Of both.
        subscriptions: Of the initiator and the responder.
        timing: Of both.
        clock: Shared by both.
        is_automatic: Whether the ends greet and admit by themselves.
    """
    clock = clock or ManualClock()
    channels = channels or (_plain(is_initiator=True), _plain(is_initiator=False))
    greetings = greetings or (greeting_of(names[0], cluster=cluster), greeting_of(names[1], cluster=cluster))
    ends = [
        LinkEnd(
            link=Link(
                channel=channel,
                is_initiator=number == 0,
                cluster=cluster,
                subscriptions=prefixes,
                subscriptions_version=1,
                timing=timing or Timing(),
                now=clock.now,
            ),
            greeting=greeting,
            clock=clock,
            is_automatic=is_automatic,
        )
        for number, (channel, greeting, prefixes) in enumerate(zip(channels, greetings, subscriptions, strict=True))
    ]
    return LinkPair(initiator=ends[0], responder=ends[1], clock=clock, cuts=iter(cuts))


def settle(pair: LinkPair) -> LinkPair:
    """Carry bytes both ways until both are silent; returns the pair.

    Raises:
        AssertionError: They never are.
    """
    for _ in range(_MAX_ROUNDS):
        if not pair.exchange():
            return pair
    raise AssertionError(f"two links still talk after {_MAX_ROUNDS} exchanges")


def run_timer(end: LinkEnd) -> None:
    """Call a link's timer if it is due."""
    due = end.link.next_timer()
    if due is not None and due <= end.clock.now:
        end.link.handle_timer(end.clock.now)
        end.react()


def _plain(*, is_initiator: bool) -> Channel:
    return PlainChannel(is_initiator=is_initiator, handshake_timeout_s=HANDSHAKE_TIMEOUT_S)


def _pieces(data: bytes, cuts: Iterator[int]) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        size = max(1, next(cuts, len(data)))
        yield data[at : at + size]
        at += size
