"""Takes the picture that `rapini status` shows of a node, under the node's lock and with bounded work.

Above `core`, below `node`. Everything is copied while the lock is held, which nobody else can use meanwhile, so it is
little: at most `MAX_SESSIONS` peers and `MAX_DIALS` dials are listed (the totals cover all), some ten microseconds
each, and the text is made afterwards.
"""

from __future__ import annotations

import os
import time
from itertools import islice
from typing import Final

from rapini.errors import LocalError
from rapini.events.delivery import Delivery
from rapini.node.core import Core
from rapini.node.dials import Dial
from rapini.node.links import LinkRecord
from rapini.node.node_status import DialStatus, NodeStatus, NodeTotals, Row, SessionStatus
from rapini.node.sessions import Session
from rapini.node.status import Gap
from rapini.node.store_driver import StoreDriver
from rapini.session.messages import Incarnation
from rapini.session.roster import Relation
from rapini.stores import MasterStore

__all__ = ["MAX_DIALS", "MAX_SESSIONS", "MAX_SUBSCRIPTIONS", "StatusSource"]

MAX_SESSIONS: Final = 1000
"""Peers that are listed."""

MAX_DIALS: Final = 1000
"""Dials that are listed."""

MAX_SUBSCRIPTIONS: Final = 16
"""Topic prefixes that are listed for each peer."""

_LOCK_TIMEOUT_S: Final = 1.0
"""How long the node's lock may be somebody else's."""

_INCARNATION_DIGITS: Final = 8

_STATUS_OF: Final = {Relation.FIRST: "up", Relation.BACK: "resumed", Relation.RESTARTED: "restarted"}


class StatusSource:
    """Takes a node's status.

    Args:
        core: The node's engine.
        name: The node's name.
        cluster: Its cluster.
        role: Its role.
    """

    def __init__(self, core: Core, *, name: str, cluster: str, role: str) -> None:
        self._core = core
        self._name = name
        self._cluster = cluster
        self._role = role
        self._began = time.monotonic()

    def take(self, lock_timeout_s: float = _LOCK_TIMEOUT_S) -> NodeStatus:
        """The node as it is now.

        Raises:
            LocalError: `busy`: the node's lock was not to be had in time.

        Thread: any.
        """
        lock = self._core.lock
        if not lock.acquire(timeout=lock_timeout_s):
            raise LocalError("busy", f"node {self._name} did not let its state be read within {lock_timeout_s:g} s")
        try:
            return self._take(time.monotonic())
        finally:
            lock.release()

    def _take(self, now: float) -> NodeStatus:
        from rapini import __version__

        core, peers = self._core, self._core.peers
        records: dict[int, LinkRecord] = {}
        for record in peers.records.values():
            if record.session is not None:
                records[id(record.session)] = record
        is_up = [session for session in peers.sessions.values() if session.record is not None]
        is_away = (session for session in peers.sessions.values() if session.record is None)
        is_up.sort(key=_name_of)
        listed = is_up[:MAX_SESSIONS]
        listed += sorted(islice(is_away, MAX_SESSIONS - len(listed)), key=_name_of)
        state = "closing" if core.is_closing else "running"
        return NodeStatus(
            name=self._name,
            cluster=self._cluster,
            role=self._role,
            pid=os.getpid(),
            incarnation=_short(peers.incarnation),
            version=__version__,
            state=state if core.error is None else "failed",
            failure=str(core.error) if core.error is not None else "",
            time=time.time(),
            uptime_s=now - self._began,
            listening=list(core.listening),
            subscriptions=list(peers.subscriptions[:MAX_SUBSCRIPTIONS]),
            dials=[_dial(dial, now) for dial in peers.dials[:MAX_DIALS]],
            dials_total=len(peers.dials),
            sessions=[self._session(session, records.get(id(session)), now) for session in listed],
            sessions_total=len(peers.sessions),
            totals=self._totals(),
            gaps=[_gap(gap) for gap in reversed(peers.reports.last_gaps)],
            stores=[_store(driver, now) for driver in peers.stores.drivers.values()],
        )

    def _session(self, session: Session, record: LinkRecord | None, now: float) -> SessionStatus:
        record = session.record or record
        counters, outbox, name = self._core.counters, session.outbox, session.name
        info = record.info() if record is not None else session.last_info
        relation = record.relation if record is not None else session.relation
        if session.record is not None:
            status = _STATUS_OF[session.relation]
        elif record is not None:
            status = "syncing"
        else:
            status = "left" if session.is_departed else "lost"
        return SessionStatus(
            name=name,
            status=status,
            since_s=max(0.0, now - session.changed_at),
            role=info.role if info is not None else "",
            incarnation=_short(session.incarnation),
            epoch=session.epoch,
            relation=relation.value,
            address=info.address if info is not None else "",
            endpoint=info.endpoint if info is not None else "",
            mechanism=info.mechanism if info is not None else "",
            is_verified=info.is_verified if info is not None else False,
            subscriptions=list(session.prefixes[:MAX_SUBSCRIPTIONS]),
            subscriptions_total=len(session.prefixes),
            queued_bytes=outbox.kept_bytes - outbox.in_flight_bytes,
            in_flight_bytes=outbox.in_flight_bytes,
            max_queue_bytes=outbox.max_bytes,
            held_bytes=session.held_bytes,
            sent=counters.sent[name],
            acknowledged=session.acknowledged_events,
            received=counters.received[name],
            missed=counters.missed[name],
            dropped={cause: topics.total() for cause, topics in outbox.dropped.items()},
            flows=_flows(session),
        )

    def _totals(self) -> NodeTotals:
        core, counters = self._core, self._core.counters
        dropped: dict[str, int] = {}
        acknowledged = kept = in_flight = held = 0
        for session in core.peers.sessions.values():
            outbox = session.outbox
            acknowledged += session.acknowledged_events
            kept += outbox.kept_bytes
            in_flight += outbox.in_flight_bytes
            held += session.held_bytes
            for cause, topics in outbox.dropped.items():
                dropped[cause] = dropped.get(cause, 0) + topics.total()
        return NodeTotals(
            published=counters.published.total(),
            unrouted=counters.unrouted.total(),
            not_encodable=counters.not_encodable.total(),
            sent=counters.sent.total(),
            acknowledged=acknowledged,
            received=counters.received.total(),
            missed=counters.missed.total(),
            bad_events=sum(dict(counters.bad_events).values()),  # a copy: consumers count there without the lock
            dropped=dropped,
            queued_bytes=kept - in_flight,
            in_flight_bytes=in_flight,
            held_bytes=held,
            connections=len(core.peers.records),
            channels_opened=counters.channels_opened,
            peers_lost=counters.peers_lost,
            peers_left=counters.peers_left,
            peers_resumed=counters.peers_resumed,
            peers_restarted=counters.peers_restarted,
            rejected=dict(counters.rejected),
            turned_away=core.turned_away(),
            statuses_dropped=counters.statuses_dropped,
        )


