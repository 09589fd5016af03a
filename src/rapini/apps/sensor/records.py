"""From a finished flow to a `Connection` event; connection states, unique ids and local networks.

Where it sits: called by `flows` when a flow ends. Everything here happens once a flow.

Theory: `conn_state` sums up what both ends have shown (`flow.TcpState`): S0 an attempt without reply, S1 established,
SF properly closed, S2 and S3 closed by one side only, REJ refused, RSTO and RSTR aborted by originator or responder,
RSTOS0 and SH a SYN and then RST or FIN without any reply, RSTRH and SHR the same of a responder whose originator was
not seen, OTH the rest. Byte counts and duration are unset when the whole flow has no duration (one packet, mostly).

Source: zeek/scripts/base/protocols/conn/main.zeek, zeek/scripts/base/utils/site.zeek; IANA's special-purpose
address registries.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable
from functools import lru_cache
from typing import Final

from rapini.apps.schema import Connection
from rapini.apps.sensor import tcp
from rapini.apps.sensor.decode import ICMP, ICMPV6, TCP, UDP
from rapini.apps.sensor.flow import Flow, Half, TcpHalf, TcpState
from rapini.events import Address, Network

__all__ = ["DEFAULT_LOCAL_NETS", "LocalNets", "UidMaker", "address", "connection", "proto_name"]

DEFAULT_LOCAL_NETS: Final = (
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/24",  # a real Zeek says so of mDNS's and LLMNR's groups, and not of IPv6's
    "240.0.0.0/4",
    "::/128",
    "::1/128",
    "64:ff9b:1::/48",
    "100::/64",
    "2001::/23",
    "2001:db8::/32",
    "fc00::/7",
    "fe80::/10",
)
"""Networks not routed over the Internet, which are local unless the site says otherwise."""

_PROTO_NAMES: Final = {TCP: "tcp", UDP: "udp", ICMP: "icmp", ICMPV6: "icmp"}
_ADDRESSES_KNOWN: Final = 65536
_V4_PREFIX: Final = bytes(10) + b"\xff\xff"
_SYN_THEN_RST: Final = re.compile(r"\^?S[^HAFGIQ]*R")


def proto_name(protocol: int) -> str:
    """Zeek's name of an IP protocol number."""
    return _PROTO_NAMES.get(protocol, "unknown_transport")


@lru_cache(maxsize=_ADDRESSES_KNOWN)
def address(packed: bytes) -> Address:
    """The address of 4 or 16 packed bytes; the same object for the same bytes, as long as it is remembered."""
    return Address(packed if len(packed) == 16 else _V4_PREFIX + packed)


class LocalNets:
    """The networks that count as ours, asked with packed addresses: ``packed in nets``.

    Args:
        networks: Text such as ``10.0.0.0/8``.

    Raises:
        ValueError: One of them is not a network.
    """

    def __init__(self, networks: Iterable[str]) -> None:
        self._known: dict[bytes, bool] = {}
        # By address length and host bits, the prefixes: a scan of a /8 brings a new address with every packet.
        self._prefixes: dict[int, dict[int, set[int]]] = {4: {}, 16: {}}
        for text in networks:
            network = Network.of(text)
            packed = network.address.packed
            host_bits = len(packed) * 8 - network.prefix_len
            prefix = int.from_bytes(packed, "big") >> host_bits
            self._prefixes[len(packed)].setdefault(host_bits, set()).add(prefix)

    def __contains__(self, packed: bytes) -> bool:
        local = self._known.get(packed)
        if local is None:
            if len(self._known) >= _ADDRESSES_KNOWN:
                self._known.clear()
            local = self._known[packed] = self._look_up(packed)
        return local

    def _look_up(self, packed: bytes) -> bool:
        number = int.from_bytes(packed, "big")
        by_bits = self._prefixes[len(packed)]
        return any(number >> host_bits in prefixes for host_bits, prefixes in by_bits.items())


_BASE62: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS: Final = tuple(high + low for high in _BASE62 for low in _BASE62)
_UIDS_AT_ONCE: Final = 64


