"""Many seeds on all cores: what tests and `make simulate` run.

Processes are spawned, never forked: each imports Rapini anew, so a run depends on nothing but its seed. The first seed
that fails is reported with its trace; the rest is not played.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from rapini.testing.simulation.run import SimulationError, run_seed

__all__ = ["Tally", "run_many"]

_CHUNK: Final = 25
"""Seeds that a process plays between two reports."""


@dataclass(slots=True)
class Tally:
    """What many runs were, together."""

    seeds: int = 0
    delivered: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    seen: Counter[str] = field(default_factory=Counter)
    """See `Report.seen`."""
    virtual_s: float = 0.0
    recovered_s: float = 0.0
    """The longest that any run took to have all sessions up, from when faults had ended."""
    failure: tuple[int, str, list[str]] | None = None
    """Seed, reason and trace of the first failure."""

    def add(self, other: Tally) -> None:
        """Take another's runs in."""
        self.seeds += other.seeds
        self.delivered += other.delivered
        self.faults += other.faults
        self.seen += other.seen
        self.virtual_s += other.virtual_s
        self.recovered_s = max(self.recovered_s, other.recovered_s)
        if other.failure is not None and (self.failure is None or other.failure[0] < self.failure[0]):
            self.failure = other.failure


def run_many(
    seeds: range,
    *,
    jobs: int | None = None,
    enough: int | None = None,
    progress: Callable[[Tally], None] = lambda tally: None,
) -> Tally:
    """Play seeds until one fails or all were played.

    Args:
        seeds: Which.
        jobs: Processes; all cores by default.
        enough: Stop when so many events were delivered.
        progress: Called now and then with what there is so far.
    """
    total = Tally()
    jobs = jobs or os.cpu_count() or 1
    chunks = (seeds[at : at + _CHUNK] for at in range(0, len(seeds), _CHUNK))
    if jobs == 1:
        for chunk in chunks:
            total.add(_play(chunk))
            progress(total)
            if _is_over(total, enough):
                break
        return total
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        waiting: set[Future[Tally]] = {pool.submit(_play, chunk) for chunk in islice(chunks, jobs * 2)}
        while waiting:
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                total.add(future.result())
            progress(total)
            if not _is_over(total, enough):
                waiting |= {pool.submit(_play, chunk) for chunk in _next(chunks, len(done))}
    return total


def _is_over(total: Tally, enough: int | None) -> bool:
    return total.failure is not None or (enough is not None and total.delivered >= enough)


def _next(chunks: Iterator[range], count: int) -> Iterator[range]:
    return islice(chunks, count)


def _play(seeds: range) -> Tally:
    """Play seeds in this process, up to the first that fails."""
    tally = Tally()
    gc.disable()  # a run leaves one large cycle behind; collecting once a chunk is cheaper than looking all the time
    try:
        for seed in seeds:
            try:
                report = run_seed(seed)
            except SimulationError as error:
                tally.failure = (seed, error.reason, error.lines)
                break
            tally.seeds += 1
            tally.delivered += report.delivered
            tally.faults += report.faults
            tally.seen += report.seen
            tally.virtual_s += report.virtual_s
            tally.recovered_s = max(tally.recovered_s, report.recovered_s)
    finally:
        gc.enable()
        gc.collect()
    return tally
