"""Runs the application's callbacks, on a thread of its own: for events by topic, and for peer statuses."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection

from rapini.errors import LocalError
from rapini.events import Event
from rapini.node.counters import Counters
from rapini.node.inbox import EventRun, Inbox
from rapini.node.status import Gap, Origin, PeerStatus
from rapini.threads import Thread

__all__ = ["Dispatcher", "EventCallback", "StatusCallback"]

_log = logging.getLogger("rapini.node")

EventCallback = Callable[[Event, Origin], object]
StatusCallback = Callable[[PeerStatus], object]


class Dispatcher(Thread):
    """One consumer that hands what comes to callbacks, in order. A callback's exception is logged, never fatal."""

    def __init__(
        self, name: str, counters: Counters, on_status: StatusCallback | None, relays: Collection[str] = ()
    ) -> None:
        super().__init__(f"callbacks-{name}")
        self.inbox = Inbox(counters, name, relays)
        self._on_status = on_status
        self._callbacks: list[tuple[str, EventCallback]] = []

    def add(self, prefixes: tuple[str, ...], callback: EventCallback) -> None:
        """Call `callback` for events whose topic begins with one of these. Any thread, under the node's lock."""
        self._callbacks = [*self._callbacks, *((prefix, callback) for prefix in prefixes)]

    def run(self) -> None:
        """Hand out what comes until the end."""
        with contextlib.suppress(LocalError):  # the node has failed, which was logged and reported
            self._hand_out()

    def _hand_out(self) -> None:
        for item in self.inbox.items(None):
            self.beat()
            if isinstance(item, PeerStatus):
                self._status(item)
            elif isinstance(item, Gap):
                continue  # counted and logged where it arrived; `items()` and `events(with_status=True)` show it
            else:
                for run in item:
                    self._events(run)

    def _status(self, status: PeerStatus) -> None:
        if self._on_status is None:
            return
        try:
            self._on_status(status)
        except BaseException:  # noqa: BLE001 - the application's fault, SystemExit included, must not end the thread
            _log.exception("the status callback failed")

    def _events(self, run: EventRun) -> None:
        for prefix, callback in self._callbacks:
            if not run.origin.topic.startswith(prefix):
                continue
            for event, origin in self.inbox.events_of(run):
                try:
                    callback(event, origin)
                except BaseException:  # noqa: BLE001 - as above
                    _log.exception("a callback failed for an event on %s", run.origin.topic)
