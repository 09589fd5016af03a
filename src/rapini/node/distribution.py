"""From encoded runs to the outboxes of those who want them, and what becomes of what does not fit.

The part of `publisher` that hands out. Under the node's lock.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from rapini.codec import EncodedRun, split_into_batches
from rapini.events.delivery import Delivery
from rapini.node.consequences import Consequences
from rapini.node.runs import batch_of
from rapini.node.sessions import Session
from rapini.session.outbox import Batch

__all__ = ["Distribution", "Routed"]

Routed = tuple[EncodedRun, tuple[Session, ...], tuple[Delivery, int]]
"""A run with who wants it, its delivery class and its priority."""


class Distribution:
    """What `Publisher` inherits; see there."""

    _sessions: dict[str, Session]
    _pump: Callable[[Session, float], None]
    _peers: Consequences | None
    _policies: tuple[str, ...]
    _blocking: tuple[int, ...]
    _treatment: Callable[[str, Delivery], tuple[Delivery, int]]

    def relay(self, routed: Sequence[tuple[EncodedRun, tuple[Session, ...]]], delivery: Delivery, now: float) -> None:
        """Send others' runs to these receivers, in the class in which they came.

        Never waits: what does not fit is dropped by the policy of its class, and told to the receiver as any other.
        """
        self._distribute([(run, to, (delivery, self._treatment(run.topic, delivery)[1])) for run, to in routed], now)

    def lose(self, session: Session, batch: Batch, delivery: Delivery, cause: str, now: float) -> None:
        """Tell a peer of events that were lost before they came here."""
        session.outbox.lose(batch, delivery, cause)
        self._pump(session, now)

    def overlapping(self, prefix: str) -> list[Session]:
        """The sessions whose peers subscribed to some topic that begins like this."""
        return [
            session
            for session in self._sessions.values()
            if not session.is_departed
            and any(wanted.startswith(prefix) or prefix.startswith(wanted) for wanted in session.prefixes)
        ]

    def _distribute(self, encoded: list[Routed], now: float) -> None:
        wanted: dict[tuple[Session, Delivery, int], list[EncodedRun]] = {}
        for run, receivers, (delivery, priority) in encoded:
            for session in receivers:
                wanted.setdefault((session, delivery, priority), []).append(run)
        # Where there is room now, everything goes that waited for it: one rank's batch leaves room to the next.
        roomy = {
            (session.name, delivery): delivery in self._blocking and session.outbox.flows[delivery].has_room()
            for session, delivery, _ in wanted
        }
        made: dict[tuple[int, ...], list[Batch]] = {}  # receivers of the same runs share one batch (or few, if large)
        for (session, delivery, priority), runs in wanted.items():
            key = tuple(map(id, runs))
            batches = made.get(key)
            if batches is None:
                batches = made[key] = [batch_of(group, priority) for group in split_into_batches(runs)]
            self._deliver(batches, (session,), delivery, now, takes_all=roomy[session.name, delivery])

    def _deliver(
        self,
        batches: Sequence[Batch],
        receivers: Iterable[Session],
        delivery: Delivery,
        now: float,
        *,
        takes_all: bool = False,
    ) -> None:
        blocks = delivery in self._blocking
        for session in receivers:
            may_exceed = takes_all or (blocks and session.outbox.flows[delivery].has_room())
            for batch in batches:
                if session.record is not None:
                    if session.outbox.put(batch, delivery, now, may_exceed=may_exceed):
                        self._pump(session, now)
                    else:
                        self._on_full(session, delivery, now)
                elif delivery is Delivery.BEST_EFFORT:
                    session.outbox.lose(batch, delivery, "peer_lost")
                else:
                    self._keep_for_lost(session, batch, delivery, now)

    def _on_full(self, session: Session, delivery: Delivery, now: float) -> None:
        """Something was dropped: send the hole that it left, and the peer away if that is the policy."""
        if self._peers is not None and self._policies[delivery] == "disconnect":
            self._peers.disconnect(session, "slow", "its queue is full, and the policy is to disconnect", now)
        else:
            self._pump(session, now)

    def _keep_for_lost(self, session: Session, batch: Batch, delivery: Delivery, now: float) -> None:
        """Keep a batch for a peer that may return; an absent peer makes nobody wait, so its lease ends at the bound."""
        flow = session.outbox.flows[delivery]
        keeps_the_rest = self._policies[delivery] in ("drop_oldest", "drop_newest")
        if not keeps_the_rest and not flow.has_room() and self._peers is not None:
            self._peers.release(session, f"{flow.kept_bytes} bytes wait for it, which is the bound")
        if session.is_departed:
            session.outbox.lose(batch, delivery, "lease_expired")  # its last, which the gap at its return must cover
        else:
            session.outbox.put(batch, delivery, now, may_exceed=not keeps_the_rest)
