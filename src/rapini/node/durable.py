"""Our durable stream: from `publish()` to disk, and from there to each subscriber at its own pace.

A flush appends its runs to the spool under the node's lock; a thread of this module fsyncs, many appends at a time
(group commit), without it. Only what is on disk is sent: else a crash could give a number twice, to two different
events. Subscribers that keep up are served from a small cache of what was appended last, the others from disk.

The spool also keeps who is owed what (`rapini.storage`). A subscriber is owed events from its first subscription, or by
the configuration's word, until it has been away for `durable_lease_s` of this node's own time: seconds in which this
process ran, so a clock that jumps ends no lease.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec

from rapini.codec import EncodedRun
from rapini.errors import RapiniError, StoreError
from rapini.session.stream import StreamSender
from rapini.storage import Hole, Record, Spool
from rapini.storage.log import FsyncPolicy
from rapini.threads import Thread

__all__ = ["Chunk", "DurableStream", "Place"]

_log = logging.getLogger("rapini.node")

_CACHE_BYTES: Final = 8 * 1024 * 1024
_CHUNK_BYTES: Final = 64 * 1024
"""So many bytes of small records share a frame."""

_RUN_BYTES: Final = 256 * 1024
"""Largest record, but for single events that are larger."""

_READ_BYTES: Final = 512 * 1024
"""What one look into the spool brings at most."""

_MAX_CACHED_TOPICS: Final = 65_536


class Chunk(msgspec.Struct, frozen=True):
    """What a subscriber gets next: events, a hole, or (without both) a step over what it does not want."""

    first: int
    after: int
    runs: Sequence[EncodedRun] = ()
    hole: Hole | None = None


class Place(StreamSender):
    """One subscriber's place, with what was read ahead for it."""

    def __init__(self, position: int, *, is_kept: bool, settled: int | None = None) -> None:
        super().__init__(position, is_kept=is_kept, settled=settled)
        self.settled_before = self.settled
        """What it had settled by its own word when it came."""
        self.ahead: deque[Record | Hole] = deque()
        self.ahead_until = position
        self.held: Chunk | None = None
        """What comes next, and waits for credit."""


