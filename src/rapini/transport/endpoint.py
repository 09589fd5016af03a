"""Endpoints: the URLs that a node listens on and connects to.

Where it sits: a leaf of `rapini.transport`, used by the configuration too; it opens nothing.

    zmq+tls://manager.example:9750      zmq+tls://[2001:db8::1]:9750      tcp+tls://0.0.0.0:9750      zmq+tls://*:0

The scheme names the transport and the mechanism that secures it. The port is always written out: there is no default
to guess wrong. `*` means every address of this machine, IPv6 included; port 0 lets the system choose, when listening.

Source: architecture.md sections 4 and 6.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace
from typing import Final

from rapini.errors import ConfigError

__all__ = ["SCHEMES", "Endpoint"]

SCHEMES: Final = ("zmq+tls", "tcp+tls", "zmq+plain", "tcp+plain")
"""What an operator may write, the best choice first."""

_TEST_SCHEMES: Final = ("memory+tls", "memory+plain")

_HOST_NAME: Final = re.compile(r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9_-]{1,63}(?<!-))*\.?")
_DOTTED: Final = re.compile(r"[0-9.]+")
_EXAMPLE: Final = "write it like zmq+tls://manager.example:9750 or zmq+tls://[2001:db8::1]:9750"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One parsed URL; `str()` writes it back."""

    scheme: str
    """As written: `zmq+tls`."""
    transport: str
    """`zmq`, `tcp`, or in tests `memory`."""
    mechanism: str
    """`tls` or `plain`."""
    host: str
    """A name, a numeric address without brackets, or `*`."""
    port: int
    """0 to 65535; 0 for listening only."""

    @classmethod
    def parse(cls, url: str) -> Endpoint:
        """Read a URL.

        Raises:
            ConfigError: `unknown_scheme` or `bad_endpoint`.
        """
        scheme, separator, rest = url.strip().partition("://")
        if not separator:
            raise _bad(url, "it has no scheme")
        if scheme not in SCHEMES and scheme not in _TEST_SCHEMES:
            raise ConfigError(
                "unknown_scheme",
                f"unknown scheme {scheme[:40]!r} in endpoint {url[:120]!r}",
                remedy=f"known schemes are {', '.join(SCHEMES)}",
            )
        transport, _, mechanism = scheme.partition("+")
        host, port = _split(url, rest)
        return cls(scheme=scheme, transport=transport, mechanism=mechanism, host=host, port=port)

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"

    @property
    def is_wildcard(self) -> bool:
        """Whether it means every address of this machine; nobody can dial such a thing."""
        return self.host in {"*", "0.0.0.0", "::"}  # noqa: S104 - recognised, not bound

    def with_port(self, port: int) -> Endpoint:
        """The same endpoint at another port, as bound."""
        return replace(self, port=port)


def _split(url: str, rest: str) -> tuple[str, int]:
    """The host and port in what follows the scheme."""
    if any(mark in rest for mark in "/?#@") or any(c.isspace() or not c.isprintable() for c in rest):
        raise _bad(url, "only a host and a port may follow the scheme")
    if rest.startswith("["):
        host, bracket, tail = rest[1:].partition("]")
        if not bracket or not tail.startswith(":"):
            raise _bad(url, "a bracketed address and a port are needed")
        _check_ipv6(url, host)
        return host, _port(url, tail[1:])
    host, colon, port = rest.rpartition(":")
    if not colon:
        raise _bad(url, "the port is missing")
    if ":" in host:
        raise _bad(url, "an IPv6 address needs brackets")
    _check_host(url, host)
    return host, _port(url, port)


def _check_ipv6(url: str, host: str) -> None:
    try:
        ipaddress.IPv6Address(host)
    except ValueError:
        raise _bad(url, f"{host[:60]!r} is not an IPv6 address") from None


def _check_host(url: str, host: str) -> None:
    if host == "*":
        return
    if _DOTTED.fullmatch(host):  # a name cannot be digits and dots alone
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise _bad(url, f"{host[:60]!r} is not an IPv4 address") from None
    elif len(host) > 253 or not _HOST_NAME.fullmatch(host):
        raise _bad(url, f"{host[:60]!r} is not a host name")


def _port(url: str, text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 5 or int(text) > 65535:
        raise _bad(url, f"{text[:20]!r} is not a port (0 to 65535)")
    return int(text)


def _bad(url: str, why: str) -> ConfigError:
    return ConfigError("bad_endpoint", f"endpoint {url[:120]!r} is not usable: {why}", remedy=_EXAMPLE)
