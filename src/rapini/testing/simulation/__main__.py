"""Plays one seed with its trace, or many on all cores: what `make simulate` runs."""

from __future__ import annotations

import argparse
import sys
import time

from rapini.testing.simulation.many import Tally, run_many
from rapini.testing.simulation.run import SimulationError, run_seed


def main() -> int:
    """Read the command line, play, say what came of it; 1 if an invariant was violated."""
    parser = argparse.ArgumentParser(prog="python -m rapini.testing.simulation", description=__doc__)
    parser.add_argument("--seed", type=int, help="play this seed alone")
    parser.add_argument("--seeds", type=int, default=2000, help="how many seeds to play (2000)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (0)")
    parser.add_argument("--jobs", type=int, default=None, help="processes (all cores)")
    parser.add_argument("--verbose", action="store_true", help="with --seed: the whole trace")
    options = parser.parse_args()
    if options.seed is not None:
        return _one(options.seed, is_verbose=options.verbose)
    return _many(range(options.first, options.first + options.seeds), options.jobs)


def _one(seed: int, *, is_verbose: bool) -> int:
    try:
        report = run_seed(seed, keeps_trace=is_verbose)
    except SimulationError as error:
        lines = error.lines if is_verbose else error.lines[-60:]
        _say("\n".join(lines))
        _say(f"seed {seed}: {error.reason}")
        return 1
    if is_verbose:
        _say("\n".join(report.lines))
    faults = ", ".join(f"{count} {kind}" for kind, count in sorted(report.faults.items()))
    _say(
        f"seed {seed}: all invariants hold: {report.nodes} nodes, {report.delivered} events delivered, "
        f"{report.virtual_s:.1f} virtual seconds, up {report.recovered_s:.1f} s after the last fault; faults: {faults}"
    )
    return 0


def _many(seeds: range, jobs: int | None) -> int:
    began = time.monotonic()

    def progress(tally: Tally) -> None:
        took_s = time.monotonic() - began
        sys.stdout.write(f"\r{tally.seeds} seeds, {tally.delivered} events delivered, {took_s:.0f} s")
        sys.stdout.flush()

    tally = run_many(seeds, jobs=jobs, progress=progress)
    _say("")
    _say(", ".join(f"{count} {kind}" for kind, count in sorted(tally.faults.items())))
    _say(", ".join(f"{count} {kind}" for kind, count in sorted(tally.seen.items())))
    if tally.failure is None:
        _say("all invariants hold")
        return 0
    seed, reason, lines = tally.failure
    _say(str(SimulationError(seed, reason, lines)))
    return 1


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")


if __name__ == "__main__":
    sys.exit(main())
