"""The account of a storm: what publishers wrote down as they published, against what receivers wrote down as they took.

Every event is (origin, life, number): who made it, in which of its lives (starts of the process), the how manieth.
Each process appends to a file of its own, one line a fact, which survives SIGKILL (see `tests.programs.ledger_child`):

    L name life                     a process has started
    i life first count              a publisher is about to publish these
    a life after                    accepted: `publish()` (of a durable class `publish_durable()`, so it is on disk)
                                    has returned for all numbers before `after`, but for those refused
    x life first count code         refused: it raised for these; they are not owed, and may come all the same
    c|f life acknowledged {causes}  its counters, now and then (c), or when all was settled at the end (f)
    e origin life number peer epoch a receiver took this event
    s peer state epoch code         a receiver saw this status; in order with its events
    g peer epoch class count reason a receiver was told of a gap; in order with its events

A gap names no life. One of a session's classes belongs to the life whose events came in the same incarnation of the
peer, by the statuses around it; one of a durable stream, which has all lives, to the publisher as a whole.

The checker (`Account`) then says of each life how many events were lost, repeated, out of order, or received though
nobody published them, and whether counters or gaps cover the losses *exactly*. A torn last line (the process died in
`write`) is a fact that was not written; the next life cuts it off (`mend`).
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from typing import Final

__all__ = [
    "Account",
    "Delivery",
    "LifeAccount",
    "accepted_line",
    "gap_line",
    "intended_line",
    "life_line",
    "mend",
    "order_faults",
    "refused_line",
    "snapshot_line",
    "status_line",
    "taken_line",
]

_IN_DOUBT: Final = "unacknowledged"
"""A drop of which the sender cannot say whether it arrived: its receiver never came back as the same."""

_NO_DROPS: Final = frozenset({"unrouted", "not_encodable"})
"""What a publisher counts of events that were owed to nobody: no gap tells of them."""

_UP: Final = frozenset({"up", "resumed", "restarted"})
_DOWN: Final = frozenset({"lost", "left"})


def life_line(name: str, life: int) -> str:
    """A process has started."""
    return f"L {name} {life}\n"


def intended_line(life: int, first: int, count: int) -> str:
    """A publisher is about to publish `count` events from number `first` on."""
    return f"i {life} {first} {count}\n"


def accepted_line(life: int, after: int) -> str:
    """`publish()` has returned for all numbers before `after`."""
    return f"a {life} {after}\n"


def snapshot_line(life: int, *, acknowledged: int, counted: Mapping[str, int], is_final: bool) -> str:
    """A publisher's counters: events acknowledged, and those dropped by cause."""
    causes = json.dumps({cause: count for cause, count in counted.items() if count}, separators=(",", ":"))
    return f"{'f' if is_final else 'c'} {life} {acknowledged} {causes}\n"


def taken_line(origin: str, life: int, number: int, peer: str, epoch: int) -> str:
    """A receiver took an event."""
    return f"e {origin} {life} {number} {peer} {epoch}\n"


def status_line(peer: str, state: str, epoch: int, code: str) -> str:
    """A receiver saw a status."""
    return f"s {peer or '-'} {state} {epoch} {code or '-'}\n"


def refused_line(life: int, first: int, count: int, code: str) -> str:
    """`publish_durable()` raised for `count` events from number `first` on."""
    return f"x {life} {first} {count} {code}\n"


def gap_line(peer: str, epoch: int, delivery: str, count: int, reason: str) -> str:
    """A receiver was told that so many events are missing."""
    return f"g {peer} {epoch} {delivery} {count} {reason}\n"


def mend(path: Path) -> None:
    """Cut off a torn last line, before the next life appends to the file."""
    data = path.read_bytes() if path.exists() else b""
    whole = data.rfind(b"\n") + 1
    if whole < len(data):
        os.truncate(path, whole)


def _facts(path: Path) -> Iterable[list[str]]:
    *whole, _torn = path.read_text(encoding="utf-8").split("\n")
    for line in whole:
        yield line.split(" ")


