"""One node's durable stream on disk, and who is owed what of it.

The top of `storage`; the node is its only caller. A spool is a folder:

    lock                     held (flock) while the spool is open
    state.a, state.b         stream id, consumers and bounds, twice (`state`)
    <first>-<serial>.segment records (`records`, `segments`), written by group commit (`log`), read by `reading`

The stream id is made with the folder and kept for ever; sequence numbers only go up. An event that `sync` acknowledged
is read again after any crash until it is trimmed. At a crash, what was appended and not synced may be there or not,
each whole or not at all.

**What is damage.** After a crash the end of the newest segment may be torn: bytes that are no record, and nothing good
after them. Such a tail was never synced, so it is cut off and counted (`torn_bytes`). Bad bytes anywhere else, a file
that is missing, and numbers missing below what the state says was durable are damage: told once by `damages()` with
file and offset, and as a hole to every reader. (That leaves one case undecided: bytes of the last synced run that go
bad, and a crash before the state is saved again. It looks like a torn tail; a consumer that knows a later number
uncovers it, see `skip_to`.)

No clock is read here, and nothing depends on one.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec

from rapini.errors import ConfigError, LocalError, StoreError
from rapini.storage.files import REAL, FileSystem, store_error
from rapini.storage.finding import find_spool
from rapini.storage.log import FsyncPolicy, SegmentLog
from rapini.storage.reading import Damage, Damages, Hole, Record, RecordReader
from rapini.storage.segments import Segment
from rapini.storage.state import ConsumerState, State, save_state

__all__ = ["SEGMENT_BYTES", "Spool"]

SEGMENT_BYTES: Final = 16 * 1024 * 1024
"""Default size at which the next segment is begun: what `trim` and `drop_oldest` free at a time, and what `open`
reads."""

_LEAST_MAX_BYTES: Final = 4096
_PLACES: Final = 4  # a spool has at least so many segments when it is full, so that dropping one is not dropping all


class Spool:
    """A durable stream of events on disk. Made by `open`. Thread: any, all methods.

    What fails on the disk raises `StoreError`; what is asked of a closed spool raises `LocalError("closed")`.
    """

    def __init__(
        self, *, files: FileSystem, folder: Path, lock: int, state: State, log: SegmentLog, damages: Damages, torn: int
    ) -> None:
        self.torn_bytes = torn
        """Bytes cut off when the spool was opened, which had never been synced."""
        self._files = files
        self._folder = folder
        self._lock: int | None = lock
        self._state = state
        self._log = log
        self._damages = damages
        self._reader = RecordReader(files, state.marker, log.place_of, self._damaged)
        self._acknowledged = False  # since the state was saved

    @classmethod
    def open(
        cls,
        folder: Path,
        *,
        max_bytes: int,
        segment_bytes: int = SEGMENT_BYTES,
        fsync: FsyncPolicy = "group",
        files: FileSystem = REAL,
        entropy: bytes | None = None,
    ) -> Spool:
        """Open a spool, or make one. Reads its newest segment; the others are checked when they are read.

        Args:
            folder: Where it is. If it is to be made it must be empty or missing.
            max_bytes: Bound on records on disk and in memory; 4096 or more. The state (about 100 bytes a consumer)
                comes on top.
            segment_bytes: A file of so many bytes is not written to any more; at most a quarter of `max_bytes` counts.
            fsync: `group`: `sync` writes and fsyncs, sharing fsyncs between threads. `always`: every `append` does,
                too. `never`: `sync` only writes, so what was acknowledged survives SIGKILL and not a power cut.
            files: The file system.
            entropy: 24 random bytes for a new spool's id and marker; the operating system's by default.

        Raises:
            ConfigError: `bad_option`; `not_a_spool`: there is something else in the folder.
            StoreError: `spool_in_use`; `damaged`: not even the stream id is left; `format_unknown`; `disk_full`,
                `unreadable`, `write_failed`, `sync_failed`.
        """
        if max_bytes < _LEAST_MAX_BYTES or segment_bytes <= 0 or fsync not in {"group", "always", "never"}:
            text = f"max_bytes {max_bytes}, segment_bytes {segment_bytes}, fsync {fsync!r}"
            raise ConfigError("bad_option", text, where=str(folder), remedy=f"max_bytes is {_LEAST_MAX_BYTES} or more")
        found = find_spool(files, folder, entropy)
        state = found.state
        log = SegmentLog(
            files=files,
            folder=folder,
            index=found.index,
            stream_id=state.stream_id,
            marker=state.marker,
            next_sequence=state.next_sequence,
            max_bytes=max_bytes,
            segment_bytes=min(segment_bytes, max_bytes // _PLACES),
            fsync=fsync,
        )
        return cls(
            files=files,
            folder=folder,
            lock=found.lock,
            state=state,
            log=log,
            damages=found.damages,
            torn=found.torn_bytes,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    # --- The stream ----------------------------------------------------------------------------------------------

    @property
    def stream_id(self) -> bytes:
        """16 random bytes, made with the spool."""
        return self._state.stream_id

    @property
    def next_sequence(self) -> int:
        """The number that the next event will have."""
        return self._log.next_sequence

    @property
    def synced_sequence(self) -> int:
        """The number after the last event that is durable."""
        return self._log.synced_sequence

    @property
    def oldest_sequence(self) -> int:
        """The number of the oldest event that was not trimmed."""
        with self._log.changed:
            return self._oldest()

    @property
    def size_bytes(self) -> int:
        """Bytes of all records, on disk and waiting for it."""
        return self._log.size_bytes

    @property
    def syncs(self) -> int:
        """How often something was written: events per sync tell how well the group commit groups."""
        return self._log.syncs

    def append(self, count: int, topic: str, data: bytes) -> int:
        """Append a run of events; it waits in memory for a `sync`, which this does itself only at 8 MiB waiting.

        Args:
            count: How many events they are, 1 or more.
            topic: Of all of them; at most `MAX_TOPIC_BYTES`.
            data: The encoded events, at most `MAX_FRAME_BYTES`.

        Returns:
            The sequence number of the first.

        Raises:
            LocalError: `not_storable`.
            StoreError: `spool_full`, or what `sync` raises. The run is not taken then, not even in part.
        """
        return self._log.append(count, topic, data)

    def sync(self) -> int:
        """Make durable what was appended so far, by any thread.

        Threads that sync at the same time share an fsync: one does it for all that wait.

        Returns:
            The number after the last durable event.

        Raises:
            StoreError: `disk_full`, `write_failed`, `sync_failed`. What was appended is not durable then. It is kept,
                and the next `sync` tries again; after a failed fsync in a new file.
        """
        return self._log.sync()

    def read(
        self, from_sequence: int, *, prefixes: tuple[str, ...] = ("",), max_bytes: int
    ) -> tuple[list[Record | Hole], int]:
        """Read durable events in order.

        Args:
            from_sequence: Where to begin: 0, or what the last `read` returned, or the number after an acknowledged
                event. A run that it falls into is given whole.
            prefixes: Only runs whose topic begins with one of these.
            max_bytes: Bound on the data of all runs; the first is given whatever its size.

        Returns:
            Runs, and holes where events are gone, in order; and the number to go on from, past what did not match. A
            call looks at a bounded stretch: it may find nothing and yet have come further. All was read when the number
            is the `synced_sequence`.

        Raises:
            StoreError: `unreadable`: a segment cannot be opened. (Bad bytes are holes.)
        """
        return self._reader.read(from_sequence, prefixes, max_bytes)

    def skip_to(self, sequence: int) -> None:
        """Use no number below `sequence`: a consumer proved that they were used, so what they stood for was lost here.

        Readers get a `damaged` hole for them. Does nothing if `next_sequence` is as high.

        Raises:
            LocalError: `not_storable`: more than 2^40 numbers at once.
            StoreError: As `sync`.
        """
        if self._log.skip_to(sequence):
            self._log.sync()
            with self._log.alone():
                self._save()

    # --- Consumers -----------------------------------------------------------------------------------------------

    def consumers(self) -> dict[str, ConsumerState]:
        """Who is owed events, by name; positions as acknowledged, saved or not."""
        with self._log.changed:
            return dict(self._state.consumers)

    @property
    def consumers_lost(self) -> bool:
        """Whether both copies of the state were lost: `trim` keeps everything until `consumers_complete` is called."""
        return self._state.consumers_lost

    def set_consumer(self, name: str, *, prefixes: Sequence[str], position: int, wall_now: float) -> None:
        """Owe events to a subscriber from now on, or change what it is owed; durable when this returns.

        Args:
            name: The subscriber's.
            prefixes: The topics.
            position: The first event that it is owed; at most `next_sequence`.
            wall_now: The time, for `ConsumerState.last_seen`.

        Raises:
            LocalError: `position_ahead`.
            StoreError: It could not be saved; it holds in this process.
        """
        with self._log.alone():
            with self._log.changed:
                if not 0 <= position <= self._log.next_sequence:
                    text = f"position {position} of {name!r}, and the next event is {self._log.next_sequence}"
                    raise LocalError("position_ahead", text)
                self._state.consumers[name] = ConsumerState(
                    position=position, prefixes=tuple(prefixes), last_seen=wall_now
                )
            self._save()

    def forget_consumer(self, name: str) -> None:
        """Owe a subscriber nothing any more; nothing happens if it is unknown."""
        with self._log.alone():
            with self._log.changed:
                if self._state.consumers.pop(name, None) is None:
                    return
            self._save()

    def acknowledge(self, name: str, position: int) -> None:
        """A subscriber has everything before `position`. Only noted; `trim`, `set_consumer` and `close` save it.

        A position lower than the noted one is ignored, one above the durable events counts as those.

        Raises:
            LocalError: `unknown_consumer`.
        """
        with self._log.changed:
            known = self._state.consumers.get(name)
            if known is None:
                raise LocalError("unknown_consumer", f"nobody is owed events by the name {name!r}")
            position = min(position, self._log.synced_sequence)
            if position > known.position:
                self._state.consumers[name] = msgspec.structs.replace(known, position=position)
                self._acknowledged = True

    def consumers_complete(self) -> None:
        """Say that all consumers are known again after `consumers_lost`."""
        with self._log.alone():
            self._state.consumers_lost = False
            self._save()

    # --- Space ---------------------------------------------------------------------------------------------------

    def trim(self) -> int:
        """Save what was acknowledged, and remove the segments that nobody is owed any more.

        Without consumers nothing durable is kept, but for up to an eighth of a segment.

        Returns:
            Bytes freed.
        """
        with self._log.alone():
            with self._log.changed:
                removable = [] if self._state.consumers_lost else self._settled()
            if removable:
                return sum(hole_bytes for _, hole_bytes in self._remove(removable))
            if self._acknowledged:
                self._save(copies=1)  # at worst what was acknowledged since the last one is delivered again
            return 0

    def drop_oldest(self, bytes_wanted: int) -> list[Hole]:
        """Remove the oldest segments though they are owed to somebody, until `bytes_wanted` are free or none is left.

        Returns:
            What is gone, oldest first, damaged parts included; readers meet the same as `trimmed` holes.
        """
        with self._log.alone():
            with self._log.changed:
                removable, size = [], 0
                for segment in self._log.index.all():
                    if size >= bytes_wanted:
                        break
                    removable.append(segment)
                    size += segment.size
            return [hole for hole, _ in self._remove(removable)]

    def damages(self) -> list[Damage]:
        """Damages met so far: when opening, and by readers. See `check`."""
        with self._log.changed:
            return self._damages.all()

    def check(self) -> list[Damage]:
        """Read everything, and return all damages."""
        position: int | None = 0
        while position is not None:
            position = self._reader.check(position)
        return self.damages()

    def close(self) -> None:
        """Sync, save the state, and let go of the folder; again is harmless.

        Raises:
            StoreError: The last sync or save failed; the spool is closed nevertheless.
        """
        if self._lock is None:
            return
        try:
            self._log.sync()
            with self._log.alone():
                self._save()
        finally:
            lock, self._lock = self._lock, None
            self._log.close()
            if lock is not None:
                self._files.close(lock)

    # --- Inside --------------------------------------------------------------------------------------------------

    def _damaged(self, damage: Damage) -> None:
        with self._log.changed:
            self._damages.add(damage)

    def _oldest(self) -> int:
        return self._log.index.oldest.first if self._log.index else self._log.synced_sequence

    def _settled(self) -> list[Segment]:
        """Segments that nobody is owed. Under the lock."""
        synced = self._log.synced_sequence
        owed_from = min((consumer.position for consumer in self._state.consumers.values()), default=synced)
        settled = []
        for segment in self._log.index.all():
            end = self._log.index.end_of(segment)
            if (synced if end is None else end) > owed_from:
                break
            if end is None and segment.size < self._log.segment_bytes // 8:
                break  # not worth beginning another one
            settled.append(segment)
        return settled

    def _save(self, oldest: int | None = None, *, copies: int = 2) -> None:
        """Save the state. While alone.

        Args:
            oldest: Where the stream will begin when those before it are removed.
            copies: See `save_state`.
        """
        with self._log.changed:
            self._state.oldest = self._oldest() if oldest is None else oldest
            self._state.next_sequence = self._log.synced_sequence
            self._state.generation += 1
            self._acknowledged = False
            saved = msgspec.structs.replace(self._state, consumers=dict(self._state.consumers))
        try:
            save_state(self._files, self._folder, saved, copies=copies)
        except OSError as error:
            self._acknowledged = True
            raise store_error(error, "write_failed", "saving the spool's state", self._folder) from error

    def _remove(self, segments: list[Segment]) -> list[tuple[Hole, int]]:
        """Remove the oldest segments; what is gone, with the bytes of each. While alone.

        The state goes first: it says where the stream begins, how far it had come, and what was acknowledged, so that a
        crash in between leaves neither a damage that is none nor events owed again that are no more.
        """
        if not segments:
            return []
        removed = []
        with self._log.changed:
            oldest = self._oldest()
            for segment in segments:
                end = self._log.index.end_of(segment)
                if end is None:  # the newest: the next run begins another one
                    self._log.seal()
                    end = self._log.synced_sequence
                removed.append((Hole(segment.first, end - segment.first, "trimmed"), segment.size))
                oldest = end
        try:
            self._save(oldest)
        except StoreError as failure:
            if failure.code != "disk_full" or len(self._log.index) == 1:
                raise
            # A full disk is why somebody drops the oldest. Without its first segment the rest is a whole spool as well.
            self._log.remove(segments.pop(0))
            self._log.sync_folder()
            self._save(oldest)
        for segment in segments:
            self._log.remove(segment)
        self._log.sync_folder()
        return removed
