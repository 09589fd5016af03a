"""What a replicated store costs: writes a second at the master, and how long a clone takes to be in sync.

    python -m rapini.bench.stores            all of it, as one JSON object

    python -m rapini.bench.stores --cpu      in seconds of this process, for a machine that does other things too

Everything is measured machine to machine in one thread, bytes included: encoding, decoding and checking at both ends,
without sockets. Beside the master's writes stands a plain `dict.setdefault` of the same keys in the same run: that is
what a table costs which nobody else has. Figures are medians of interleaved rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rapini.bench.machine import describe_machine
from rapini.storage.sqlite_store import SqliteBackend
from rapini.stores import Backend, Cause, CloneStore, MasterStore, MemoryBackend, make_operation
from rapini.stores.values import decode_value, encode_value

__all__ = ["measure"]

ENTRIES: Final = 100_000
MISSED: Final = 10_000
ROUNDS: Final = 5
VALUE: Final = {"seen": 1_700_000_000.25, "ports": [22, 53, 443], "name": "host.example"}
PROMISED: Final = {"S4_s": 1.0, "S5_put_unique_per_s": 200_000}


def _master(backend: Backend | None = None, run: int = 1) -> MasterStore:
    return MasterStore("bench", run=bytes([run]) * 16, may_write=_anybody, now=0.0, wall_now=0.0, backend=backend)


def _anybody(peer: str) -> bool:
    return True


_clock: Callable[[], float] = time.process_time if "--cpu" in sys.argv[1:] else time.perf_counter


def _timed(work: Callable[[], object]) -> float:
    began = _clock()
    work()
    return _clock() - began


def _keys() -> list[str]:
    return [f"host-{number}" for number in range(ENTRIES)]


# -- writes at the master --------------------------------------------------------------------------------------------


def _dict_rate() -> float:
    table: dict[str, object] = {}

    def work() -> None:
        for key in keys:
            table.setdefault(key, 1)

    keys = _keys()
    return ENTRIES / _timed(work)


def _call_rate(value: object) -> float:
    master, keys = _master(), _keys()

    def work() -> None:
        for key in keys:
            master.put_unique(key, value, 0.0)
        master.flush()

    return ENTRIES / _timed(work)


def _bulk_rate() -> float:
    master, items = _master(), [(key, 1) for key in _keys()]

    def work() -> None:
        master.put_unique_many(items, 0.0)
        master.flush()

    return ENTRIES / _timed(work)


def _read_rate(value: object) -> float:
    master, keys = _master(), _keys()
    for key in keys:
        master.put(key, value, 0.0)

    def work() -> None:
        for key in keys:
            master.get(key, 0.0)

    return ENTRIES / _timed(work)


def _sqlite_rate(folder: str, number: int) -> float:
    backend = SqliteBackend(Path(folder) / f"rate-{number}")
    master, keys = _master(backend), _keys()[: ENTRIES // 5]

    def work() -> None:
        for at, key in enumerate(keys, 1):
            master.put_unique(key, 1, 0.0)
            if at % 500 == 0:  # a turn
                master.flush()
        master.flush()

    rate = len(keys) / _timed(work)
    backend.close()
    return rate


# -- synchronising ---------------------------------------------------------------------------------------------------


def _talk(master: MasterStore, clone: CloneStore) -> int:
    size = 0
    while True:
        ours, theirs = clone.data_to_send(), master.data_to_send()
        if not ours and not theirs:
            return size
        for _, data in ours:
            master.receive("clone", data, 0.0)
        for _, data in theirs:
            size += len(data)
            clone.receive("master", data, 0.0)


def _connect(master: MasterStore, clone: CloneStore) -> int:
    master.link_up("clone", 0.0)
    clone.link_up("master", 0.0)
    size = _talk(master, clone)
    if clone.is_stale or clone.version != master.version or len(clone) != len(master):
        raise AssertionError("the clone is not in sync")
    return size


def _cut(master: MasterStore, clone: CloneStore) -> None:
    master.link_lost("clone", 0.0)
    clone.link_lost("master", 0.0)


def _sync(backend: Backend) -> dict[str, float]:
    """A first snapshot, deltas, and a snapshot over a table that is nearly the same, with change events."""
    master = _master(backend)
    clone = CloneStore("bench", writer=b"c" * 16, now=0.0)
    keys = _keys()
    for key in keys:
        master.put(key, VALUE, 0.0)
    master.flush()
    sizes: list[int] = []
    first = _timed(lambda: sizes.append(_connect(master, clone)))
    _cut(master, clone)
    for key in keys[:MISSED]:
        master.put(key, 1, 0.0)
    master.flush()
    deltas = _timed(lambda: sizes.append(_connect(master, clone)))
    _cut(master, clone)
    clone.wants_changes = True
    other = _master(backend if backend.is_durable else None, run=2)
    other.apply(make_operation(Cause.CLEAR, None), 0.0)
    for key in keys[MISSED // 2 :]:
        other.put(key, VALUE, 0.0)
    other.flush()
    again = _timed(lambda: sizes.append(_connect(other, clone)))
    return {
        "snapshot_s": first,
        "snapshot_bytes": sizes[0],
        "deltas_s": deltas,
        "deltas_bytes": sizes[1],
        "snapshot_after_restart_s": again,
    }


def _sqlite_sync(folder: str, number: int) -> dict[str, float]:
    backend = SqliteBackend(Path(folder) / f"sync-{number}")
    try:
        return _sync(backend)
    finally:
        backend.close()


def _fan_out(clones: int) -> dict[str, float]:
    """Seconds to bring 10,000 changes, in turns of 100, into so many messages, at the master alone."""
    master = _master()
    for number in range(clones):
        clone = CloneStore("bench", writer=bytes([number]) * 16, now=0.0)
        master.link_up(f"clone-{number}", 0.0)
        clone.link_up("master", 0.0)
        for _, data in clone.data_to_send():
            master.receive(f"clone-{number}", data, 0.0)
    master.data_to_send()
    keys = _keys()[:MISSED]

    def work() -> None:
        for at in range(0, MISSED, 100):
            for key in keys[at : at + 100]:
                master.put(key, 1, 0.0)
            master.data_to_send()

    seconds = _timed(work)
    return {"seconds": seconds, "changes_encoded": master.log.encodings}


# -- values ----------------------------------------------------------------------------------------------------------


def _kept_encoded_or_decoded() -> dict[str, float]:
    """Nanoseconds: what a read pays because values are kept encoded, and what a delta would pay if they were not."""
    blob = encode_value(VALUE)
    count = 100_000

    def nanoseconds(work: Callable[[], object]) -> float:
        return 1e9 / count * _timed(lambda: deque((work() for _ in range(count)), maxlen=0))

    return {
        "decode_at_read_ns": nanoseconds(lambda: decode_value(blob)),
        "encode_ns": nanoseconds(lambda: encode_value(VALUE)),
    }


def _median(figures: list[dict[str, float]]) -> dict[str, float]:
    return {name: round(statistics.median(figure[name] for figure in figures), 5) for name in figures[0]}


def measure(rounds: int = ROUNDS) -> dict[str, Any]:
    """All figures; takes about half a minute."""
    rates: list[dict[str, float]] = []
    syncs: list[dict[str, float]] = []
    sqlite_syncs: list[dict[str, float]] = []
    fans: dict[int, list[dict[str, float]]] = {1: [], 10: []}
    values: list[dict[str, float]] = []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            rates.append(
                {
                    "dict_setdefault_per_s": _dict_rate(),
                    "put_unique_per_s": _call_rate(1),
                    "put_unique_record_per_s": _call_rate(VALUE),
                    "put_unique_many_per_s": _bulk_rate(),
                    "get_per_s": _read_rate(1),
                    "get_record_per_s": _read_rate(VALUE),
                    "sqlite_put_unique_per_s": _sqlite_rate(folder, number),
                }
            )
            syncs.append(_sync(MemoryBackend()))
            sqlite_syncs.append(_sqlite_sync(folder, number))
            for clones, found in fans.items():
                found.append(_fan_out(clones))
            values.append(_kept_encoded_or_decoded())
    master, sync = _median(rates), _median(syncs)
    return {
        "machine": describe_machine(),
        "clock": "cpu" if _clock is time.process_time else "wall",
        "entries": ENTRIES,
        "missed_changes": MISSED,
        "rounds": rounds,
        "master": {name: round(figure) for name, figure in master.items()},
        "sync_memory": sync,
        "sync_sqlite": _median(sqlite_syncs),
        "fan_out": {str(clones): _median(found) for clones, found in fans.items()},
        "values": _median(values),
        "promises_kept": {
            "S4_snapshot_s": sync["snapshot_s"] < PROMISED["S4_s"],
            "S4_deltas_s": sync["deltas_s"] < PROMISED["S4_s"],
            "S5_put_unique_per_s": master["put_unique_per_s"] >= PROMISED["S5_put_unique_per_s"],
        },
    }


if __name__ == "__main__":
    report = measure()
    print(json.dumps(report, indent=2))
    sys.exit(0 if all(report["promises_kept"].values()) else 1)
