"""The demo's end: every event added up, and what was counted on the way, as one object.

Where it sits: `story` makes it from the ledgers of all processes; the command prints it as JSON or as text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rapini.apps.account import Account, Incarnation, add_up
from rapini.apps.demo.cast import SENSORS, Link
from rapini.apps.processes import Child

__all__ = ["DemoReport", "StepReport", "first_lines", "summarise"]

_HEAD: Final = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """Something that the story waited for, and how long it took after its cause."""

    step: str
    what: str
    seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoReport:
    """What `rapini demo --json` prints."""

    account: Account
    channels_opened: int
    """Handshakes completed, counted at the ends that dialled."""
    peers_lost: int
    """Losses noticed, at all ends."""
    peers_returned: int
    """Peers that came back, the same or new, noticed at all ends."""
    links: dict[str, dict[str, object]]
    steps: tuple[StepReport, ...]
    log_dir: Path
    seconds: float

    def as_object(self) -> dict[str, object]:
        """For JSON."""
        account = self.account
        return {
            "published": account.published,
            "received": account.received,
            "logged": account.logged,
            "lost": {node: dict(causes) for node, causes in account.lost.items()},
            "rows": dict(account.rows),
            "channels_opened": self.channels_opened,
            "peers_lost": self.peers_lost,
            "peers_returned": self.peers_returned,
            "seconds": round(self.seconds, 3),
            "links": self.links,
            "steps": [{"step": s.step, "what": s.what, "seconds": round(s.seconds, 3)} for s in self.steps],
            "log_dir": str(self.log_dir),
        }


def summarise(
    children: Sequence[Child], links: Iterable[Link], steps: Sequence[StepReport], log_dir: Path, seconds: float
) -> DemoReport:
    """Add everything up, when all processes have ended."""
    for child in children:
        child.read_ledger()
    sensors = [child for child in children if child.node in SENSORS]
    logger = next(child for child in children if child.node == "logger")
    return DemoReport(
        account=add_up([_incarnation(child) for child in sensors], _incarnation(logger)),
        channels_opened=_total(sensors, "channels_opened"),
        peers_lost=_total(children, "peers_lost"),
        peers_returned=_total(children, "peers_resumed") + _total(children, "peers_restarted"),
        links={f"{link.sensor}>{link.receiver}": _link(link, sensors) for link in links},
        steps=tuple(steps),
        log_dir=log_dir,
        seconds=seconds,
    )


def _incarnation(child: Child) -> Incarnation:
    return Incarnation(node=child.node, counters=child.counters, was_killed=child.was_killed)


def _total(children: Iterable[Child], counter: str) -> int:
    return sum(child.counters.get(counter, 0) for child in children)


def _link(link: Link, sensors: Iterable[Child]) -> dict[str, object]:
    """The sender's word (published, dropped by cause) beside the receiver's (received)."""
    senders = [child for child in sensors if child.node == link.sensor]
    prefix = f"dropped/{link.receiver}/"
    dropped: dict[str, int] = {}
    for child in senders:
        for name, count in child.counters.items():
            if name.startswith(prefix) and count:
                cause = name.removeprefix(prefix)
                dropped[cause] = dropped.get(cause, 0) + count
    return {
        "state": link.state,
        "published": _total(senders, "published"),
        "received": link.received,
        "dropped": dropped,
    }


def first_lines(log: Path) -> list[str]:
    """The first lines of a log: its column names and its first records."""
    lines: list[str] = []
    with log.open(encoding="utf-8") as stream:
        for line in stream:
            if line.startswith("#fields") or not line.startswith("#"):
                lines.append(line.rstrip("\n"))
            if len(lines) > _HEAD:
                break
    return lines