class Delivery(Enum):
    """What was promised, and so what the account must show."""

    BEST_EFFORT = "best_effort"
    """Losses are allowed and counted, at most once, in order."""
    RELIABLE = "reliable"
    """As long as both incarnations live: no loss but what a gap covers, once, in order."""
    DURABLE = "durable"
    """No accepted event is lost, over all lives; once at a receiver that commits its position; in order."""
    AT_LEAST_ONCE = "at_least_once"
    """No accepted event is lost; repetitions are allowed (the control's promise)."""


@dataclass(slots=True, kw_only=True)
class LifeAccount:
    """One life of one publisher, as both sides wrote it down."""

    origin: str
    life: int
    intended: int = 0
    """Events that `publish()` was or would have been called for."""
    accepted: int = 0
    """Events that `publish()` has returned for."""
    acknowledged: int = 0
    """By the last snapshot."""
    refused: set[int] = field(default_factory=set)
    """Events that `publish_durable()` has raised for."""
    refusals: set[str] = field(default_factory=set)
    """With these codes."""
    counted: dict[str, int] = field(default_factory=dict)
    """Drops by cause, by the last snapshot."""
    is_settled: bool = False
    """Whether that snapshot was the final one. A killed life has none."""
    received: set[int] = field(default_factory=set)
    duplicated: int = 0
    reordered: int = 0
    invented: int = 0
    """Received with a number that was never intended."""
    gaps: dict[str, int] = field(default_factory=dict)
    """Missing events that the receiver was told of, by reason."""
    newest: int = -1

    @property
    def lost(self) -> int:
        """Accepted events that were not received."""
        return len(self.missing)

    @property
    def missing(self) -> set[int]:
        """Their numbers."""
        return set(range(self.accepted)) - self.refused - self.received

    def take(self, number: int) -> None:
        """The receiver took this number."""
        if number in self.received:
            self.duplicated += 1
            return
        self.received.add(number)
        if number < self.newest:
            self.reordered += 1
        self.newest = max(self.newest, number)

    def faults(self, delivery: Delivery) -> list[str]:
        """Where what happened is not what was promised; empty if it is."""
        told = [f"{count} {what}" for count, what in ((self.invented, "that nobody published"),) if count]
        if delivery is not Delivery.AT_LEAST_ONCE:
            told += [f"{self.duplicated} twice"] if self.duplicated else []
            told += [f"{self.reordered} out of order"] if self.reordered else []
        match delivery:
            case Delivery.BEST_EFFORT:
                told += self._uncounted()
            case Delivery.RELIABLE:
                covered = sum(self.gaps.values())
                unowed = sum(self.counted.get(cause, 0) for cause in _NO_DROPS)
                if self.is_settled and self.lost - unowed != covered:
                    told.append(f"{self.lost} lost, gaps for {covered}")
            case Delivery.DURABLE | Delivery.AT_LEAST_ONCE:
                told += [f"{self.lost} accepted and lost"] if self.lost else []
        return [f"{self.origin} life {self.life}: {what}" for what in told]

    def untold(self) -> list[str]:
        """Where the receiver was told of other losses, or told otherwise, than its publisher counted.

        Of a settled life, cause by cause, and every event was received or told of. Of a killed one the counters are
        lost, but no event may be both.
        """
        received, told = len(self.received), sum(self.gaps.values())
        if not self.is_settled:
            too_many = received + told > self.intended
            text = f"{self.origin} life {self.life}: {self.intended} intended, {received} received, gaps for {told}"
            return [text] if too_many else []
        drops = {cause: count for cause, count in self.counted.items() if cause not in _NO_DROPS}
        unowed = sum(self.counted.values()) - sum(drops.values())
        faults = [f"{drops} counted, gaps for {self.gaps}"] if drops != self.gaps else []
        if received + told + unowed != self.accepted:
            faults.append(f"{self.accepted} published, {unowed} to nobody, {received} received, gaps for {told}")
        return [f"{self.origin} life {self.life}: {fault}" for fault in faults]

    def _uncounted(self) -> list[str]:
        """Whether the publisher's counters explain every loss.

        Of a settled life they must, to the event. Of a killed one they are as old as the last snapshot: what was
        acknowledged then must have arrived, what was dropped then must not, and what was neither died with it.
        """
        received = len(self.received)
        doubt = self.counted.get(_IN_DOUBT, 0)
        dropped = sum(self.counted.values()) - doubt
        if self.is_settled:
            expected = self.accepted - dropped
            if not expected - doubt <= received <= expected:
                return [f"{self.accepted} published, {received} received, {dropped} counted, {doubt} in doubt"]
            return []
        if received < self.acknowledged:
            return [f"{self.acknowledged} acknowledged, {received} received"]
        if received > self.intended - dropped:
            return [f"{self.intended} intended, {dropped} counted as dropped, and yet {received} received"]
        return []


