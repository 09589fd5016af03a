"""Storms over real processes on real (bad) links: sensors publish to one or two receivers, and the ledgers add up.

What the nemesis may do to whom depends on the delivery class, because the promises do:

* *best effort*: sensors are killed, frozen and cut off. The receiver is not killed: between taking and writing down an
  event it would lose it for good, and nobody promised otherwise. Every loss is counted by its publisher and told by
  exactly one gap, cause by cause. Of a killed life the publisher's counters are as old as its last snapshot: what it
  says was acknowledged has arrived, what it says was dropped has not.
* *reliable*: both incarnations live, so nobody is killed; everything else happens. Nothing is lost, repeated, or out of
  order, and there is no gap.
* *durable*: everybody is killed and started anew. What was on disk arrives once at the receiver that commits its ledger
  together with its positions, and at least once at the one that does not.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import pytest

from tests.faults.kit.fleet import Fleet, Workload
from tests.faults.kit.ledger import Account, Delivery, order_faults
from tests.faults.kit.namespaces import Network
from tests.faults.kit.nemesis import OF_LINKS, OF_PROCESSES, Fault, Nemesis, make_plan
from tests.integration.node.support import Keys, eventually

MANAGER: Final = "manager"
LOGGER: Final = "logger"
UP_AGAIN_S: Final = 10.0
"""From the end of the last fault until everybody is up: a lost peer is noticed in 1.5 s, a dial given up after 2."""
FREEZE: Final = (Fault.FREEZE,)


Accounts = Mapping[str, Account]
"""By receiver."""
Counted = Mapping[str, dict[str, Any]]
"""What `counters` told at the end, by node."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Storm:
    """A workload and what it has to go through."""

    workload: Workload
    seed: int
    seconds: float = 12.0
    sensors_suffer: tuple[Fault, ...] = OF_PROCESSES
    receivers_suffer: tuple[Fault, ...] = OF_PROCESSES
    spared: tuple[str, ...] = ()
    """Sensors that are frozen and not killed: one life from the first fault to the last, whose account is exact."""

    def __str__(self) -> str:
        checkpoints = "".join(f"-{checkpoint}" for checkpoint in self.workload.receivers.values() if checkpoint)
        return f"{self.workload.delivery}-{self.workload.scheme}{checkpoints}-{self.seed}"


def _workload(delivery: str, scheme: str, receivers: Mapping[str, str], rate: int = 1000) -> Workload:
    return Workload(delivery=delivery, scheme=scheme, receivers=receivers, rate=rate)


ONE: Final = {MANAGER: ""}
STORMS: Final = [
    Storm(workload=_workload("best_effort", "zmq+tls", ONE), seed=7, receivers_suffer=FREEZE, spared=("sensor-3",)),
    Storm(workload=_workload("best_effort", "tcp+tls", ONE), seed=23, receivers_suffer=FREEZE, spared=("sensor-3",)),
    Storm(workload=_workload("reliable", "zmq+tls", ONE), seed=30, sensors_suffer=FREEZE, receivers_suffer=FREEZE),
    Storm(workload=_workload("reliable", "tcp+tls", ONE), seed=44, sensors_suffer=FREEZE, receivers_suffer=FREEZE),
    Storm(workload=_workload("durable", "zmq+tls", {MANAGER: "sqlite", LOGGER: ""}, 500), seed=7),
    Storm(workload=_workload("durable", "tcp+tls", {MANAGER: "file", LOGGER: ""}, 500), seed=8),
]
LONG_STORMS: Final = [
    pytest.param(replace(storm, seed=100 + number, seconds=60.0), id=f"{storm}-{number}")
    for number in range(5)
    for storm in STORMS
]
"""For `make soak`: half an hour of it, with seeds that nobody has chosen."""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("storm", STORMS, ids=str)
def test_after_the_storm_every_event_is_accounted_for(storm: Storm, keys: Keys, tmp_path: Path) -> None:
    _weather(storm, keys, tmp_path)


@pytest.mark.soak
@pytest.mark.timeout(240)
@pytest.mark.parametrize("storm", LONG_STORMS)
def test_after_long_storms_too(storm: Storm, keys: Keys, tmp_path: Path) -> None:
    _weather(storm, keys, tmp_path)


