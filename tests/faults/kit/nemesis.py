"""The nemesis: a seeded schedule of faults over named processes and links, carried out, written down, and undone.

Every victim and every link has a *lane*: a sequence of faults with calm in between, drawn from its own random stream.
Lanes run at the same time, one thread each, so faults of different victims overlap as chance has it, and a process that
takes long to start does not hold up the others. Within a lane each kind of fault comes once before any comes twice.

Every fault is undone before the end, whatever happens: at the end all processes run and all links are perfect.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

from tests.faults.kit.bridge import Bridge, Conditions

__all__ = ["Fault", "Nemesis", "Step", "Victim", "make_plan"]


class Victim(Protocol):
    """A process that can be killed and started anew. Each method returns when it is done."""

    def kill(self) -> None:
        """SIGKILL it, and wait until it is gone."""

    def restart(self) -> None:
        """Start it anew."""

    def freeze(self) -> object:
        """SIGSTOP it."""

    def thaw(self) -> None:
        """SIGCONT it."""


class Fault(Enum):
    """What can be done to a process, or to a link between two hosts."""

    KILL = "kill"
    """SIGKILL; undone by a restart."""
    FREEZE = "freeze"
    """SIGSTOP; undone by SIGCONT."""
    CUT = "cut"
    """Nothing passes either way."""
    CUT_THERE = "cut there"
    """Nothing passes from the first host to the second."""
    CUT_BACK = "cut back"
    """Nothing passes from the second host to the first."""
    LOSS = "loss burst"
    """A share of all frames vanishes, both ways."""
    MESS = "mess"
    """Delay with jitter, reordering and duplicates, both ways."""


OF_PROCESSES: Final = (Fault.KILL, Fault.FREEZE)
OF_LINKS: Final = (Fault.CUT, Fault.CUT_THERE, Fault.CUT_BACK, Fault.LOSS, Fault.MESS)

_LENGTH_S: Final = {
    Fault.KILL: (0.0, 1.5),
    Fault.FREEZE: (0.2, 4.0),  # shorter and longer than a heartbeat's patience
    Fault.CUT: (0.2, 4.0),
    Fault.CUT_THERE: (0.2, 4.0),
    Fault.CUT_BACK: (0.2, 4.0),
    Fault.LOSS: (0.5, 3.0),
    Fault.MESS: (0.5, 3.0),
}
_CALM_S: Final = (1.0, 4.0)

_CONDITIONS: Final = {  # there, back
    Fault.CUT: (Conditions(is_cut=True), Conditions(is_cut=True)),
    Fault.CUT_THERE: (Conditions(is_cut=True), Conditions()),
    Fault.CUT_BACK: (Conditions(), Conditions(is_cut=True)),
    Fault.LOSS: (Conditions(loss=0.3), Conditions(loss=0.3)),
    Fault.MESS: (Conditions(delay_s=0.01, jitter_s=0.01, reorder=0.1, duplicate=0.1),) * 2,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One fault."""

    at_s: float
    """When, from the storm's start."""
    length_s: float
    fault: Fault
    target: str | tuple[str, str]
    """A victim's name, or the two hosts of a link."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What was really done, and when."""

    at_s: float
    what: str
    target: str


