"""Which application protocol a flow speaks, from the first payload of each direction.

Where it sits: called by `flows` once per direction. As with Zeek's dynamic detection, ports do not matter for TCP: a
protocol counts only when *both* sides spoke it, so a scanner's HTTP request to an SSH server is neither. DNS is
recognised by `dns`, which parses it. UDP protocols other than DNS have no opening worth the name: their ports and the
shape of a datagram decide.

Source: zeek/scripts/base/protocols/*/dpd.sig and main.zeek (the ports), in our own words.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["DNS_PORTS", "LIKELY_SERVER_PORTS", "datagram_service", "service_of", "token_of"]

DNS_PORTS: Final = frozenset({53, 137, 5353, 5355})
"""UDP ports whose payload is tried as DNS: DNS, NetBIOS names, multicast DNS, LLMNR."""

LIKELY_SERVER_PORTS: Final = frozenset({
    21, 22, 25, 53, 67, 80, 81, 88, 110, 123, 137, 139, 143, 161, 162, 389, 443, 445, 465, 502, 514, 563, 585, 587,
    614, 631, 636, 853, 989, 990, 992, 993, 995, 1080, 1812, 3128, 3268, 3269, 3306, 3389, 3544, 4011, 5060, 5072,
    5223, 5353, 5355, 5432, 6379, 6666, 6667, 6668, 6669, 8000, 8080, 8443, 8888, 20000,
})  # fmt: skip
"""A first packet *from* such a port is an answer whose question was missed (Zeek's likely_server_ports)."""

_HTTP_REQUEST: Final = 1
_HTTP_REPLY: Final = 2
_TLS_CLIENT: Final = 4
_TLS_SERVER: Final = 8
_SSH_ORIG: Final = 16
_SSH_RESP: Final = 32

_SERVICES: Final = (
    (_HTTP_REQUEST | _HTTP_REPLY, "http"),
    (_TLS_CLIENT | _TLS_SERVER, "ssl"),
    (_SSH_ORIG | _SSH_RESP, "ssh"),
)

_REQUEST_LINE: Final = re.compile(rb"\s*[A-Z]+[ \t]+[^\r\n]*[ \t]HTTP/[0-9]")
_TLS_HANDSHAKE: Final = 0x16
_DHCP_COOKIE: Final = b"\x63\x82\x53\x63"
_NTP_BYTES: Final = 48


def token_of(payload: bytes, *, is_orig: bool) -> int:
    """What the first payload of a direction looks like: a bit to collect in `Flow.tokens`, 0 for nothing known."""
    if payload[:1] == b"\x16":
        if len(payload) > 5 and payload[1] == 3:
            return {1: _TLS_CLIENT, 2: _TLS_SERVER}.get(payload[5], 0)
        return 0
    if payload.startswith(b"SSH-"):
        return _SSH_ORIG if is_orig else _SSH_RESP
    if payload.startswith(b"HTTP/"):
        return _HTTP_REPLY
    return _HTTP_REQUEST if _REQUEST_LINE.match(payload) else 0


def service_of(tokens: int) -> str:
    """The service that both directions together show, or an empty string."""
    for needed, service in _SERVICES:
        if tokens & needed == needed:
            return service
    return ""


def datagram_service(resp_port: int, payload: bytes) -> str:
    """The service of a UDP flow by its responder's port and a payload, or an empty string."""
    if resp_port == 123:
        return "ntp" if len(payload) >= _NTP_BYTES and payload[0] & 7 else ""
    if resp_port in (67, 68):
        return "dhcp" if payload[236:240] == _DHCP_COOKIE else ""
    return ""