def _weather(storm: Storm, keys: Keys, folder: Path) -> None:
    workload = storm.workload
    sensors, receivers = workload.sensors, tuple(workload.receivers)
    plan = make_plan(
        seed=storm.seed,
        seconds=storm.seconds,
        processes={
            **dict.fromkeys(sensors, storm.sensors_suffer),
            **dict.fromkeys(storm.spared, FREEZE),
            **dict.fromkeys(receivers, storm.receivers_suffer),
        },
        links=[(sensor, receiver) for sensor in sensors for receiver in receivers],
    )
    wanted = {*OF_LINKS, *storm.sensors_suffer, *storm.receivers_suffer}
    assert {step.fault for step in plan} == wanted, "the storm lacks a kind of fault"
    with Network([*receivers, *sensors], seed=storm.seed) as network, ExitStack() as stack:
        fleet = Fleet(workload, keys, folder, stack, network)
        eventually(fleet.is_up, 10, "everybody up before the storm")
        nemesis = Nemesis(plan, victims=fleet.programs, bridge=network.bridge)
        nemesis.run()
        print(nemesis)
        up_again_s = eventually(fleet.is_up, UP_AGAIN_S, "everybody up after the storm")
        before = fleet.received()
        eventually(
            lambda: all(count > before[pair] for pair, count in fleet.received().items()), 5, "events from everybody"
        )
        fleet.settle()
        counters = {name: fleet.call(name, "counters") for name in (*receivers, *sensors)}
        fleet.leave()
        overruns = network.bridge.overruns()
    accounts = {name: fleet.account(name) for name in receivers}
    for name, account in accounts.items():
        told = {"storm": str(storm), "receiver": name, "up_again_s": round(up_again_s, 2), **account.summary()}
        print(json.dumps(told))
    assert overruns == 0
    assert [told for name in counters for told in (counters[name]["bad"], counters[name]["not_stored"]) if told] == []
    for name, account in accounts.items():
        assert order_faults(fleet.ledger_of(name)) == []
        assert account.published > len(sensors) * workload.rate * storm.seconds / 8, "hardly anything was published"
    _Checks[Delivery(workload.delivery)](storm, accounts, counters)
    if Fault.KILL in storm.sensors_suffer:
        assert {name for name, life in accounts[MANAGER].lives if life > 1} == {*sensors} - {*storm.spared}
    if Fault.KILL in storm.receivers_suffer:
        assert min(fleet.programs[name].life for name in receivers) > 1


def _check_best_effort(storm: Storm, accounts: Accounts, counters: Counted) -> None:
    account, counted = accounts[MANAGER], counters[MANAGER]
    assert account.faults(Delivery.BEST_EFFORT) == []
    assert account.untold() == []
    assert account.all_gaps == counted["gaps"]
    assert counted["missed"] == {name: sum(gaps.values()) for name, gaps in account.all_gaps.items()}
    assert sum(counted["received"].values()) == account.received
    told = [account.lives[name, 1].gaps for name in storm.spared]
    assert all(gaps.get("peer_lost") and gaps.get("lost_in_transit") for gaps in told), "the storm was none"


def _check_reliable(storm: Storm, accounts: Accounts, counters: Counted) -> None:
    account = accounts[MANAGER]
    unrouted = account.counted().get("unrouted", 0)  # before the first subscription
    assert account.faults(Delivery.RELIABLE) == []
    assert (account.lost - unrouted, account.duplicated, account.told()) == (0, 0, {})
    assert set(account.counted()) <= {"unrouted"}


def _check_durable(storm: Storm, accounts: Accounts, counters: Counted) -> None:
    committed, repeated = accounts[MANAGER], accounts[LOGGER]
    assert committed.faults(Delivery.DURABLE) == []
    assert (committed.lost, committed.duplicated, committed.told()) == (0, 0, {})
    assert repeated.faults(Delivery.AT_LEAST_ONCE) == []
    assert (repeated.lost, repeated.told()) == (0, {})


_Checks: Final = {
    Delivery.BEST_EFFORT: _check_best_effort,
    Delivery.RELIABLE: _check_reliable,
    Delivery.DURABLE: _check_durable,
}
