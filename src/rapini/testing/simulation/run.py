"""Plays one seed from start to quiet, and says what came of it.

Phases: nodes start at seeded moments; faults strike while they publish and consume; faults end, and all sessions must
be up within a bound of virtual time; publishers fall silent, say a last proof, and everything must settle; then the
books are compared. A violated invariant raises, with the seed, the end of the trace and the command to replay it.
"""

from __future__ import annotations

import logging
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from rapini.testing.simulation.nemesis import Nemesis
from rapini.testing.simulation.network import SimNetwork
from rapini.testing.simulation.node import SimNode
from rapini.testing.simulation.observer import Observer, Violation
from rapini.testing.simulation.scenario import Scenario, make_scenario
from rapini.testing.simulation.world import Trace, World

__all__ = ["Report", "SimulationError", "run_scenario", "run_seed"]

_STEP_S: Final = 0.25
UP_WITHIN_S: Final = 30.0
"""When faults have ended, every session is up within this: the sum of the longest patience for a silent peer (6), a
dial into nowhere (5), a handshake that hangs (10), a pause between dials (5 and a half), a probe (1), and some."""
NOTICED_WITHIN_S: Final = 7.0
"""When faults have ended, connections that died silently are noticed within this."""
QUIET_WITHIN_S: Final = 20.0
"""When sessions are up and nobody publishes any more, everything has been taken within this."""
MAX_PROOFS: Final = 40
"""Rounds of proof, until a run has delivered enough to mean something."""
TAIL_LINES: Final = 60

