"""How long what is owed to peers is kept: leases of those that are lost, patience with those that are here.

The part of `peers` that looks at the clock. Under the node's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rapini import limits
from rapini.node.counters import Counters
from rapini.node.durable_traffic import DurableTraffic
from rapini.node.links import LinkRecord
from rapini.node.loop import Loop
from rapini.node.publisher import Publisher
from rapini.node.reports import Reports
from rapini.node.sessions import Session
from rapini.node.settings import NodeSettings
from rapini.session.roster import LinkId, Roster

__all__ = ["HOUSEKEEPING_S", "Leases"]

HOUSEKEEPING_S: Final = 0.5
"""How often ages and stalls are looked at."""


class Leases:
    """What `Peers` inherits; see there."""

    sessions: dict[str, Session]
    records: dict[LinkId, LinkRecord]
    roster: Roster
    reports: Reports
    publisher: Publisher
    durables: DurableTraffic
    _counters: Counters
    _loop: Loop
    _settings: NodeSettings
    _clock: Callable[[], float]
    _service: Callable[[LinkRecord, float], None]

    def pump(self, session: Session, now: float) -> None:
        """Send what the peer's credit allows."""
        raise NotImplementedError

    def _end_leases(self, now: float) -> None:
        """Release the peers that have been lost for too long, unless they are just coming back."""
        for session in list(self.sessions.values()):
            if any(record.session is session and not record.link.is_closed for record in self.records.values()):
                continue
            if session.lost_at is not None and now >= session.lost_at + self._settings.lease_s:
                self.release(session, f"it has not returned within {self._settings.lease_s:g} s")

    def release(self, session: Session, why: str) -> None:
        """A lost peer's lease is over: keep nothing for it but the account, which it hears as a gap if it returns."""
        if session.record is not None or session.is_departed:
            return
        is_returning = any(r.session is session and not r.link.is_closed for r in self.records.values())
        session.departed("lease_expired", self._clock(), is_returning=is_returning)
        self.reports.released(session, why)
        self.publisher.reroute()
        self._forget_the_oldest()

    def _forget_the_oldest(self) -> None:
        """Bound what is remembered of peers that are gone."""
        gone = [s for s in self.sessions.values() if s.is_departed and s.record is None and not s.held_bytes]
        for session in gone[: max(0, len(gone) - limits.MAX_REMEMBERED_PEERS)]:
            self._counters.forget(session.name, session.outbox.dropped, session.acknowledged_events)
            del self.sessions[session.name]
            self.roster.forget(session.name)

    def look_for_stalls(self, now: float) -> None:
        """Age what waits, and disconnect peers that take nothing while their queue is full."""
        settings = self._settings
        for session in list(self.sessions.values()):
            if settings.max_age_s:
                for flow in session.outbox.flows:
                    flow.expire(now - settings.max_age_s)
                self.pump(session, now)
            record = session.record
            if record is None or all(flow.has_room() for flow in session.outbox.flows):
                session.progress_at = now
            elif now >= session.progress_at + settings.stall_timeout_s:
                detail = f"its queue is full, and it has taken nothing for {settings.stall_timeout_s:g} s"
                self.disconnect(session, "stalled", detail, now)
        self.durables.housekeeping(HOUSEKEEPING_S)
        self._loop.call_at(now + HOUSEKEEPING_S, self.look_for_stalls)

    def disconnect(self, session: Session, code: str, detail: str, now: float) -> None:
        """End a peer's connection for its own good; its session is lost, and may be resumed."""
        record = session.record
        if record is not None and not record.link.is_closed:
            record.link.refuse(code, detail, now, self._settings.backoff_max_s)
            self._service(record, now)