@dataclass(slots=True)
class _Incarnation:
    """A peer's, as one life of the receiver saw it."""

    gaps: dict[str, int] = field(default_factory=dict)
    life: tuple[str, int] | None = None
    """Whose it is, once an event has told."""


class Account:
    """All lives of all publishers, from the files.

    Args:
        publishers: Their ledgers, by name; each holds all lives of its publisher.
        receiver: The receiver's ledger, all its lives.
    """

    def __init__(self, publishers: Mapping[str, Path], receiver: Path) -> None:
        self.lives: dict[tuple[str, int], LifeAccount] = {}
        self.stream_gaps: dict[str, dict[str, int]] = {}
        """Missing events of durable streams that the receiver was told of, by publisher and reason."""
        self.all_gaps: dict[str, dict[str, int]] = {}
        """All that it was told of, by publisher and reason; those of lives that nothing was received of, too."""
        for name, path in publishers.items():
            self._read_publisher(name, path)
        self._read_receiver(receiver)

    def _of(self, origin: str, life: int) -> LifeAccount:
        return self.lives.setdefault((origin, life), LifeAccount(origin=origin, life=life))

    def _read_publisher(self, name: str, path: Path) -> None:
        for fact in _facts(path):
            match fact:
                case ["L", _, life]:
                    self._of(name, int(life))
                case ["i", life, first, count]:
                    self._of(name, int(life)).intended = int(first) + int(count)
                case ["a", life, after]:
                    self._of(name, int(life)).accepted = int(after)
                case ["x", life, first, count, code]:
                    account = self._of(name, int(life))
                    account.refused.update(range(int(first), int(first) + int(count)))
                    account.refusals.add(code)
                case [("c" | "f") as kind, life, acknowledged, causes]:
                    account = self._of(name, int(life))
                    account.acknowledged = int(acknowledged)
                    account.counted = json.loads(causes)
                    account.is_settled = kind == "f"
                case ["s", *_]:
                    pass
                case _:
                    raise ValueError(f"not a publisher's line: {' '.join(fact)}")

    def _read_receiver(self, path: Path) -> None:
        incarnations: dict[str, _Incarnation] = {}  # the present one of each peer
        past: list[_Incarnation] = []
        for fact in _facts(path):
            match fact:
                case ["e", origin, life, number, peer, _]:
                    if peer in incarnations:
                        incarnations[peer].life = (origin, int(life))
                    account = self._of(origin, int(life))
                    if int(number) >= account.intended:
                        account.invented += 1
                    else:
                        account.take(int(number))
                case ["g", peer, _, delivery, count, reason]:
                    _add(self.all_gaps.setdefault(peer, {}), {reason: int(count)})
                    is_durable = delivery == Delivery.DURABLE.value
                    place = self.stream_gaps.setdefault(peer, {}) if is_durable else incarnations[peer].gaps
                    _add(place, {reason: int(count)})
                case ["s", peer, ("up" | "restarted"), _, _]:
                    incarnations[peer] = _Incarnation()
                    past.append(incarnations[peer])
                case ["s", *_] | ["L", *_]:
                    pass
                case _:
                    raise ValueError(f"not a receiver's line: {' '.join(fact)}")
        for incarnation in past:
            if incarnation.life is not None:
                _add(self._of(*incarnation.life).gaps, incarnation.gaps)

    def faults(self, delivery: Delivery) -> list[str]:
        """Where what happened is not what was promised; empty if it is."""
        return [fault for life in self.lives.values() for fault in life.faults(delivery)]

    def untold(self) -> list[str]:
        """Where the receiver was told of other losses than the publishers counted; empty if nowhere."""
        return [fault for life in self.lives.values() for fault in life.untold()]

    @property
    def published(self) -> int:
        """Events accepted, of all lives."""
        return sum(life.accepted - len(life.refused) for life in self.lives.values())

    @property
    def received(self) -> int:
        """Different events received, of all lives."""
        return sum(len(life.received) for life in self.lives.values())

    @property
    def lost(self) -> int:
        """Accepted events not received, of all lives."""
        return sum(life.lost for life in self.lives.values())

    @property
    def duplicated(self) -> int:
        """Events received once more, of all lives."""
        return sum(life.duplicated for life in self.lives.values())

    def counted(self) -> dict[str, int]:
        """Drops that the publishers counted, by cause, by each life's last snapshot."""
        total: dict[str, int] = {}
        for life in self.lives.values():
            _add(total, life.counted)
        return total

    def told(self) -> dict[str, int]:
        """Events that the receiver was told are missing, by reason."""
        total: dict[str, int] = {}
        for reasons in self.all_gaps.values():
            _add(total, reasons)
        return total

    def summary(self) -> dict[str, object]:
        """The whole account in one object, for reports."""
        return {
            "lives": len(self.lives),
            "published": self.published,
            "received": self.received,
            "lost": self.lost,
            "duplicated": self.duplicated,
            "reordered": sum(life.reordered for life in self.lives.values()),
            "refused": sum(len(life.refused) for life in self.lives.values()),
            "counted": self.counted(),
            "gaps": self.told(),
            "settled": sum(life.is_settled for life in self.lives.values()),
        }