def _flows(session: Session) -> list[Row]:
    """What goes to a peer and comes from it, by delivery class; of those classes that were used."""
    rows: list[Row] = []
    for delivery, flow, intake in zip(Delivery, session.outbox.flows, session.intakes, strict=False):
        if flow.next_sequence or intake.position:
            rows.append(
                {
                    "class": delivery.label,
                    "numbered": flow.next_sequence,
                    "sent": flow.sent_sequence,
                    "queued_bytes": flow.queued_bytes,
                    "spilled_bytes": flow.spilled_bytes,
                    "in_flight_bytes": flow.sent_bytes,
                    "received": intake.position,
                    "taken": intake.taken,
                }
            )
    place, stream = session.place, session.stream
    if place is not None or stream is not None:
        rows.append(
            {
                "class": Delivery.DURABLE.label,
                "sent": place.position if place is not None else None,
                "settled": place.settled if place is not None else None,
                "in_flight_bytes": place.in_flight_bytes if place is not None else 0,
                "received": stream.position if stream is not None else None,
                "taken": stream.taken if stream is not None else None,
            }
        )
    return rows


def _gap(gap: Gap) -> Row:
    return {
        "ago_s": round(max(0.0, time.time() - gap.time), 1),
        "peer": gap.peer,
        "class": gap.delivery,
        "count": gap.count,
        "first": gap.first,
        "last": gap.last,
        "reason": gap.reason,
    }


def _store(driver: StoreDriver, now: float) -> Row:
    machine = driver.machine
    row: Row = {"name": driver.name, "version": machine.version, "entries": len(machine)}
    if isinstance(machine, MasterStore):
        return {**row, "kind": "master", "clones": len(machine.followers)}
    since = machine.stale_since
    stale_s = None if since is None else round(max(0.0, now - since), 1)
    return {**row, "kind": "clone", "master": machine.master, "stale_s": stale_s}


def _dial(dial: Dial, now: float) -> DialStatus:
    code, detail = dial.failure or ("", "")
    return DialStatus(
        endpoint=str(dial.endpoint),
        state=dial.state.value,
        peer=dial.peer,
        attempts=dial.redial.attempts,
        next_attempt_s=max(0.0, dial.due_at - now) if dial.due_at is not None else None,
        failure_code=code,
        failure=detail,
    )


def _short(incarnation: Incarnation) -> str:
    return incarnation.hex()[:_INCARNATION_DIGITS]


def _name_of(session: Session) -> str:
    return session.name
