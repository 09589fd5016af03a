"""The simulation finds small mutations of the real code: a net that catches nothing proves nothing."""

from __future__ import annotations

import pytest

from rapini.testing.simulation import SimulationError, run_seed
from tests.simulation.planted import FAULTS

WITHIN_SEEDS = 60


def _found(first: int = 0) -> tuple[int, str] | None:
    for seed in range(first, first + WITHIN_SEEDS):
        try:
            run_seed(seed)
        except SimulationError as error:
            return seed, error.reason
    return None


@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found(name: str) -> None:
    with FAULTS[name]():
        found = _found()
    assert found is not None, f"{WITHIN_SEEDS} seeds and nothing found"
    print(f"{name}: {found[1]} (seed {found[0]})")


def test_nothing_is_found_where_nothing_is_planted() -> None:
    """Also afterwards: the mutations are taken back."""
    assert _found() is None


def test_there_are_enough_of_them() -> None:
    assert len(FAULTS) >= 30
