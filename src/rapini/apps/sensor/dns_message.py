r"""The DNS message format: from bytes to the fields that a `dns.log` shows, in Zeek's spelling.

Where it sits: below `dns`, which pairs queries with answers. Only the question and answer sections are read, since
nothing is reported of the others.

Zeek's spelling: names in lower case without the final dot; addresses as text; `TXT 5 hello`; a record of a type that
Zeek parses but its base scripts do not show (CAA, SVCB, HTTPS, NAPTR) leaves no trace, one that it does not know is
`<unknown type=N>`. Bytes in names and texts that are not UTF-8 appear as `\xNN`.

dpkt's parser is not used, though the tests compare with it: one malformed record or name that is not UTF-8 makes it
refuse the whole message, it knows ten record types, and it takes three times as long.

Source: RFC 1035, 1002 (NetBIOS), 4034 (DNSSEC); zeek/scripts/base/protocols/dns/main.zeek.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from typing import Final

__all__ = ["DnsMessage", "parse_untrusted"]

_HEADER: Final = struct.Struct("!6H")
_RECORD: Final = struct.Struct("!HHIH")
_MAX_QUESTIONS: Final = 25
"""More is something else on DNS's port (Zeek's dns_max_queries)."""
_MAX_NAME_BYTES: Final = 512


class DnsMessage:
    """One DNS message; `None` stands for what the message does not hold."""

    __slots__ = (
        "answers",
        "flags",
        "has_records",
        "is_whole",
        "qclass",
        "qtype",
        "query",
        "questions",
        "trans_id",
        "ttls",
    )

    def __init__(self, trans_id: int, flags: int, questions: int, *, has_records: bool) -> None:
        self.trans_id = trans_id
        self.flags = flags
        """The second word of the header."""
        self.questions = questions
        self.has_records = has_records
        """Some section other than the question has records, by the header."""
        self.query: str | None = None
        """The last question's name; for an answer without question, the first record's."""
        self.qtype: int | None = None
        self.qclass: int | None = None
        self.answers: list[str] = []
        self.ttls: list[float] = []
        self.is_whole = False
        """Questions and answers were all readable."""

    @property
    def is_reply(self) -> bool:
        """The QR bit."""
        return bool(self.flags & 0x8000)

    @property
    def opcode(self) -> int:
        """0 is a standard query."""
        return self.flags >> 11 & 15

    @property
    def rcode(self) -> int:
        """0 is no error."""
        return self.flags & 15


class _BadNameError(Exception):
    """A name that points forward, is too long or uses an unknown label type."""


def parse_untrusted(data: bytes) -> DnsMessage | None:
    """Read a DNS message.

    Args:
        data: The message without the length that precedes it over TCP; may be hostile.

    Returns:
        The message as far as it is readable (`is_whole` tells), or `None` if it is no DNS at all.
    """
    if len(data) < 12:
        return None
    trans_id, flags, questions, answers, authorities, additionals = _HEADER.unpack_from(data)
    if questions > _MAX_QUESTIONS:
        return None
    message = DnsMessage(trans_id, flags, questions, has_records=bool(answers or authorities or additionals))
    try:
        at = 12
        for _ in range(questions):
            name, at = _name(data, at)
            message.qtype = data[at] << 8 | data[at + 1]
            message.qclass = data[at + 2] << 8 | data[at + 3]
            message.query = _text(name)
            at += 4
        for _ in range(answers):
            at = _answer(message, data, at)
        message.is_whole = True
    except (IndexError, struct.error, _BadNameError):
        pass
    return message


def _name(data: bytes, at: int) -> tuple[bytes, int]:
    """The name at this offset in lower case, and the offset behind it."""
    labels: list[bytes] = []
    behind, begin, room = 0, at, _MAX_NAME_BYTES
    while size := data[at]:
        if size >= 0xC0:
            target = (size & 0x3F) << 8 | data[at + 1]
            if target >= begin:
                raise _BadNameError  # only backwards: so a name ends
            behind = behind or at + 2
            at = begin = target
            continue
        room -= size + 1
        if size > 63 or room < 0:
            raise _BadNameError
        at += 1 + size
        labels.append(data[at - size : at])
    return b".".join(labels).lower(), behind or at + 1


def _text(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")


def _answer(message: DnsMessage, data: bytes, at: int) -> int:
    name, at = _name(data, at)
    record: tuple[int, int, int, int] = _RECORD.unpack_from(data, at)
    kind, _class, ttl, size = record
    start, end = at + 10, at + 10 + size
    if end > len(data):
        raise IndexError
    if message.query is None:
        message.query = _text(name)
    if kind in _SILENT:
        return end
    render = _RENDERERS.get(kind)
    message.answers.append(render(data, start, end, name) if render else f"<unknown type={kind}>")
    message.ttls.append(float(ttl))
    return end


# --- How a record's data is shown -------------------------------------------------------------------------------


def _a(data: bytes, start: int, end: int, owner: bytes) -> str:
    if end - start != 4:
        raise IndexError
    return socket.inet_ntop(socket.AF_INET, data[start:end])


def _aaaa(data: bytes, start: int, end: int, owner: bytes) -> str:
    if end - start != 16:
        raise IndexError
    return socket.inet_ntop(socket.AF_INET6, data[start:end])


def _named(skip: int) -> Callable[[bytes, int, int, bytes], str]:
    return lambda data, start, end, owner: _text(_name(data, start + skip)[0])


def _strings(label: str) -> Callable[[bytes, int, int, bytes], str]:
    def render(data: bytes, start: int, end: int, owner: bytes) -> str:
        shown = []
        while start < end:
            size = data[start]
            text = data[start + 1 : min(start + 1 + size, end)]
            shown.append(f"{label} {len(text)} {_text(text)}")
            start += 1 + size
        return " ".join(shown)

    return render


def _rrsig(data: bytes, start: int, end: int, owner: bytes) -> str:
    signer = _text(_name(data, start + 18)[0])
    return f"RRSIG {data[start] << 8 | data[start + 1]} {signer or '<Root>'}"


def _dnskey(data: bytes, start: int, end: int, owner: bytes) -> str:
    return f"DNSKEY {data[start + 3]}"


def _ds(data: bytes, start: int, end: int, owner: bytes) -> str:
    return f"DS {data[start + 2]} {data[start + 3]}"


def _nsec(data: bytes, start: int, end: int, owner: bytes) -> str:
    return f"NSEC {_text(owner)} {_text(_name(data, start)[0])}"


def _sshfp(data: bytes, start: int, end: int, owner: bytes) -> str:
    return f"SSHFP: {data[start + 2 : end].hex()}"


def _constant(text: str) -> Callable[[bytes, int, int, bytes], str]:
    return lambda data, start, end, owner: text


_RENDERERS: Final[dict[int, Callable[[bytes, int, int, bytes], str]]] = {
    1: _a,
    2: _named(0),  # NS
    5: _named(0),  # CNAME
    6: _named(0),  # SOA: the primary server
    12: _named(0),  # PTR
    15: _named(2),  # MX
    16: _strings("TXT"),
    28: _aaaa,
    33: _named(6),  # SRV
    43: _ds,
    44: _sshfp,
    46: _rrsig,
    47: _nsec,
    48: _dnskey,
    50: _constant("NSEC3"),
    51: _constant("NSEC3PARAM"),
    99: _strings("SPF"),
}

_SILENT: Final = frozenset({11, 13, 32, 35, 41, 64, 65, 250, 257})
"""WKS, HINFO, NetBIOS, NAPTR, OPT, SVCB, HTTPS, TSIG, CAA: parsed by Zeek, shown by none of its base scripts."""
