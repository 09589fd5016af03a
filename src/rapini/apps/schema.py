"""The monitor's event types: what a sensor sees and a logger writes.

The fields are those of Zeek's `conn.log` and `dns.log`, in their order (`id.orig_h` is `orig_h` here), so that a
log record is an event's fields and nothing else.
"""

from __future__ import annotations

from rapini.events import Address, Event, Interval, Time

__all__ = ["Connection", "DnsExchange"]


class Connection(Event, topic="conn/closed", name="rapini.Connection"):
    """A connection (or UDP/ICMP flow) that ended or expired: a line of `conn.log`."""

    ts: Time
    uid: str
    orig_h: Address
    orig_p: int
    resp_h: Address
    resp_p: int
    proto: str
    """`tcp`, `udp`, `icmp` or `unknown_transport`."""
    service: str | None
    duration: Interval | None
    orig_bytes: int | None
    resp_bytes: int | None
    conn_state: str
    local_orig: bool
    local_resp: bool
    missed_bytes: int
    history: str | None
    orig_pkts: int
    orig_ip_bytes: int
    resp_pkts: int
    resp_ip_bytes: int
    tunnel_parents: list[str] | None
    ip_proto: int


class DnsExchange(Event, topic="dns/exchange", name="rapini.DnsExchange"):
    """A DNS query with its answer, or one of them without the other: a line of `dns.log`."""

    ts: Time
    uid: str
    orig_h: Address
    orig_p: int
    resp_h: Address
    resp_p: int
    proto: str
    trans_id: int | None
    rtt: Interval | None
    query: str | None
    qclass: int | None
    qclass_name: str | None
    qtype: int | None
    qtype_name: str | None
    rcode: int | None
    rcode_name: str | None
    AA: bool
    TC: bool
    RD: bool
    RA: bool
    Z: int
    answers: list[str] | None
    TTLs: list[Interval] | None
    rejected: bool
    opcode: int | None
    opcode_name: str | None
