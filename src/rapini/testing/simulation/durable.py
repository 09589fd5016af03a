"""A simulated node's disk, its durable stream on it, and the database of a receiver that commits what it took.

The stream is the real `DurableStream` over the real `Spool`, on a `CrashableDisk`. What is not there is its thread: the
simulation syncs, at seeded moments, some of them late, as a busy disk would be. The power may fail at any operation of
the disk: it never returns then (`PowerCut`), and what the disk had at that moment is what the next start finds.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Final

from rapini.codec import EncodedRun
from rapini.errors import StoreError
from rapini.node.durable import DurableStream, Place
from rapini.storage import Spool
from rapini.testing.disk import CrashableDisk

if TYPE_CHECKING:
    from rapini.testing.simulation.process import Process

__all__ = ["Output", "Power", "PowerCut", "SimStream"]

_FOLDER: Final = Path("/spool")


class PowerCut(BaseException):
    """The power is gone in the middle of a call, which never returns. No `Exception`, so that nothing contains it."""


class Power:
    """The disk of one node, across its starts.

    Args:
        random: Chance, for what a power cut leaves.
    """

    def __init__(self, random: Random) -> None:
        self.disk = CrashableDisk()
        self._random = random
        self._left: CrashableDisk | None = None
        self._operations_left = 0
        self.cuts = 0

    def cut_in(self, operations: int) -> None:
        """Cut the power in the middle of the operation after so many."""
        self._operations_left = operations
        self.disk.on_operation = self._count

    def spare(self) -> None:
        """Do not cut it after all."""
        self.disk.on_operation = lambda _: None

    def _count(self, operation: str) -> None:
        if self._left is not None:
            raise PowerCut  # whatever still runs of the process writes nothing any more
        self._operations_left -= 1
        if self._operations_left <= 0:
            self._left = self.disk.crash(self._random)
            self.cuts += 1
            raise PowerCut

    @property
    def is_cut(self) -> bool:
        """Whether the power is gone."""
        return self._left is not None

    def ends(self, *, is_power_cut: bool) -> None:
        """The process has ended; what its disk has is found by the next."""
        if self._left is None:
            self._left = self.disk.crash(self._random) if is_power_cut else self.disk.kill()
        self.disk, self._left = self._left, None


class SimStream(DurableStream):
    """A durable stream that is synced by the simulation, and watched.

    Args:
        process: Whose it is.
        max_bytes: Bound of the spool.
        segment_bytes: Size of its files.
        drops_oldest, lease_s: As `DurableStream`.
        arguments: The rest of what that wants.
    """

    def __init__(
        self,
        process: Process,
        *,
        max_bytes: int,
        segment_bytes: int,
        drops_oldest: bool,
        lease_s: float,
        **arguments: object,
    ) -> None:
        self._process = process
        spool = Spool.open(
            _FOLDER,
            max_bytes=max_bytes,
            segment_bytes=segment_bytes,
            files=process.node.power.disk,
            entropy=process.random.randbytes(24),
        )
        process.witness.spool_opened(process, spool)
        super().__init__(
            _FOLDER,
            max_bytes=max_bytes,
            fsync="group",
            drops_oldest=drops_oldest,
            subscribers={},
            lease_s=lease_s,
            spool=spool,
            is_threaded=False,
            **arguments,  # type: ignore[arg-type]
        )

    def append(self, run: EncodedRun) -> None:
        """See `DurableStream.append`; a sync follows some time later."""
        super().append(run)
        self._process.witness.stored(self._process, self.spool, run)
        self._process.sync_soon()

    def _append(self, run: EncodedRun) -> int:
        positions = [consumer.position for consumer in self.spool.consumers().values()]
        first = super()._append(run)
        if positions and self.spool.oldest_sequence > min(positions):
            self._process.witness.dropped(self.spool)
        return first

    def sync(self) -> None:
        """See `DurableStream.sync`."""
        super().sync()
        self._process.witness.synced(self._process, self.spool)

    def wants(self, topic: str) -> bool:
        """See `DurableStream.wants`."""
        is_wanted = super().wants(topic)
        if not is_wanted:
            self._process.witness.not_wanted(self._process, self.spool, topic)
        return is_wanted

    def begin(self, name: str, prefixes: tuple[str, ...], position: int | None, *, is_kept: bool) -> Place:
        """See `DurableStream.begin`."""
        place = super().begin(name, prefixes, position, is_kept=is_kept)
        self._process.witness.owes(self._process, self.spool, name, prefixes, place.position)
        return place

    def resubscribed(self, name: str, prefixes: tuple[str, ...], place: Place) -> None:
        """See `DurableStream.resubscribed`."""
        super().resubscribed(name, prefixes, place)
        self._process.witness.owes(self._process, self.spool, name, prefixes, place.position)

    def housekeeping(self, seconds: float, present: object) -> None:
        """See `DurableStream.housekeeping`."""
        try:
            super().housekeeping(seconds, present)  # type: ignore[arg-type]
        finally:  # its power may be cut when the end of a lease is on the disk
            self._process.witness.owed(self._process, self.spool, set(self._prefixes))

    def sync_once(self) -> bool:
        """What the stream's own thread does once. False if the disk failed."""
        try:
            self.sync()
        except StoreError as error:
            self._fail(error)
            return False
        self.synced()
        return True


class Output:
    """A receiver's database: what it made of events, and its positions, always as they were committed together."""

    def __init__(self) -> None:
        self.committed: dict[bytes, list[int]] = {}
        """Stream id to the numbers of the events in the output, in their order."""
        self._positions: dict[bytes, int] = {}
        self._pending: list[tuple[bytes, int]] = []

    def write(self, stream_id: bytes, number: int) -> None:
        """Write what an event comes to; it is there for certain once `commit` came back."""
        self._pending.append((stream_id, number))

    @property
    def has_pending(self) -> bool:
        """Whether something waits for a commit."""
        return bool(self._pending)

    def crash(self) -> None:
        """The process is gone: what was not committed is rolled back."""
        self._pending.clear()

    def positions(self) -> dict[bytes, int]:
        """See `rapini.node.streams.Checkpoint`."""
        return dict(self._positions)

    def commit(self, positions: Mapping[bytes, int]) -> None:
        """See `rapini.node.streams.Checkpoint`."""
        for stream_id, number in self._pending:
            self.committed.setdefault(stream_id, []).append(number)
        self._pending.clear()
        for stream_id, position in positions.items():
            self._positions[stream_id] = max(position, self._positions.get(stream_id, 0))
