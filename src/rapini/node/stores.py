"""The stores of one node: which there are, and what passes between them and the links.

Beside `peers`. `store_driver` runs one replica; this is its host. A store's messages cross in `STORE` frames, from the
moment when a peer is admitted. The node's `Ready` waits until its clones have what the masters offered: so nothing
ordinary arrives before the tables that it may depend on. Under the node's lock.
"""

from __future__ import annotations

import logging
import queue
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from rapini import limits
from rapini.errors import LocalError, StoreError
from rapini.node.environment import Environment
from rapini.node.links import LinkRecord
from rapini.node.loop import Loop
from rapini.node.store import Store
from rapini.node.store_driver import StoreDriver
from rapini.session.outcomes import StoreReceived
from rapini.stores import Backend, CloneStore, MasterStore, answer_unknown_untrusted
from rapini.threads import Thread

if TYPE_CHECKING:
    from rapini.node.peers import Peers

__all__ = ["Stores"]

_log = logging.getLogger("rapini.node")

_MAX_EARLY: Final = 64
"""Messages that a peer may send before our admission hook has answered."""


class Stores:
    """All stores of a node; the `StoreHost` of each.

    Args:
        peers: The node's: who is connected.
        loop: For timers, and the node's lock.
        environment: Clocks and chance.
        service: Sends what a link has to say, and handles what follows.
    """

    def __init__(
        self,
        peers: Peers,
        loop: Loop,
        environment: Environment,
        service: Callable[[LinkRecord, float], None],
    ) -> None:
        self.drivers: dict[str, StoreDriver] = {}
        self.lock = loop.lock
        self.changed = loop.changed
        self._peers = peers
        self._loop = loop
        self._environment = environment
        self._service = service
        self._links: dict[str, LinkRecord] = {}
        """Admitted links, by the peer's name."""
        self._early: dict[LinkRecord, list[StoreReceived]] = {}
        self._parked: set[str] = set()
        self._caller: _Caller | None = None

    # -- made by the application ---------------------------------------------------------------------------------

    def open(self, name: str, *, backend: Backend | None, may_write: Callable[[str], bool] | None) -> Store:
        """Make a store, or return the one of this name.

        Args:
            name: The store's.
            backend: Where a master keeps the table; `None` for a clone.
            may_write: Asked by a master about each peer that writes.

        Raises:
            LocalError: `store_kind`: it is the other kind here.
            StoreError: As the backend.
        """
        driver = self.drivers.get(name)
        is_master = may_write is not None
        if driver is not None:
            if isinstance(driver.machine, MasterStore) is not is_master:
                here = "the master" if not is_master else "a clone"
                raise LocalError("store_kind", f"store {name}: {here} is here", remedy="use another name")
            return Store(driver)
        now, environment = self._environment.clock(), self._environment
        machine: MasterStore | CloneStore
        if may_write is not None:
            machine = MasterStore(
                name,
                run=environment.entropy(16),
                may_write=may_write,
                now=now,
                wall_now=environment.wall(),
                backend=backend,
            )
        else:
            machine = CloneStore(name, writer=self._peers.incarnation, now=now)
        driver = self.drivers[name] = StoreDriver(name, machine, self)
        for peer in list(self._links):
            driver.link_up(peer, now)
            self._look(peer, now)
        return Store(driver)

    # -- what happens to links -----------------------------------------------------------------------------------

    @property
    def holds_ready(self) -> bool:
        """Whether our `Ready` has to wait for clones."""
        return any(isinstance(driver.machine, CloneStore) for driver in self.drivers.values())

    def admitted(self, record: LinkRecord, now: float) -> None:
        """A peer was admitted: the state exchange begins."""
        name = record.link.peer
        self._links[name] = record
        self._parked.discard(name)
        for driver in list(self.drivers.values()):
            driver.link_up(name, now)
        for early in self._early.pop(record, ()):
            self.receive(record, early, now)
        self._look(name, now)

    def receive(self, record: LinkRecord, outcome: StoreReceived, now: float) -> None:
        """A peer's message for one store."""
        name = record.link.peer
        if self._links.get(name) is not record:
            early = self._early.setdefault(record, [])
            early.append(outcome)
            if len(early) > _MAX_EARLY:
                record.link.refuse("flood", "too many store messages before it was admitted", now)
            return
        driver = self.drivers.get(outcome.store)
        if driver is not None:
            driver.receive(name, outcome.data, now)
            return
        answer = answer_unknown_untrusted(outcome.data)
        if answer is not None:
            self.send_store(outcome.store, name, answer)

    def closed(self, record: LinkRecord, now: float) -> None:
        """A link is over, admitted or not."""
        self._early.pop(record, None)
        name = record.link.peer
        if self._links.get(name) is not record:
            return
        del self._links[name]
        self._parked.discard(name)
        for driver in list(self.drivers.values()):
            driver.link_lost(name, now)

    def drained(self, record: LinkRecord, now: float) -> None:
        """A link has room again."""
        name = record.link.peer
        if name in self._parked and self._links.get(name) is record and not record.unsent:
            self._parked.discard(name)
            for driver in list(self.drivers.values()):
                driver.drained(name, now)
            self._look(name, now)

    def _look(self, peer: str, now: float) -> None:
        """Say `Ready` to a peer when all stores are settled with it."""
        record = self._links.get(peer)
        if record is None or not record.link.holds_ready:
            return
        if all(driver.is_settled_with(peer) for driver in self.drivers.values()):
            record.link.ready(now)
            self._service(record, now)

    def close(self) -> None:
        """The node is closed."""
        for driver in self.drivers.values():
            try:
                driver.close()
            except StoreError as error:
                _log.error("store %s was not closed in order: %s", driver.name, error)
        if self._caller is not None:
            self._caller.finish()

    # -- `StoreHost` ---------------------------------------------------------------------------------------------

    def clock(self) -> float:
        """Monotonic seconds."""
        return self._environment.clock()

    def send_store(self, store: str, peer: str, data: bytes) -> bool:
        """Send a message to a peer's store; see `StoreHost`."""
        record = self._links.get(peer)
        if record is None:
            return False
        record.link.send_store(store, data, self._environment.clock())
        record.transmit()
        if record.unsent:
            self._parked.add(peer)
            return False
        return True

    def wake_store(self, store: str, when: float) -> None:
        """Call the driver's `service` at this time; see `StoreHost`."""
        self._loop.call_at(when, lambda now: self._serve(store, now))

    def _serve(self, store: str, now: float) -> None:
        driver = self.drivers.get(store)
        if driver is None or driver.is_closed:
            return
        driver.service(now)
        for peer in list(self._links):
            self._look(peer, now)

    def call_back(self, function: Callable[[], object]) -> None:
        """Run a callback on a thread of its own, in order; see `StoreHost`."""
        if self._caller is None:
            self._caller = _Caller()
            self._caller.start()
        self._caller.put(function)

    def store_violated(self, store: str, peer: str, code: str, detail: str) -> None:
        """End the link of a peer that broke the stores' protocol, after the present call; see `StoreHost`."""
        record = self._links.get(peer)
        if record is None:
            return

        def end(now: float) -> None:
            if not record.link.is_closed:
                record.link.refuse("protocol_error", f"store {store}: {code}: {detail}"[: limits.MAX_DETAIL_CHARS], now)
                self._service(record, now)

        self._loop.call_at(self._environment.clock(), end)


class _Caller(Thread):
    """Runs the applications' callbacks for changes, in order."""

    def __init__(self) -> None:
        super().__init__("store-callbacks")
        self._queue: queue.SimpleQueue[Callable[[], object] | None] = queue.SimpleQueue()

    def put(self, function: Callable[[], object]) -> None:
        """Add one. Any thread."""
        self._queue.put(function)

    def finish(self) -> None:
        """End when those before it have run. Any thread."""
        self._queue.put(None)

    def run(self) -> None:
        """Run what comes until the end; what a callback raises is logged where it is made."""
        while (function := self._queue.get()) is not None:
            self.beat()
            function()
