"""Where we are in other nodes' durable streams, and what of them is ours for good.

Positions belong to streams, not to sessions: a publisher that restarts goes on in the same stream, and so do we.
Without a checkpoint, what the application has taken is settled, which is *at least once*: after our own restart the
publisher goes on from what we acknowledged last. With a checkpoint, only what was committed together with the
application's output is settled, and our word on where to go on is what it holds: *exactly once*. Under the node's lock.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Final, Protocol

from rapini.session.stream import StreamIntake

__all__ = ["Checkpoint", "Streams"]

MAX_STREAMS: Final = 4096
"""Streams whose position is remembered in memory; a checkpoint remembers all."""


class Checkpoint(Protocol):
    """Positions that are committed together with an output; see `rapini.SqliteCheckpoint`, `rapini.FileCheckpoint`."""

    def positions(self) -> dict[bytes, int]:
        """Stream id to the first sequence number that is still to come."""

    def commit(self, positions: Mapping[bytes, int]) -> None:
        """Commit positions with the output so far."""


class Streams:
    """Our places in others' streams.

    Args:
        checkpoint: Where positions are committed; `None` without one.
    """

    def __init__(self, checkpoint: Checkpoint | None) -> None:
        self.has_checkpoint = checkpoint is not None
        self._intakes: OrderedDict[bytes, StreamIntake] = OrderedDict()
        if checkpoint is not None:
            for stream_id, position in checkpoint.positions().items():
                self._intakes[stream_id] = StreamIntake(stream_id, position)

    def position(self, stream_id: bytes) -> int | None:
        """Where we are in a stream, if we know."""
        intake = self._intakes.get(stream_id)
        return intake.position if intake is not None else None

    def intake(self, stream_id: bytes, position: int) -> StreamIntake:
        """Our place in a stream; where we do not know it, at `position`."""
        intake = self._intakes.get(stream_id)
        if intake is None:
            intake = self._intakes[stream_id] = StreamIntake(stream_id, position)
            if len(self._intakes) > MAX_STREAMS and not self.has_checkpoint:
                self._intakes.popitem(last=False)
        self._intakes.move_to_end(stream_id)
        return intake

    def take(self, stream_id: bytes, start: int, end: int) -> None:
        """The application took what lies between two positions."""
        intake = self._intakes.get(stream_id)
        if intake is not None:
            intake.take(start, end)
            intake.settle(0 if self.has_checkpoint else None)

    def settle(self, positions: Mapping[bytes, int]) -> None:
        """These were committed with the application's output."""
        for stream_id, position in positions.items():
            intake = self._intakes.get(stream_id)
            if intake is not None:
                intake.settle(position)
