"""The node for asyncio programs: the same node underneath, nothing of it twice.

Calls that wait run in a worker thread; publishing does not wait and is called directly (with ``overflow="block"`` use
`publish_async`).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rapini.errors import RequestError
from rapini.events import Event
from rapini.node.asker import Asked, RequestHandler
from rapini.node.counters import CountersSnapshot
from rapini.node.dispatcher import EventCallback
from rapini.node.node import Node
from rapini.node.status import Gap, Origin, PeerInfo, PeerStatus, PublishOutcome
from rapini.node.store import Store

__all__ = ["AsyncNode"]


class AsyncNode:
    """A `Node` for one event loop. Arguments are those of `Node`; use it as an async context manager.

    Raises:
        ConfigError: As `Node`.
    """

    def __init__(self, name: str, **arguments: Any) -> None:
        self.node = Node(name, **arguments)
        """The plain node."""
        self._given: Iterator[tuple[Event, Origin]] = iter(())
        """What is left of the batch that is being given to the consumer."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    def listen(self, url: str) -> str:
        """See `Node.listen`."""
        return self.node.listen(url)

    async def connect(self, url: str, *, wait_s: float = 10.0) -> str:
        """See `Node.connect`."""
        return await asyncio.to_thread(self.node.connect, url, wait_s=wait_s)

    async def reload_keys(self, *, denied: Sequence[str] | None = None) -> None:
        """See `Node.reload_keys`."""
        await asyncio.to_thread(lambda: self.node.reload_keys(denied=denied))

    async def subscribe(self, *prefixes: str, callback: EventCallback | None = None, timeout_s: float = 5.0) -> None:
        """See `Node.subscribe`; a callback runs on the node's callback thread, not in the event loop."""
        await asyncio.to_thread(lambda: self.node.subscribe(*prefixes, callback=callback, timeout_s=timeout_s))

    def publish(self, event: Event, topic: str | None = None) -> PublishOutcome:
        """See `Node.publish`. With a policy that waits for room, `publish_async` does not hold up the event loop."""
        return self.node.publish(event, topic)

    def try_publish(self, event: Event, topic: str | None = None) -> PublishOutcome:
        """See `Node.try_publish`."""
        return self.node.try_publish(event, topic)

    async def publish_async(self, event: Event, topic: str | None = None) -> PublishOutcome:
        """Publish from a worker thread: waits for room without holding up the event loop."""
        return await asyncio.to_thread(self.node.publish, event, topic)

    async def publish_durable(
        self, event: Event, topic: str | None = None, *, timeout_s: float = 10.0
    ) -> PublishOutcome:
        """See `Node.publish_durable`."""
        return await asyncio.to_thread(lambda: self.node.publish_durable(event, topic, timeout_s=timeout_s))

    def checkpoint(self) -> None:
        """See `Node.checkpoint`. It writes to the disk, in this thread: that of the database's connection."""
        self.node.checkpoint()

    def store(
        self,
        name: str,
        *,
        master: bool = False,
        path: str | Path | None = None,
        may_write: Callable[[str], bool] | None = None,
    ) -> Store:
        """See `Node.store`. A clone's writes wait for the master: call them by `asyncio.to_thread`."""
        return self.node.store(name, master=master, path=path, may_write=may_write)

    async def flush(self, timeout_s: float = 5.0) -> bool:
        """See `Node.flush`."""
        return await asyncio.to_thread(self.node.flush, timeout_s)

    async def request(
        self,
        event: Event,
        *,
        to: str | None = None,
        role: str | None = None,
        key: str | bytes | None = None,
        timeout_s: float = 5.0,
        topic: str | None = None,
    ) -> Event | None:
        """See `Node.request`. Cancelling it cancels the request, which the peer may act on all the same."""
        return await self.node.start(event, to, role, key, timeout_s, topic, wants_reply=True).wait_async()

    async def send(
        self,
        event: Event,
        *,
        to: str | None = None,
        role: str | None = None,
        key: str | bytes | None = None,
        timeout_s: float = 5.0,
        topic: str | None = None,
    ) -> str:
        """See `Node.send`."""
        asked = self.node.start(event, to, role, key, timeout_s, topic, wants_reply=False)
        await asked.wait_async()
        return asked.peer

    async def request_all(
        self, event: Event, *, role: str | None = None, timeout_s: float = 5.0, topic: str | None = None
    ) -> dict[str, Event | RequestError | None]:
        """See `Node.request_all`."""
        started = self.node.start_all(event, role, timeout_s, topic, wants_reply=True)
        return dict(zip(started, await _settled(started.values()), strict=True))

    async def send_all(
        self, event: Event, *, role: str | None = None, timeout_s: float = 5.0, topic: str | None = None
    ) -> dict[str, RequestError | None]:
        """See `Node.send_all`."""
        started = self.node.start_all(event, role, timeout_s, topic, wants_reply=False)
        ends = zip(started, await _settled(started.values()), strict=True)
        return {name: end if isinstance(end, RequestError) else None for name, end in ends}

    def serve(self, prefix: str, handler: RequestHandler) -> None:
        """See `Node.serve`; the handler runs on the node's threads, not in the event loop."""
        self.node.serve(prefix, handler)

    async def ready(
        self, *, roles: Mapping[str, int] | None = None, names: Sequence[str] = (), timeout_s: float = 30.0
    ) -> None:
        """See `Node.ready`."""
        await asyncio.to_thread(lambda: self.node.ready(roles=roles, names=names, timeout_s=timeout_s))

    async def wait_for(self, *names: str, timeout_s: float = 30.0) -> None:
        """See `Node.wait_for`."""
        await asyncio.to_thread(lambda: self.node.wait_for(*names, timeout_s=timeout_s))

    async def events(self) -> AsyncIterator[tuple[Event, Origin]]:
        """Received events with their origin, until `stop` or `close`. One consumer at a time."""
        async for item in self.items():
            if isinstance(item, tuple):
                yield item

    async def items(self) -> AsyncIterator[tuple[Event, Origin] | PeerStatus | Gap]:
        """Received events `Gap`s and `PeerStatus` reports, in order."""
        inbox = self.node.inbox
        loop = asyncio.get_running_loop()
        arrived = asyncio.Event()

        def wake() -> None:
            with contextlib.suppress(RuntimeError):  # the event loop is closed: nobody waits any more
                loop.call_soon_threadsafe(arrived.set)

        inbox.on_put = wake
        try:
            while True:
                for pair in self._given:  # also what a loop that was left has not taken
                    yield pair
                item = inbox.get(0)
                if item is None:
                    if inbox.is_ended:
                        return
                    await arrived.wait()
                    arrived.clear()
                elif isinstance(item, (PeerStatus, Gap)):
                    yield item
                else:
                    self._given = chain.from_iterable(map(inbox.events_of, item))
                    for pair in self._given:
                        yield pair
                    await asyncio.sleep(0)  # other tasks, and a cancellation, get their turn under load too
        finally:
            if inbox.on_put is wake:  # a loop that was left may end after the next one has begun
                inbox.on_put = None

    def peers(self) -> list[PeerInfo]:
        """See `Node.peers`."""
        return self.node.peers()

    def counters(self) -> CountersSnapshot:
        """See `Node.counters`."""
        return self.node.counters()

    async def stop(self) -> None:
        """See `Node.stop`."""
        await asyncio.to_thread(self.node.stop)

    async def close(self) -> None:
        """See `Node.close`."""
        await asyncio.to_thread(self.node.close)


async def _settled(started: Iterable[Asked | RequestError]) -> list[Event | RequestError | None]:
    """Wait for all of them; one that fails does not end the others."""

    async def one(asked: Asked | RequestError) -> Event | RequestError | None:
        if isinstance(asked, RequestError):
            return asked
        try:
            return await asked.wait_async()
        except RequestError as exc:
            return exc

    return await asyncio.gather(*map(one, started))