MIN_NODES: Final = 3
MIN_FAULTS: Final = 5
MIN_DELIVERED: Final = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a run was."""

    seed: int
    nodes: int
    faults: Counter[str]
    delivered: int
    seen: Counter[str]
    """How often what is judged came to pass: gaps by class and reason, leases that ended, power cuts, …"""
    statuses: int
    actions: int
    virtual_s: float
    recovered_s: float
    """From the end of faults until every session was up."""
    lines: list[str]
    """The trace, as far as it was kept."""


class SimulationError(AssertionError):
    """A run broke an invariant, or was too poor to mean anything.

    Args:
        seed: Which.
        reason: What.
        lines: The end of its trace.
    """

    def __init__(self, seed: int, reason: str, lines: list[str]) -> None:
        super().__init__(seed, reason, lines)
        self.seed = seed
        self.reason = reason
        self.lines = lines

    def __reduce__(self) -> tuple[type[SimulationError], tuple[int, str, list[str]]]:
        """Crosses between processes."""
        return SimulationError, (self.seed, self.reason, self.lines)

    def __str__(self) -> str:
        tail = "\n".join(self.lines[-TAIL_LINES:])
        return f"seed {self.seed}: {self.reason}\n{tail}\nreplay: make simulate SEED={self.seed}"


def run_seed(seed: int, *, keeps_trace: bool = False) -> Report:
    """Play one seed.

    Args:
        seed: Any whole number.
        keeps_trace: Keep all of the trace and not the end alone.

    Raises:
        SimulationError: An invariant does not hold, with everything needed to look into it.
    """
    return run_scenario(make_scenario(seed), keeps_trace=keeps_trace)


def run_scenario(scenario: Scenario, *, keeps_trace: bool = False) -> Report:
    """Play one scenario. Raises as `run_seed`."""
    trace = Trace(None if keeps_trace else 400)
    world = World(scenario.seed, trace)
    try:
        with _logs_in_trace(world):
            return _Run(scenario, world).play()
    except (Exception, Violation) as error:
        reason = str(error) if isinstance(error, Violation) else f"{type(error).__name__}: {error}"
        world.note("** %s", reason)
        raise SimulationError(scenario.seed, reason, trace.lines()) from error


class _Run:
    def __init__(self, scenario: Scenario, world: World) -> None:
        self.scenario = scenario
        self.world = world
        self.network = SimNetwork(
            world, capacity=scenario.capacity, delay_s=scenario.delay_s, jitter_s=scenario.jitter_s
        )
        self.nodes: dict[str, SimNode] = {}
        self.observer = Observer(self.network, self.nodes)
        for plan in scenario.nodes:
            self.nodes[plan.name] = SimNode(plan, self.network, self.observer)
        self.nemesis = Nemesis(scenario, self.network, self.nodes, self.observer)
        self.edges = list(scenario.edges)

    def play(self) -> Report:
        scenario, world, observer = self.scenario, self.world, self.observer
        world.note("%s", scenario)
        draw = world.random("starts")
        for node in self.nodes.values():
            world.after(draw.random() * 0.5, lambda node=node: node.start_if_dead())  # type: ignore[misc]
        self.nemesis.begin()
        self._pass(scenario.faults_end_s)
        self._pass(world.now + NOTICED_WITHIN_S)  # until then connections may seem to be up that are not
        self._until(
            UP_WITHIN_S - NOTICED_WITHIN_S, "every session is up", lambda: observer.missing_sessions(self.edges)
        )
        recovered_s = world.now - scenario.faults_end_s
        for node in self.nodes.values():
            node.publishes = False
        for _ in range(MAX_PROOFS):
            self._prove()
            self._until(QUIET_WITHIN_S, "everything settles", observer.unsettled)
            if observer.delivered >= MIN_DELIVERED:
                break
        world.note("-- all is quiet")
        for node in self.nodes.values():
            if node.process is not None:
                observer.check_accounts(node.process)
        observer.check_sessions(self.edges)
        self._check_worth()
        return Report(
            seed=scenario.seed,
            nodes=len(self.nodes),
            faults=self.nemesis.applied,
            delivered=observer.delivered,
            seen=observer.seen(),
            statuses=observer.statuses,
            actions=world.actions,
            virtual_s=world.now,
            recovered_s=recovered_s,
            lines=world.trace.lines(),
        )

    def _pass(self, until: float) -> None:
        while self.world.now < until:
            self.world.run(min(until, self.world.now + _STEP_S))
            self.observer.sweep()

    def _until(self, bound_s: float, promise: str, what_is_left: Callable[[], list[str]]) -> None:
        deadline = self.world.now + bound_s
        while left := what_is_left():
            if self.world.now >= deadline:
                raise Violation(f"{promise} within {bound_s:g} s", "; ".join(left))
            self._pass(self.world.now + _STEP_S)

    def _prove(self) -> None:
        """Once all is well, events reach everybody who wants them."""
        for node in self.nodes.values():
            for topic in node.plan.topics:
                if node.process is not None:
                    node.process.publish(self.scenario.proof_events, topic)
                    self._pass(self.world.now + _STEP_S)

    def _check_worth(self) -> None:
        faults = self.nemesis.applied.total()
        for what, count, least in (
            ("nodes", len(self.nodes), MIN_NODES),
            ("faults", faults, MIN_FAULTS),
            ("delivered events", self.observer.delivered, MIN_DELIVERED),
        ):
            if count < least:
                raise Violation("a run means something", f"{count} {what}, at least {least}")


class _TraceHandler(logging.Handler):
    """Puts the faults that nodes contain into the trace, with where they came from."""

    def __init__(self, world: World) -> None:
        super().__init__(logging.ERROR)
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info is not None and record.exc_info[1] is not None:
            text = "".join(traceback.format_exception(record.exc_info[1]))
            self._world.note("%s\n%s", record.getMessage(), text)


@contextmanager
def _logs_in_trace(world: World) -> Iterator[None]:
    """Nodes log what they reject; here that is thousands of lines, and the trace has them."""
    log = logging.getLogger("rapini.node")
    before = log.level, log.propagate
    handler = _TraceHandler(world)
    log.setLevel(logging.ERROR)
    log.propagate = False
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.level, log.propagate = before
