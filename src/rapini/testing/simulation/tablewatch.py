"""Whether clones are what they say: at every moment some version of their master's table, in the end the last one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rapini.stores import CloneStore, MasterStore
from rapini.testing.simulation.process import Process
from rapini.testing.simulation.violation import Violation

if TYPE_CHECKING:
    from rapini.testing.simulation.node import SimNode

__all__ = ["TableWatch"]


class TableWatch:
    """Watches the store of one simulation.

    Args:
        nodes: All of them, by name; may be filled later.
    """

    def __init__(self, nodes: dict[str, SimNode]) -> None:
        self.changes_seen = 0
        self._nodes = nodes
        self._seen: dict[tuple[str, int], tuple[bytes, int]] = {}
        self._offered: dict[tuple[str, int, str, int], tuple[bytes, int]] = {}
        """What a master had when it admitted a peer."""

    def _master(self) -> Process | None:
        for node in self._nodes.values():
            if node.plan.store is not None and node.plan.store.is_master:
                return node.process
        return None

    def admitted(self, process: Process, peer: str, epoch: int) -> None:
        """The state exchange with a peer begins."""
        store = process.store
        if store is not None and isinstance(store.driver.machine, MasterStore):
            machine = store.driver.machine
            self._offered[process.name, process.run, peer, epoch] = (machine.run, machine.version)

    def came_up(self, process: Process, peer: str, peer_run: int, epoch: int) -> None:
        """Both are ready: the clone has what the master had."""
        offered = self._offered.get((peer, peer_run, process.name, epoch))
        if process.store is None or offered is None or process.store.clone is None:
            return
        clone = process.store.clone
        if clone.is_stale or clone.run != offered[0] or clone.version < offered[1]:
            detail = f"{process.name} is up with {peer} at version {clone.version}, it had {offered[1]}"
            raise Violation("state before ordinary events", detail)

    def turned(self, process: Process) -> None:
        """A node has taken a turn: is its clone a version of the table?"""
        if process.store is None:
            return
        clone = process.store.clone
        if clone is None or not clone.run:
            return
        key = process.name, process.run
        if self._seen.get(key) == (clone.run, clone.version):
            return
        self._seen[key] = clone.run, clone.version
        self.changes_seen += 1
        for node in self._nodes.values():
            if node.plan.store is not None and node.plan.store.is_master:
                table = node.backend.version_of(clone.run, clone.version)
                if table != clone.table.blobs:
                    detail = f"{process.name} has version {clone.version}: {sorted(map(str, clone.table.blobs))}"
                    raise Violation("a clone is a version of its master", detail)

    def unsettled(self, process: Process) -> list[str]:
        """Why a clone beside the master is not what the master is."""
        master = self._master()
        if process.store is None or master is None or master.store is None or process.store.clone is None:
            return []
        session = process.core.peers.sessions.get(master.name)
        if session is None or session.record is None:
            return []
        clone, machine = process.store.clone, master.store.driver.machine
        if isinstance(machine, CloneStore):
            return []
        if clone.is_stale or clone.version != machine.version or clone.run != machine.run:
            return [f"{process.name}'s clone has version {clone.version} of {machine.version}, {clone.is_stale}"]
        return []

    def check_settled(self, process: Process) -> None:
        """All is quiet: the clone is its master, and what it wrote was done as often as it was told."""
        master = self._master()
        if process.store is None or process.store.clone is None or master is None or master.store is None:
            return
        machine = master.store.driver.machine
        if not isinstance(machine, MasterStore) or self.unsettled(process):
            return
        session = process.core.peers.sessions.get(master.name)
        if session is None or session.record is None:
            return
        table = master.node.backend.version_of(machine.run, machine.version)
        if table != process.store.clone.table.blobs:
            raise Violation("clones equal their master", f"{process.name}: {process.store.clone.table.blobs} {table}")
        process.store.look()
        done, counted = process.store.outcomes, process.store.counted(machine)
        unsure = done["in_doubt"] + done["pending"]
        is_whole = machine.backend.is_durable or master.run == 1
        if counted > done["ok"] + unsure or (is_whole and counted < done["ok"]):
            detail = f"{process.name} was told {dict(done)}, and {counted} were counted"
            raise Violation("a clone's write is done once", detail)
