"""Stores as a program uses them: real threads and locks, and links in memory between two nodes' drivers."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rapini.errors import LocalError, PeerTimeoutError, StoreError
from rapini.node.store import Store
from rapini.node.store_driver import StoreDriver
from rapini.storage.sqlite_store import SqliteBackend
from rapini.stores import Backend, Cause, CloneStore, EntryChanged, MasterStore, MemoryBackend

ROOM = 4


class Host:
    """A node reduced to what a store needs of it: a lock, an I/O thread, a link to one other node."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.lock = threading.RLock()
        self.changed = threading.Condition(self.lock)
        self.peer: Host | None = None
        self.epoch = 0
        """Of the present link, 0 without one; what was sent on another is dropped, as by a session."""
        self.driver: StoreDriver
        self.violations: list[tuple[str, str]] = []
        self.sent = 0
        self._inbox: deque[tuple[int, bytes]] = deque()
        self._timers: list[tuple[float, int]] = []
        self._numbers = itertools.count()
        self._callbacks: deque[Callable[[], object]] = deque()
        self._is_stopped = False
        self._has_work = threading.Condition()
        self._thread = threading.Thread(target=self._run, name=f"io-{name}")
        self._thread.start()

    def clock(self) -> float:
        return time.monotonic()

    def send_store(self, store: str, peer: str, data: bytes) -> bool:
        other = self.peer
        assert other is not None
        assert (store, peer) == ("hosts", other.name)
        self.sent += 1
        other._inbox.append((self.epoch, data))
        other._wake()
        return len(other._inbox) < ROOM

    def wake_store(self, store: str, when: float) -> None:
        heapq.heappush(self._timers, (when, next(self._numbers)))
        self._wake()

    def call_back(self, function: Callable[[], object]) -> None:
        self._callbacks.append(function)
        self._wake()

    def store_violated(self, store: str, peer: str, code: str, detail: str) -> None:
        self.violations.append((peer, code))

    def _wake(self) -> None:
        with self._has_work:
            self._has_work.notify()

    def _run(self) -> None:
        while not self._is_stopped:
            with self.lock:
                got = len(self._inbox)
                for _ in range(got):
                    epoch, data = self._inbox.popleft()
                    if epoch == self.epoch != 0 and self.peer is not None:
                        self.driver.receive(self.peer.name, data, self.clock())
                while self._timers and self._timers[0][0] <= self.clock():
                    heapq.heappop(self._timers)
                    self.driver.service(self.clock())
            if got and self.peer is not None:
                with self.peer.lock:
                    self.peer.driver.drained(self.name, self.clock())
            while self._callbacks:
                self._callbacks.popleft()()
            with self._has_work:
                if not self._inbox and not self._callbacks:
                    self._has_work.wait(0.002)

    def stop(self) -> None:
        self._is_stopped = True
        self._wake()
        self._thread.join(10)
        with self.lock:
            self.driver.close()


class Pair:
    """A master and a clone, linked or not."""

    def __init__(self, backend: Backend, may_write: Callable[[str], bool] = lambda peer: True) -> None:
        self.hosts = [Host("master"), Host("clone")]
        one, two = self.hosts
        one.peer, two.peer = two, one
        now = time.monotonic()
        master = MasterStore(
            "hosts", run=b"r" * 16, may_write=may_write, now=now, wall_now=time.time(), backend=backend
        )
        clone = CloneStore("hosts", writer=b"c" * 16, now=now)
        one.driver, two.driver = StoreDriver("hosts", master, one), StoreDriver("hosts", clone, two)
        self.master, self.clone = Store(one.driver), Store(two.driver)
        self._epochs = itertools.count(1)

    def link(self) -> None:
        epoch = next(self._epochs)
        for host, other in zip(self.hosts, reversed(self.hosts), strict=True):
            with host.lock:
                host.epoch = epoch
                host.driver.link_up(other.name, time.monotonic())

    def cut(self) -> None:
        for host, other in zip(self.hosts, reversed(self.hosts), strict=True):
            with host.lock:
                host.epoch = 0
                host.driver.link_lost(other.name, time.monotonic())