class UidMaker:
    """Makes unique ids like Zeek's: a `C` and 16 digits of base 62, which is 95 bits.

    Args:
        seed: Any bytes. Equal seeds give equal ids in equal order; sensors need different ones (16 random bytes).
    """

    def __init__(self, seed: bytes) -> None:
        self._seed = hashlib.sha256(b"rapini uid" + seed).digest()
        self._blocks = 0
        self._ready: list[str] = []

    def next(self) -> str:
        """The next id."""
        if not self._ready:
            self._refill()
        return self._ready.pop()

    def _refill(self) -> None:
        # Many at a time: 1 µs each, where dividing 96-bit numbers takes 6.
        digest = hashlib.shake_256(self._seed + self._blocks.to_bytes(8, "big")).digest(_UIDS_AT_ONCE * 16)
        self._blocks += 1
        pairs = [_PAIRS[number % 3844] for number in struct.unpack(f"!{_UIDS_AT_ONCE * 8}H", digest)]
        self._ready = ["C" + "".join(pairs[at : at + 8]) for at in range(0, len(pairs), 8)]


def connection(flow: Flow, local: LocalNets) -> Connection:
    """The event of a flow that is over."""
    orig, resp = flow.orig, flow.resp
    orig_h, resp_h = address(flow.hosts[0]), address(flow.hosts[1])
    duration = flow.last_ts - flow.first_ts
    has_lasted = duration > 0
    return Connection(
        flow.first_ts,
        flow.uid,
        orig_h,
        flow.ports[0],
        resp_h,
        flow.ports[1],
        proto_name(flow.protocol),
        flow.service or None,
        duration if has_lasted else None,
        _payload(orig) if has_lasted else None,
        _payload(resp) if has_lasted else None,
        _state(flow),
        flow.hosts[0] in local,
        flow.hosts[1] in local,
        flow.missed_bytes,
        flow.history or None,
        orig.packets,
        orig.ip_bytes,
        resp.packets,
        resp.ip_bytes,
        None,
        flow.protocol,
    )


def _payload(half: Half | TcpHalf) -> int:
    return tcp.payload_size(half) if isinstance(half, TcpHalf) else half.payload_bytes


def _state(flow: Flow) -> str:
    orig, resp = flow.orig, flow.resp
    if isinstance(orig, TcpHalf) and isinstance(resp, TcpHalf):
        return _tcp_state(flow, orig, resp)
    if flow.protocol != UDP:
        return "OTH"
    if orig.packets:
        return "SF" if resp.packets else "S0"
    return "SHR" if resp.packets else "OTH"


_UNSEEN: Final = frozenset({TcpState.INACTIVE, TcpState.PARTIAL})


def _tcp_state(flow: Flow, orig: TcpHalf, resp: TcpHalf) -> str:
    match orig.state, resp.state:
        case _, TcpState.RESET:
            return _reset_by_responder(orig, resp)
        case TcpState.RESET, _ if resp.state in _UNSEEN:
            return "RSTOS0" if _SYN_THEN_RST.match(flow.history) else "OTH"
        case TcpState.RESET, _:
            return "RSTO"
        case TcpState.CLOSED, TcpState.CLOSED:
            return "SF"
        case TcpState.CLOSED, _:
            return "SH" if resp.state in _UNSEEN else "S2"
        case _, TcpState.CLOSED:
            return "SHR" if orig.state in _UNSEEN else "S3"
        case TcpState.SYN_SENT, TcpState.INACTIVE:
            return "S0"
        case TcpState.ESTABLISHED, TcpState.ESTABLISHED:
            return "S1"
        case _:
            return "OTH"


def _reset_by_responder(orig: TcpHalf, resp: TcpHalf) -> str:
    if orig.state in (TcpState.SYN_SENT, TcpState.SYN_ACK_SENT):
        return "REJ"
    if orig.state is TcpState.RESET and not tcp.payload_size(orig) and not tcp.payload_size(resp):
        return "REJ"
    return "RSTRH" if orig.state in _UNSEEN else "RSTR"
