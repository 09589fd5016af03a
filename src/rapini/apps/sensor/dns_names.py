"""DNS numbers and the names that a `dns.log` gives them, and NetBIOS names.

A leaf of the sensor. The numbers are IANA's (https://www.iana.org/assignments/dns-parameters); the spelling is
Zeek's (zeek/scripts/base/protocols/dns/consts.zeek), `query-N` and the like standing for numbers without a name.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

__all__ = ["netbios_name", "opcode_name", "qclass_name", "qtype_name", "rcode_name"]


def _numbered(first: int, names: str) -> dict[int, str]:
    return dict(enumerate(names.split(), start=first))


_TYPES: Final = {
    **_numbered(
        1,
        "A NS MD MF CNAME SOA MB MG MR NULL WKS PTR HINFO MINFO MX TXT RP AFSDB X25 ISDN RT NSAP NSAP-PTR SIG KEY PX "
        "GPOS AAAA LOC NXT EID NIMLOC SRV ATMA NAPTR KX CERT A6 DNAME SINK OPT APL DS SSHFP IPSECKEY RRSIG NSEC "
        "DNSKEY DHCID NSEC3 NSEC3PARAM TLSA SMIMEA",
    ),
    **_numbered(55, "HIP NINFO RKEY TALINK CDS CDNSKEY OPENPGPKEY CSYNC ZONEMD SVCB HTTPS"),
    **_numbered(99, "SPF UINFO UID GID UNSPEC NID L32 L64 LP EUI48 EUI64"),
    **_numbered(249, "TKEY TSIG IXFR AXFR MAILB MAILA * URI CAA"),
    32768: "TA",
    32769: "DLV",
    65281: "WINS",
    65282: "WINS-R",
    65422: "XPF",
    65521: "INTEGRITY",
}

_CLASSES: Final = {1: "C_INTERNET", 2: "C_CSNET", 3: "C_CHAOS", 4: "C_HESIOD", 254: "C_NONE", 255: "C_ANY"}

_RCODES: Final = _numbered(
    0,
    "NOERROR FORMERR SERVFAIL NXDOMAIN NOTIMP REFUSED YXDOMAIN YXRRSET NXRRSet NOTAUTH NOTZONE unassigned-11 "
    "unassigned-12 unassigned-13 unassigned-14 unassigned-15",
)

_OPCODES: Final = {0: "query", 1: "iquery", 2: "server-status", 4: "notify", 5: "dynamic-update", 6: "dso"}
_NETBIOS_OPCODES: Final = {
    0: "netbios-query",
    5: "netbios-registration",
    6: "netbios-release",
    7: "netbios-wack",
    8: "netbios-refresh",
}
_NETBIOS_STATUS: Final = 33
"""NetBIOS uses the number that DNS later gave to SRV."""


@lru_cache(maxsize=1024)
def qtype_name(qtype: int, *, netbios: bool = False) -> str:
    """The name of a query type (NetBIOS has one of its own)."""
    if netbios and qtype == _NETBIOS_STATUS:
        return "NBSTAT"
    return _TYPES.get(qtype) or f"query-{qtype}"


@lru_cache(maxsize=1024)
def qclass_name(qclass: int) -> str:
    """The name of a query class."""
    return _CLASSES.get(qclass) or f"qclass-{qclass}"


def rcode_name(rcode: int) -> str:
    """The name of a response code of the header: 0 to 15."""
    return _RCODES[rcode]


def opcode_name(opcode: int, *, netbios: bool = False) -> str:
    """The name of an operation."""
    if netbios:
        return _NETBIOS_OPCODES.get(opcode) or f"netbios-opcode-{opcode}"
    return _OPCODES.get(opcode) or f"opcode-{opcode}"


def netbios_name(encoded: str) -> str:
    """A NetBIOS name from its first-level encoding (RFC 1001 section 14.1): two letters a byte, padded to 16.

    The last byte is the name's kind and not shown. What is not so encoded is returned as it is.
    """
    letters = encoded.split(".", 1)[0].upper().encode("utf-8", "replace")
    if len(letters) != 32 or any(not 0x41 <= letter <= 0x50 for letter in letters):
        return encoded
    pairs = zip(letters[::2], letters[1::2], strict=True)
    name = bytes((high - 0x41) << 4 | (low - 0x41) for high, low in pairs)
    return name[:15].rstrip(b" \0").decode("utf-8", "backslashreplace")
