"""What the owner of a link may ask of it: greet, admit, refuse, send, leave. Between `link_core` and `link`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rapini import limits
from rapini.errors import LocalError
from rapini.events.delivery import Delivery
from rapini.secure.channel import Side
from rapini.session.asking import Asking
from rapini.session.flow import Hole
from rapini.session.link_core import LinkCore
from rapini.session.messages import (
    PROTOCOL_VERSION,
    Ack,
    Epoch,
    Gap,
    Goodbye,
    Greeting,
    Hello,
    Ping,
    Position,
    Ready,
    Reject,
    Stream,
    Strings,
    Subscriptions,
    Welcome,
    pack_durable_frame,
    pack_events_frame,
    pack_store_frame,
)
from rapini.session.outcomes import (
    CloseKind,
    LinkUp,
)
from rapini.session.states import TRANSITIONS, Input, LinkState

__all__ = ["LinkIntents"]

_STRINGS_AT_ONCE: Final = 256


class LinkIntents(LinkCore):
    """The intents of a link; see `rapini.session.link.Link`."""

    def greet(self, greeting: Greeting, now: float) -> None:
        """Say who we are: the initiator at once with `Hello`, the responder later, with its `Welcome`.

        Raises:
            LocalError: `wrong_state`, before `ChannelOpened` or twice.
        """
        if self.state not in (LinkState.GREETING, LinkState.JUDGING) or self._local_greeting is not None:
            raise LocalError("wrong_state", f"a greeting does not fit the state {self.state.value}")
        self._local_greeting = greeting
        if self.is_initiator:
            self._send(Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, greeting), now)

    def admit(self, epoch: Epoch, now: float, *, hold_ready: bool = False) -> None:
        """Admit the peer after `GreetingReceived`; a responder must have called `greet`, and chooses the epoch.

        Args:
            epoch: Of the session; an initiator's is the one that was offered.
            now: Monotonic seconds.
            hold_ready: Say `Ready` only after `ready` was called: there is more state to exchange.

        Raises:
            LocalError: `wrong_state`.
        """
        if self.state is not LinkState.JUDGING or self._local_greeting is None or self.greeting is None:
            raise LocalError("wrong_state", f"nobody to admit in the state {self.state.value}")
        self.asking = Asking(
            peer_window_bytes=self.greeting.window_bytes, own_window_bytes=self._local_greeting.window_bytes
        )
        self.epoch = epoch
        self.holds_ready = hold_ready
        self._move(Input.ADMITTED)
        self._frames.max_frame_bytes = limits.MAX_FRAME_BYTES
        if not self.is_initiator:
            self._send(Welcome(PROTOCOL_VERSION, epoch, self._local_greeting), now)
        self._send(Subscriptions(self._subscriptions_version, list(self._subscriptions)), now)
        if self._stream_id:
            self._send(Stream(self._stream_id), now)
        if self._peer_subscribed:  # a responder that admitted at once has sent them with its Welcome
            self._say_ready(now)

    def ready(self, now: float) -> None:
        """All state that we wait for is here; `Ready` follows as soon as the peer's subscriptions are in force."""
        self.holds_ready = False
        if self._peer_subscribed and self.state is LinkState.SYNCING:
            self._say_ready(now)

    def _say_ready(self, now: float) -> None:
        if self.holds_ready or self._is_ready_said:
            return
        self._is_ready_said = True
        self._send(Ready(), now)
        if self._is_ready_heard:
            self._move(Input.READY)
            self._outcomes.append(LinkUp())

    def refuse(self, code: str, detail: str, now: float, retry_after_s: float = 0.0) -> None:
        """Refuse the peer with a typed reason, and close. One that was up is lost by that."""
        if self.is_closed:
            return
        kind = CloseKind.LOST if self.state in (LinkState.UP, LinkState.LEAVING) else CloseKind.REJECTED
        self._send(Reject(code, detail[: limits.MAX_DETAIL_CHARS], int(retry_after_s * 1000)), now)
        self._close(kind, code, Side.OURS, detail)

    def abandon(self, code: str, detail: str) -> None:
        """Close from our side without a word."""
        self._close(CloseKind.CLOSED, code, Side.OURS, detail)

    def fail(self, code: str, side: Side, detail: str) -> None:
        """The layer below found the peer at fault (the envelope): close without a word."""
        self._close(self._how_it_ends(), code, side, detail)

    def lose(self, code: str, detail: str) -> None:
        """Give the peer up: a probe went unanswered, or its successor is here."""
        self._close(CloseKind.LOST, code, Side.THEIRS, detail)

    def leave(self, code: str, detail: str, now: float) -> None:
        """Say goodbye; `LinkClosed` follows when the peer answers. Before the session is up, close at once."""
        if (self.state, Input.LEAVE) in TRANSITIONS:
            self._move(Input.LEAVE)
            self._send(Goodbye(code, detail), now)
        elif not self.is_closed and self.state is not LinkState.LEAVING:
            self.abandon(code, detail)

    def subscribe(self, prefixes: tuple[str, ...], version: int, now: float) -> None:
        """Replace our subscriptions at the peer; `SubscriptionsInForce` follows."""
        self._subscriptions, self._subscriptions_version = prefixes, version
        if self.state in (LinkState.SYNCING, LinkState.UP):
            self._send(Subscriptions(version, list(prefixes)), now)

    def send_events(
        self,
        delivery: Delivery,
        first_sequence: int,
        count: int,
        batch: bytes,
        now: float,
        *,
        is_reliable: bool = False,
    ) -> None:
        """Send a batch. Only while `is_up` (its owner checks): the hot path has no state machine in it.

        Where the carrier loses datagrams, a batch of `best_effort` may be lost unless `is_reliable`.
        """
        if self._channel.is_established:  # else it failed just now, and the outcome that says so is under way
            frame = pack_events_frame(delivery, first_sequence, count, batch)
            if self._lossy is None:
                self._channel.send(frame)
            else:
                is_reliable = is_reliable or delivery is not Delivery.BEST_EFFORT
                self._lossy.send_frame(frame, now, is_reliable=is_reliable)
        self._last_sent = now

    def send_durable(self, after: int, first_sequence: int, count: int, batch: bytes, now: float) -> None:
        """Send events of our durable stream. Only while `is_up`, as `send_events`."""
        if self._channel.is_established:
            frame = pack_durable_frame(after, first_sequence, count, batch)
            if self._lossy is None:
                self._channel.send(frame)
            else:
                self._lossy.send_frame(frame, now, is_reliable=True)
        self._last_sent = now

    def tell_strings(self, pairs: Sequence[tuple[str, str]], now: float) -> None:
        """Tell what our table of names and topics has grown by since the last time; also before `Ready`."""
        while self.epoch is not None and self._strings_told < len(pairs):
            part = list(pairs[self._strings_told : self._strings_told + _STRINGS_AT_ONCE])
            self._send(Strings(self._strings_told, part), now)
            self._strings_told += len(part)

    def send_store(self, store: str, data: bytes, now: float) -> None:
        """Send a message to the peer's replica of a store, once it is admitted."""
        if self._channel.is_established and self.epoch is not None:
            self._channel.send(pack_store_frame(store, data))
            self._last_sent = now
            if self.state is LinkState.SYNCING:
                self._deadline = max(self._deadline, now + self._timing.handshake_timeout_s)

    def tell_position(self, stream_id: bytes, position: int | None, now: float, *, is_kept: bool) -> None:
        """Answer `StreamAnnounced`, once the peer is admitted: where we are in its stream."""
        self._send(Position(stream_id, position, is_kept), now)

    def send_gap(self, delivery: Delivery, first_sequence: int, hole: Hole, now: float) -> None:
        """Tell the peer of numbers that nothing will come for. Only while `is_up`, as `send_events`."""
        topics = hole.topics if len(hole.topics) <= limits.MAX_GAP_TOPICS else {}
        self._send(Gap(int(delivery), first_sequence, hole.count, hole.reason, topics), now)

    def acknowledge(self, taken: Sequence[int], now: float) -> None:
        """Tell the peer what was taken here: the number after the last event, by delivery class."""
        if self.state in (LinkState.UP, LinkState.LEAVING):
            self._send(Ack(list(taken)), now)

    def ask(self, topic: str, payload: bytes, deadline: float, *, wants_reply: bool) -> int | None:
        """Queue a request, see `Asking.ask`; `AnswerReceived` or `RequestExpired` follows, or the link's end.

        Only while `is_up`. Afterwards call `send_asked` while the connection takes it.
        """
        return self.asking.ask(topic, payload, deadline, wants_reply=wants_reply)

    def answer(self, number: int, code: str, detail: str = "", payload: bytes = b"") -> bool:
        """Queue the response to a request of the peer's, see `Asking.answer`; `send_asked` sends it."""
        return self.asking.answer(number, code, detail, payload)

    def send_asked(self, now: float) -> bool:
        """Send one request or response that waits; false if none does."""
        if self.state not in (LinkState.UP, LinkState.LEAVING):
            return False
        frame = self.asking.next_frame(now)
        if frame is None:
            return False
        self._send(frame, now)
        return True

    def ping(self, now: float) -> int:
        """Ask for a sign of life; returns the token that `PongReceived` will carry."""
        self._ping_token += 1
        self._send(Ping(self._ping_token), now)
        return self._ping_token
