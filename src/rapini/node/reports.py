"""Tells the consumers what happened to peers: statuses into every inbox, in order with the events."""

from __future__ import annotations

import logging
from typing import Final

from rapini.node.counters import Counters
from rapini.node.environment import REAL, Environment
from rapini.node.inbox import Inbox
from rapini.node.links import LinkRecord
from rapini.node.status import PeerState, PeerStatus
from rapini.secure.channel import Side
from rapini.session.link import CloseKind, LinkClosed

__all__ = ["Reports"]

_log = logging.getLogger("rapini.node")

_UNSPOKEN: Final = ("closed", "reset", "aborted", "superseded")
"""How a stranger's connection may end without a report: somebody connected and went away without a word."""


_STRANGERS_LOGGED: Final = 20
"""Lines about strangers in `_PERIOD_S` seconds: they can come by the thousand, and must not fill a disk."""

_PERIOD_S: Final = 10.0


class Reports:
    """Makes statuses of what happened. Under the node's lock.

    Args:
        inboxes: Who is told; the node's own list, which may grow.
        counters: Where rejections are counted.
        environment: The clocks.
    """

    def __init__(self, inboxes: list[Inbox], counters: Counters, environment: Environment = REAL) -> None:
        self._inboxes = inboxes
        self._counters = counters
        self._environment = environment
        self._period_ends = 0.0
        self._logged = 0

    def status(self, status: PeerStatus) -> None:
        """Tell every consumer."""
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

    def closed(self, record: LinkRecord, closed: LinkClosed, *, was_up: bool) -> None:
        """Tell how a link ended, if it is worth telling; count it in any case."""
        code, side, detail = closed.code, closed.side, closed.detail
        if was_up:
            state = PeerState.LOST if closed.kind is CloseKind.LOST else PeerState.LEFT
            self.link(record, state, code=code, side=side, detail=detail)
            return
        if closed.kind in (CloseKind.CLOSED, CloseKind.LEFT) or code == "duplicate_connection":
            return
        self._counters.count_rejection(code)
        if record.link.greeting is None and record.dial is None and code in _UNSPOKEN:
            return
        self.link(record, PeerState.REJECTED, code=code, side=side, detail=detail)
        if record.link.peer or record.dial is not None or self._may_log_stranger():
            _log.warning("%s: rejected: %s (%s)", record.link.peer or record.connection.address, detail, code)

    def _may_log_stranger(self) -> bool:
        now = self._environment.clock()
        if now >= self._period_ends:
            if self._logged > _STRANGERS_LOGGED:
                _log.warning("%d more strangers were rejected meanwhile", self._logged - _STRANGERS_LOGGED)
            self._period_ends, self._logged = now + _PERIOD_S, 0
        self._logged += 1
        return self._logged <= _STRANGERS_LOGGED
