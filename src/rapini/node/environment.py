"""What a node takes from the world around it: time, chance, transports, and the thread that turns.

A real node has the machine's; `rapini.testing.simulation` gives the same node a virtual clock, a seeded network and a
loop that turns when the simulation says so. Everything else is the same code, which is the point: what the simulation
proves, it proves of the node that users run.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from rapini.node.loop import Loop
from rapini.session.outbox import Outbox
from rapini.transport.factory import TransportMaker, make_transport

__all__ = ["REAL", "Environment", "LoopMaker", "OutboxMaker", "TransportMaker"]

OutboxMaker = Callable[..., Outbox]
"""Called as `Outbox` is."""

LoopMaker = Callable[..., Loop]
"""Called as `Loop` is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """Where a node gets what it cannot make itself."""

    clock: Callable[[], float] = time.monotonic
    """Monotonic seconds: all deadlines, heartbeats and leases."""
    wall: Callable[[], float] = time.time
    """Seconds since the epoch (UTC): what people are shown, and nothing else."""
    random: Callable[[], float] = random.random
    """Draws from [0, 1): jitter."""
    entropy: Callable[[int], bytes] = os.urandom
    """So many random bytes: incarnations, channel ids."""
    make_transport: TransportMaker = make_transport
    make_loop: LoopMaker = Loop
    make_outbox: OutboxMaker = Outbox
    """What peers are owed; a simulation looks on."""


REAL = Environment()
"""This machine."""
