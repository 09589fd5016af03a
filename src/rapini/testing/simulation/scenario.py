"""What a seed stands for: nodes, who dials whom, what they publish, and when which fault strikes.

A scenario is plain data, made before anything runs; `run` plays it. The same seed makes the same scenario for ever, as
long as this module is not changed: a change here gives all seeds another meaning.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import Enum
from typing import Final

from rapini.events.delivery import DeliveryName
from rapini.node.settings import NodeSettings
from rapini.testing.simulation.plan import NodePlan, SpoolPlan, StorePlan

__all__ = ["Fault", "FaultKind", "Scenario", "make_scenario"]

_TOPICS: Final = ("sim/events", "sim/logs", "conn/open", "conn/closed", "dns/query")
_PREFIXES: Final = ("sim/", "conn/", "dns/", "sim/events", "conn/closed")
_MIN_FAULTS: Final = 6
_MAX_FAULTS: Final = 11
_FIRST_FAULT_S: Final = 1.0


class FaultKind(Enum):
    """What the nemesis does."""

    CRASH = "crash"
    """A process is killed, and started again later: its kernel says so, or the whole machine is gone."""
    LEAVE = "leave"
    """A node says goodbye, and is started again later."""
    PAUSE = "pause"
    """A process stands still, as after SIGSTOP or on a suspended laptop."""
    CUT = "cut"
    """A connection is reset at both ends, at one of them perhaps much later."""
    HALF_OPEN = "half open"
    """Bytes of a connection vanish from now on, one way or both, and nobody is told."""
    PARTITION = "partition"
    """Nothing passes between two hosts for a time, one way or both."""
    SLOW_CONSUMER = "slow consumer"
    """An application takes nothing from its inbox for a time."""
    BACK_PRESSURE = "back pressure"
    """A connection takes nothing for a time."""
    REFUSALS = "refusals"
    """The next dials to a host are refused, and what it accepts it accepts late."""
    CLOCK_JUMP = "clock jump"
    """A wall clock jumps."""


_WEIGHTS: Final = {
    FaultKind.CRASH: 5,
    FaultKind.LEAVE: 1,
    FaultKind.PAUSE: 4,
    FaultKind.CUT: 5,
    FaultKind.HALF_OPEN: 3,
    FaultKind.PARTITION: 4,
    FaultKind.SLOW_CONSUMER: 2,
    FaultKind.BACK_PRESSURE: 2,
    FaultKind.REFUSALS: 1,
    FaultKind.CLOCK_JUMP: 1,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that goes wrong."""

    at: float
    """Virtual seconds from the start."""
    kind: FaultKind
    duration_s: float
    """Until it is mended, where it has an end."""
    target: int
    """Chooses the node, or the connection, among those there are."""
    variant: float
    """From [0, 1): chooses how."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """All that is settled before a run begins."""

    seed: int
    nodes: tuple[NodePlan, ...]
    edges: tuple[tuple[str, str], ...]
    """Pairs of nodes that should have a session, each once."""
    faults: tuple[Fault, ...]
    faults_end_s: float
    """When everything is mended."""
    capacity: int
    """What a connection holds, in bytes."""
    delay_s: float
    jitter_s: float
    proof_events: int
    """Events that each publisher publishes on each of its topics when all is well again."""

    def __str__(self) -> str:
        dials = ", ".join(f"{plan.name}->{'+'.join(plan.dials)}" for plan in self.nodes if plan.dials)
        kinds = ", ".join(f"{fault.at:.2f} {fault.kind.value}" for fault in self.faults)
        return f"seed {self.seed}: {len(self.nodes)} nodes ({dials}), {self.nodes[0].scheme}; {kinds}"


def make_scenario(seed: int) -> Scenario:
    """The scenario of a seed."""
    draw = random.Random(f"scenario/{seed}")
    names = [f"node{number}" for number in range(draw.choice((3, 3, 4, 4, 5)))]
    edges = _edges(draw, names)
    dials: dict[str, list[str]] = {name: [] for name in names}
    is_attested = draw.random() < 0.6
    for one, other in edges:
        way = draw.random()
        if way < 0.6:
            dials[one].append(other)
        elif way < 0.8:
            dials[other].append(one)
        else:
            dials[one].append(other)
            dials[other].append(one)
    scheme = draw.choice(("tcp+plain", "zmq+plain"))
    world = _World(draw, scheme=scheme, is_attested=is_attested)
    plans = [_plan(draw, world, name, tuple(dials[name]), number) for number, name in enumerate(names)]
    faults_end_s = _FIRST_FAULT_S + draw.uniform(5.0, 9.0)
    faults = sorted(
        (_fault(draw, faults_end_s) for _ in range(draw.randint(_MIN_FAULTS, _MAX_FAULTS))), key=lambda fault: fault.at
    )
    return Scenario(
        seed=seed,
        nodes=tuple(plans),
        edges=tuple(edges),
        faults=tuple(faults),
        faults_end_s=faults_end_s,
        capacity=draw.choice((1 << 13, 1 << 15, 1 << 17)),
        delay_s=draw.choice((0.0002, 0.002, 0.02)),
        jitter_s=draw.choice((0.0, 0.002, 0.02)),
        proof_events=15,
    )


def _edges(draw: random.Random, names: list[str]) -> list[tuple[str, str]]:
    """A star, or a connected partial mesh."""
    if draw.random() < 0.4:
        return [(name, names[0]) for name in names[1:]]
    edges = [(name, draw.choice(names[:at])) for at, name in enumerate(names) if at]
    others = [(b, a) for at, a in enumerate(names) for b in names[at + 1 :] if (b, a) not in edges]
    draw.shuffle(others)
    return edges + others[: draw.randint(0, min(2, len(others)))]


class _World:
    """What all nodes of a scenario have in common."""

    def __init__(self, draw: random.Random, *, scheme: str, is_attested: bool) -> None:
        self.scheme = scheme
        self.is_attested = is_attested
        classes: list[DeliveryName] = ["best_effort", "reliable", "durable"]
        classes += draw.choices(classes, weights=(2, 2, 1), k=len(_TOPICS) - len(classes))
        draw.shuffle(classes)
        self.delivery = dict(zip(_TOPICS, classes, strict=True))
        self.priority = {topic: draw.choice((-1, 0, 5)) for topic in _TOPICS} if draw.random() < 0.25 else {}
        self.has_store = draw.random() < 0.6
        self.store_survives = draw.random() < 0.5
        self.lease_s = draw.choice((1.0, 2.5, 300.0, 300.0, 300.0))
        self.durable_lease_s = draw.choice((1.5, 600.0, 600.0, 600.0, 600.0))


def _plan(draw: random.Random, world: _World, name: str, dials: tuple[str, ...], number: int) -> NodePlan:
    # The first two are always neighbours: whatever else the seed says, one publishes and the other wants all of it.
    publishes = number == 0 or draw.random() < 0.7
    window_bytes = draw.choice((1 << 12, 1 << 14, 1 << 16, 1 << 20))
    settings = NodeSettings(
        name=name,
        cluster="sim",
        delivery=world.delivery,
        priority=world.priority,
        overflow=draw.choice(("drop_newest", "drop_newest", "drop_oldest", "block", "disconnect")),
        reliable_overflow=draw.choice(("block", "block", "drop_newest", "drop_oldest", "disconnect")),
        durable_overflow=draw.choice(("drop_oldest", "block")),
        send_queue_bytes=draw.choice((1 << 13, 1 << 15, 1 << 18)),
        max_age_s=draw.choice((0.0, 0.0, 0.0, 1.0)),
        lease_s=world.lease_s,
        durable_lease_s=world.durable_lease_s,
        stall_timeout_s=draw.choice((2.0, 10.0)),
        window_bytes=window_bytes,
        max_batch_events=draw.choice((16, 64, 512)),
        heartbeat_timeout_s=draw.choice((3.0, 3.0, 3.0, 6.0)),
        backoff_max_s=draw.choice((1.0, 3.0, 5.0)),
        backoff_rejected_s=draw.choice((2.0, 5.0)),
    )
    return NodePlan(
        name=name,
        settings=settings,
        scheme=world.scheme,
        is_attested=world.is_attested,
        does_listen=True,
        dials=dials,
        prefixes=("",) if number == 1 or draw.random() < 0.6 else tuple(sorted(set(draw.choices(_PREFIXES, k=3)))),
        resubscribes_every_s=draw.choice((0.7, 2.0)) if number > 1 and draw.random() < 0.3 else 0.0,
        topics=tuple(draw.sample(_TOPICS, draw.randint(1, 4))) if publishes else (),
        burst_every_s=draw.choice((0.1, 0.2, 0.4)),
        burst_events=draw.choice((6, 12, 25)),
        filler_bytes=draw.choice((0, 64, 300)),
        consume_every_s=draw.choice((0.0, 0.0, 0.002, 0.02)),
        clock_offset_s=float(draw.randrange(100_000)),
        spool=_spool(draw) if publishes else None,
        is_checkpointed=draw.random() < 0.5,
        commit_every=draw.choice((1, 5, 50)),
        commit_within_s=draw.choice((0.1, 0.5, 2.0)),
        store=StorePlan(is_master=number == 0, survives=world.store_survives and number == 0)
        if world.has_store
        else None,
    )


def _spool(draw: random.Random) -> SpoolPlan:
    return SpoolPlan(
        max_bytes=draw.choice((1 << 14, 1 << 20, 1 << 20)),
        segment_bytes=draw.choice((1 << 9, 1 << 9, 1 << 11, 1 << 16)),
        sync_after_s=draw.choice((0.001, 0.01)),
        late_sync_s=draw.choice((0.1, 1.0)),
    )


def _fault(draw: random.Random, faults_end_s: float) -> Fault:
    kind = draw.choices(list(_WEIGHTS), weights=list(_WEIGHTS.values()))[0]
    longest_s = 6.0 if kind in (FaultKind.PAUSE, FaultKind.PARTITION, FaultKind.BACK_PRESSURE) else 3.0
    return Fault(
        at=draw.uniform(_FIRST_FAULT_S, faults_end_s - 0.5),
        kind=kind,
        duration_s=longest_s * draw.random() ** 2 + 0.01,
        target=draw.randrange(1 << 30),
        variant=draw.random(),
    )
