"""Retransmission inside a datagram channel: reliable bytes exactly once and in order, unreliable messages at most once.

Between a mechanism that protects single datagrams, each of which may be lost, repeated, late or out of order, and the
session's frames (`datagram_channel` joins the three). Sans-IO: packets and the time go in; packets and outcomes come
out. Authenticity and secrecy are the mechanism's.

Two services share the packets:

* the *stream*: reliable bytes, acknowledged and sent again until they are, as QUIC's streams are (RFC 9000 section 2).
  A stream of bytes and not of messages, so that a frame of 16 MiB crosses a window of 1 MiB;
* *messages*: sent once, in as many fragments as it takes, delivered whole or not at all, never twice.

**Order**: what is delivered is delivered in the order of sending; of the messages some may be missing. Each carries the
stream's offset at which it was sent: it waits (bounded) until the bytes before it are here, and is dropped and counted
when bytes after it, or a later message, were delivered first. So no message overtakes a control frame, in either
direction, and a reliable frame that says how much was sent before it is always right.

Losses, probes, windows: `recovery` (RFC 9002). A retransmission is the bytes in a new packet, never the old packet. An
acknowledgement is sent for every second packet, at once when there is a hole, else after 20 ms (RFC 9000 section 13.2).
Nobody acknowledges packets that hold acknowledgements alone.

Memory is bounded on both sides (`limits`): the stream's window and the fragments at the receiver; what is not
acknowledged yet, and unsent messages, at the sender. The sender keeps no message once its fragments are on their way.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, auto
from typing import Final

from rapini import limits
from rapini.errors import DecodeError, LocalError
from rapini.secure.channel import Buffer, ChannelClosed, ChannelFailed, DataReceived, Side
from rapini.secure.reasons import failure
from rapini.session import packets
from rapini.session.acknowledger import Acknowledger
from rapini.session.outgoing import Outgoing
from rapini.session.packets import (
    AckChunk,
    EndChunk,
    FragmentChunk,
    PingChunk,
    StreamChunk,
    decode_packet_untrusted,
)
from rapini.session.reassembly import MessageReceiver, StreamReceiver
from rapini.session.recovery import Recovery, SentPacket

__all__ = ["RetransmitOutcome", "Retransmitter", "Statistics"]

RetransmitOutcome = DataReceived | ChannelFailed | ChannelClosed

_PROBES: Final = 2
"""Packets that a probe timeout may send beyond the window (RFC 9002 section 6.2.4); the first one sends only one."""


@dataclass(slots=True)
class Statistics:
    """What happened so far; `Outgoing` and `MessageReceiver` count the rest."""

    packets_sent: int = 0
    packets_received: int = 0
    packets_lost: int = 0
    """Ours, declared lost; `packets_late` of them arrived all the same."""
    packets_late: int = 0
    duplicates: int = 0
    """Packets that were here already, or too old to tell."""
    refused: int = 0
    """Packets with stream bytes for which there was no room; they count as lost on the way."""
    probes: int = 0
    """Probe timeouts."""
    messages_lost: int = 0
    """Unreliable messages of ours of which the last fragment was declared lost."""


class _State(Enum):
    OPEN = auto()
    ENDING = auto()  # we ended it: nothing new is taken, nothing more is reported
    ENDED = auto()  # the peer ended it: what it repeats is acknowledged for a while
    DONE = auto()


class Retransmitter:
    """One run of retransmission. Thread: the owner's.

    After every call take `packet_to_send()` until it is ``None``, drain `outcomes()`, re-arm `next_timer()`.

    Args:
        max_packet_bytes: What the mechanism carries in one datagram, `limits.MIN_PACKET_BYTES` to
            `limits.MAX_PACKET_BYTES`.
        patience_s: Packets are under way and none is acknowledged for so long: `unacknowledged`.
        linger_s: How long an ended run goes on to deliver what it had to say, or to acknowledge repetitions.
        now: Monotonic seconds.

    Raises:
        LocalError: `bad_packet_size`.
    """

    def __init__(self, *, max_packet_bytes: int, patience_s: float, linger_s: float, now: float) -> None:
        if not limits.MIN_PACKET_BYTES <= max_packet_bytes <= limits.MAX_PACKET_BYTES:
            raise LocalError("bad_packet_size", f"packets of {max_packet_bytes} bytes")
        self.statistics = Statistics()
        self.recovery = Recovery(max_packet_bytes=max_packet_bytes, now=now)
        self.messages = MessageReceiver()
        self.stream = StreamReceiver()
        self.outgoing = Outgoing()
        self._max_packet_bytes = max_packet_bytes
        self._patience_s = patience_s
        self._linger_s = linger_s
        self._now = now
        self._state = _State.OPEN
        self._deadline: float | None = None
        self._outcomes: list[RetransmitOutcome] = []
        self._acks = Acknowledger()
        self._next_number = 0
        self._probes_left = 0
        self._peer_end: int | None = None

    # -- what the owner wants ----------------------------------------------------------------------------------------

    @property
    def is_open(self) -> bool:
        """Whether `send` and `send_message` do anything."""
        return self._state is _State.OPEN

    @property
    def is_done(self) -> bool:
        """Whether it needs no more calls."""
        return self._state is _State.DONE

    @property
    def backlog_bytes(self) -> int:
        """Reliable bytes that the peer has not acknowledged, and unreliable ones that were not sent."""
        return self.outgoing.stream_bytes + self.outgoing.message_bytes

    def send(self, data: Buffer, now: float) -> None:
        """Send bytes reliably. Too many that are not acknowledged end the channel (`backlog_too_large`)."""
        self._tick(now)
        if self._state is not _State.OPEN:
            return
        if self.outgoing.stream_bytes + len(data) > limits.MAX_STREAM_BACKLOG_BYTES:
            self._fail(failure("backlog_too_large", Side.OURS))
            return
        self.outgoing.add(data)

    def send_message(self, data: Buffer, now: float) -> None:
        """Send a message at most once; one longer than `limits.MAX_UNRELIABLE_BYTES` goes by the stream.

        When more than `limits.HELD_MESSAGE_BYTES` wait for the window, the oldest that was not begun is dropped.
        """
        if len(data) > limits.MAX_UNRELIABLE_BYTES:
            self.send(data, now)
            return
        self._tick(now)
        if self._state is _State.OPEN and data:
            self.outgoing.add_message(bytes(data))

    def end(self, now: float) -> None:
        """End in order: what was given to `send` still arrives, then the peer's `ChannelClosed`. Repeating is fine."""
        self._tick(now)
        if self._state is _State.OPEN:
            self._state = _State.ENDING
            self.outgoing.end()
            self._deadline = self._now + self._linger_s
            self._outcomes.clear()

    def forgive(self, pause_s: float) -> None:
        """Our own process stood still for so long: the peer's silence in that time is not its fault."""
        self.recovery.forgive(pause_s)
        if self._deadline is not None:
            self._deadline += pause_s

    def abandon(self) -> None:
        """Be done at once: what is beneath is gone."""
        self._finish()

    def outcomes(self) -> list[RetransmitOutcome]:
        """Take what happened since the last call, in order."""
        happened, self._outcomes = self._outcomes, []
        return happened

    # -- receiving ---------------------------------------------------------------------------------------------------

    def receive(self, data: bytes, now: float) -> None:
        """Feed one packet, as the mechanism gave it out: authentic, hostile or not, any number of times."""
        self._tick(now)
        if self._state is _State.DONE:
            return
        try:
            self._receive_untrusted(data)
        except DecodeError as exc:
            self._fail(failure("bad_packet", Side.OURS, f"{exc.code}: {exc.detail}"))

    def _receive_untrusted(self, data: bytes) -> None:
        packet = decode_packet_untrusted(data)
        if not self._acks.is_new(packet.number):
            self.statistics.duplicates += 1
            return
        # All or nothing: what cannot be kept counts as lost on the way.
        for chunk in packet.chunks:
            if isinstance(chunk, StreamChunk) and not self.stream.has_room_untrusted(chunk):
                self.statistics.refused += 1
                return
        self.statistics.packets_received += 1
        self._acks.note(packet.number, is_eliciting=packet.is_eliciting, now=self._now)
        for chunk in packet.chunks:
            match chunk:
                case AckChunk():
                    self._on_ack_untrusted(chunk)
                case StreamChunk():
                    self.stream.add(chunk)
                case FragmentChunk():
                    self.messages.add_untrusted(chunk, self.stream.delivered)
                case EndChunk(offset=offset):
                    self._on_end_untrusted(offset)
                case PingChunk():
                    pass
        self._deliver()

    def _on_ack_untrusted(self, ack: AckChunk) -> None:
        if ack.ranges[0][1] > self._next_number:
            raise DecodeError("ack_of_unsent", f"packet {ack.ranges[0][1] - 1} is acknowledged and was never sent")
        self.outgoing.raise_limit(ack.limit)
        before = len(self.recovery.in_flight)
        acked, lost = self.recovery.on_ack(ack.ranges, ack.delay_us / 1e6, self._now)
        for packet in acked:
            self.outgoing.on_acked(packet)
        if acked:
            self._probes_left = 0
        # What was acknowledged without being in flight had been declared lost.
        self.statistics.packets_late += len(acked) - (before - len(self.recovery.in_flight) - len(lost))
        self._on_lost(lost)
        if self._state is _State.ENDING and self.outgoing.is_finished:
            self._linger()

    def _on_lost(self, lost: list[SentPacket]) -> None:
        for packet in lost:
            self.statistics.packets_lost += 1
            self.statistics.messages_lost += packet.messages
            self.outgoing.on_lost(packet)

    def _on_end_untrusted(self, offset: int) -> None:
        if self._peer_end not in (None, offset):
            raise DecodeError("bad_end", f"the stream ends at {offset}, and at {self._peer_end}")
        if offset < self.stream.delivered:
            raise DecodeError("bad_end", f"the stream ends at {offset}, and went on to {self.stream.delivered}")
        self._peer_end = offset

    def _deliver(self) -> None:
        """Give out what has its turn: messages at this offset, then the stream up to the next one's."""
        while True:
            ready = self.messages.take(self.stream.delivered)
            data = self.stream.take(self.messages.next_stop(self.stream.delivered))
            if data:
                ready.append(data)
            if not ready:
                break
            if self._state is _State.OPEN:
                self._outcomes += [DataReceived(data=each) for each in ready]
        if self._peer_end is None:
            return
        if self.stream.delivered > self._peer_end:
            self._fail(failure("bad_packet", Side.OURS, "bad_end: the stream went on beyond its end"))
        elif self.stream.delivered == self._peer_end:
            self._acks.hurry(self._now)
            if self._state is _State.OPEN:
                self._outcomes.append(ChannelClosed())
                self._linger()

    def _linger(self) -> None:
        """Nothing is left to say; acknowledge for a while what the peer repeats because our last word was lost."""
        self._state = _State.ENDED
        self._stop_sending()
        wait = min(3 * self.recovery.rtt.probe_timeout, self._linger_s)
        self._deadline = self._now + wait

    # -- sending -----------------------------------------------------------------------------------------------------

    def packet_to_send(self) -> bytes | None:
        """Take the next packet that is to go out now; ``None`` when there is none."""
        if self._state is _State.DONE:
            return None
        wants = self._probes_left > 0 or self.outgoing.has_something()
        may = wants and (self._probes_left > 0 or self.recovery.may_send(self._now))
        if not may and not self._acks.is_due(self._now):
            return None
        number = self._next_number
        parts = [packets.encode_head(number)]
        if self._acks.is_pending:
            parts.append(self._acks.write(limit=self.stream.limit, now=self._now))
        if may:
            room = self._max_packet_bytes - sum(map(len, parts))
            self._fill(number, parts, room)
        self._next_number += 1
        self.statistics.packets_sent += 1
        return b"".join(parts)

    def _fill(self, number: int, parts: list[bytes], room: int) -> None:
        """Add what wants to be acknowledged, and remember it."""
        empty = len(parts)
        if self._probes_left and not self.outgoing.has_something():
            self._put_back()
        filled = self.outgoing.fill(parts, room)
        if len(parts) == empty:
            parts.append(packets.encode_ping())
        self._probes_left = max(0, self._probes_left - 1)
        self.recovery.on_sent(
            SentPacket(
                number=number,
                sent_at=self._now,
                size=sum(map(len, parts)),
                stream=filled.stream,
                messages=filled.messages,
                has_end=filled.has_end,
            )
        )

    # -- time --------------------------------------------------------------------------------------------------------

    def next_timer(self) -> float | None:
        """When to call `handle_timer`, in the terms of `now`, or ``None``."""
        if self._state is _State.DONE:
            return None
        recovery = self.recovery
        times = [self._deadline, self._acks.due, recovery.loss_time(), recovery.probe_time()]
        since = recovery.patience_start()
        if since is not None:
            times.append(since + self._patience_s)
        if self.outgoing.has_something():
            times.append(recovery.pacing_time())
        return min((each for each in times if each is not None), default=None)

    def handle_timer(self, now: float) -> None:
        """Do what is due."""
        self._tick(now)
        if self._state is _State.DONE:
            return
        if self._deadline is not None and self._now >= self._deadline:
            self._finish()
            return
        since = self.recovery.patience_start()
        if since is not None and self._now >= since + self._patience_s:
            self._fail(failure("unacknowledged", Side.THEIRS, f"{self._patience_s:g} s"))
            return
        loss_time, probe_time = self.recovery.loss_time(), self.recovery.probe_time()
        if loss_time is not None and self._now >= loss_time:
            self._on_lost(self.recovery.detect_losses(self._now))
        elif probe_time is not None and self._now >= probe_time:
            self._probe()

    def _probe(self) -> None:
        """Make the peer answer: by new data, else by what is under way once more, the oldest first, else by a ping."""
        self.statistics.probes += 1
        self.recovery.probe_count += 1
        self._probes_left = min(self.recovery.probe_count, _PROBES)

    def _put_back(self) -> None:
        """Let a probe have a packet's worth of what is under way: what is smaller, and lost too, comes along."""
        for packet in self.recovery.in_flight.values():
            if self.outgoing.lost_bytes >= self._max_packet_bytes // 2:
                break
            self.outgoing.on_lost(packet)

    def _tick(self, now: float) -> None:
        self._now = max(self._now, now)

    # -- the end -----------------------------------------------------------------------------------------------------

    def _fail(self, outcome: ChannelFailed) -> None:
        if self._state is _State.OPEN:
            self._outcomes.append(outcome)
        self._finish()

    def _finish(self) -> None:
        self._state = _State.DONE
        self._stop_sending()

    def _stop_sending(self) -> None:
        self.outgoing.clear()
        self._probes_left = 0
        self.recovery.clear()
