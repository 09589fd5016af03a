"""Tells the consumers what happened to peers: statuses into every inbox, in order with the events."""

from __future__ import annotations

import logging
from collections import deque
from typing import Final

from rapini.node.absences import Absences
from rapini.node.counters import Counters
from rapini.node.environment import REAL, Environment
from rapini.node.inbox import Inbox
from rapini.node.links import LinkRecord
from rapini.node.sessions import Session
from rapini.node.status import Gap, PeerState, PeerStatus
from rapini.secure.channel import Side
from rapini.session.link import CloseKind, GapReceived, LinkClosed

__all__ = ["Reports"]

_log = logging.getLogger("rapini.node")

_UNSPOKEN: Final = ("closed", "reset", "aborted", "superseded")
"""How a stranger's connection may end without a report: somebody connected and went away without a word."""


_LINES_LOGGED: Final = 20
"""Lines of one kind in `_PERIOD_S` seconds: strangers and gaps can come by the thousand, and must not fill a disk."""

_GAPS_KEPT: Final = 20

_PERIOD_S: Final = 10.0


class _Allowance:
    """How many lines of one kind may be logged in a period.

    Args:
        hidden: What is logged afterwards, with the number of lines that were not.
    """

    def __init__(self, hidden: str) -> None:
        self._hidden = hidden
        self._period_ends = 0.0
        self._logged = 0

    def take(self, now: float) -> bool:
        """Whether one more may be logged."""
        if now >= self._period_ends:
            if self._logged > _LINES_LOGGED:
                _log.warning(self._hidden, self._logged - _LINES_LOGGED)
            self._period_ends, self._logged = now + _PERIOD_S, 0
        self._logged += 1
        return self._logged <= _LINES_LOGGED


class Reports:
    """Makes statuses of what happened. Under the node's lock.

    Args:
        inboxes: Who is told; the node's own list, which may grow.
        counters: Where rejections are counted.
        environment: The clocks.
    """

    def __init__(self, inboxes: list[Inbox], counters: Counters, environment: Environment = REAL) -> None:
        self.absences = Absences()
        self._inboxes = inboxes
        self._counters = counters
        self._environment = environment
        self.last_gaps: deque[Gap] = deque(maxlen=_GAPS_KEPT)
        """The newest gaps, for `rapini status`."""
        self._strangers = _Allowance("%d more strangers were rejected meanwhile")
        self._gaps = _Allowance("%d more gaps were reported meanwhile")

    def status(self, status: PeerStatus) -> None:
        """Tell every consumer."""
        self.absences.note(status, self._environment.clock())
        for inbox in self._inboxes:
            inbox.put_status(status)

    def link(
        self, record: LinkRecord, state: PeerState, *, code: str = "", side: Side | None = None, detail: str = ""
    ) -> None:
        """Tell what happened on a link."""
        self.status(
            PeerStatus(
                state=state,
                peer=record.link.peer,
                code=code,
                detail=detail,
                side=side,
                endpoint=record.connection.endpoint,
                address=record.connection.address,
                epoch=record.link.epoch or 0,
                time=self._environment.wall(),
            )
        )

    def gap(self, session: Session, gap: GapReceived) -> Gap:
        """Make a gap of what a link told; it takes its place among the events."""
        report = Gap(
            peer=session.name,
            delivery=gap.delivery.label,
            count=gap.count,
            first=gap.first_sequence,
            last=gap.first_sequence + gap.count - 1,
            reason=gap.reason,
            topics=gap.topics,
            epoch=session.epoch,
            time=self._environment.wall(),
        )
        self.last_gaps.append(report)
        if self._gaps.take(self._environment.clock()):
            _log.warning("%s", report)
        return report

    def released(self, session: Session, why: str) -> None:
        """Tell that a lost peer is owed nothing any more."""
        state = PeerState.RELEASED
        status = PeerStatus(
            state=state,
            peer=session.name,
            code="lease_expired",
            detail=why,
            epoch=session.epoch,
            time=self._environment.wall(),
        )
        self.status(status)
        _log.warning("%s", status)

    def closed(self, record: LinkRecord, closed: LinkClosed, *, was_up: bool) -> None:
        """Tell how a link ended, if it is worth telling; count it in any case."""
        code, side, detail = closed.code, closed.side, closed.detail
        if was_up:
            state = PeerState.LOST if closed.kind is CloseKind.LOST else PeerState.LEFT
            self.link(record, state, code=code, side=side, detail=detail)
            return
        if closed.kind in (CloseKind.CLOSED, CloseKind.LEFT) or code in ("duplicate_connection", "introduce"):
            return
        self._counters.count_rejection(code)
        if record.link.greeting is None and record.dial is None and code in _UNSPOKEN:
            return
        self.link(record, PeerState.REJECTED, code=code, side=side, detail=detail)
        if record.link.peer or record.dial is not None or self._strangers.take(self._environment.clock()):
            _log.warning("%s: rejected: %s (%s)", record.link.peer or record.connection.address, detail, code)
