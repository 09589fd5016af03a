"""DNS conversations: queries paired with their answers, as `DnsExchange` events.

Where it sits: `flows` gives each DNS message of a flow to the flow's `DnsDialogue`, and takes the finished exchanges.
Messages over TCP come through a `DnsStream`, which cuts them out of the byte stream.

Theory: a query and an answer belong together if flow and transaction id agree; several queries with one id are
answered in the order they were asked. What stays without partner becomes an event when the flow ends, or when too
much is pending, which happens only if one side is not captured. What is taken from the query and what from the answer
is Zeek's choice: RD, TC and Z are the query's, AA and RA those of an answer with records, and `rtt` is known only
with records.

Source: zeek/scripts/base/protocols/dns/main.zeek.
"""

from __future__ import annotations

from typing import Final

from rapini.apps.schema import DnsExchange
from rapini.apps.sensor.dns_message import DnsMessage, parse_untrusted
from rapini.apps.sensor.dns_names import netbios_name, opcode_name, qclass_name, qtype_name, rcode_name
from rapini.apps.sensor.flow import SensorEvent
from rapini.events import Address

__all__ = ["DnsDialogue", "DnsStream"]

MAX_PENDING: Final = 50
"""Unpaired messages that a flow may hold; then all of them are given up as unanswered."""

_NETBIOS_PORT: Final = 137


class _Exchange:
    """What is known of an exchange so far."""

    __slots__ = ("query", "reply", "rtt", "ts")

    def __init__(self, ts: float) -> None:
        self.ts = ts
        self.query: DnsMessage | None = None
        self.reply: DnsMessage | None = None
        self.rtt: float | None = None


class DnsDialogue:
    """The DNS messages of one flow.

    Args:
        uid: The flow's.
        proto: ``udp`` or ``tcp``.
        endpoints: Originator's address and port, responder's address and port.
    """

    __slots__ = ("_queries", "_replies", "endpoints", "proto", "saw_message", "uid")

    def __init__(self, uid: str, proto: str, endpoints: tuple[Address, int, Address, int]) -> None:
        self.uid = uid
        self.proto = proto
        self.endpoints = endpoints
        self.saw_message = False
        self._queries: list[_Exchange] = []
        self._replies: list[_Exchange] = []

    def message(self, ts: float, message: DnsMessage, events: list[SensorEvent]) -> None:
        """Take one message; append the events that it completes."""
        self.saw_message = True
        is_reply = message.is_reply
        own, others = (self._replies, self._queries) if is_reply else (self._queries, self._replies)
        exchange = _pop(others, message.trans_id, seek_replies=not is_reply)
        is_complete = exchange is not None
        if exchange is None:
            exchange = _Exchange(ts)
            if len(own) >= MAX_PENDING:
                self._flush(own, events)
            own.append(exchange)
        if is_reply:
            exchange.reply = message
            if message.answers:
                exchange.rtt = ts - exchange.ts or None
        else:
            exchange.query = message
        if is_complete:
            events.append(self._event(exchange))

    def finish(self, events: list[SensorEvent]) -> None:
        """The flow is over: append what has no partner."""
        self._flush(self._queries, events)
        self._flush(self._replies, events)

    def _flush(self, pending: list[_Exchange], events: list[SensorEvent]) -> None:
        events.extend(self._event(exchange) for exchange in pending)
        pending.clear()

    def _event(self, exchange: _Exchange) -> DnsExchange:
        orig_h, orig_p, resp_h, resp_p = self.endpoints
        netbios = resp_p == _NETBIOS_PORT
        query, reply = exchange.query, exchange.reply
        either = query or reply
        assert either is not None
        asked = query.flags if query else 0
        name = query.query if query and query.query is not None else reply.query if reply else None
        qtype, qclass = (query.qtype, query.qclass) if query else (None, None)
        answered = reply if reply and reply.answers else None
        return DnsExchange(
            exchange.ts,
            self.uid,
            orig_h,
            orig_p,
            resp_h,
            resp_p,
            self.proto,
            either.trans_id,
            exchange.rtt,
            netbios_name(name) if netbios and name else name,
            qclass,
            None if qclass is None else qclass_name(qclass),
            qtype,
            None if qtype is None else qtype_name(qtype, netbios=netbios),
            reply.rcode if reply else None,
            rcode_name(reply.rcode) if reply else None,
            bool(answered and answered.flags & 0x0400),  # AA
            bool(asked & 0x0200),  # TC
            bool(asked & 0x0100),  # RD
            bool(answered and answered.flags & 0x0080),  # RA
            asked >> 4 & 7,  # Z
            answered.answers if answered else None,
            answered.ttls if answered else None,
            reply is not None and _is_rejection(reply),
            either.opcode,
            opcode_name(either.opcode, netbios=netbios),
        )


def _pop(pending: list[_Exchange], trans_id: int, *, seek_replies: bool) -> _Exchange | None:
    for index, exchange in enumerate(pending):
        message = exchange.reply if seek_replies else exchange.query
        if message is not None and message.trans_id == trans_id:
            del pending[index]
            return exchange
    return None


def _is_rejection(reply: DnsMessage) -> bool:
    """Zeek's notion: an answer with nothing in it, neither records nor (if it is an error) the question."""
    if reply.questions:
        return not reply.has_records
    return reply.rcode != 0


class DnsStream:
    """Cuts messages out of one direction of a TCP connection: two bytes of length, then the message (RFC 1035 4.2.2).

    Segments are taken in order. After a hole there is no telling where a message begins: the rest is left alone.
    """

    __slots__ = ("_buffer", "_position", "is_lost")

    def __init__(self) -> None:
        self._buffer = b""
        self._position = 1
        self.is_lost = False
        """A hole, or something that is not DNS: nothing more will come of this direction."""

    def feed(self, position: int, data: bytes, size: int) -> list[DnsMessage]:
        """Take the payload of a segment.

        Args:
            position: Where it begins in the stream (1 is the first byte).
            data: What was captured of it.
            size: How long it was.

        Returns:
            The messages that it completes.
        """
        if self.is_lost or position != self._position or len(data) < size:
            self.is_lost = True
            self._buffer = b""
            return []
        self._position += size
        buffer = self._buffer + data
        messages: list[DnsMessage] = []
        start = 0
        while len(buffer) - start >= 2:
            end = start + 2 + (buffer[start] << 8 | buffer[start + 1])
            if end > len(buffer):
                break
            message = parse_untrusted(buffer[start + 2 : end])
            if message is None:
                self.is_lost = True
                return messages
            messages.append(message)
            start = end
        self._buffer = buffer[start:]
        return messages
