"""What links and state cost: reconnecting, a clone that returns, writes at a store's master, peers that say nothing.

Processes on loopback; `rapini.bench.session_workers` says how a link is cut.
"""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Final

from rapini.bench.rounds import Result, Worker, median, ratio
from rapini.bench.session_plan import SCHEMES, Plan
from rapini.errors import RapiniError

__all__ = ["FIRST", "idle_names", "measure_clone", "measure_idle", "measure_reconnects", "measure_store"]

WORKERS: Final = "rapini.bench.session_workers"
BACKOFF_S: Final = 0.001
"""The first pause before dialling again, and the longest: what is measured is the way back, not the wait before it."""

WARM_UP: Final = 100
FIRST: Final = "first"
"""The clone's first copy, in the place of what it missed."""

MISSED: Final = 10
"""One entry in so many is changed while the clone is away, in the run of deltas."""

IDLE_PROCESSES: Final = 4
_SETTLE_S: Final = 2.0


# -- reconnecting ----------------------------------------------------------------------------------------------------


def measure_reconnects(plan: Plan, keys: str) -> Result:
    """Milliseconds from the cut until both sides are up again, and what many reconnects leave behind."""
    table: Result = {}
    for scheme in SCHEMES:
        for resumes in (True, False):
            name = f"{scheme}, {'TLS resumed' if resumes else 'full handshakes'}"
            plan.progress(f"reconnect: {plan.reconnects} times over {name}")
            table[name] = _reconnects(plan, keys, scheme, resumes)
    return {"reconnects": plan.reconnects, "backoff_first_s": BACKOFF_S, "variants": table}


def _reconnects(plan: Plan, keys: str, scheme: str, resumes: bool) -> Result:
    options = {"keys": keys, "node": {"resume_tls": resumes}}
    with Worker("reconnect-sink", scheme, options, module=WORKERS) as sink:
        backoff = {"backoff_first_s": BACKOFF_S, "backoff_max_s": BACKOFF_S}
        options = {"keys": keys, "node": {"resume_tls": resumes, **backoff}, "url": sink.read()["url"]}
        with Worker("reconnect-source", scheme, options, module=WORKERS) as source:
            source.read()
            warm_up = min(WARM_UP, plan.reconnects)
            source.call("cut", times=warm_up)
            before = {"listener": sink.call("usage"), "dialler": source.call("usage")}
            facts = source.call("cut", times=plan.reconnects)
            after = {"listener": sink.call("usage"), "dialler": source.call("usage")}
            heard = sink.call("ups")
    if heard["events"] != warm_up + plan.reconnects:
        raise RapiniError("bench_failed", f"{heard['events']} events crossed {warm_up + plan.reconnects} links")
    here = [facts["up_at"][epoch] - at for epoch, at in facts["cut_at"].items()]
    there = [heard["up_at"][epoch] - at for epoch, at in facts["cut_at"].items()]
    both = sorted(max(pair) for pair in zip(here, there, strict=True))
    growth = {
        end: {name: after[end][name] - before[end][name] for name in ("rss_kb", "sockets", "descriptors", "threads")}
        for end in before
    }
    return {
        "dialler_up_ms": median(here) * 1e3,
        "listener_up_ms": median(there) * 1e3,
        "both_up_ms": median(both) * 1e3,
        "both_up_p99_ms": both[int(len(both) * 0.99)] * 1e3,
        "both_up_max_ms": both[-1] * 1e3,
        "handshakes_resumed": facts["handshakes_resumed"],
        "cpu_ms_per_reconnect": {
            end: (after[end]["cpu_s"] - before[end]["cpu_s"]) / plan.reconnects * 1e3 for end in before
        },
        "growth": growth,
        "rss_kb": {end: usage["rss_kb"] for end, usage in after.items()},
    }


# -- stores ----------------------------------------------------------------------------------------------------------


