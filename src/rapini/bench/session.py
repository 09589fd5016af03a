"""What sessions cost, and whether the promises about them are kept: `rapini bench session`.

Rounds are interleaved (each runs every variant once), figures are medians, and ratios are taken round by round, as in
`rapini.bench.link`. A promise whose baseline is not there is not judged.
"""

from __future__ import annotations

from typing import Final

from rapini.bench.jetstream import Fsync
from rapini.bench.machine import describe_machine
from rapini.bench.rounds import Result, make_keys
from rapini.bench.session_delivery import DURABLE, measure_durable, measure_reliable
from rapini.bench.session_links import (
    FIRST,
    idle_names,
    measure_clone,
    measure_idle,
    measure_reconnects,
    measure_store,
)
from rapini.bench.session_plan import SCHEMES, SECTIONS, Plan

__all__ = ["SECTIONS", "Plan", "criteria", "measure"]

_MEASURES: Final = {
    "reliable": measure_reliable,
    "durable": measure_durable,
    "reconnect": measure_reconnects,
    "clone": measure_clone,
    "store": measure_store,
    "idle": measure_idle,
}

GROWTH_KB: Final = 2.0
"""Of resident memory for each reconnect, at either end, that counts as none: less than one TLS object that stays, and
more than what an allocator's mood makes of a thousand."""


def measure(plan: Plan) -> Result:
    """Run the benchmark; the result is what `--json` prints."""
    result: Result = {"machine": describe_machine(), "rounds": plan.rounds, "seconds": plan.seconds}
    names = ["source", "sink", *(idle_names(plan.peers) if "idle" in plan.sections else [])]
    with make_keys(names) as keys:
        for section, measure_section in _MEASURES.items():
            if section in plan.sections:
                result[section] = measure_section(plan, keys)
    result["criteria"] = criteria(result)
    return result


def criteria(result: Result) -> list[Result]:
    """What was promised and what was measured, for the sections that a result has.

    `is_kept` is `None` for what is reported alone, and where a promise cannot be judged because what it is compared
    with was not measured.
    """
    rows: list[Result] = []
    for section, judge in _JUDGES.items():
        if section in result:
            rows += judge(result[section])
    return rows


def _row(
    name: str, promise: str, measured: float | None, *, at_least: float | None = None, at_most: float | None = None
) -> Result:
    is_kept = None
    if measured is not None and (at_least is not None or at_most is not None):
        is_kept = (at_least is None or measured >= at_least) and (at_most is None or measured <= at_most)
    return {"name": name, "promise": promise, "measured": measured, "is_kept": is_kept}


def _judge_reliable(part: Result) -> list[Result]:
    measured = part["reliable_to_best_effort"]["median"]
    return [_row("S1", "reliable to best_effort over TLS, at least 0.85", measured, at_least=0.85)]


def _judge_durable(part: Result) -> list[Result]:
    ratios = {policy: part["to_jetstream"][policy.value] for policy in Fsync}
    medians = {policy: None if ratio is None else ratio["median"] for policy, ratio in ratios.items()}
    rate = part["variants"][DURABLE]["events_per_s"]
    return [
        _row("S2", "durable events/s, on disk and received, at least 100,000", rate, at_least=100_000),
        _row("S2", "the same to JetStream with fsync always, at least 3", medians[Fsync.ALWAYS], at_least=3),
        _row("S2", "the same to JetStream with its default fsync (reported)", medians[Fsync.DEFAULT]),
    ]


def _judge_reconnect(part: Result) -> list[Result]:
    variants = part["variants"]
    default = next(iter(variants.values()))
    growths = [growth for row in variants.values() for growth in row["growth"].values()]
    memory = max(growth["rss_kb"] for growth in growths) / part["reconnects"]
    things = max(growth[thing] for growth in growths for thing in ("sockets", "threads"))
    return [
        _row("S3", "ms from a cut until both sides are up, median, at most 15", default["both_up_ms"], at_most=15),
        _row("S3", f"KB of memory more for each reconnect, at most {GROWTH_KB:g}", memory, at_most=GROWTH_KB),
        _row("S3", "sockets or threads more after all reconnects, 0", things, at_most=0),
    ]


def _judge_clone(part: Result) -> list[Result]:
    missed = part["missed"]
    slowest = max(row["in_sync_s"] for name, row in missed.items() if name != FIRST)
    clone = f"s until a clone of {part['entries']:,} entries"
    return [
        _row("S4", f"{clone} is in sync after a reconnect, whatever it missed, at most 1", slowest, at_most=1),
        _row("S4", f"{clone} has its first copy (reported)", missed[FIRST]["in_sync_s"]),
    ]


def _judge_store(part: Result) -> list[Result]:
    rate = part["put_unique_per_s"]
    return [_row("S5", "put_unique/s at a master in memory, at least 200,000", rate, at_least=200_000)]


def _judge_idle(part: Result) -> list[Result]:
    share = part["variants"][SCHEMES[0]]["cpu_percent_of_a_core"]
    return [_row("S6", f"{part['peers']} idle peers, % of a core, at most 5", share, at_most=5)]


_JUDGES: Final = {
    "reliable": _judge_reliable,
    "durable": _judge_durable,
    "reconnect": _judge_reconnect,
    "clone": _judge_clone,
    "store": _judge_store,
    "idle": _judge_idle,
}
