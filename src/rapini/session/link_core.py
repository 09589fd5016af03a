"""What a link is and knows: its state, its channel, what it reports. The base of `link_intents` and `link`. Sans-IO."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Final

from rapini import defaults
from rapini.secure.channel import Channel, Side
from rapini.secure.identity import PeerIdentity
from rapini.session.allowance import Allowance
from rapini.session.asking import Asking
from rapini.session.datagram_channel import LossyChannel
from rapini.session.messages import (
    Body,
    Epoch,
    FrameReader,
    Greeting,
    encode_frame,
)
from rapini.session.outcomes import (
    CloseKind,
    LinkClosed,
    LinkOutcome,
)
from rapini.session.states import TRANSITIONS, Input, LinkState

__all__ = ["LinkCore", "Timing", "ViolationError"]

_INITIATORS_SHARE: Final = 0.9
"""Of the heartbeat's interval, after which an initiator pings. The answer then does for the responder's heartbeat; with
the same interval at both sides their pings cross, for ever, and each has its answer: twice the messages."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """The clocks of a link, in seconds."""

    heartbeat_interval_s: float = defaults.HEARTBEAT_INTERVAL_S
    heartbeat_timeout_s: float = defaults.HEARTBEAT_TIMEOUT_S
    handshake_timeout_s: float = defaults.HANDSHAKE_TIMEOUT_S


class ViolationError(Exception):
    """The peer broke the protocol; never leaves the link."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail)
        self.code = code
        self.detail = detail


class LinkCore(ABC):
    """One channel's session life; see `rapini.session.link.Link`.

    Args:
        channel: A fresh channel of `rapini.secure`, not started.
        is_initiator: Whether we made the connection.
        cluster: Our cluster's name; a peer of another is rejected.
        subscriptions: Our subscriptions, sent in the state exchange.
        subscriptions_version: Their version.
        stream_id: Of our durable stream; empty without one.
        timing: Deadlines and heartbeat.
        now: Monotonic seconds.
    """

    def __init__(
        self,
        *,
        channel: Channel,
        is_initiator: bool,
        cluster: str,
        subscriptions: tuple[str, ...],
        subscriptions_version: int,
        timing: Timing,
        now: float,
        stream_id: bytes = b"",
    ) -> None:
        self.state = LinkState.HANDSHAKING
        self.is_initiator = is_initiator
        self.identity: PeerIdentity | None = None
        self.greeting: Greeting | None = None
        self.epoch: Epoch | None = None
        self.offered_epoch: Epoch | None = None
        """What the responder chose; `None` when that is us."""
        self.asking = Asking(peer_window_bytes=0, own_window_bytes=0)
        """Requests under way; the windows are known when the peer is admitted."""
        self._channel = channel
        self._lossy = channel if isinstance(channel, LossyChannel) else None
        self._cluster = cluster
        self._subscriptions = subscriptions
        self._subscriptions_version = subscriptions_version
        self._stream_id = stream_id
        self._stream_heard = self._position_heard = False
        self.peer_strings: list[tuple[str, str]] = []
        """The peer's table of type names and topics, as far as it was told on this channel."""
        self._strings_told = 0
        self._timing = timing
        self._frames = FrameReader()
        self._outcomes: list[LinkOutcome] = []
        self._local_greeting: Greeting | None = None
        self._peer_subscribed = False
        self.holds_ready = False
        """Whether our `Ready` waits for `ready`."""
        self._is_ready_said = self._is_ready_heard = False
        self._heartbeat_s = timing.heartbeat_interval_s * (_INITIATORS_SHARE if is_initiator else 1.0)
        self._ping_token = 0
        self._allowance = Allowance(now)
        self._acknowledged = 0
        self._deadline = now + timing.handshake_timeout_s
        self._last_heard = now
        self._last_sent = now
        channel.start(now)
        self._drain_channel(now)

    @property
    def peer(self) -> str:
        """The peer's name where it is known, proven or claimed; else an empty string."""
        if self.identity is not None:
            return self.identity.node
        return self.greeting.node if self.greeting is not None else ""

    @property
    def is_up(self) -> bool:
        """Whether events may flow."""
        return self.state is LinkState.UP

    @property
    def is_closed(self) -> bool:
        """Whether this is over."""
        return self.state is LinkState.CLOSED

    @property
    def is_drained(self) -> bool:
        """Whether this is over and the connection may be closed, once `data_to_send` is empty: over datagrams, the last
        words have been acknowledged or given up. Until then it still wants what arrives, and its timer.
        """
        return self.is_closed and (self._lossy is None or self._lossy.is_drained)

    # -- for those above -----------------------------------------------------------------------------------------

    @abstractmethod
    def _drain_channel(self, now: float) -> None:
        """Act on what the channel reports."""

    def _move(self, event: Input) -> None:
        self.state = self._next(event)

    def _next(self, event: Input) -> LinkState:
        try:
            return TRANSITIONS[self.state, event]
        except KeyError:
            detail = f"{event.value} does not fit the state {self.state.value}"
            raise ViolationError("protocol_error", detail) from None

    def _how_it_ends(self) -> CloseKind:
        """What the end of the connection means now."""
        match self.state:
            case LinkState.UP:
                return CloseKind.LOST
            case LinkState.LEAVING:
                return CloseKind.CLOSED
            case _:
                return CloseKind.FAILED

    def _send(self, body: Body, now: float) -> None:
        if not self._channel.is_established:
            return  # it ended in the middle of what arrived; `ChannelFailed` or `ChannelClosed` follows
        if self._lossy is None:
            self._channel.send(encode_frame(body))
        else:
            self._lossy.send_frame(encode_frame(body), now, is_reliable=True)
        self._last_sent = now

    def _close(self, kind: CloseKind, code: str, side: Side, detail: str, retry_after_s: float = 0.0) -> None:
        if self.state is LinkState.CLOSED:
            return
        self.state = LinkState.CLOSED
        self._outcomes.append(LinkClosed(kind=kind, code=code, side=side, detail=detail, retry_after_s=retry_after_s))
        self._channel.close()