@pytest.fixture(params=["memory", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return MemoryBackend() if request.param == "memory" else SqliteBackend(tmp_path / "store", sync="normal")


@pytest.fixture
def pair(backend: Backend) -> Iterator[Pair]:
    made = Pair(backend)
    # A host without a driver would die; both have theirs by now.
    yield made
    for host in made.hosts:
        host.stop()
        assert host.violations == []


def eventually(claim: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not claim():
        assert time.monotonic() < deadline, "not within 10 s"
        time.sleep(0.002)


def test_a_clone_reads_what_the_master_wrote(pair: Pair) -> None:
    pair.master.put("a", {"port": 53})
    assert pair.clone.is_stale
    with pytest.raises(PeerTimeoutError) as caught:
        pair.clone.wait_synced(0.01)
    assert caught.value.code == "not_synced"
    pair.link()
    pair.clone.wait_synced(10)
    assert pair.clone.get("a") == {"port": 53}
    assert not pair.clone.is_stale
    assert pair.clone.stale_for_s == 0
    pair.master.put("b", 2)
    eventually(lambda: "b" in pair.clone)
    assert len(pair.clone) == len(pair.master) == 2
    assert dict(pair.clone.items()) == dict(pair.master.items())
    assert (pair.master.is_master, pair.clone.is_master) == (True, False)
    pair.cut()
    assert pair.clone.is_stale
    assert pair.clone.get("b") == 2


def test_every_write_of_a_clone_is_seen_when_it_returns(pair: Pair) -> None:
    pair.link()
    store = pair.clone
    store.put("k", 1)
    assert store.get("k") == 1
    assert store.put_unique("k", 2) is False
    assert store.put_unique("u", 2) is True
    assert store.increment("k", 4) == 5
    assert store.get("k") == 5
    store.append("list", [1])
    store.append("list", [2])
    assert store.get("list") == [1, 2]
    assert (store.add("set", "x"), store.add("set", "x"), store.remove("set", "x"), store.remove("set", "x")) == (
        True,
        False,
        True,
        False,
    )
    assert (store.delete("u"), store.delete("u")) == (True, False)
    assert (store.touch("k", 100.0), store.touch("u", 1.0)) == (True, False)
    assert sorted(map(str, store.keys())) == ["k", "list", "set"]
    assert list(store.keys("li")) == ["list"]
    with pytest.raises(StoreError) as caught:
        store.increment("list")
    assert caught.value.code == "wrong_type"
    store.clear()
    assert len(store) == 0
    assert len(pair.master) == 0


def test_of_many_who_put_unique_one_wins(pair: Pair) -> None:
    pair.link()
    pair.clone.wait_synced(10)
    with ThreadPoolExecutor(8) as pool:
        stores = [pair.master, pair.clone] * 8
        for key in range(20):
            won = list(pool.map(lambda store: store.put_unique(key, 1), stores))  # noqa: B023 - it is awaited
            assert won.count(True) == 1


def test_writes_of_many_threads_all_count(pair: Pair) -> None:
    pair.link()
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda store: [store.increment("n") for _ in range(25)], [pair.master, pair.clone] * 4))
    assert pair.master.get("n") == 200
    eventually(lambda: pair.clone.get("n") == 200)


def test_a_write_across_a_lost_link_is_done_once(pair: Pair) -> None:
    pair.link()
    pair.clone.wait_synced(10)
    with ThreadPoolExecutor(1) as pool:
        counting = pool.submit(lambda: [pair.clone.increment("n") for _ in range(200)])
        while not counting.done():
            time.sleep(0.005)
            pair.cut()
            pair.link()
    assert counting.result() == list(range(1, 201))
    assert pair.master.get("n") == 200


def test_a_write_without_a_master_ends_in_time(pair: Pair) -> None:
    began = time.monotonic()
    with pytest.raises(StoreError, match="the master is away") as caught:
        pair.clone.put("k", 1, timeout_s=0.05)
    assert caught.value.code == "master_away"
    assert 0.04 < time.monotonic() - began < 5


def test_who_waits_is_told_when_the_node_closes(pair: Pair) -> None:
    with ThreadPoolExecutor(1) as pool:
        write = pool.submit(pair.clone.put, "k", 1, timeout_s=50.0)
        eventually(lambda: bool(pair.hosts[1].driver._waiting))
        with pair.hosts[1].lock:
            pair.hosts[1].driver.close()
        with pytest.raises(StoreError) as caught:
            write.result(10)
    assert caught.value.code == "closed"
    with pytest.raises(StoreError):
        pair.clone.put("k", 1)


def test_subscribers_hear_of_every_change_in_order(pair: Pair) -> None:
    pair.master.put("before", 0)
    heard: dict[str, list[EntryChanged]] = {"master": [], "clone": [], "entries": []}
    pair.master.subscribe(heard["master"].append)
    end = pair.clone.subscribe(heard["clone"].append)
    pair.clone.subscribe(lambda change: 1 // 0)  # is logged, and harms nobody
    pair.master.subscribe(heard["entries"].append, with_entries=True)
    pair.link()
    pair.clone.wait_synced(10)
    pair.clone.put("a", 1)
    pair.master.delete("before")
    eventually(lambda: len(heard["clone"]) == 3)

    def told(name: str) -> list[tuple[object, ...]]:
        return [(change.key, change.cause, change.value, change.by) for change in heard[name]]

    put, deletion = ("a", Cause.PUT, 1, "clone"), ("before", Cause.DELETE, None, "")
    eventually(lambda: len(heard["entries"]) == 3)
    assert told("master") == [put, deletion]
    assert told("clone") == [("before", Cause.SYNC, 0, ""), put, deletion]
    assert told("entries") == [("before", Cause.SYNC, 0, ""), put, deletion]
    end()
    pair.clone.put("a", 2)
    eventually(lambda: len(heard["master"]) == 3)
    assert len(heard["clone"]) == 3


def test_entries_expire_everywhere(pair: Pair) -> None:
    pair.link()
    pair.clone.put("k", 1, expires_in_s=0.05)
    assert "k" in pair.clone
    eventually(lambda: "k" not in pair.clone)
    assert "k" not in pair.master


def test_what_a_caller_gets_wrong(pair: Pair) -> None:
    for store in (pair.master, pair.clone):
        with pytest.raises(StoreError) as caught:
            store.put(1.5, 1)  # type: ignore[arg-type]
        assert caught.value.code == "bad_key"
        with pytest.raises(StoreError) as caught:
            store.put_unique("k", object())
        assert caught.value.code == "not_encodable"
        with pytest.raises(StoreError) as caught:
            store.touch("k", -1.0)
        assert caught.value.code == "bad_expiry"
    with pytest.raises(LocalError) as local, pair.clone.batch():
        pass
    assert local.value.code == "not_master"


def test_iterating_goes_on_while_others_write(pair: Pair) -> None:
    for number in range(1000):
        pair.master.put_unique(f"k{number}", "x" * 1000)
    pair.link()
    pair.clone.wait_synced(10)
    for store in (pair.master, pair.clone):
        seen = 0
        for key, value in store.items():
            if seen == 0:
                store.clear()
            seen += 1
            assert (str(key)[0], value) == ("k", "x" * 1000)
        assert seen == 1000
        for number in range(1000):
            pair.master.put_unique(f"k{number}", "x" * 1000)
        eventually(lambda: len(pair.clone) == 1000)


def test_a_batch_is_one_commit(tmp_path: Path) -> None:
    backend = SqliteBackend(tmp_path / "store")
    pair = Pair(backend)
    try:
        before = backend.commits
        with pair.master.batch():
            for number in range(100):
                pair.master.put(f"k{number}", number)
        assert backend.commits - before == 1
        pair.master.put("k", 1)
        pair.master.put("l", 1)
        assert backend.commits - before == 3
        with pair.hosts[0].lock:
            backend._db.execute("PRAGMA query_only = 1")
        with pytest.raises(StoreError) as caught:
            pair.master.put("m", 1)
        assert caught.value.code == "store_failed"
        with pytest.raises(StoreError), pair.master.batch():
            pair.master.put("m", 1)
        assert len(pair.master) == 102
    finally:
        for host in pair.hosts:
            host.stop()


def test_who_may_not_write_is_told() -> None:
    pair = Pair(MemoryBackend(), may_write=lambda peer: False)
    try:
        pair.link()
        with pytest.raises(StoreError, match="does not let") as caught:
            pair.clone.put("k", 1)
        assert caught.value.code == "not_authorised"
    finally:
        for host in pair.hosts:
            host.stop()


def test_a_violation_is_reported_to_the_node(pair: Pair) -> None:
    pair.link()
    master = pair.hosts[0]
    with master.lock:
        master.driver.receive("clone", b"garbage", time.monotonic())
        master.driver.service(time.monotonic())
        assert master.violations == [("clone", "bad_store_message")]
        master.violations.clear()
