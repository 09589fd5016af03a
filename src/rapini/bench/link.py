"""What a secured link costs: events per second, delay, fan-out and memory, beside raw pyzmq in the same run.

Every variant is two processes on loopback. Rounds are interleaved (each round runs every variant once), so that a
machine whose speed drifts treats all alike; figures are medians, ratios are taken round by round and their median is
given with the range.
"""

from __future__ import annotations

from typing import Final

from rapini.bench.capture import measure_capture
from rapini.bench.machine import describe_machine
from rapini.bench.rounds import Progress, Result, make_keys, median, ratio, run_pair
from rapini.defaults import MAX_BATCH_EVENTS, WINDOW_BYTES

__all__ = ["SECTIONS", "Plan", "measure"]

SECTIONS: Final = ("throughput", "latency", "fanout", "memory", "capture")

RAPINI: Final = ("zmq+tls", "zmq+plain", "tcp+tls", "tcp+plain")
BASELINES: Final = {"raw pyzmq": "plain", "raw pyzmq CURVE": "curve"}
SUBSCRIBERS: Final = 10


class Plan:
    """How long and how often to measure.

    Args:
        rounds: Interleaved rounds, at least 3 for figures to quote.
        seconds: Of each throughput and latency run.
        memory_seconds: Of the run that memory is read from.
        capture_packets: Size of the capture for the parsing benchmark.
        sections: Which of `SECTIONS`.
        window_bytes: The subscribers' credit.
        batch_events: The publishers' largest batch.
        progress: Told what is being measured.
    """

    def __init__(
        self,
        *,
        rounds: int = 3,
        seconds: float = 3.0,
        memory_seconds: float = 60.0,
        capture_packets: int = 200_000,
        sections: tuple[str, ...] = SECTIONS,
        window_bytes: int = WINDOW_BYTES,
        batch_events: int = MAX_BATCH_EVENTS,
        progress: Progress = lambda _: None,
    ) -> None:
        self.rounds = rounds
        self.seconds = seconds
        self.memory_seconds = memory_seconds
        self.capture_packets = capture_packets
        self.sections = sections
        self.tuning = {"window_bytes": window_bytes, "batch_events": batch_events}
        self.progress = progress


def measure(plan: Plan) -> Result:
    """Run the benchmark; the result is what `--json` prints."""
    result: Result = {"machine": describe_machine(), "rounds": plan.rounds, "seconds": plan.seconds, **plan.tuning}
    with make_keys(("source", "sink", *(f"sink-{index}" for index in range(SUBSCRIBERS)))) as keys:
        if "throughput" in plan.sections:
            result["throughput"] = _throughput(plan, keys)
        if "latency" in plan.sections:
            result["latency"] = _latency(plan, keys)
        if "fanout" in plan.sections:
            result["fanout"] = _fanout(plan, keys)
        if "memory" in plan.sections:
            result["memory"] = _memory(plan, keys)
    if "capture" in plan.sections:
        result["capture"] = measure_capture(plan.rounds, plan.capture_packets, plan.progress)
    result["criteria"] = _criteria(result)
    return result


def _interleaved(plan: Plan, what: str, options: Result) -> dict[str, list[tuple[Result, Result]]]:
    variants = {**BASELINES, **{scheme: scheme for scheme in RAPINI}}
    runs: dict[str, list[tuple[Result, Result]]] = {name: [] for name in variants}
    for number in range(1, plan.rounds + 1):
        for name, variant in variants.items():
            plan.progress(f"{what}: round {number} of {plan.rounds}: {name}")
            runs[name].append(run_pair(variant, options))
    return runs


# -- sections ----------------------------------------------------------------------------------------------------


def _throughput(plan: Plan, keys: str) -> Result:
    runs = _interleaved(plan, "throughput", {"keys": keys, "seconds": plan.seconds, **plan.tuning})
    rates = {name: [taken["rate"] for _, taken in results] for name, results in runs.items()}
    table = {
        name: {
            "events_per_s": median(rates[name]),
            "events_per_s_min": min(rates[name]),
            "events_per_s_max": max(rates[name]),
            "publisher_cpu_us_per_event": median([sent["cpu_s"] / sent["events"] * 1e6 for sent, _ in results]),
            "subscriber_cpu_us_per_event": median([taken["cpu_s"] / taken["events"] * 1e6 for _, taken in results]),
            "lost_events": sum(sent["events"] - taken["events"] for sent, taken in results),
        }
        for name, results in runs.items()
    }
    return {
        "variants": table,
        "tls_to_plain": ratio(rates["zmq+tls"], rates["zmq+plain"]),
        "tls_to_raw_curve": ratio(rates["zmq+tls"], rates["raw pyzmq CURVE"]),
        "tls_to_raw_plain": ratio(rates["zmq+tls"], rates["raw pyzmq"]),
        "tcp_tls_to_zmq_tls": ratio(rates["tcp+tls"], rates["zmq+tls"]),
    }