def measure_clone(plan: Plan, keys: str) -> Result:
    """Seconds from the first step to connect until a clone is in sync, after it missed nothing, a part, or all."""
    runs: dict[str, list[float]] = {FIRST: [], "nothing": [], "a part": [], "all": []}
    ups: dict[str, list[float]] = {name: [] for name in runs}
    missed = {"nothing": 0, "a part": plan.entries // MISSED, "all": plan.entries}
    for number in range(1, plan.rounds + 1):
        options = {"keys": keys, "entries": plan.entries}
        plan.progress(f"clone: round {number} of {plan.rounds}: the first copy of {plan.entries:,} entries")
        with Worker("store-master", SCHEMES[0], options, module=WORKERS) as master:
            options["url"] = master.read()["url"]
            with Worker("store-clone", SCHEMES[0], options, module=WORKERS) as clone:
                clone.read()
                first = clone.call("first")
                runs[FIRST].append(first["seconds"])
                ups[FIRST].append(first["up_s"])
                for name, count in missed.items():
                    plan.progress(f"clone: round {number} of {plan.rounds}: back after {count:,} changes")
                    cut = clone.call("cut")
                    there = master.call("change", count=count, number=number)
                    again = clone.call("again")
                    if not cut["is_stale"] or any(again[fact] != there[fact] for fact in ("version", "entries")):
                        raise RapiniError("bench_failed", f"the clone has {again}, the master {there}")
                    runs[name].append(again["seconds"])
                    ups[name].append(again["up_s"])
    table = {
        name: {
            "missed_changes": missed.get(name, plan.entries),
            "in_sync_s": median(found),
            "in_sync_s_max": max(found),
            "up_s": median(ups[name]),
        }
        for name, found in runs.items()
    }
    return {"entries": plan.entries, "scheme": SCHEMES[0], "missed": table}


def measure_store(plan: Plan, keys: str) -> Result:
    """`put_unique()` a second through `node.store(...)`, at a master in memory."""
    calls: list[float] = []
    plain: list[float] = []
    cpu: list[float] = []
    for number in range(1, plan.rounds + 1):
        plan.progress(f"store: round {number} of {plan.rounds}")
        with Worker("store-writes", "", {"keys": keys, "entries": plan.entries}, module=WORKERS) as worker:
            facts = worker.read()
        if facts["entries"] != plan.entries or facts["again"]:
            raise RapiniError("bench_failed", f"{facts['entries']} entries after {plan.entries} calls")
        calls.append(facts["put_unique"])
        plain.append(facts["dict"])
        cpu.append(facts["cpu_us"])
    return {
        "entries": plan.entries,
        "put_unique_per_s": median(calls),
        "put_unique_per_s_min": min(calls),
        "put_unique_per_s_max": max(calls),
        "cpu_us_per_call": median(cpu),
        "dict_setdefault_per_s": median(plain),
        "to_dict": ratio(calls, plain),
    }


# -- idle peers ------------------------------------------------------------------------------------------------------


def idle_names(count: int) -> list[str]:
    """The names of the peers that are idle."""
    return [f"peer-{number}" for number in range(count)]


def measure_idle(plan: Plan, keys: str) -> Result:
    """The listener's CPU time while its peers say nothing but heartbeats, and its memory for each."""
    return {
        "peers": plan.peers,
        "seconds": plan.idle_seconds,
        "variants": {scheme: _idle(plan, keys, scheme) for scheme in SCHEMES},
    }


def _idle(plan: Plan, keys: str, scheme: str) -> Result:
    plan.progress(f"idle: {plan.peers} peers over {scheme} come up")
    with ExitStack() as stack:
        sink = stack.enter_context(Worker("idle-sink", scheme, {"keys": keys}, module=WORKERS))
        url = sink.read()["url"]
        empty = sink.call("usage")
        names = idle_names(plan.peers)
        groups = [names[first::IDLE_PROCESSES] for first in range(min(IDLE_PROCESSES, plan.peers))]
        began = time.monotonic()
        workers = [
            stack.enter_context(
                Worker("idle-peers", scheme, {"keys": keys, "url": url, "names": group}, module=WORKERS)
            )
            for group in groups
        ]
        for worker in workers:
            worker.read()
        come_up_s = time.monotonic() - began
        time.sleep(min(_SETTLE_S, plan.idle_seconds))
        plan.progress(f"idle: {plan.peers} peers over {scheme} for {plan.idle_seconds:g} s")
        before = sink.call("usage")
        time.sleep(plan.idle_seconds)
        after = sink.call("usage")
        up = sink.call("peers")["up"]
    if up != plan.peers:
        raise RapiniError("bench_failed", f"{up} of {plan.peers} peers are up in the end")
    return {
        "come_up_s": come_up_s,
        "cpu_percent_of_a_core": (after["cpu_s"] - before["cpu_s"]) / (after["at"] - before["at"]) * 100,
        "kb_per_peer": (after["rss_kb"] - empty["rss_kb"]) / plan.peers,
        "threads": after["threads"],
        "sockets": after["sockets"],
    }