def _add(total: dict[str, int], counts: Mapping[str, int]) -> None:
    for name, count in counts.items():
        total[name] = total.get(name, 0) + count


def order_faults(receiver: Path) -> list[str]:
    """Where a receiver saw statuses, gaps and events of a peer in an order that is not allowed; empty if nowhere.

    Events of epoch n come after the status that says it is up and before the one that says it is gone; of no epoch
    after that of a newer one; and an epoch is gone before the next is up.
    """
    up: dict[str, int] = {}  # peers whose epoch is up
    newest: dict[str, int] = {}
    told: list[str] = []
    for number, fact in enumerate(_facts(receiver), 1):
        match fact:
            case ["L", *_]:  # the receiver has started anew: it saw nothing of what was
                up.clear()
                newest.clear()
            case ["s", peer, state, epoch, _] if state in _UP:
                if peer in up:
                    told.append(f"line {number}: {peer} {state} {epoch}, and epoch {up[peer]} was not gone")
                if int(epoch) <= newest.get(peer, 0):
                    told.append(f"line {number}: {peer} {state} {epoch} after epoch {newest[peer]}")
                up[peer] = newest[peer] = int(epoch)
            case ["s", peer, state, epoch, _] if state in _DOWN:
                if up.pop(peer, None) != int(epoch):
                    told.append(f"line {number}: {peer} {state} {epoch}, which was not up")
            case ["e", _, _, _, peer, epoch] | ["g", peer, epoch, _, _, _]:
                if up.get(peer) != int(epoch):
                    now = up.get(peer)
                    told.append(f"line {number}: an event or a gap of {peer}, epoch {epoch}, while {now} was up")
            case _:  # statuses of peers that are on their way up
                pass
    return told
