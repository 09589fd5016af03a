"""Deterministic simulation: real nodes in virtual time, on a network that fails by a seed.

The node's code runs as it is (`rapini.node.core.Core`); what it takes from the world comes from here: clock, chance,
transports, and a loop that turns when virtual time says so. One integer seed decides everything, so a failure is
replayed by its number.

    report = run_seed(4711)
    print(report.delivered, report.faults)

From below: `world` (time, chance, trace), `pipe`, `transport`, `network` (what carries), `durable`, `stores`, `loop`,
`channels`, `process`, `node` (what runs), `books`, `streambooks`, `routes`, `tablewatch`, `observer` (what is held),
`scenario`, `nemesis` (what happens), `run`, `many`. `docs/explanation/simulation.md` says what it proves.
"""

from rapini.testing.simulation.run import Report, SimulationError, run_scenario, run_seed
from rapini.testing.simulation.scenario import Fault, FaultKind, Scenario, make_scenario

__all__ = [
    "Fault",
    "FaultKind",
    "Report",
    "Scenario",
    "SimulationError",
    "make_scenario",
    "run_scenario",
    "run_seed",
]
