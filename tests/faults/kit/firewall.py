"""Packet drops inside one host, by nftables: the kernel's own way to lose what a peer sends, or what we send to it.

Unlike a cut on the bridge the packets die inside the host: on the way in after the interface has counted them, on the
way out before the wire. A sender whose own output is dropped is told so for UDP (`EPERM`), as with a real firewall.
"""

from __future__ import annotations

import json
from typing import Final, Literal

from tests.conftest import require_component
from tests.faults.kit.namespaces import Namespace, require_namespaces

__all__ = ["Firewall"]

_TABLE: Final = "rapini_faults"

Direction = Literal["in", "out"]


class Firewall:
    """The drops of one host.

    Args:
        host: Where.
    """

    def __init__(self, host: Namespace) -> None:
        require_namespaces()
        self._nft = require_component("nft", hint="Debian package nftables")
        self._host = host
        self._apply(
            f"add table ip {_TABLE}\n"
            f"add chain ip {_TABLE} in {{ type filter hook input priority 0 ; policy accept ; }}\n"
            f"add chain ip {_TABLE} out {{ type filter hook output priority 0 ; policy accept ; }}\n"
        )

    def _apply(self, rules: str) -> None:
        self._host.run(self._nft, "-f", "-", stdin=rules)

    def drop(self, address: str, *directions: Direction) -> None:
        """Drop what comes from (`"in"`) or goes to (`"out"`) an address; both if none is named."""
        for direction in directions or ("in", "out"):
            field = "saddr" if direction == "in" else "daddr"
            self._apply(f"add rule ip {_TABLE} {direction} ip {field} {address} counter drop\n")

    def allow(self) -> None:
        """Take all drops back."""
        self._apply(f"flush table ip {_TABLE}\n")

    def dropped(self) -> dict[Direction, int]:
        """Packets dropped by the present rules."""
        listing = json.loads(self._host.run(self._nft, "-j", "list", "table", "ip", _TABLE))
        counts: dict[Direction, int] = {"in": 0, "out": 0}
        for entry in listing["nftables"]:
            if "rule" in entry:
                rule = entry["rule"]
                counts[rule["chain"]] += sum(part["counter"]["packets"] for part in rule["expr"] if "counter" in part)
        return counts
