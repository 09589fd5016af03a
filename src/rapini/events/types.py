"""Field types that a network monitor needs and Python's builtins lack.

All of them cross the wire and come back as finished objects made by msgspec's C code, with no Python function called
per value: `Time` and `Interval` are floats that know their meaning, `Address`, `Network` and `Port` are tiny frozen
structs. Making `ipaddress` objects instead costs about 1.5 µs each; `Address.ip` makes one when it is wanted.
"""

from __future__ import annotations

import ipaddress
import socket
from functools import lru_cache
from typing import Annotated, Literal, Self, dataclass_transform

import msgspec

__all__ = ["Address", "Interval", "IPAddress", "IPNetwork", "Network", "Port", "Record", "Time"]

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

Time = Annotated[float, msgspec.Meta(title="time", description="Seconds since 1970-01-01 UTC")]
"""A point in time: seconds since the epoch (UTC) as a float, exact to about 0.2 µs in this century."""

Interval = Annotated[float, msgspec.Meta(title="interval", description="Seconds")]
"""A span of time in seconds."""


@dataclass_transform(frozen_default=True, field_specifiers=(msgspec.field,))
class _RecordMeta(msgspec.StructMeta):
    """Tells type checkers that records are frozen without saying so again."""


class Record(msgspec.Struct, frozen=True, array_like=True, gc=False, metaclass=_RecordMeta):
    """Base class for records nested in events: typed fields, compared by value, positional on the wire.

    Fields may be appended with defaults without breaking older peers, never inserted, removed or retyped.
    """


_V4_MAPPED = bytes(10) + b"\xff\xff"


@lru_cache(maxsize=65536)
def _text(mapped: bytes) -> str:
    if mapped.startswith(_V4_MAPPED):
        return socket.inet_ntop(socket.AF_INET, mapped[12:])
    return socket.inet_ntop(socket.AF_INET6, mapped)


@lru_cache(maxsize=65536)
def _mapped(value: str | bytes) -> bytes:
    packed = ipaddress.ip_address(value).packed
    return packed if len(packed) == 16 else _V4_MAPPED + packed


class Address(Record, order=True, frozen=True, array_like=True, gc=False):
    """An IPv4 or IPv6 address. `Address.of("10.0.0.1")` makes one from what you have; `str()` gives its text.

    Held as 16 bytes, IPv4 as its v4-mapped IPv6 form (RFC 4291 section 2.5.5.2), which is what Zeek does too: so the
    length is checked by the decoder's C code. Hashable, ordered by bytes, immutable. An IPv4 address and its
    v4-mapped form are the same value.
    """

    mapped: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    """The address in network byte order, 16 bytes."""

    @classmethod
    def of(cls, value: str | bytes | IPAddress | Address) -> Address:
        """Make an address from text, from 4 or 16 packed bytes, or from an `ipaddress` object.

        Raises:
            ValueError: `value` is not an address.
        """
        if isinstance(value, (str, bytes)):
            return cls(_mapped(value))
        return value if isinstance(value, Address) else cls(_mapped(value.packed))

    @property
    def packed(self) -> bytes:
        """The address in network byte order: 4 bytes for IPv4, else 16."""
        return self.mapped[12:] if self.mapped.startswith(_V4_MAPPED) else self.mapped

    @property
    def ip(self) -> IPAddress:
        """The same as an object of the standard library's `ipaddress`."""
        return ipaddress.ip_address(self.packed)

    @property
    def version(self) -> Literal[4, 6]:
        """4 or 6."""
        return 4 if self.mapped.startswith(_V4_MAPPED) else 6

    def __str__(self) -> str:
        return _text(self.mapped)


class Network(Record, order=True, frozen=True, array_like=True, gc=False):
    """An IP network: an address with its host bits zero, and a prefix length in bits. See `Network.of`."""

    address: Address
    prefix_len: Annotated[int, msgspec.Meta(ge=0, le=128)]

    @classmethod
    def of(cls, value: str | IPNetwork) -> Self:
        """Make a network from text such as ``10.0.0.0/8`` or from an `ipaddress` object.

        Raises:
            ValueError: `value` is not a network, or has host bits set.
        """
        network = ipaddress.ip_network(value) if isinstance(value, str) else value
        return cls(Address.of(network.network_address), network.prefixlen)

    @property
    def ip(self) -> IPNetwork:
        """The same as an object of the standard library's `ipaddress`."""
        return ipaddress.ip_network((self.address.packed, self.prefix_len))

    def __contains__(self, address: Address) -> bool:
        if address.version != self.address.version:
            return False
        shift = len(self.address.packed) * 8 - self.prefix_len
        if shift < 0:  # an IPv4 network that a peer gave more than 32 bits
            return False
        ours, theirs = (int.from_bytes(a.packed, "big") >> shift for a in (self.address, address))
        return ours == theirs

    def __str__(self) -> str:
        return f"{self.address}/{self.prefix_len}"


class Port(Record, order=True, frozen=True, array_like=True, gc=False):
    """A transport port with its protocol, as in ``443/tcp``."""

    number: Annotated[int, msgspec.Meta(ge=0, le=65535)]
    proto: Literal["tcp", "udp", "icmp", "sctp", "unknown"] = "tcp"

    def __str__(self) -> str:
        return f"{self.number}/{self.proto}"
