"""How fast events become durable: our segments, and SQLite beside them with the same records and commits.

    python -m rapini.bench.spool [--folder FOLDER] [--rounds N] [--json]

Each line is one shape of work: records of so many events of 120 bytes, committed every so many records; a commit is an
fsync (`fdatasync` here; SQLite in WAL mode with `synchronous=FULL`). Figures are medians of interleaved rounds. The
last lines have two threads, as a node has: one appends single events as fast as it can, the other commits again and
again.
"""

from __future__ import annotations

import argparse
import json
import os
import sqlite3
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rapini.bench.machine import describe_machine
from rapini.storage import Spool

__all__ = ["Figure", "Shape", "bare_fsyncs_per_s", "main", "measure"]

EVENT_BYTES: Final = 120
TOPIC: Final = "bench/connection"
MAX_BYTES: Final = 8 * 1024**3


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One shape of work."""

    events: int
    """Events in a record."""
    records: int
    """Records in all."""
    commit_every: int
    """Records between two commits; 0: another thread commits again and again."""


SHAPES: Final = (
    Shape(events=512, records=1500, commit_every=1),
    Shape(events=512, records=3000, commit_every=8),
    Shape(events=512, records=3000, commit_every=32),
    Shape(events=1, records=1500, commit_every=1),
    Shape(events=1, records=60_000, commit_every=64),
    Shape(events=1, records=200_000, commit_every=1000),
    Shape(events=1, records=200_000, commit_every=0),
    Shape(events=512, records=3000, commit_every=0),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """What was measured."""

    store: str
    events: int
    commit_every: int
    events_per_s: float
    megabytes_per_s: float
    commits_per_s: float


class _Segments:
    """Our spool."""

    name = "segments"

    def __init__(self, folder: Path) -> None:
        self.spool = Spool.open(folder / "spool", max_bytes=MAX_BYTES)

    def append(self, count: int, data: bytes) -> None:
        self.spool.append(count, TOPIC, data)

    def commit(self) -> None:
        self.spool.sync()

    @property
    def commits(self) -> int:
        return self.spool.syncs

    def close(self) -> None:
        self.spool.close()


class _Sqlite:
    """What a spool in SQLite would do at the least: one row a record, its number the key."""

    name = "sqlite"

    def __init__(self, folder: Path) -> None:
        self.connection = sqlite3.connect(folder / "db", isolation_level=None, check_same_thread=False)
        self.connection.execute("PRAGMA journal_mode = WAL")
        self.connection.execute("PRAGMA synchronous = FULL")
        self.connection.execute("CREATE TABLE records(sequence INTEGER PRIMARY KEY, count INT, topic TEXT, data BLOB)")
        self.connection.execute("BEGIN")
        self.commits = 0
        self._next = 0
        self._committed = 0
        self._lock = threading.Lock()

    def append(self, count: int, data: bytes) -> None:
        with self._lock:
            self.connection.execute("INSERT INTO records VALUES(?, ?, ?, ?)", (self._next, count, TOPIC, data))
            self._next += count

    def commit(self) -> None:
        with self._lock:
            if self._next > self._committed:
                self.connection.execute("COMMIT")
                self.connection.execute("BEGIN")
                self.commits += 1
                self._committed = self._next

    def close(self) -> None:
        self.connection.close()


STORES: Final[tuple[Callable[[Path], _Segments | _Sqlite], ...]] = (_Segments, _Sqlite)


def _alone(store: _Segments | _Sqlite, shape: Shape, data: bytes) -> None:
    append, commit = store.append, store.commit
    for number in range(1, shape.records + 1):
        append(shape.events, data)
        if number % shape.commit_every == 0:
            commit()


def _with_committer(store: _Segments | _Sqlite, shape: Shape, data: bytes) -> None:
    finished = threading.Event()

    def commit_again_and_again() -> None:
        while not finished.is_set():
            store.commit()
            time.sleep(0.0005)

    committer = threading.Thread(target=commit_again_and_again, name="committer")
    committer.start()
    try:
        for _ in range(shape.records):
            store.append(shape.events, data)
    finally:
        finished.set()
        committer.join()


def measure(make: Callable[[Path], _Segments | _Sqlite], shape: Shape, folder: Path) -> Figure:
    """One round of one store in a new folder; all of it is durable at the end of the time that counts."""
    data = os.urandom(EVENT_BYTES * shape.events)
    with tempfile.TemporaryDirectory(dir=folder) as place, closing(make(Path(place))) as store:
        began = time.perf_counter()
        (_alone if shape.commit_every else _with_committer)(store, shape, data)
        store.commit()
        elapsed = time.perf_counter() - began
        return Figure(
            store=store.name,
            events=shape.events,
            commit_every=shape.commit_every,
            events_per_s=shape.events * shape.records / elapsed,
            megabytes_per_s=len(data) * shape.records / elapsed / 1e6,
            commits_per_s=store.commits / elapsed,
        )


def _median(rounds: list[Figure]) -> Figure:
    return sorted(rounds, key=lambda figure: figure.events_per_s)[len(rounds) // 2]


def bare_fsyncs_per_s(folder: Path) -> float:
    """What the disk of a folder does at most: 4 KiB more and an fdatasync, again and again."""
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        times = []
        for number in range(300):
            began = time.perf_counter()
            os.pwrite(file.fileno(), bytes(4096), number * 4096)
            os.fdatasync(file.fileno())
            times.append(time.perf_counter() - began)
    return 1 / statistics.median(times)


def _read_back(folder: Path) -> tuple[float, float, float]:
    """Events/s and MB/s of one reader, and the seconds that opening takes."""
    with tempfile.TemporaryDirectory(dir=folder) as place:
        with Spool.open(Path(place) / "spool", max_bytes=MAX_BYTES) as spool:
            for _ in range(4000):
                spool.append(512, TOPIC, bytes(512 * EVENT_BYTES))
        began = time.perf_counter()
        spool = Spool.open(Path(place) / "spool", max_bytes=MAX_BYTES)
        opened = time.perf_counter()
        position = size = 0
        while position < spool.synced_sequence:
            items, position = spool.read(position, max_bytes=1 << 20)
            size += len(items) * 512 * EVENT_BYTES
        elapsed = time.perf_counter() - opened
        spool.close()
        return position / elapsed, size / elapsed / 1e6, opened - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m rapini.bench.spool", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()), help="on the disk to be measured")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    machine = describe_machine()
    bare = bare_fsyncs_per_s(options.folder)
    figures = []
    for shape in SHAPES:
        rounds = [[measure(make, shape, options.folder) for make in STORES] for _ in range(options.rounds)]
        figures += [_median(list(of_store)) for of_store in zip(*rounds, strict=True)]
    events_per_s, megabytes_per_s, open_s = _read_back(options.folder)
    read = {"events_per_s": events_per_s, "megabytes_per_s": megabytes_per_s, "open_s": open_s}
    if options.json:
        figures_json = [asdict(figure) for figure in figures]
        print(json.dumps({"machine": machine, "fsyncs_per_s": bare, "figures": figures_json, "read": read}))
        return
    print(", ".join(f"{key} {value}" for key, value in machine.items()))
    print(f"the disk alone: {bare:,.0f} fsyncs/s of 4 KiB")
    print(f"{'store':10}{'events/record':>14}{'records/commit':>16}{'events/s':>14}{'MB/s':>8}{'commits/s':>11}")
    for figure in figures:
        every = str(figure.commit_every or "2nd thread")
        rates = f"{figure.events_per_s:14,.0f}{figure.megabytes_per_s:8,.1f}{figure.commits_per_s:11,.0f}"
        print(f"{figure.store:10}{figure.events:14}{every:>16}{rates}")
    print(f"read back: {events_per_s:,.0f} events/s, {megabytes_per_s:,.0f} MB/s; opened in {open_s * 1000:.1f} ms")


if __name__ == "__main__":
    main()
