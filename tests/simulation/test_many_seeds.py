"""Two thousand seeded failures of whole clusters; in the soak, a million delivered events."""

from __future__ import annotations

import time

import pytest

from rapini.testing.simulation import SimulationError
from rapini.testing.simulation.many import Tally, run_many

SEEDS = 2_000
SOAK_EVENTS = 1_000_000
FAULTS = {
    "crash", "leave", "pause", "cut", "half open", "partition", "slow consumer", "back pressure", "refusals",
    "clock jump",
}  # fmt: skip

SEEN = {
    "event, durable", "event, not durable", "gap, best_effort lost_in_transit", "gap, best_effort peer_lost",
    "gap, best_effort queue_full", "gap, reliable queue_full", "gap, reliable lease_expired",
    "gap, reliable unacknowledged", "gap, reliable expired", "gap, durable trimmed", "lease ended",
    "power cut in a write", "spool found again", "version of a clone",
}  # fmt: skip


def _progress(tally: Tally) -> None:
    if tally.seeds % 500 < 25:
        print(f"{tally.seeds} seeds, {tally.delivered} events delivered")


def _check(tally: Tally) -> None:
    if tally.failure is not None:
        raise SimulationError(*tally.failure)


@pytest.mark.timeout(900)
def test_all_invariants_hold_for_two_thousand_seeds() -> None:
    """Each run has at least three nodes, five faults and 300 delivered events: `run_seed` raises if not."""
    began = time.monotonic()
    tally = run_many(range(SEEDS), progress=_progress)
    _check(tally)
    assert tally.seeds == SEEDS
    assert set(tally.faults) == FAULTS, "every kind of fault was done"
    assert tally.faults.total() >= 5 * SEEDS
    assert {what for what, count in tally.seen.items() if count > 20} >= SEEN, "what is judged has happened"
    assert tally.delivered >= 300 * SEEDS
    print(f"{tally.delivered} events, {tally.virtual_s:.0f} virtual seconds, {time.monotonic() - began:.0f} s")


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_million_events_are_delivered_under_faults() -> None:
    """Seeds that the other test does not play."""
    tally = run_many(range(1_000_000, 1_100_000), enough=SOAK_EVENTS, progress=_progress)
    _check(tally)
    assert tally.delivered >= SOAK_EVENTS
