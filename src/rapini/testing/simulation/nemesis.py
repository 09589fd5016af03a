"""Does the faults of a scenario to its nodes and its network, and mends them all in the end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Final

from rapini.testing.simulation.network import SimNetwork
from rapini.testing.simulation.node import SimNode
from rapini.testing.simulation.observer import Observer
from rapini.testing.simulation.scenario import Fault, FaultKind, Scenario

__all__ = ["Nemesis"]

_LATE_S: Final = 2.0
"""How much later than one end the other may learn of a cut."""

_GOODBYE_S: Final = 1.0
_IN_A_WRITE: Final = 0.4
"""How often the crash of a node with a disk comes in the middle of one of its operations."""
_SLOWLY: Final = 0.3
"""How often a crash is a slow death."""
_BACKLOG_S: Final = 0.6
_RETURNS_S: Final = 0.8
_NO_WRITE_S: Final = 1.0
"""How long is waited for the next operation."""


class Nemesis:
    """Applies faults; each is counted by what it did.

    Args:
        scenario: What goes wrong when.
        network: What it does it to.
        nodes: And whom.
        observer: Told about pauses, which it cannot see.
    """

    def __init__(self, scenario: Scenario, network: SimNetwork, nodes: dict[str, SimNode], observer: Observer) -> None:
        self.applied: Counter[str] = Counter()
        self.power_cuts = 0
        self._scenario = scenario
        self._network = network
        self._world = network.world
        self._nodes = nodes
        self._names = list(nodes)
        self._observer = observer
        self._random = network.world.random("nemesis")
        self._mends: dict[int, Callable[[], None]] = {}
        self._next_mend = 0
        self._is_over = False
        self._deeds: dict[FaultKind, Callable[[Fault], bool]] = {
            FaultKind.CRASH: self._crash,
            FaultKind.LEAVE: self._leave,
            FaultKind.PAUSE: self._pause,
            FaultKind.CUT: self._cut,
            FaultKind.HALF_OPEN: self._half_open,
            FaultKind.PARTITION: self._partition,
            FaultKind.SLOW_CONSUMER: self._slow_consumer,
            FaultKind.BACK_PRESSURE: self._back_pressure,
            FaultKind.REFUSALS: self._refusals,
            FaultKind.CLOCK_JUMP: self._clock_jump,
        }

    def begin(self) -> None:
        """Plan all faults, and the end of them."""
        for fault in self._scenario.faults:
            self._world.at(fault.at, lambda fault=fault: self._strike(fault))  # type: ignore[misc]
        self._world.at(self._scenario.faults_end_s, self.mend_all)

    def mend_all(self) -> None:
        """Everything is well again, but for what only the nodes can mend."""
        self._is_over = True
        for number in list(self._mends):
            self._mend(number)
        for node in self._nodes.values():
            node.power.spare()
            node.start_if_dead()
        self._network.refusals.clear()
        self._network.accept_delay_s.clear()
        self._world.note("-- faults have ended")

    def _strike(self, fault: Fault) -> None:
        # Where there is nobody to do it to, something else is done; a partition is always possible.
        for kind in (fault.kind, FaultKind.CUT, FaultKind.PAUSE, FaultKind.PARTITION):
            if self._deeds[kind](fault):
                self.applied[kind.value] += 1
                return

    def _until(self, duration_s: float, mend: Callable[[], None]) -> None:
        number, self._next_mend = self._next_mend, self._next_mend + 1
        self._mends[number] = mend
        self._world.after(duration_s, lambda: self._mend(number))

    def _mend(self, number: int) -> None:
        mend = self._mends.pop(number, None)
        if mend is not None:
            mend()

    def _running(self, fault: Fault) -> SimNode | None:
        running = [node for node in self._nodes.values() if node.is_running]
        return running[fault.target % len(running)] if running else None

    # -- processes ---------------------------------------------------------------------------------------------------

    def _crash(self, fault: Fault) -> bool:
        alive = [node for node in self._nodes.values() if node.process is not None]
        if not alive:
            return False
        node = alive[fault.target % len(alive)]
        if self._random.random() < _SLOWLY and node.consumes:
            self._die_slowly(node, fault)
            return True
        if node.plan.spool is not None and self._random.random() < _IN_A_WRITE:
            self._crash_in_a_write(node, fault)
        else:
            node.crash(("closed", "reset", "vanish")[int(fault.variant * 3)])
        self._until(fault.duration_s, lambda: self._start(node))
        return True

    def _die_slowly(self, node: SimNode, fault: Fault) -> None:
        """It takes nothing more, loses its connections, returns, and dies with what it had received."""
        process = node.process
        self._world.note("%s: begins to die", node.name)
        node.stop_consuming()

        def cut() -> None:
            for connection in self._network.live_connections():
                if node.name in _ends(connection).split("->"):
                    self._network.cut(connection, (0.0, 0.001))
            self._until(_RETURNS_S, die)

        def die() -> None:
            node.go_on_consuming()
            if node.process is process:
                node.crash("reset")
            self._until(fault.duration_s, lambda: self._start(node))
            if self._is_over:
                self._start(node)

        self._until(_BACKLOG_S, cut)

    def _crash_in_a_write(self, node: SimNode, fault: Fault) -> None:
        """The power fails in the middle of one of the next operations of the disk."""
        process = node.process
        node.power.cut_in(1 + int(fault.variant * 12))
        self.power_cuts += 1

        def end() -> None:
            if node.process is process:
                node.power.spare()
                node.crash("vanish")
                if self._is_over:
                    self._start(node)

        self._until(min(fault.duration_s, _NO_WRITE_S), end)

    def _start(self, node: SimNode) -> None:
        if node.process is None:
            if not self._is_over and node.plan.spool is not None and self._random.random() < _IN_A_WRITE / 2:
                node.power.cut_in(1 + self._random.randrange(12))
            node.start()

    def _leave(self, fault: Fault) -> bool:
        node = self._running(fault)
        process = node.process if node is not None else None
        if node is None or process is None or process.is_leaving:
            return False
        self._world.note("%s: leaves", node.name)
        process.guarded(process.leave)

        def end() -> None:
            if node.process is process:
                self._observer.check_accounts(process)
                process.guarded(process.settle)
                node.crash("closed")
                self._until(fault.duration_s, lambda: self._start(node))
                if self._is_over:
                    self._start(node)

        self._until(_GOODBYE_S, end)
        return True

    def _pause(self, fault: Fault) -> bool:
        node = self._running(fault)
        process = node.process if node is not None else None
        if node is None or process is None:
            return False
        self._world.note("%s: stands still for %.3f s", node.name, fault.duration_s)
        process.pause()
        self._observer.paused(node.name)

        def go_on() -> None:
            if node.process is process:
                self._world.note("%s: goes on", node.name)
                process.go_on()
                self._observer.resumed(node.name)

        self._until(fault.duration_s, go_on)
        return True

    def _slow_consumer(self, fault: Fault) -> bool:
        node = self._running(fault)
        if node is None or not node.consumes:
            return False
        self._world.note("%s: consumes nothing for %.3f s", node.name, fault.duration_s)
        node.stop_consuming()
        self._until(fault.duration_s, node.go_on_consuming)
        return True

    def _clock_jump(self, fault: Fault) -> bool:
        node = self._nodes[self._names[fault.target % len(self._names)]]
        node.wall_jump_s = (fault.variant - 0.5) * 1e8
        self._world.note("%s: wall clock jumps to %+.0f s", node.name, node.wall_jump_s)
        return True

    # -- connections -------------------------------------------------------------------------------------------------

    def _cut(self, fault: Fault) -> bool:
        live = self._network.live_connections()
        if not live:
            return False
        connection = live[fault.target % len(live)]
        late_s = _LATE_S * self._random.random() if fault.variant < 0.5 else 0.001
        delays_s = (0.0, late_s) if self._random.random() < 0.5 else (late_s, 0.0)
        self._world.note("network: %s cut, at its ends after %.3f and %.3f s", _ends(connection), *delays_s)
        self._network.cut(connection, delays_s)
        return True

    def _half_open(self, fault: Fault) -> bool:
        live = self._network.live_connections()
        if not live:
            return False
        connection = live[fault.target % len(live)]
        which = int(fault.variant * 3)
        self._world.note("network: %s swallows, %s", _ends(connection), ("out", "in", "both")[which])
        if which != 1 and connection.out is not None:
            connection.out.swallow()
        if which != 0 and connection.inn is not None:
            connection.inn.swallow()
        return True

    def _back_pressure(self, fault: Fault) -> bool:
        live = self._network.live_connections()
        if not live:
            return False
        connection = live[fault.target % len(live)]
        pipe = connection.out if fault.variant < 0.5 else connection.inn
        if pipe is None or pipe.is_squeezed:
            return False
        self._world.note("network: %s takes nothing for %.3f s", _ends(connection), fault.duration_s)
        pipe.is_squeezed = True

        def release() -> None:
            pipe.path.ended_at = self._world.now
            pipe.release()

        self._until(fault.duration_s, release)
        return True

    def _partition(self, fault: Fault) -> bool:
        one = self._names[fault.target % len(self._names)]
        others = [name for name in self._names if name != one]
        other = others[fault.target // 7 % len(others)]
        edges = self._scenario.edges
        if (one, other) not in edges and (other, one) not in edges:  # else nothing would come of it
            one, other = edges[fault.target % len(edges)]
        ways = ((one, other), (other, one))
        blocked = ways if fault.variant < 0.5 else ways[:1] if fault.variant < 0.75 else ways[1:]
        for way in blocked:
            self._network.block(*way)
        self._world.note("network: partition for %.3f s: %s", fault.duration_s, " ".join("->".join(w) for w in blocked))
        dies = 0.3 if fault.target % 2 else 0.0

        def heal() -> None:
            for way in blocked:
                self._network.unblock(*way, dies=dies)
            self._world.note("network: partition healed: %s", " ".join("->".join(way) for way in blocked))

        self._until(fault.duration_s, heal)
        return True

    def _refusals(self, fault: Fault) -> bool:
        name = self._names[fault.target % len(self._names)]
        self._network.refusals[name] = 1 + int(fault.variant * 3)
        self._network.accept_delay_s[name] = fault.variant
        self._world.note("network: %s refuses %d dials", name, self._network.refusals[name])
        live = [c for c in self._network.live_connections() if name in _ends(c).split("->")]
        for connection in live[:1]:  # so that somebody dials
            self._network.cut(connection, (0.0, 0.001))
        return True


def _ends(connection: object) -> str:
    owner = getattr(connection, "owner", None)
    other = getattr(connection, "other", None)
    return f"{owner.host.name}->{other.owner.host.name}" if owner is not None and other is not None else "?"
