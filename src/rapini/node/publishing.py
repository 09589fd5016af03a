"""The part of a node's public face that publishes, and waits for what was published.

`Node` is this, `requests`, and the rest. Any thread.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

from rapini.errors import (
    LocalError,
)
from rapini.events import Event
from rapini.node.dispatcher import Dispatcher
from rapini.node.inbox import Inbox
from rapini.node.requests import Requests
from rapini.node.sessions import Session
from rapini.node.status import PublishOutcome
from rapini.node.streams import Checkpoint

__all__ = ["Publishing"]


class Publishing(Requests):
    """What `Node` inherits; see there."""

    inbox: Inbox
    _checkpoint: Checkpoint | None
    _uncommitted: dict[bytes, int]
    _dispatcher: Dispatcher | None

    def _check_alive(self) -> None:
        raise NotImplementedError

    def publish(self, event: Event, topic: str | None = None) -> PublishOutcome:
        """Send an event to every peer that subscribed to its topic.

        It is on its way when the call returns, or waits for company for at most `max_batch_delay_s`. What cannot be
        delivered is counted by peer, topic and cause (`counters`), and comes to that subscriber as a `Gap`. What
        happens when a subscriber's queue is full is up to the event's delivery class and its policy (`overflow`,
        `reliable_overflow`): by default best-effort events are dropped for that subscriber alone, and for reliable
        ones the call waits.

        Args:
            event: Must not be changed afterwards (events are immutable; so should be the lists and dicts in them).
            topic: Where it goes, instead of its class's topic.

        Raises:
            LocalError: `closed`, `no_topic` or `not_an_event`.
            EventError: `bad_topic`; in development mode `wrong_type`, with the field.

        Thread: any.
        """
        return self._core.publisher.publish(event, topic)

    def publish_durable(self, event: Event, topic: str | None = None, *, timeout_s: float = 10.0) -> PublishOutcome:
        """Publish an event of a durable topic, and wait until it is on disk.

        Many threads that call this share fsyncs (group commit); one that calls it again and again waits for each.

        Returns:
            `ON_DISK`: it survives whatever happens to this process; or `UNROUTED`: nobody is owed events on its topic.

        Raises:
            LocalError: As `publish`; `not_durable`: its topic is of another class.
            StoreError: `spool_full`: it was not published. `disk_full`, `write_failed`, `sync_failed`: it is not on
                disk. It is kept in memory where there is room, and written and delivered once the disk takes it; who
                publishes it again may have it delivered twice.
            PeerTimeoutError: `sync_timeout`: not on disk yet; it may still be.

        Thread: any.
        """
        with self._lock:
            self._check_alive()
            return self._core.publisher.publish_durable(event, topic, timeout_s)

    def checkpoint(self) -> None:
        """Commit how far the application has come in others' durable streams, together with its output.

        Covers every event that `events()` (or `items()`, or a callback) has yielded so far, the one in hand included:
        write its effect first. With a `SqliteCheckpoint` on a connection of yours, your own `commit()` afterwards
        commits both. After a restart, events begin after the last committed one: exactly once.

        Raises:
            LocalError: `no_checkpoint`: the node was made without one.
            Whatever the checkpoint raises: nothing is committed, and the events will be sent again.

        Thread: the one that consumes.
        """
        if self._checkpoint is None:
            raise LocalError("no_checkpoint", "there is nowhere to commit to", remedy="Node(..., checkpoint=...)")
        self._tell_committed()
        positions = dict(self.inbox.progress)
        if self._dispatcher is not None:
            for stream_id, position in self._dispatcher.inbox.progress.items():
                positions[stream_id] = min(position, positions.get(stream_id, position))
        self._checkpoint.commit(positions)
        self._uncommitted = positions
        self._tell_committed()

    def _tell_committed(self) -> None:
        """Tell the publishers what is committed; a transaction of the application's own is for it to commit first."""
        connection = getattr(self._checkpoint, "connection", None)
        if self._uncommitted and not (connection is not None and connection.in_transaction):
            positions, self._uncommitted = self._uncommitted, {}
            with self._lock:
                self._core.peers.durables.commit(positions, time.monotonic())

    def try_publish(self, event: Event, topic: str | None = None) -> PublishOutcome:
        """Publish an event only if that means neither waiting nor dropping anything; never blocks.

        Returns:
            `PublishOutcome.FULL` if a subscriber's queue is full: nothing was taken, and the event is yours to try
            again or to drop.

        Raises: as `publish`. Thread: any.
        """
        return self._core.publisher.try_publish(event, topic)

    def publish_many(self, events: Sequence[Event], topic: str | None = None) -> None:
        """Publish several events in order; see `publish`."""
        self._core.publisher.publish_many(events, topic)

    def flush(self, timeout_s: float = 5.0) -> bool:
        """Send what waits and wait until everything published so far was taken by the peers that it is owed to.

        Best-effort events are owed to those that are connected, reliable ones also to those that are lost and may
        return within their lease.

        Returns:
            False if that took longer than `timeout_s` seconds.
        """
        return self._flush(timeout_s, also_lost=True)

    def _flush(self, timeout_s: float, *, also_lost: bool) -> bool:
        deadline = time.monotonic() + timeout_s
        with self._lock:
            self._check_alive()
            publisher = self._core.publisher
            publisher.flush(time.monotonic(), may_block=True, deadline=deadline)
            while any(_is_owed(session, also_lost) for session in self._core.peers.sessions.values()):
                left = deadline - time.monotonic()
                if left <= 0:
                    return False
                publisher.room.wait(left)
            if not self._await_durable(deadline):
                return False
            self._check_alive()
            return True

    def _await_durable(self, deadline: float) -> bool:
        """Wait until durable events are on disk, and taken by the connected peers that they are owed to."""
        durable = self._core.durable
        while durable is not None:
            behind = durable.spool.synced_sequence < durable.spool.next_sequence
            places = [s.place for s in self._core.peers.sessions.values() if s.place is not None]
            end = durable.spool.next_sequence
            if not behind and all(place.is_idle and place.position >= end for place in places):
                return True
            left = deadline - time.monotonic()
            if left <= 0:
                return False
            (durable.changed if behind else self._core.publisher.room).wait(min(left, 0.1))
        return True


def _is_owed(session: Session, also_lost: bool) -> bool:
    """Whether a peer has not taken everything that it is owed."""
    if session.record is not None:
        return not session.outbox.is_idle
    return also_lost and not session.is_departed and not session.outbox.reliable.is_idle
