"""A seed is a run: played again, in another process and with another hash seed, it is the same to the last line."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

from rapini.testing.simulation import make_scenario, run_seed

SEEDS = range(3_000, 3_006)

_PROGRAM = """
import hashlib, sys
from rapini.testing.simulation import run_seed
for seed in map(int, sys.argv[1:]):
    print(hashlib.sha256("\\n".join(run_seed(seed, keeps_trace=True).lines).encode()).hexdigest())
"""


def _digest(seed: int) -> str:
    return hashlib.sha256("\n".join(run_seed(seed, keeps_trace=True).lines).encode()).hexdigest()


def test_the_same_seed_twice_is_the_same_run() -> None:
    for seed in SEEDS:
        first, second = run_seed(seed, keeps_trace=True), run_seed(seed, keeps_trace=True)
        assert first == second
        assert len(first.lines) > 50


def test_different_seeds_are_different_runs() -> None:
    assert len({_digest(seed) for seed in SEEDS}) == len(SEEDS)
    assert len({str(make_scenario(seed)) for seed in range(200)}) == 200


def test_another_process_with_another_hash_seed_sees_the_same_runs() -> None:
    expected = [_digest(seed) for seed in SEEDS]
    for hash_seed in ("0", "4711"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        found = subprocess.run(
            [sys.executable, "-c", _PROGRAM, *map(str, SEEDS)],
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=50,
        )
        assert found.stdout.split() == expected
