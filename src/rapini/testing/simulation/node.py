"""A simulated node across its starts: its host, its disk, its database, and the process that runs now.

`start` makes a new incarnation (`process`); `crash` forgets it, as SIGKILL or a pulled plug would.
"""

from __future__ import annotations

from random import Random
from typing import TYPE_CHECKING, Final

from rapini.errors import LocalError
from rapini.testing.simulation.durable import Output, Power, PowerCut
from rapini.testing.simulation.network import SimNetwork
from rapini.testing.simulation.plan import NodePlan
from rapini.testing.simulation.process import Process
from rapini.testing.simulation.stores import SimBackend
from rapini.testing.simulation.witness import Witness
from rapini.transport import Endpoint

if TYPE_CHECKING:
    from rapini.testing.simulation.world import World

__all__ = ["NodePlan", "SimNode"]

PORT: Final = 9750
_POWER_BACK_S: Final = 1.0
"""When the power is back after it was cut in the middle of a write, at the latest."""


class SimNode:
    """A node across its starts.

    Args:
        plan: What it is to be.
        network: Where it lives; a host is added to it.
        witness: Who watches.
    """

    def __init__(self, plan: NodePlan, network: SimNetwork, witness: Witness) -> None:
        self.plan = plan
        self.name = plan.name
        self.network = network
        self.world: World = network.world
        self.witness = witness
        self.host = network.add_host(plan.name)
        self.process: Process | None = None
        self.runs = 0
        self.publishes = True
        self.consumes = True
        """Whether the consumer takes anything."""
        self.wall_jump_s = 0.0
        """What its wall clock is wrong by."""
        self.random: Random = self.world.random("node", plan.name)
        self.power = Power(self.world.random("power", plan.name))
        self.output = Output()
        self.backend = SimBackend(survives=plan.store is not None and plan.store.survives)

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return Endpoint.parse(f"{self.plan.scheme}://{self.host.address}:{PORT}")

    def endpoint_of(self, name: str) -> Endpoint:
        """Where another node listens."""
        return Endpoint.parse(f"{self.plan.scheme}://{self.network.hosts[name].address}:{PORT}")

    @property
    def is_running(self) -> bool:
        """Alive and not standing still."""
        return self.process is not None and self.process.is_running

    def start(self) -> None:
        """Start it as a new incarnation; its power may be cut in the middle of that."""
        if self.process is not None:
            raise LocalError("wrong_state", f"{self.name} runs already")
        self.host.is_on = True
        self.runs += 1
        self.world.note("%s: starts, run %d", self.name, self.runs)
        try:
            process = Process(self, self.runs)
        except PowerCut:
            self.world.note("%s: the power is cut while it starts", self.name)
            self.host.is_on = False
            self.power.ends(is_power_cut=True)
            self._start_again()
            return
        self.process = process
        self.witness.started(process)
        process.guarded(process.begin)

    def crash(self, how: str) -> None:
        """Kill it: `closed`, `reset`, or `vanish` with the whole machine, and what its disk had not on its plates."""
        process = self.process
        if process is None:
            return
        was_cut = self.power.is_cut
        self.world.note("%s: crashes (%s), run %d%s", self.name, how, self.runs, ", in a write" if was_cut else "")
        if how == "vanish":
            self.host.is_on = False
        self.power.ends(is_power_cut=how == "vanish")
        process.kill(how)
        self.process = None
        if was_cut:
            self._start_again()

    def _start_again(self) -> None:
        self.world.after(_POWER_BACK_S * self.random.random(), self.start_if_dead)

    def start_if_dead(self) -> None:
        """Start it unless it runs."""
        if self.process is None:
            self.start()

    def stop_consuming(self) -> None:
        """The application takes nothing more from its inbox for now."""
        self.consumes = False

    def go_on_consuming(self) -> None:
        """The application takes from its inbox again."""
        self.consumes = True
        if self.process is not None:
            self.process.consume_again()
