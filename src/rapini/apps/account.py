"""What became of every event: `published = logged + all of lost`, of killed processes too.

Where it sits: the parent of sensors and a logger (`rapini run`, `rapini demo`) adds up their ledgers at the end.

Theory: two sides count independently. Each incarnation of a sensor says what it published and what it dropped for the
logger, by cause; the logger says what it took from each epoch (channel) of each sensor, and what it wrote. The epochs
tell which incarnation an event came from. For an incarnation that ended in order the two sides must agree; if they do
not, the difference stands under `unaccounted`, which is a fault of ours and never hidden. What a killed incarnation had
published, had not counted as dropped, and the logger never got, is lost to the kill: `process_killed`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

__all__ = ["Account", "Incarnation", "add_up"]

UNACCOUNTED = "unaccounted"
"""The cause that must not occur: the two sides disagree."""

PROCESS_KILLED = "process_killed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Incarnation:
    """One process of a sensor, and its ledger."""

    node: str
    counters: Mapping[str, int]
    was_killed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Events on their way from sensors to logs."""

    published: int
    received: int
    """Taken by the logger."""
    logged: int
    """Rows in the logs."""
    rows: Mapping[str, int]
    """The same by log."""
    lost: Mapping[str, Mapping[str, int]]
    """Events not in the logs, by the node at which they were lost and the cause."""

    @property
    def total_lost(self) -> int:
        """All of `lost`."""
        return sum(sum(causes.values()) for causes in self.lost.values())

    @property
    def is_balanced(self) -> bool:
        """Whether the two sides agree."""
        return self.published == self.logged + self.total_lost and not any(
            UNACCOUNTED in causes for causes in self.lost.values()
        )


def add_up(sensors: Sequence[Incarnation], logger: Incarnation) -> Account:
    """Add up the ledgers of the sensors' incarnations and of the one logger.

    A killed logger cannot say what it still had in hand: then all that is not known to be in its logs is lost to that.
    """
    ledger = logger.counters
    rows = _below(ledger, "logged/")
    published = sum(sensor.counters.get("published", 0) for sensor in sensors)
    lost: dict[str, dict[str, int]] = {}
    if logger.was_killed:
        _count(lost, logger.node, PROCESS_KILLED, published - sum(rows.values()))
    else:
        lost = _lost(sensors, logger.node, ledger, rows)
    return Account(
        published=published,
        received=sum(_below(ledger, "taken/").values()),
        logged=sum(rows.values()),
        rows=rows,
        lost=lost,
    )


def _lost(
    sensors: Sequence[Incarnation], logger: str, ledger: Mapping[str, int], rows: Mapping[str, int]
) -> dict[str, dict[str, int]]:
    lost: dict[str, dict[str, int]] = {}
    claimed: set[str] = set()
    for sensor in sensors:
        for cause, count in _lost_by(sensor, logger, ledger, claimed).items():
            _count(lost, sensor.node, cause, count)
    for key, count in _below(ledger, "taken/").items():
        if key not in claimed:  # of a channel that no sensor knows: shows up as too many
            _count(lost, key.partition("/")[0], UNACCOUNTED, -count)
    losses = _below(ledger, "logloss/")
    for key, count in losses.items():
        _count(lost, logger, "log_" + key.rpartition("/")[2], count)
    received = sum(_below(ledger, "taken/").values())
    _count(lost, logger, UNACCOUNTED, received - sum(rows.values()) - sum(losses.values()))
    return lost


def _lost_by(sensor: Incarnation, logger: str, ledger: Mapping[str, int], claimed: set[str]) -> dict[str, int]:
    """What one incarnation published and the logger did not take, by cause."""
    own = sensor.counters
    epochs = [f"{sensor.node}/{epoch}" for epoch in _below(own, f"epoch/{logger}/")]
    claimed.update(epochs)
    taken = sum(ledger.get(f"taken/{epoch}", 0) for epoch in epochs)
    causes = _below(own, f"dropped/{logger}/")
    for cause in ("unrouted", "not_encodable"):
        causes[cause] = own.get(cause, 0)
    causes["bad_event"] = ledger.get(f"bad/{sensor.node}", 0)
    rest = own.get("published", 0) - taken - sum(causes.values())
    causes[PROCESS_KILLED if sensor.was_killed and rest > 0 else UNACCOUNTED] = rest
    return causes


def _below(counters: Mapping[str, int], prefix: str) -> dict[str, int]:
    return {name.removeprefix(prefix): count for name, count in counters.items() if name.startswith(prefix)}


def _count(lost: dict[str, dict[str, int]], node: str, cause: str, count: int) -> None:
    if count:
        causes = lost.setdefault(node, {})
        causes[cause] = causes.get(cause, 0) + count
