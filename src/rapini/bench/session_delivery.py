"""What the delivery classes cost: `reliable` beside `best_effort`, `durable` beside NATS JetStream.

A publisher and a subscriber, two processes on loopback over `zmq+tls`; `publish()` is called once an event. Durable
figures count from the first `publish()` to the return of `flush()`: everything is on disk, fsynced, and was received.
JetStream's publisher has acknowledgements of its server and no subscriber, which is less; one event a message, as it is
used, and twice: with our fsync policy (`always`), which is the one compared with, and with its own default.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from rapini.bench.events import TOPIC
from rapini.bench.jetstream import Fsync, measure_jetstream
from rapini.bench.machine import file_system_of
from rapini.bench.rounds import Result, Worker, median, ratio, run_pair
from rapini.bench.session_plan import Plan
from rapini.bench.spool import bare_fsyncs_per_s
from rapini.errors import ConfigError, RapiniError

__all__ = ["measure_durable", "measure_reliable"]

SCHEME: Final = "zmq+tls"
CALLERS: Final = (1, 8, 64)
CALLERS_SECONDS: Final = 0.5
"""Of `Plan.seconds`: so long is each run of threads that wait for the disk."""
WORKERS: Final = "rapini.bench.session_workers"

DURABLE: Final = "rapini durable"
JETSTREAM: Final = {"JetStream, fsync always": Fsync.ALWAYS, "JetStream, fsync by default": Fsync.DEFAULT}

_SPOOL_BYTES: Final = 8 * 1024**3


def _run(options: Result) -> tuple[Result, Result]:
    """A source and a sink; nothing may be missing in the end."""
    sent, taken = run_pair(SCHEME, options)
    if not sent["is_flushed"] or sent["events"] + sent["warm_up"] != taken["events"]:
        raise RapiniError("bench_failed", f"{sent['events']} events published, {taken['events']} taken")
    return sent, taken


def measure_reliable(plan: Plan, keys: str) -> Result:
    """Events per second of both classes, in turns."""
    runs: dict[str, list[tuple[Result, Result]]] = {"best_effort": [], "reliable": []}
    for number in range(1, plan.rounds + 1):
        for name, results in runs.items():
            plan.progress(f"reliable: round {number} of {plan.rounds}: {name}")
            source = {"node": {"delivery": {TOPIC: name}}}
            results.append(_run({"keys": keys, "seconds": plan.seconds, "source": source}))
    rates = {name: [taken["rate"] for _, taken in results] for name, results in runs.items()}
    table = {name: _row(rates[name], results) for name, results in runs.items()}
    return {"variants": table, "reliable_to_best_effort": ratio(rates["reliable"], rates["best_effort"])}


def _row(rates: list[float], results: list[tuple[Result, Result]]) -> Result:
    return {
        "events_per_s": median(rates),
        "events_per_s_min": min(rates),
        "events_per_s_max": max(rates),
        "publisher_cpu_us_per_event": median(sent["cpu_s"] / sent["events"] * 1e6 for sent, _ in results),
        "subscriber_cpu_us_per_event": median(taken["cpu_s"] / taken["events"] * 1e6 for _, taken in results),
    }


def measure_durable(plan: Plan, keys: str) -> Result:
    """Durable events per second, JetStream's in the same rounds, and threads that wait for the disk."""
    runs: list[tuple[Result, Result]] = []
    streams: dict[str, list[Result]] = {name: [] for name in JETSTREAM}
    callers: dict[int, list[float]] = {count: [] for count in CALLERS}
    fsyncs: list[float] = []
    missing = ""
    with _folders(plan.spool) as (place, folders):
        for number in range(1, plan.rounds + 1):
            what = f"durable: round {number} of {plan.rounds}"
            plan.progress(f"{what}: the disk alone")
            fsyncs.append(bare_fsyncs_per_s(place))
            plan.progress(f"{what}: {DURABLE}")
            source = {"node": _durable_options(next(folders))}
            runs.append(_run({"keys": keys, "seconds": plan.seconds, "source": source}))
            for name, policy in JETSTREAM.items():
                if not missing:
                    plan.progress(f"{what}: {name}")
                    try:
                        streams[name].append(measure_jetstream(seconds=plan.seconds, fsync=policy, folder=place))
                    except ConfigError as error:
                        missing = str(error)
            for count, rates in callers.items():
                plan.progress(f"{what}: publish_durable() in {count} threads")
                rates.append(_callers(plan, keys, count, next(folders)))
        disk = {"file_system": file_system_of(place), "fsyncs_per_s": median(fsyncs)}
    ours = [sent["rate"] for sent, _ in runs]
    table = {DURABLE: {**_row(ours, runs), "says": "fsync before it is sent; on disk and received by a subscriber"}}
    table |= {name: _jetstream_row(found, missing) for name, found in streams.items()}
    ratios = {
        JETSTREAM[name].value: None if missing else ratio(ours, [run["events_per_s"] for run in found])
        for name, found in streams.items()
    }
    return {
        "disk": disk,
        "variants": table,
        "to_jetstream": ratios,
        "publish_durable_per_s": {str(count): median(rates) for count, rates in callers.items()},
    }


def _jetstream_row(found: list[Result], missing: str) -> Result:
    if missing:
        return {"events_per_s": None, "says": f"not measured: {missing}"}
    rates = [run["events_per_s"] for run in found]
    return {
        "events_per_s": median(rates),
        "events_per_s_min": min(rates),
        "events_per_s_max": max(rates),
        "publisher_cpu_us_per_event": median(run["publisher_cpu_us_per_event"] for run in found),
        "says": f"{found[0]['fsync_says']}; acknowledged by the server, nobody subscribed",
        **{name: found[0][name] for name in ("server", "client", "variant", "window_messages")},
    }


@contextmanager
def _folders(parent: Path) -> Iterator[tuple[Path, Iterator[str]]]:
    """A folder on the disk to be measured, and new names in it, without end."""
    with tempfile.TemporaryDirectory(prefix="rapini-bench-", dir=parent) as folder:
        yield Path(folder), (str(Path(folder) / f"spool-{number}") for number in itertools.count())


def _durable_options(folder: str) -> Result:
    return {
        "delivery": {TOPIC: "durable"},
        "spool": folder,
        "spool_bytes": _SPOOL_BYTES,
        "durable_overflow": "block",
    }


def _callers(plan: Plan, keys: str, threads: int, folder: str) -> float:
    options = {"keys": keys, "seconds": plan.seconds * CALLERS_SECONDS, "threads": threads}
    with Worker("sink", SCHEME, options) as sink:
        options |= {"urls": [sink.read()["url"]], "node": _durable_options(folder)}
        with Worker("durable-callers", SCHEME, options, module=WORKERS) as source:
            sent = source.read()
            taken = sink.read()
    if sent["events"] != taken["events"]:
        raise RapiniError("bench_failed", f"{sent['events']} events published, {taken['events']} taken")
    rate: float = sent["rate"]
    return rate