def _latency(plan: Plan, keys: str) -> Result:
    rate = 1000
    runs = _interleaved(plan, "latency", {"keys": keys, "seconds": plan.seconds, "latency": True, "rate": rate})
    medians = {name: [taken["p50_us"] for _, taken in results] for name, results in runs.items()}
    table = {
        name: {"p50_us": median(medians[name]), "p99_us": median([taken["p99_us"] for _, taken in results])}
        for name, results in runs.items()
    }
    return {
        "rate_events_per_s": rate,
        "variants": table,
        "tls_to_raw_plain": ratio(medians["zmq+tls"], medians["raw pyzmq"]),
        "tls_to_raw_curve": ratio(medians["zmq+tls"], medians["raw pyzmq CURVE"]),
    }


def _fanout(plan: Plan, keys: str) -> Result:
    table: Result = {}
    for count in (1, SUBSCRIBERS):
        plan.progress(f"fan-out to {count} subscribers")
        options = {"keys": keys, "seconds": plan.seconds, "subscribers": count}
        runs = [run_pair("zmq+tls", options) for _ in range(plan.rounds)]
        table[str(count)] = {
            "publisher_cpu_us_per_event": median([sent["cpu_s"] / sent["events"] * 1e6 for sent, _ in runs]),
            "published_events_per_s": median([sent["rate"] for sent, _ in runs]),
            "encode_calls_per_batch": median([sent["encode_calls"] / sent["flushes"] for sent, _ in runs]),
            "lost_events": sum(sent["events"] * count - sum(taken["events"]) for sent, taken in runs),
        }
    return {"subscribers": table}


def _memory(plan: Plan, keys: str) -> Result:
    plan.progress(f"memory: zmq+tls at full speed for {plan.memory_seconds:g} s")
    sent, taken = run_pair("zmq+tls", {"keys": keys, "seconds": plan.memory_seconds, **plan.tuning})
    return {
        "seconds": plan.memory_seconds,
        "events": taken["events"],
        "publisher_peak_mb": sent["peak_mb"],
        "subscriber_peak_mb": taken["peak_mb"],
    }


def _criteria(result: Result) -> list[Result]:
    """What was promised, and what was measured."""
    rows: list[Result] = []

    def add(
        name: str, promise: str, measured: float, *, at_least: float | None = None, below: float | None = None
    ) -> None:
        is_kept = (at_least is None or measured >= at_least) and (below is None or measured < below)
        rows.append({"name": name, "promise": promise, "measured": measured, "is_kept": is_kept})

    if "throughput" in result:
        part = result["throughput"]
        add("S1", "TLS to our own plain, at least 0.85", part["tls_to_plain"]["median"], at_least=0.85)
        add("S2", "TLS to raw pyzmq CURVE, at least 2", part["tls_to_raw_curve"]["median"], at_least=2)
        add("S3", "tcp+tls to zmq+tls (reported)", part["tcp_tls_to_zmq_tls"]["median"])
    if "latency" in result:
        add("S4", "median delay to raw pyzmq's, below 3", result["latency"]["tls_to_raw_plain"]["median"], below=3)
    if "fanout" in result:
        part = result["fanout"]["subscribers"][str(SUBSCRIBERS)]
        add("S5", "encodings per batch at 10 subscribers, 1", part["encode_calls_per_batch"], at_least=1, below=1.001)
    if "memory" in result:
        part = result["memory"]
        worst = max(part["publisher_peak_mb"], part["subscriber_peak_mb"])
        add("S6", "peak memory of each end in MB, below 100", worst, below=100)
    if "capture" in result:
        add("S7", "rapini run to a bare parsing loop, at least 0.5", result["capture"]["ratio"]["median"], at_least=0.5)
    return rows
