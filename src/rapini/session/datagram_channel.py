"""A channel over datagrams: a mechanism that protects single ones, made lossless by retransmission. Sans-IO.

Keeps the contract of `rapini.secure.channel.Channel`, so that a `Link` lives on it as on TLS, with what a lossy carrier
adds to it (`LossyChannel`): a frame is sent at a time and reliably or not, there are timers for as long as it lives,
and it has last words after it was closed.

    Link                 frames
    DatagramChannel      this
    Retransmitter        packets: `retransmit`
    DatagramMechanism    datagrams: DTLS; plain ones for tests

What its driver must know: `receive` takes one whole datagram, and `data_to_send` gives one out, so it is called until
it returns nothing. The end of a channel is a part of the stream: whatever was sent before `close` still arrives, and
the peer's `ChannelClosed` follows it. For that the channel must be driven on until `is_drained`; a mechanism's own
alert of the end, a datagram that may be lost, only follows then.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from rapini import defaults
from rapini.errors import LocalError
from rapini.secure.channel import Buffer, ChannelClosed, ChannelFailed, DataReceived, HandshakeCompleted, Outcome, Side
from rapini.secure.datagrams import DatagramMechanism
from rapini.secure.reasons import failure
from rapini.session.retransmit import Retransmitter

__all__ = ["DatagramChannel", "LossyChannel"]


@runtime_checkable
class LossyChannel(Protocol):
    """What a `Link` may ask of a channel whose carrier loses datagrams, beside the `Channel` that it is."""

    @property
    def heard_at(self) -> float:
        """When the last authentic packet arrived: frames may wait behind a lost one while the peer is well."""

    @property
    def is_drained(self) -> bool:
        """Whether it has nothing more to say or to hear after its end: then its carrier may be closed."""

    def send_frame(self, frame: bytes, now: float, *, is_reliable: bool) -> None:
        """Send a whole frame: exactly once, or at most once; in the order of all frames.

        Raises:
            LocalError: `not_established`.
        """

    def forgive(self, pause_s: float) -> None:
        """Our own process stood still for so long: do not count that time against the peer."""


class DatagramChannel:
    """A `Channel` and a `LossyChannel`. Thread: the owner's, and one at a time.

    Args:
        mechanism: Fresh, not started.
        patience_s: Packets are under way and none is acknowledged for so long: `unacknowledged`.
        linger_s: How long last words are repeated after the end.
    """

    def __init__(
        self,
        mechanism: DatagramMechanism,
        *,
        patience_s: float = defaults.UNACKNOWLEDGED_TIMEOUT_S,
        linger_s: float = defaults.LINGER_S,
    ) -> None:
        self.retransmitter: Retransmitter | None = None
        """From the mechanism's handshake on: its counters are worth a look."""
        self._mechanism = mechanism
        self._patience_s = patience_s
        self._linger_s = linger_s
        self._now = float("-inf")
        self._heard_at = float("-inf")
        self._is_closed = False
        self._datagram: bytes | None = None
        self._outcomes: list[Outcome] = []

    @property
    def mechanism(self) -> str:
        """The mechanism's name."""
        return self._mechanism.mechanism

    @property
    def is_established(self) -> bool:
        """Whether frames can be sent now."""
        return self.retransmitter is not None and self.retransmitter.is_open and not self._is_closed

    @property
    def is_closed(self) -> bool:
        """Whether it is over; it may have last words all the same."""
        return self._is_closed

    @property
    def is_drained(self) -> bool:
        """Whether nothing is left to say or to hear."""
        return self._is_closed and (self.retransmitter is None or self.retransmitter.is_done)

    @property
    def heard_at(self) -> float:
        """When the last authentic packet arrived."""
        return self._heard_at

    def start(self, now: float) -> None:
        """Begin the mechanism's handshake.

        Raises:
            LocalError: `already_started`.
        """
        self._now = now
        self._mechanism.start(now)
        self._drain_mechanism()

    def receive(self, data: Buffer, now: float) -> None:
        """Feed one whole datagram.

        Raises:
            LocalError: `not_started`.
        """
        self._now = max(self._now, now)
        self._mechanism.receive(data, now)
        self._drain_mechanism()

    def transport_ended(self, now: float) -> None:
        """What is beneath is gone."""
        self._now = max(self._now, now)
        if not self._is_closed:
            self._mechanism.transport_ended(now)
            self._drain_mechanism()

    def send(self, plaintext: Buffer) -> None:
        """Send whole frames reliably, at the time of the last call that told one; `send_frame` is better.

        Raises:
            LocalError: `not_established`.
        """
        self.send_frame(bytes(plaintext), self._now, is_reliable=True)

    def send_frame(self, frame: bytes, now: float, *, is_reliable: bool) -> None:
        """Send a whole frame: exactly once, or at most once; in the order of all frames.

        Raises:
            LocalError: `not_established`.
        """
        self._now = max(self._now, now)
        if self.retransmitter is None or not self.is_established:
            raise LocalError("not_established", "this channel cannot send now")
        if is_reliable:
            self.retransmitter.send(frame, now)
        else:
            self.retransmitter.send_message(frame, now)
        self._drain_retransmitter(self.retransmitter)

    def forgive(self, pause_s: float) -> None:
        """Our own process stood still for so long: do not count that time against the peer."""
        if self.retransmitter is not None:
            self.retransmitter.forgive(pause_s)

    def close(self) -> None:
        """End in order: what was sent arrives, then the end. Drive on until `is_drained`."""
        if self._is_closed:
            return
        self._is_closed = True
        if self.retransmitter is not None:
            self.retransmitter.end(self._now)
        else:
            self._mechanism.close()
        self._outcomes.clear()

    def data_to_send(self, max_bytes: int = -1) -> bytes:
        """Take one datagram; ``b""`` when there is none, or the next one is longer than `max_bytes`."""
        if self._datagram is None:
            self._datagram = self._next_datagram()
        if self._datagram is None or 0 <= max_bytes < len(self._datagram):
            return b""
        datagram, self._datagram = self._datagram, None
        return datagram

    def outcomes(self) -> list[Outcome]:
        """Take what happened since the last call, in order."""
        happened, self._outcomes = self._outcomes, []
        return happened

    def next_timer(self) -> float | None:
        """When to call `handle_timer`, also while the end lingers."""
        times = [self._mechanism.next_timer()]
        if self.retransmitter is not None:
            times.append(self.retransmitter.next_timer())
        return min((each for each in times if each is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self._now = max(self._now, now)
        self._mechanism.handle_timer(now)
        self._drain_mechanism()
        if self.retransmitter is not None:
            self.retransmitter.handle_timer(now)
            self._drain_retransmitter(self.retransmitter)

    def _next_datagram(self) -> bytes | None:
        datagram = self._mechanism.datagram_to_send()
        if datagram is None and self.retransmitter is not None and self._mechanism.is_established:
            packet = self.retransmitter.packet_to_send()
            if packet is not None:
                self._mechanism.send(packet)
                datagram = self._mechanism.datagram_to_send()
        return datagram

    def _drain_mechanism(self) -> None:
        for outcome in self._mechanism.outcomes():
            match outcome:
                case DataReceived(data=packet):
                    self._heard_at = self._now
                    if self.retransmitter is not None:
                        self.retransmitter.receive(packet, self._now)
                        self._drain_retransmitter(self.retransmitter)
                case HandshakeCompleted():
                    self._heard_at = self._now
                    self.retransmitter = Retransmitter(
                        max_packet_bytes=self._mechanism.max_packet_bytes,
                        patience_s=self._patience_s,
                        linger_s=self._linger_s,
                        now=self._now,
                    )
                    self._report(outcome)
                case ChannelFailed():
                    self._fail(outcome)
                case ChannelClosed():  # its end without the stream's: something may be missing
                    self._fail(failure("transport_ended", Side.THEIRS, "the peer's last words are missing"))

    def _drain_retransmitter(self, retransmitter: Retransmitter) -> None:
        for outcome in retransmitter.outcomes():
            self._report(outcome)
        if retransmitter.is_done and not self._mechanism.is_closed:
            self._mechanism.close()

    def _fail(self, outcome: ChannelFailed) -> None:
        self._report(outcome)
        if self.retransmitter is not None:
            self.retransmitter.abandon()

    def _report(self, outcome: Outcome) -> None:
        if self._is_closed:
            return
        self._outcomes.append(outcome)
        self._is_closed = isinstance(outcome, (ChannelFailed, ChannelClosed))