def make_plan(
    *,
    seed: int,
    seconds: float,
    processes: Mapping[str, Sequence[Fault]] | Sequence[str] = (),
    links: Sequence[tuple[str, str]] = (),
) -> list[Step]:
    """Draw a schedule; the same arguments make the same one.

    Args:
        seed: Of all choices.
        seconds: Every fault is undone by then.
        processes: The victims, and for each the faults it may suffer (all of processes, if only names are given).
        links: Pairs of hosts.
    """
    lanes: dict[str | tuple[str, str], Sequence[Fault]] = dict.fromkeys(links, OF_LINKS)
    if isinstance(processes, Mapping):
        lanes.update(processes)
    else:
        lanes.update(dict.fromkeys(processes, OF_PROCESSES))
    steps: list[Step] = []
    for target, faults in lanes.items():
        chance = random.Random(f"{seed} {target}")
        deck: list[Fault] = []
        at = chance.uniform(0.2, _CALM_S[1])
        while faults:
            if not deck:
                deck = chance.sample(list(faults), len(faults))
            fault = deck.pop()
            length = chance.uniform(*_LENGTH_S[fault])
            if at + length > seconds:
                break
            steps.append(Step(at_s=round(at, 3), length_s=round(length, 3), fault=fault, target=target))
            at += length + chance.uniform(*_CALM_S)
    return sorted(steps, key=lambda step: step.at_s)


class Nemesis:
    """Carries out a plan.

    Args:
        plan: From `make_plan`, or written by hand; steps of one target must not overlap.
        victims: By name.
        bridge: For faults of links.
    """

    def __init__(
        self, plan: Sequence[Step], *, victims: Mapping[str, Victim] | None = None, bridge: Bridge | None = None
    ) -> None:
        self.plan = list(plan)
        self.log: list[Deed] = []
        """What was done, in order of time."""
        self._victims = victims or {}
        self._bridge = bridge
        self._lock = threading.Lock()
        self._failures: list[BaseException] = []
        self._stops = threading.Event()
        self._began = 0.0

    def run(self) -> list[Deed]:
        """Carry out the plan and return the log. Takes as long as the plan, and what restarts take beside it.

        Raises:
            BaseException: What a lane met first; the other lanes end at their next step, with their faults undone.
        """
        lanes: dict[str | tuple[str, str], list[Step]] = {}
        for step in self.plan:
            lanes.setdefault(step.target, []).append(step)
        self._began = time.monotonic()
        threads = [threading.Thread(target=self._run_lane, args=(steps,), daemon=True) for steps in lanes.values()]
        for thread in threads:
            thread.start()
        try:
            for thread in threads:
                thread.join()
        finally:
            self._stops.set()
            for thread in threads:
                thread.join(30)
        if self._failures:
            raise self._failures[0]
        return self.log

    def _run_lane(self, steps: list[Step]) -> None:
        try:
            for step in steps:
                if self._stops.wait(max(0.0, self._began + step.at_s - time.monotonic())):
                    return
                self._begin(step)
                try:
                    self._stops.wait(step.length_s)
                finally:
                    self._undo(step)
        except BaseException as exc:  # noqa: BLE001 - a thread's own; `run` raises it
            self._failures.append(exc)
            self._stops.set()

    def _begin(self, step: Step) -> None:
        self._note(step.fault.value, step)
        if isinstance(step.target, tuple):
            self._set_link(step.target, *_CONDITIONS[step.fault])
        elif step.fault is Fault.KILL:
            self._victims[step.target].kill()
        else:
            self._victims[step.target].freeze()

    def _undo(self, step: Step) -> None:
        if isinstance(step.target, tuple):
            self._set_link(step.target, Conditions(), Conditions())
            self._note("healed", step)
        elif step.fault is Fault.KILL:
            self._victims[step.target].restart()
            self._note("restarted", step)
        else:
            self._victims[step.target].thaw()
            self._note("thawed", step)

    def _set_link(self, link: tuple[str, str], there: Conditions, back: Conditions) -> None:
        assert self._bridge is not None, "a plan with links needs a bridge"
        self._bridge.set(link[0], link[1], there)
        self._bridge.set(link[1], link[0], back)

    def _note(self, what: str, step: Step) -> None:
        target = step.target if isinstance(step.target, str) else "-".join(step.target)
        with self._lock:
            self.log.append(Deed(at_s=round(time.monotonic() - self._began, 3), what=what, target=target))

    def __str__(self) -> str:
        return "\n".join(f"{deed.at_s:8.3f} s  {deed.target}: {deed.what}" for deed in self.log)
