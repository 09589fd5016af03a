"""The 0MQ transport: a node's context, its listeners and dialled connections, and whose turn it is.

Where it sits: the face of `zmq_listener` and `zmq_dialled` towards the node.

0MQ's descriptors (ZMQ_FD) are edge-triggered in spirit: they become readable when something *changes* inside the
socket, and any call on the socket may swallow that, a `send()` from a user's thread included. So a socket is read until
it is empty or its turn is over (`has_more`), and after each send its state is looked at: if there is something to read
now, the I/O thread is woken (architecture 5a, rule 8). No message waits for the next one.

Source: architecture.md section 5a; zmq_getsockopt(3), ZMQ_FD.
"""

from __future__ import annotations

import selectors
import time
from collections.abc import Callable
from typing import TypeAlias

import zmq

from rapini.errors import TransportError
from rapini.transport.base import (
    Address,
    Connection,
    Counters,
    Options,
    Registration,
    TransportOutcome,
    Wake,
)
from rapini.transport.endpoint import Endpoint
from rapini.transport.zmq_context import EVENTS, POLLIN, new_context
from rapini.transport.zmq_dialled import ZmqDialled
from rapini.transport.zmq_listener import ZmqListener

__all__ = ["ZmqTransport"]

Source: TypeAlias = ZmqListener | ZmqDialled


class ZmqTransport:
    """Connections over 0MQ: ROUTER where we listen, one DEALER for each that we dial. See `base.Transport`.

    Args:
        poller: The node's selector.
        wake: Makes the node's I/O thread return from it.
        options: Bounds and deadlines.
        clock: Monotonic seconds.
    """

    def __init__(
        self,
        poller: selectors.BaseSelector,
        wake: Wake,
        options: Options | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.options = options or Options()
        self.clock = clock
        self.context = new_context()
        self.counters = Counters()
        self.pending: list[TransportOutcome] = []
        self._poller = poller
        self._wake = wake
        self._is_awake = False  # inside outcomes(), or woken already
        self._listeners: dict[str, ZmqListener] = {}
        self._sources: dict[Source, None] = {}
        self._dirty: dict[Source, None] = {}
        self._unsettled: dict[Source, None] = {}
        self._timers: dict[Source, float] = {}

    # --- the node's side ---------------------------------------------------------------------------------------------

    def listen(self, endpoint: Endpoint) -> Endpoint:
        """See `base.Transport.listen`."""
        listener = ZmqListener(self, endpoint)
        self._listeners[listener.url] = listener
        return listener.endpoint

    def unlisten(self, endpoint: Endpoint) -> None:
        """See `base.Transport.unlisten`; connections that can be kept nowhere else end as `unlistened`."""
        listener = self._listeners.pop(str(endpoint), None)
        if listener is not None:
            listener.close(self.pending)
            self.wake_up()

    def dial(self, endpoint: Endpoint, address: Address) -> Connection:
        """See `base.Transport.dial`."""
        if endpoint.port == 0 or endpoint.is_wildcard:
            raise TransportError("bad_address", f"nobody can dial {endpoint}")
        try:
            return ZmqDialled(self, endpoint, address)
        except zmq.ZMQError as error:
            raise TransportError("dial_failed", f"cannot dial {endpoint}: {error.strerror}") from error

    def on_ready(self, key: selectors.SelectorKey, mask: int) -> None:
        """See `base.Transport.on_ready`. A source that ended since `select()` is known no more, and left alone."""
        target = key.data.target
        if target in self._sources:
            target.note_ready(key.fd)
            self._dirty[target] = None

    def outcomes(self) -> list[TransportOutcome]:
        """See `base.Transport.outcomes`."""
        now = self.clock()
        self._is_awake = True
        out, self.pending = self.pending, []
        if self._timers:
            for source in [s for s, timer in self._timers.items() if timer <= now]:
                self._dirty[source] = None
        dirty, self._dirty = self._dirty, {}
        for source in dirty:
            if source in self._sources and source.work(now, out):
                self._dirty[source] = None
        self._is_awake = False
        return out

    @property
    def has_more(self) -> bool:
        """See `base.Transport.has_more`. Sources that read one message and did not look for another do so now."""
        while self._unsettled:
            source, _ = self._unsettled.popitem()
            if source in self._sources and not source.is_settled():
                self._dirty[source] = None
        return bool(self._dirty or self.pending)

    def next_timer(self) -> float | None:
        """See `base.Transport.next_timer`."""
        return min(self._timers.values()) if self._timers else None

    def close(self) -> None:
        """See `base.Transport.close`."""
        for source in list(self._sources):
            if isinstance(source, ZmqListener):
                source.close()
            else:
                source.release()
        self._listeners.clear()
        self.pending.clear()
        self.context.term()

    # --- the sources' side -------------------------------------------------------------------------------------------

    def watch(self, source: Source, *fds: int) -> None:
        """Have the node wait for a new source; it gets its first turn at once, edges may have passed."""
        for fd in fds:
            self._poller.register(fd, selectors.EVENT_READ, Registration(self, source))
        self._sources[source] = None
        self._needs_turn(source)

    def unwatch(self, source: Source, *fds: int) -> None:
        """Forget a source, before its sockets are closed."""
        if source in self._sources:
            for fd in fds:
                self._poller.unregister(fd)
            del self._sources[source]
        self._dirty.pop(source, None)
        self._timers.pop(source, None)

    def set_timer(self, source: Source, when: float | None) -> None:
        """When a source must have its next turn; wakes the I/O thread if that is sooner than it knows."""
        if when is None or source not in self._sources:
            self._timers.pop(source, None)
            return
        earliest = self.next_timer()
        self._timers[source] = when
        if earliest is None or when < earliest:
            self.wake_up()

    def after_send(self, source: Source, socket: zmq.Socket[bytes], events: int = POLLIN) -> None:
        """A send may have swallowed the edge: if there is something to read, see that it is read."""
        if source not in self._dirty and int(socket.getsockopt(EVENTS)) & events:
            self._needs_turn(source)

    def settle_later(self, source: Source) -> None:
        """A source has read what is probably all: it will be asked when its owner has acted on that (`has_more`)."""
        self._unsettled[source] = None

    def wake_up(self) -> None:
        """Ask for `outcomes()` to be called soon. Its callers inside that call need not: they are in time."""
        if not self._is_awake:
            self._is_awake = True
            self._wake()

    def _needs_turn(self, source: Source) -> None:
        self._dirty[source] = None
        self.wake_up()