class DurableStream:
    """The durable stream of one node. Under the node's lock, but for `_Syncer`'s own work.

    Args:
        folder: Of the spool.
        max_bytes: Its bound.
        fsync: `group` or `never`; see `Spool.open`.
        drops_oldest: What to do when it is full: drop what is oldest, or make publishers wait.
        subscribers: Who is owed events by configuration: topic prefixes by node name.
        lease_s: How long an absent subscriber is owed events, in seconds of this node's running.
        lock: The node's.
        on_synced: Called under the node's lock when more events are on disk.
        spool: In place of `folder`, an open spool.

    Raises:
        ConfigError, StoreError: As `Spool.open`.
    """

    def __init__(
        self,
        folder: Path,
        *,
        max_bytes: int,
        fsync: FsyncPolicy,
        drops_oldest: bool,
        subscribers: Mapping[str, Sequence[str]],
        lease_s: float,
        lock: threading.RLock,
        on_synced: Callable[[], None],
        spool: Spool | None = None,
        is_threaded: bool = True,
    ) -> None:
        self.spool = spool or Spool.open(folder, max_bytes=max_bytes, fsync=fsync)
        self.is_full = False
        self.failure: StoreError | None = None
        """Why the last write failed; the next that works clears it."""
        self.max_run_bytes = min(_RUN_BYTES, max_bytes // 16)
        """Runs are stored in pieces of about so many bytes: what a spool frees at a time, and a subscriber takes."""
        self.changed = threading.Condition(lock)
        """Notified when more is on disk, there is room again, or writing failed."""
        self.drops_oldest = drops_oldest
        self._lease_s = lease_s
        self._on_synced = on_synced
        self._cache: OrderedDict[int, Record] = OrderedDict()
        self._cache_bytes = 0
        self._wanted: dict[str, bool] = {}
        self._ephemeral: dict[str, tuple[str, ...]] = {}
        self._damages_told = 0
        self._searched_s = 0.0
        """Since it was found that the spool has lost who is owed what."""
        self._prefixes: dict[str, tuple[str, ...]] = {}
        self._away_s: dict[str, float] = {}
        self._tell_damages()
        self._tell_what_was_lost()
        for name, consumer in self.spool.consumers().items():
            self._prefixes[name] = tuple(consumer.prefixes)
            self._away_s[name] = consumer.last_seen
        for name, prefixes in subscribers.items():
            if name not in self._prefixes:
                self._owe(name, tuple(prefixes), self._first_owed())
        self._syncer = _Syncer(self, lock) if is_threaded else None
        if self._syncer is not None:
            self._syncer.start()

    # -- publishing ----------------------------------------------------------------------------------------------

    def wants(self, topic: str) -> bool:
        """Whether anybody is owed events on a topic."""
        wanted = self._wanted.get(topic)
        if wanted is None:
            wanted = any(
                topic.startswith(prefixes) for prefixes in (*self._prefixes.values(), *self._ephemeral.values())
            )
            if len(self._wanted) > _MAX_CACHED_TOPICS:
                self._wanted.clear()
            self._wanted[topic] = wanted
        return wanted

    def append(self, run: EncodedRun) -> None:
        """Take one run; `sync` follows soon, on the thread of this stream.

        Raises:
            StoreError: `spool_full` (it waits for its subscribers), `disk_full`, `write_failed`, …: nothing was taken.
        """
        try:
            first = self._append(run)
        except StoreError as error:
            is_full = error.code == "spool_full"
            self.is_full = is_full and not self.drops_oldest  # whom the policy does not let wait must not wait
            if not is_full:
                self._fail(error)
            raise
        self.is_full = False
        record = Record(first, run.count, run.topic, run.data)
        self._cache[first] = record
        self._cache_bytes += len(run.data)
        while self._cache_bytes > _CACHE_BYTES and len(self._cache) > 1:
            _, oldest = self._cache.popitem(last=False)
            self._cache_bytes -= len(oldest.data)
        if self._syncer is not None:
            self._syncer.wake()

    def _append(self, run: EncodedRun) -> int:
        try:
            return self.spool.append(run.count, run.topic, run.data)
        except StoreError as error:
            if error.code != "spool_full":
                raise
        self.spool.trim()
        try:
            return self.spool.append(run.count, run.topic, run.data)
        except StoreError as error:
            if error.code != "spool_full" or not self.drops_oldest:
                raise
        holes = self.spool.drop_oldest(len(run.data) + 1)
        lost = sum(hole.count for hole in holes)
        oldest = max((hole.first_sequence + hole.count for hole in holes), default=0)
        while self._cache and next(iter(self._cache)) < oldest:
            _, record = self._cache.popitem(last=False)
            self._cache_bytes -= len(record.data)
        _log.error("the spool is full: its %d oldest events are dropped, though they are owed", lost)
        return self.spool.append(run.count, run.topic, run.data)

    def _fail(self, error: StoreError) -> None:
        if self.failure is None or self.failure.code != error.code:
            _log.error("the spool cannot be written: %s", error)
        self.failure = error
        self.changed.notify_all()

    def sync(self) -> None:
        """Put what was appended on disk. Without the node's lock.

        Raises:
            StoreError: As `Spool.sync`.
        """
        self.spool.sync()

    def synced(self) -> None:
        """More is on disk: send it, and tell those who wait. Under the node's lock."""
        self.failure = None
        self._on_synced()
        self.changed.notify_all()

    def has_room(self) -> bool:
        """Whether publishers need not wait."""
        return not self.is_full

    # -- subscribers ---------------------------------------------------------------------------------------------

    def begin(self, name: str, prefixes: tuple[str, ...], position: int | None, *, is_kept: bool) -> Place:
        """A subscriber is here and said where it is; from now on it is served.

        Args:
            name: The subscriber's.
            prefixes: What it wants.
            position: Its own word, or `None`.
            is_kept: Whether it wants to be owed what it misses.
        """
        known = self.spool.consumers().get(name)
        if position is not None and position > self.spool.next_sequence:
            # It has what we have not: our disk lost it. Its numbers must not be used again for other events.
            _log.error(
                "%s has events up to %d of our stream, which ends at %d", name, position, self.spool.next_sequence
            )
            self.spool.skip_to(position)
        start = position
        if start is None:
            start = known.position if known is not None else self._first_owed()
        # It is served from what it has received, and owed from what it settled: it may die with what lies between.
        settled = start if known is None else min(start, known.position)
        if is_kept:
            self._ephemeral.pop(name, None)
            self._away_s[name] = 0.0
            if prefixes:
                self._owe(name, prefixes, settled)
        else:
            self._ephemeral[name] = prefixes
        self._wanted.clear()
        place = Place(start, is_kept=is_kept, settled=settled)
        if known is not None:
            place.settled_before = known.position
        return place

    def resubscribed(self, name: str, prefixes: tuple[str, ...], place: Place) -> None:
        """A subscriber that is served wants other topics."""
        if not place.is_kept:
            self._ephemeral[name] = prefixes
            self._wanted.clear()
        elif prefixes and prefixes != self._prefixes.get(name):
            self._owe(name, prefixes, place.settled)
        place.ahead.clear()
        place.held = None
        place.ahead_until = place.position

    def gone(self, name: str) -> None:
        """A subscriber's connection is over."""
        if self._ephemeral.pop(name, None) is not None:
            self._wanted.clear()

    def _first_owed(self) -> int:
        """Where somebody begins of whom nothing is known: with the next event, unless who was known was lost."""
        return self.spool.oldest_sequence if self.spool.consumers_lost else self.spool.next_sequence

    def _tell_damages(self) -> None:
        """Log what was found damaged since the last time; what is lost by it, subscribers hear as a gap."""
        damages = self.spool.damages()
        for damage in damages[self._damages_told :]:
            lost = f"{damage.count} events from number {damage.first_sequence} on" if damage.count else "no event"
            _log.error("%s: damaged at offset %d, %d bytes: %s lost", damage.file, damage.offset, damage.size, lost)
        self._damages_told = len(damages)

    def _tell_what_was_lost(self) -> None:
        if self.spool.consumers_lost:
            _log.error("the spool has lost who is owed what: everything is kept, and sent to whoever subscribes")

    def _owe(self, name: str, prefixes: tuple[str, ...], position: int) -> None:
        self._prefixes[name] = prefixes
        self._wanted.clear()
        try:
            self.spool.set_consumer(name, prefixes=prefixes, position=position, wall_now=self._away_s.get(name, 0.0))
        except StoreError as error:  # it holds in this process
            self._fail(error)

    def settle(self, name: str, place: Place) -> None:
        """A subscriber settled more: it will not be owed that any more."""
        if place.is_kept and name in self._prefixes:
            self.spool.acknowledge(name, place.settled)
            if self.is_full:
                self._trim()

    def housekeeping(self, seconds: float, present: Sequence[str]) -> None:
        """Some time has passed: end leases, free what nobody is owed. Under the node's lock, now and then."""
        for name in [name for name in self._prefixes if name not in present]:
            self._away_s[name] = self._away_s.get(name, 0.0) + seconds
            if self._away_s[name] > self._lease_s:
                _log.warning("%s has been away for %g s: durable events are kept for it no longer", name, self._lease_s)
                self._prefixes.pop(name)
                self._away_s.pop(name)
                self._wanted.clear()
                self.spool.forget_consumer(name)
        if self.spool.consumers_lost:
            self._searched_s += seconds
            if self._searched_s > self._lease_s:  # whoever has not come back by now is owed nothing any more
                try:
                    self.spool.consumers_complete()
                except StoreError as error:
                    self._fail(error)
        self._trim()

    def _trim(self) -> None:
        try:
            if self.spool.trim() and self.is_full:
                self.is_full = False
                self.changed.notify_all()
        except StoreError as error:
            self._fail(error)

    # -- what comes next -----------------------------------------------------------------------------------------

    def next_chunk(self, place: Place, prefixes: tuple[str, ...]) -> Chunk | None:
        """What a subscriber gets next; `None` when it has everything that is on disk."""
        if place.position >= self.spool.synced_sequence:
            return None
        if not place.ahead:
            chunk = self._from_cache(place.position, prefixes)
            if chunk is not None:
                return chunk
            items, place.ahead_until = self.spool.read(place.position, prefixes=prefixes, max_bytes=_READ_BYTES)
            place.ahead.extend(items)
            if any(isinstance(item, Hole) for item in items):
                self._tell_damages()
        if not place.ahead:
            return Chunk(place.ahead_until, place.ahead_until) if place.ahead_until > place.position else None
        item = place.ahead.popleft()
        if isinstance(item, Hole):
            if item.reason == "trimmed" and item.first_sequence + item.count <= place.settled_before:
                # It said that it has them, or did not want them, and now asks for them again: no news of a loss.
                return Chunk(item.first_sequence + item.count, item.first_sequence + item.count)
            return Chunk(item.first_sequence, item.first_sequence + item.count, hole=item)
        run = EncodedRun(topic=item.topic, count=item.count, data=item.data)
        return Chunk(item.first_sequence, item.first_sequence + item.count, (run,))

    def _from_cache(self, position: int, prefixes: tuple[str, ...]) -> Chunk | None:
        """Records that follow each other, as many as share a frame; or the step to where the next one is."""
        synced = self.spool.synced_sequence
        runs: list[EncodedRun] = []
        first, at, size = -1, position, 0
        while (record := self._cache.get(at)) is not None and at + record.count <= synced:
            if record.topic.startswith(prefixes):
                size += len(record.data)
                if runs and size > _CHUNK_BYTES:
                    break
                first = at if not runs else first
                runs.append(EncodedRun(topic=record.topic, count=record.count, data=record.data))
            elif runs:
                break
            at += record.count
        if runs:
            return Chunk(first, at, runs)
        return Chunk(at, at) if at > position else None

    def close(self) -> None:
        """Put everything on disk and let go of the spool."""
        if self._syncer is not None:
            self._syncer.signal_stop()
            self._syncer.wait_stop(10.0)
        try:
            self.spool.close()
        except StoreError as error:
            _log.error("the spool was not closed in order: %s", error)


class _Syncer(Thread):
    """Calls `sync` when something was appended, again and again while there is more."""

    def __init__(self, stream: DurableStream, lock: threading.RLock) -> None:
        super().__init__("spool")
        self._stream = stream
        self._lock = lock
        self._work = threading.Event()

    def wake(self) -> None:
        """Something was appended. Any thread."""
        self._work.set()

    def signal_stop(self) -> None:
        """End after what was appended so far."""
        super().signal_stop()
        self._work.set()

    def run(self) -> None:
        """Sync until told to stop."""
        while not self.stopping:
            self._work.wait()
            self._work.clear()
            self.beat()
            try:
                self._stream.sync()
            except StoreError as error:
                with self._lock:
                    self._stream._fail(error)  # noqa: SLF001 - the other half of one class
                if not self.stopping:
                    self._work.set()
                    self.wait_for_stop_signal(1.0)
            except RapiniError:
                return  # closed
            else:
                with self._lock:
                    self._stream.synced()
