"""The nemesis does what its plan says, to real processes; it undoes everything, also when something fails."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kit.bridge import Conditions
from tests.faults.kit.namespaces import Network
from tests.faults.kit.nemesis import OF_LINKS, OF_PROCESSES, Fault, Nemesis, Step, make_plan


class Sleeper:
    """A process that sleeps."""

    def __init__(self) -> None:
        self.pids: list[int] = []
        self.restart()

    def restart(self) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        self.pids.append(self.process.pid)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(10)

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    @property
    def state(self) -> str:
        """One letter, from the kernel: T is stopped."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@pytest.fixture
def sleeper() -> Iterator[Sleeper]:
    """One, ended at the end."""
    sleeper = Sleeper()
    yield sleeper
    sleeper.kill()


def _step(at_s: float, length_s: float, fault: Fault, target: str | tuple[str, str]) -> Step:
    return Step(at_s=at_s, length_s=length_s, fault=fault, target=target)


def test_a_plan_follows_from_its_seed_alone() -> None:
    def plan(seed: int) -> list[Step]:
        return make_plan(seed=seed, seconds=60, processes=["a", "b"], links=[("a", "b")])

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)


def test_a_lane_does_not_move_another() -> None:
    alone = make_plan(seed=1, seconds=60, processes=["a"])
    both = make_plan(seed=1, seconds=60, processes=["a", "b"], links=[("a", "b")])
    assert [step for step in both if step.target == "a"] == alone


@pytest.mark.parametrize("seed", range(30))
def test_a_plan_ends_in_time_overlaps_nowhere_in_a_lane_and_brings_every_fault(seed: int) -> None:
    plan = make_plan(seed=seed, seconds=60, processes=["a", "b"], links=[("a", "b")])
    assert plan == sorted(plan, key=lambda step: step.at_s)
    lanes: dict[object, list[Step]] = {}
    for step in plan:
        assert step.at_s + step.length_s <= 60.01
        before = lanes.setdefault(step.target, [])
        assert not before or before[-1].at_s + before[-1].length_s < step.at_s
        before.append(step)
    assert {step.fault for step in lanes["a"]} == set(OF_PROCESSES)
    assert {step.fault for step in lanes["a", "b"]} == set(OF_LINKS)


def test_processes_are_stopped_and_continued_killed_and_started(sleeper: Sleeper) -> None:
    plan = [_step(0.1, 0.5, Fault.FREEZE, "s"), _step(0.8, 0.1, Fault.KILL, "s")]
    seen: list[str] = []
    nemesis = Nemesis([*plan, _step(0.3, 0.0, Fault.FREEZE, "spy")], victims={"s": sleeper, "spy": Spy(sleeper, seen)})
    began = time.monotonic()
    log = nemesis.run()
    assert 0.9 <= time.monotonic() - began < 5
    assert seen == ["T"], "it was not stopped in between"
    assert sleeper.state != "T"
    assert len(sleeper.pids) == 2
    assert [(deed.what, deed.target) for deed in log if deed.target == "s"] == [
        ("freeze", "s"),
        ("thawed", "s"),
        ("kill", "s"),
        ("restarted", "s"),
    ]
    for deed, at_s in zip((deed for deed in log if deed.target == "s"), (0.1, 0.6, 0.8, 0.9), strict=True):
        assert at_s <= deed.at_s < at_s + 2
    assert "s: kill" in str(nemesis)


class Spy:
    """Looks at a process when it is its turn to be frozen."""

    def __init__(self, sleeper: Sleeper, seen: list[str]) -> None:
        self._sleeper, self._seen = sleeper, seen

    def freeze(self) -> None:
        self._seen.append(self._sleeper.state)

    def thaw(self) -> None:
        pass

    kill = restart = thaw


class Stubborn(Spy):
    """Cannot be frozen."""

    def __init__(self) -> None:
        pass

    def freeze(self) -> None:
        raise OSError("it will not")


def test_a_failure_is_raised_and_everything_undone(sleeper: Sleeper) -> None:
    plan = [
        _step(0.0, 30.0, Fault.FREEZE, "s"),
        _step(40.0, 1.0, Fault.KILL, "s"),
        _step(0.2, 1.0, Fault.FREEZE, "stubborn"),
    ]
    nemesis = Nemesis(plan, victims={"s": sleeper, "stubborn": Stubborn()})
    began = time.monotonic()
    with pytest.raises(OSError, match="it will not"):
        nemesis.run()
    assert time.monotonic() - began < 5, "the other lane did not end early"
    assert sleeper.state != "T"
    assert len(sleeper.pids) == 1


def test_links_are_cut_as_the_plan_says_and_healed() -> None:
    with Network(["x", "y"], seed=3) as network:
        plan = [_step(0.1, 0.4, Fault.CUT_THERE, ("x", "y"))]
        looked: list[tuple[bool, bool]] = []
        spy = LinkSpy(network, looked)
        Nemesis([*plan, _step(0.3, 0.0, Fault.FREEZE, "spy")], victims={"spy": spy}, bridge=network.bridge).run()
        assert looked == [(False, True)], "x to y was to be cut, y to x was not"
        looked.clear()
        spy.freeze()
        assert looked == [(True, True)]
        network.bridge.set_both("x", "y", Conditions(is_cut=True))
        spy.freeze()
        assert looked[1:] == [(False, False)]


class LinkSpy(Spy):
    """Sends a datagram each way when it is its turn."""

    def __init__(self, network: Network, looked: list[tuple[bool, bool]]) -> None:
        self._network, self._looked = network, looked

    def freeze(self) -> None:
        before = self._network.bridge.counts()
        x, y = self._network.hosts["x"], self._network.hosts["y"]
        for source, target in ((x, y), (y, x)):
            with source.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
                sender.sendto(b"?", (target.address, 9))
        time.sleep(0.05)
        after = self._network.bridge.counts()
        self._looked.append(
            (
                after["x", "y"].delivered > before["x", "y"].delivered,
                after["y", "x"].delivered > before["y", "x"].delivered,
            )
        )
