"""What a simulated node tells whoever watches: each thing when it happens."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from rapini.codec import EncodedRun
from rapini.events.delivery import Delivery
from rapini.node.inbox import EventRun, ReceivedBatch
from rapini.node.sessions import Session
from rapini.node.status import Gap, PeerStatus
from rapini.session.outbox import Batch
from rapini.storage import Spool

if TYPE_CHECKING:
    from rapini.testing.simulation.process import Process

__all__ = ["Witness"]


class Witness(Protocol):
    """Who watches the nodes; see `rapini.testing.simulation.observer`."""

    def started(self, process: Process) -> None:
        """A new incarnation runs."""

    def ended(self, process: Process) -> None:
        """It runs no more."""

    def published(self, process: Process, topic: str, number: int) -> None:
        """The application publishes an event."""

    def owed_to(self, process: Process, session: Session, delivery: Delivery, batch: Batch) -> None:
        """Events are about to get their numbers in a session: kept or not, they are owed."""

    def renumbered(self, process: Process, session: Session) -> None:
        """A session began anew: its numbers count from 0."""

    def status(self, process: Process, status: PeerStatus) -> None:
        """The node reports a status: now, whenever it is consumed."""

    def batch(self, process: Process, batch: ReceivedBatch) -> None:
        """The node received a batch: now, whenever it is consumed."""

    def consumed(self, process: Process, batch: ReceivedBatch | None, item: list[EventRun] | PeerStatus | Gap) -> None:
        """The application takes an item, which came of this batch."""

    def turned(self, process: Process) -> None:
        """The node has taken a turn."""

    # -- durable streams -----------------------------------------------------------------------------------------

    def spool_opened(self, process: Process, spool: Spool) -> None:
        """The spool was found on the disk, or made there."""

    def stored(self, process: Process, spool: Spool, run: EncodedRun) -> None:
        """Events were appended to it."""

    def dropped(self, spool: Spool) -> None:
        """It was full, and its oldest events were dropped."""

    def synced(self, process: Process, spool: Spool) -> None:
        """They are on the disk, says the spool."""

    def not_wanted(self, process: Process, spool: Spool, topic: str) -> None:
        """The node thinks that nobody is owed events on a topic."""

    def owes(self, process: Process, spool: Spool, name: str, prefixes: tuple[str, ...], position: int) -> None:
        """A subscriber is served from this position, and owed what follows."""

    def owed(self, process: Process, spool: Spool, names: set[str]) -> None:
        """Those who are owed something now."""

    def committed(self, process: Process) -> None:
        """The application has committed its output and its positions."""
