"""A flow and its two halves: what the sensor remembers of a conversation until it becomes a `Connection` event.

Where it sits: plain data between `tcp` and `flows`, which change it, and `records`, which reads it. A *half* is one
direction: what one host sent. The flow tables map each direction's key to its half, so that one look-up with bytes
taken straight from the frame gives the flow and the direction.

These objects are made once a flow and touched with every packet, so they have slots, few methods, and no containers
that a mere SYN would not need: with 100,000 flows the garbage collector's passes over them cost more than the packets.
"""

from __future__ import annotations

import enum
from typing import TYPE_CHECKING, Final

from rapini.apps.schema import Connection, DnsExchange

if TYPE_CHECKING:
    from rapini.apps.sensor.dns import DnsDialogue, DnsStream

__all__ = ["Flow", "Half", "SensorEvent", "TcpHalf", "TcpState"]

SensorEvent = Connection | DnsExchange
"""What a sensor publishes."""


class TcpState(enum.IntEnum):
    """What one end of a TCP connection has shown of itself; Zeek's names."""

    INACTIVE = 0
    """Nothing was seen of it."""
    SYN_SENT = 1
    SYN_ACK_SENT = 2
    """It sent a SYN-ACK first: the packet before was missed, or came later."""
    PARTIAL = 3
    """Traffic without a SYN: we came in the middle."""
    ESTABLISHED = 4
    CLOSED = 5
    """It sent a FIN."""
    RESET = 6
    """It sent a RST."""


INACTIVE: Final = TcpState.INACTIVE


class Half:
    """One direction of a UDP, ICMP or other flow."""

    __slots__ = ("flow", "ip_bytes", "is_orig", "packets", "payload_bytes", "peer")

    flow: Flow
    peer: Half

    def __init__(self, *, is_orig: bool) -> None:
        self.is_orig = is_orig
        self.packets = 0
        self.ip_bytes = 0
        """By the IP headers, headers included."""
        self.payload_bytes = 0


class TcpHalf:
    """One direction of a TCP connection.

    Positions (`top`, `acked`, `delivered`) count from the initial sequence number and never wrap: the SYN is 0, the
    first byte of payload 1.
    """

    __slots__ = (
        "acked",
        "blocks",
        "delivered",
        "did_close",
        "fin_top",
        "flow",
        "has_fin",
        "ip_bytes",
        "is_orig",
        "next_seq",
        "packets",
        "peer",
        "previous",
        "saw_ack",
        "saw_data",
        "start",
        "state",
        "stream",
        "top",
    )

    flow: Flow
    peer: TcpHalf

    def __init__(self, *, is_orig: bool) -> None:
        self.is_orig = is_orig
        self.packets = 0
        self.ip_bytes = 0
        self.state: TcpState = INACTIVE
        self.previous: TcpState = INACTIVE
        self.start = 0
        """The initial sequence number, seen or supposed."""
        self.top = 0
        """One past the last byte sent, FIN included."""
        self.next_seq = 0
        """`top` as a sequence number: what the next packet in order begins with."""
        self.acked = 0
        """The peer's furthest acknowledgement."""
        self.delivered = 1
        """Everything before was seen, or given up as a gap."""
        self.blocks: list[tuple[int, int]] | None = None
        """What was seen beyond a hole, in order."""
        self.has_fin = False
        self.fin_top = 0
        self.did_close = False
        self.saw_data = False
        self.saw_ack = False
        self.stream: DnsStream | None = None


class Flow:
    """A conversation between two endpoints; see `rapini.apps.schema.Connection` for what becomes of it."""

    __slots__ = (
        "dns",
        "first_ts",
        "history",
        "hosts",
        "is_closing",
        "is_done",
        "is_plain",
        "keys",
        "last_ts",
        "marks",
        "missed_bytes",
        "orig",
        "ports",
        "protocol",
        "remove_at",
        "resp",
        "service",
        "tokens",
        "uid",
    )

    orig: Half | TcpHalf
    resp: Half | TcpHalf

    def __init__(
        self,
        uid: str,
        protocol: int,
        ts: float,
        keys: tuple[bytes, bytes | None],
        hosts: tuple[bytes, bytes],
        ports: tuple[int, int],
    ) -> None:
        self.uid = uid
        self.protocol = protocol
        """The IP protocol number."""
        self.first_ts = ts
        self.last_ts = ts
        self.keys = keys
        """The keys it is found by; the second is `None` for a flow of one direction only."""
        self.hosts = hosts
        """Packed addresses of originator and responder."""
        self.ports = ports
        self.history = ""
        self.service = ""
        self.missed_bytes = 0
        self.marks: dict[str, int] = {}
        """History letter: the sequence number it was last noted for (S, F, R) or how often it happened (T, W, G)."""
        self.tokens = 0
        """Bits of `services`: what the payloads looked like."""
        self.dns: DnsDialogue | None = None
        self.is_plain = False
        """TCP, both sides established, no hole, nobody reads the payload: the analyzer's short way will do."""
        self.is_done = False
        self.is_closing = False
        self.remove_at = 0.0
        """When it goes, whatever happens; 0 if nothing is decided."""

    def note(self, letter: str, half: Half | TcpHalf) -> None:
        """Append a history letter, capital if `half` is the originator's."""
        self.history += letter if half.is_orig else letter.lower()

    def note_scaled(self, letter: str, half: Half | TcpHalf) -> None:
        """Note what is worth a letter the 1st, 10th, 100th time it happens."""
        code = letter if half.is_orig else letter.lower()
        count = self.marks.get(code, 0) + 1
        self.marks[code] = count
        if count == 1 or (count >= 10 and str(count).strip("0") == "1"):
            self.history += code

    def flip(self) -> None:
        """Exchange originator and responder: the first packet was an answer."""
        self.orig, self.resp = self.resp, self.orig
        self.orig.is_orig, self.resp.is_orig = True, False
        self.hosts = self.hosts[::-1]
        self.ports = self.ports[::-1]
        self.history += "^"
