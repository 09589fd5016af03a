"""The public face: a node listens, dials, publishes and subscribes. Client and server alike.

See `rapini.AsyncNode` for the same over asyncio.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self, overload

import msgspec

from rapini import limits
from rapini.errors import (
    ConfigError,
    LocalError,
    PeerTimeoutError,
)
from rapini.events import Event, check_topic
from rapini.node.admission import Admission
from rapini.node.channels import ChannelFactory
from rapini.node.control import ControlServer, open_control
from rapini.node.core import Core
from rapini.node.counters import CountersSnapshot
from rapini.node.dial_errors import dial_error, is_final
from rapini.node.dials import Dial, DialState
from rapini.node.dispatcher import Dispatcher, EventCallback, StatusCallback
from rapini.node.durable import DurableStream
from rapini.node.inbox import EventRun, Inbox, deadline_after
from rapini.node.report_status import StatusSource
from rapini.node.requests import Requests
from rapini.node.sessions import Session
from rapini.node.settings import NodeSettings, load_table
from rapini.node.status import Gap, Origin, PeerInfo, PeerStatus, PublishOutcome
from rapini.node.store import Store
from rapini.node.streams import Checkpoint
from rapini.secure.identity import check_name
from rapini.transport import Endpoint

__all__ = ["Node"]

_log = logging.getLogger("rapini.node")

_GOODBYE_S = 1.0


class Node(Requests):
    """One process's presence among its peers: it can listen, dial, or both, and publishes and subscribes either way.

    Use it as a context manager, or call `close()`. Every method may be called from any thread, except that one thread
    at a time consumes `events()`, `runs()` or `items()`.

    Args:
        name: The node's name; with certificates, the name it was certified for.
        config: A TOML file with a table `[node]`, or settings made in code. Arguments below override it.
        keys: Folder with `<name>.crt`, `<name>.key` and `ca.crt`, as `rapini ca issue` writes it.
        checkpoint: Where the application commits its positions in other nodes' durable streams, together with its
            output: a `SqliteCheckpoint` or `FileCheckpoint`, see `checkpoint()`.
        admit: Asked about each peer once it is verified and before any of its bytes reach the application; only `True`
            lets it in. Runs on a thread of its own and should answer within seconds.
        on_status: Called for each `PeerStatus`, on the callback thread.
        options: Any option of `NodeSettings`.

    Raises:
        ConfigError: A setting or a key file is not usable; the text says what, where and what to do.
    """

    def __init__(
        self,
        name: str,
        *,
        config: str | NodeSettings | None = None,
        keys: str | None = None,
        checkpoint: Checkpoint | None = None,
        admit: Callable[[PeerInfo], bool] | None = None,
        on_status: StatusCallback | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.name = name
        settings = _settings(config, keys, options)
        self._admission = Admission(admit, name)
        channels = ChannelFactory(name, settings)
        self._channels = channels
        self._checkpoint = checkpoint
        self._uncommitted: dict[bytes, int] = {}
        self._core = Core(
            name, settings, channels, self._admission, checkpoint=checkpoint, durable=_durable_stream(settings)
        )
        self._lock = self._core.lock
        self._changed = self._core.loop.changed
        self.inbox = Inbox(self._core.counters, name, settings.relays)
        self._core.peers.inboxes.append(self.inbox)
        self.inbox.turns = self._core.loop
        self._dispatcher: Dispatcher | None = None
        self._on_status = on_status
        self._is_stopped = False
        self._is_closed = False
        self._control: ControlServer | None = None
        # An instance attribute in front of the documented method: the hot path saves a call.
        self.publish = self._core.publisher.publish  # type: ignore[method-assign]
        if on_status is not None:
            self._dispatch()
        self._core.loop.start()
        try:
            self._control = self._open_control(settings.control)
            for url in settings.listen:
                self.listen(url)
            for url in settings.connect:
                self.connect(url, wait_s=0)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def cluster(self) -> str:
        """The cluster's name."""
        return self._channels.cluster

    @property
    def failure(self) -> LocalError | None:
        """Why this node does nothing any more though nobody closed it (`node_failed`), or `None`. Any thread.

        A fault in the node's I/O thread is the end of the node: its peers are reported lost, `events()` ends with this
        error, and every other call raises it.
        """
        return self._core.error

    @property
    def control(self) -> str:
        """The path of the socket on which `rapini status` and `rapini.read_status` ask this node; empty without one."""
        return str(self._control.path) if self._control is not None else ""

    def _open_control(self, setting: str) -> ControlServer | None:
        channels = self._channels
        source = StatusSource(self._core, name=self.name, cluster=channels.cluster, role=channels.role)
        return open_control(setting, name=self.name, cluster=channels.cluster, take=source.take)

    # -- connections ---------------------------------------------------------------------------------------------

    def listen(self, url: str) -> str:
        """Accept peers at an endpoint such as ``zmq+tls://0.0.0.0:9750``.

        Returns:
            The endpoint as bound; a port of 0 is resolved.

        Raises:
            ConfigError: `unknown_scheme`, `bad_endpoint`, `no_keys` or `insecure`.
            TransportError: `address_in_use`, `bad_address`, `permission` or `listen_failed`.
        """
        endpoint = Endpoint.parse(url)
        self._channels.check(endpoint)
        with self._lock:
            self._check_open()
            return str(self._core.listen(endpoint))

    def endpoints(self) -> list[str]:
        """The endpoints listened on, as bound: ports of 0 are resolved."""
        with self._lock:
            return list(self._core.listening)

    def connect(self, url: str, *, wait_s: float = 10.0) -> str:
        """Dial an endpoint, and by default wait until its peer is up.

        Once up, the connection is kept by the policy of `reconnect`. With ``wait_s=0`` the call returns at once and the
        node keeps trying in the background; `PeerStatus` reports tell how it goes.

        Returns:
            The peer's name, or an empty string with ``wait_s=0``.

        Raises:
            ConfigError: As for `listen`.
            AuthenticationError, HandshakeError: No secured channel came about.
            RejectedError: The peer, or our own admission hook, refused; `code` says why.
            PeerTimeoutError: Not up within `wait_s` seconds; the text says what was tried.
        """
        endpoint = Endpoint.parse(url)
        if endpoint.is_wildcard or not endpoint.port:
            raise ConfigError("bad_endpoint", f"{url} cannot be dialled", remedy="give the peer's host and port")
        self._channels.check(endpoint)
        with self._lock:
            self._check_open()
            dial = self._core.dial(endpoint)
            if wait_s <= 0:
                return ""
            try:
                return self._await_dial(dial, wait_s)
            except BaseException:
                self._core.forget_dial(dial)
                raise

    def reconnect(self, url: str, *, wait_s: float = 10.0) -> str:
        """Dial an endpoint again that the policy `manual` left alone, or at once instead of after the back-off.

        Raises:
            LocalError: `not_dialled`, or `never` when the policy forbids it. Else as `connect`.
        """
        with self._lock:
            self._check_open()
            endpoint = Endpoint.parse(url)
            dial = next((dial for dial in self._core.peers.dials if dial.endpoint == endpoint), None)
            if dial is None:
                raise LocalError("not_dialled", f"{url} was never dialled", remedy="use connect()")
            if dial.was_ever_up and self._core.settings.reconnect == "never":
                raise LocalError("never", f"{url}: reconnect = 'never'", remedy="make a new node")
            if dial.state in (DialState.WAITING, DialState.DONE):
                dial.wake(time.monotonic())
                self._core.loop.wake()
            return self._await_dial(dial, wait_s) if wait_s > 0 else ""

    def _await_dial(self, dial: Dial, wait_s: float) -> str:
        deadline = time.monotonic() + wait_s
        while dial.state not in (DialState.UP, DialState.STANDBY):
            left = deadline - time.monotonic()
            self._check_alive()
            if is_final(dial) or left <= 0 or self._is_closed:
                raise dial_error(dial, wait_s)
            self._changed.wait(left)
        return dial.peer

    def wait_for(self, *names: str, timeout_s: float = 30.0) -> None:
        """Wait until these peers are up (any one if no names are given).

        Raises:
            PeerTimeoutError: `not_up`; the text names who is missing.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while True:
                self._check_alive()
                up = {peer.name for peer in self.peers() if peer.is_up}
                missing = [name for name in names if name not in up]
                if not missing and up:
                    return
                left = deadline - time.monotonic()
                if left <= 0 or self._is_closed:
                    who = ", ".join(missing) or "any peer"
                    raise PeerTimeoutError("not_up", f"{who} not up within {timeout_s:g} s{self._failures()}")
                self._changed.wait(left)

    def _failures(self) -> str:
        failures = [f"{dial.endpoint}: {dial.failure[1]}" for dial in self._core.peers.dials if dial.failure]
        return f" ({'; '.join(failures)})" if failures else ""

    def reload_keys(self, *, denied: Sequence[str] | None = None) -> None:
        """Read certificate, key and trust anchors anew, and judge every new connection by them.

        All TLS tickets are dropped: those kept here, and those issued to others, so each next handshake is a full one.
        Connections that are up go on, except those of peers on the deny list, which end at once. A peer whose
        authority is trusted no more stays until its connection ends; put it on the deny list to end it.

        Args:
            denied: A new deny list, in place of the one in force; `None` leaves that. As the setting `denied`.

        Raises:
            ConfigError: A file or an entry is not usable, or the certificate is for another node or cluster. Nothing
                has changed then.
            LocalError: `closed`.
        """
        with self._lock:
            self._check_open()
            wanted = self._channels.denied if denied is None else denied
        material = self._channels.load_anew(wanted)  # reads files: not under the lock
        with self._lock:
            self._check_open()
            self._channels.replace(material)
            self._core.keys_changed(time.monotonic())

    # -- events --------------------------------------------------------------------------------------------------

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
            StoreError: `spool_full`: it was not published. `disk_full`, `write_failed`, `sync_failed`: it is not on disk.
                It is kept in memory where there is room, and written and delivered once the disk takes it; whoever
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

    def subscribe(self, *prefixes: str, callback: EventCallback | None = None, timeout_s: float = 5.0) -> None:
        """Ask for events whose topic begins with one of these prefixes; an empty one means all.

        When the call returns, the subscription is in force at all connected peers: what they publish from now on
        arrives. Peers that connect later learn of it before they send any event.

        Args:
            prefixes: One or more.
            callback: Called as ``callback(event, origin)`` on the callback thread; without one, the events come from
                `events()`.
            timeout_s: How long a peer may take to put it in force.

        Raises:
            EventError: `bad_topic`: no topic begins like this.
            LocalError: `no_prefix`, `closed` or `too_many_subscriptions`.
            PeerTimeoutError: `subscription_timeout`; the text names the peers.
        """
        if not prefixes:
            raise LocalError("no_prefix", "nothing to subscribe to", remedy="subscribe('conn/'), or '' for all")
        for prefix in filter(None, prefixes):
            check_topic(prefix)
        with self._lock:
            self._check_open()
            if callback is not None:
                dispatcher = self._dispatch()
                dispatcher.add(prefixes, callback)
                inbox = dispatcher.inbox
            else:
                inbox = self.inbox
            wanted = tuple(dict.fromkeys((*inbox.prefixes, *prefixes)))
            if len(wanted) > limits.MAX_SUBSCRIPTIONS // 2:  # two inboxes share what a peer accepts
                raise LocalError("too_many_subscriptions", f"{len(wanted)} topic prefixes", remedy="use shorter ones")
            inbox.prefixes = wanted
            self._subscriptions_changed(timeout_s)

    def unsubscribe(self, *prefixes: str, timeout_s: float = 5.0) -> None:
        """Take back subscriptions made without a callback. Raises as `subscribe`."""
        with self._lock:
            self._check_open()
            self.inbox.prefixes = tuple(prefix for prefix in self.inbox.prefixes if prefix not in prefixes)
            self._subscriptions_changed(timeout_s)

    def _subscriptions_changed(self, timeout_s: float) -> None:
        peers = self._core.peers
        ours = (prefix for inbox in peers.inboxes for prefix in inbox.prefixes)
        wanted = tuple(dict.fromkeys((*self._core.settings.relay, *ours)))
        self._await_in_force(peers.subscribe(wanted, time.monotonic()), timeout_s)

    def _await_in_force(self, version: int, timeout_s: float) -> None:
        peers = self._core.peers
        waiting = [record for record in peers.records.values() if record.is_up]
        deadline = time.monotonic() + timeout_s
        while late := [r for r in waiting if r.in_force < version and not r.link.is_closed]:
            left = deadline - time.monotonic()
            if left <= 0:
                names = ", ".join(record.link.peer for record in late)
                raise PeerTimeoutError("subscription_timeout", f"not in force within {timeout_s:g} s at {names}")
            self._changed.wait(left)
            self._check_alive()

    @overload
    def events(self, *, timeout_s: float | None = None) -> Iterator[tuple[Event, Origin]]: ...
    @overload
    def events(
        self, *, timeout_s: float | None = None, with_status: Literal[True]
    ) -> Iterator[tuple[Event, Origin] | PeerStatus | Gap]: ...
    def events(
        self, *, timeout_s: float | None = None, with_status: bool = False
    ) -> Iterator[tuple[Event, Origin] | PeerStatus | Gap]:
        """Received events with their origin, until `stop()` or `close()`.

        Args:
            timeout_s: End when nothing has come for so long; `None` waits for ever.
            with_status: Also yield `PeerStatus` reports and `Gap`s, in order with the events.
        """
        for item in self.inbox.items(timeout_s):
            if isinstance(item, list):
                for run in item:
                    origin = run.origin
                    if run.stream_id:
                        yield from self.inbox.events_of(run)
                        continue
                    for event in run.events:
                        yield event, origin
            elif with_status:
                yield item

    def items(self, *, timeout_s: float | None = None) -> Iterator[EventRun | PeerStatus | Gap]:
        """Runs of events, gaps and status reports, in order: the fastest way to consume. Ends as `events()` does."""
        for item in self.inbox.items(timeout_s):
            if isinstance(item, list):
                for run in item:
                    if run.stream_id:
                        self.inbox.progress[run.stream_id] = run.first_sequence + len(run.events)
                    yield run
            else:
                yield item

    def _dispatch(self) -> Dispatcher:
        if self._dispatcher is None:
            self._dispatcher = Dispatcher(self.name, self._core.counters, self._on_status, self._core.settings.relays)
            self._core.peers.inboxes.append(self._dispatcher.inbox)
            self._dispatcher.start()
        return self._dispatcher

    # -- stores --------------------------------------------------------------------------------------------------

    def store(
        self,
        name: str,
        *,
        master: bool = False,
        path: str | Path | None = None,
        may_write: Callable[[str], bool] | None = None,
    ) -> Store:
        """A replicated key-value table: its master here, or a clone of the one that some peer has.

        Args:
            name: The store's: letters, digits, dots, dashes and underscores.
            master: Whether the table is kept here. One node of those that meet has the master.
            path: Where a master keeps the table in an SQLite file; in memory by default.
            may_write: Asked by a master for each write of a peer, by the peer's name; only `True` lets it. By default
                every peer that was admitted may write. Runs on the I/O thread and must answer at once.

        Returns:
            The store; another call with the same name returns the same one.

        Raises:
            ConfigError: `bad_name`; `path` or `may_write` without `master`.
            LocalError: `store_kind`: the other kind of this name is here; `closed`.
            StoreError: The file cannot be used: `store_in_use`, `not_a_store`, `damaged`, …

        Thread: any.
        """
        check_name(name, what="store")
        if not master and (path is not None or may_write is not None):
            raise ConfigError("bad_option", "a clone has neither path nor may_write", remedy="give master=True")
        with self._lock:
            self._check_open()
            stores = self._core.peers.stores
            backend = None
            if master and path is not None and name not in stores.drivers:
                from rapini.storage.sqlite_store import SqliteBackend

                backend = SqliteBackend(path)
            writers = (may_write or _anybody) if master else None
            return stores.open(name, backend=backend, may_write=writers)

    # -- what there is -------------------------------------------------------------------------------------------

    def peers(self) -> list[PeerInfo]:
        """The peers that are connected and admitted, by name."""
        with self._lock:
            records = [record for record in self._core.peers.records.values() if record.session is not None]
            return sorted((record.info() for record in records), key=lambda peer: peer.name)

    def counters(self) -> CountersSnapshot:
        """What this node has counted so far."""
        with self._lock:
            return self._core.snapshot()

    # -- the end -------------------------------------------------------------------------------------------------

    def stop(self, timeout_s: float = 2.0) -> None:
        """Receive no more: unsubscribe everywhere; `events()` ends when what has come was consumed.

        For programs that consume: stop, let the loop over `events()` run out, then `close()`; so nothing is lost.
        """
        with self._lock:
            if self._is_stopped:
                return
            self._is_stopped = True
            self._core.peers.asker.is_stopped = True
            try:
                if self._core.peers.subscriptions and self._core.error is None:
                    self._await_in_force(self._core.peers.subscribe((), time.monotonic()), timeout_s)
            except (PeerTimeoutError, LocalError) as exc:
                _log.warning("stopping all the same: %s", exc)
            finally:
                for inbox in self._core.peers.inboxes:
                    inbox.end()

    def close(self, drain_timeout_s: float | None = None) -> None:
        """Deliver what was published, say goodbye and end. May be called twice.

        Args:
            drain_timeout_s: How long delivery may take; the setting `drain_timeout_s` by default.
        """
        with self._lock:
            if self._is_closed:
                return
        drain_s = self._core.settings.drain_timeout_s if drain_timeout_s is None else drain_timeout_s
        self.stop()
        if self._dispatcher is not None:
            self._dispatcher.wait_stop(drain_s)
        if not self._core.peers.asker.close(drain_s):
            _log.warning("%s: closing although a handler is still at work", self.name)
        with contextlib.suppress(LocalError):  # the node has failed, which whoever used it was told
            self._flush(drain_s, also_lost=False)
        with self._lock:
            self._is_closed = True
            self._core.is_closing = True
            self._core.publisher.close()
            self._say_goodbye()
            self._changed.notify_all()
        self._admission.stop()
        try:
            self._core.stop()
        finally:
            if self._control is not None:
                self._control.close()

    def _say_goodbye(self) -> None:
        now = time.monotonic()
        self._core.peers.tell_all_taken(now)  # else the peers must count what we took as lost
        for record in list(self._core.peers.records.values()):
            record.link.leave("goodbye", "", now)
            self._core.service(record, now)
        deadline = deadline_after(_GOODBYE_S) or 0.0
        while self._core.peers.records and (left := deadline - time.monotonic()) > 0:
            self._changed.wait(left)

    def _check_open(self) -> None:
        if self._is_closed:
            raise LocalError("closed", "the node is closed")
        self._check_alive()

    def _check_alive(self) -> None:
        if self._core.error is not None:
            raise self._core.error


def _anybody(peer: str) -> bool:
    """Every peer that was admitted may write."""
    del peer
    return True


def _is_owed(session: Session, also_lost: bool) -> bool:
    """Whether a peer has not taken everything that it is owed."""
    if session.record is not None:
        return not session.outbox.is_idle
    return also_lost and not session.is_departed and not session.outbox.reliable.is_idle


def _durable_stream(
    settings: NodeSettings,
) -> Callable[[threading.RLock, Callable[[], None]], DurableStream] | None:
    """How to make the node's durable stream, if it has a spool."""
    if not settings.spool:
        return None
    return lambda lock, on_synced: DurableStream(
        Path(settings.spool),
        max_bytes=settings.spool_bytes,
        fsync=settings.spool_fsync,
        drops_oldest=settings.durable_overflow == "drop_oldest",
        subscribers=settings.durable_subscribers,
        lease_s=settings.durable_lease_s,
        lock=lock,
        on_synced=on_synced,
    )


def _settings(config: str | NodeSettings | None, keys: str | None, options: dict[str, Any]) -> NodeSettings:
    if isinstance(config, NodeSettings):
        settings = config
    else:
        settings = load_table(config, "node", NodeSettings) if config is not None else NodeSettings()
    if keys is not None:
        options["keys"] = keys
    known = NodeSettings.__struct_fields__
    for option in options:
        if option not in known:
            raise ConfigError("bad_option", f"unknown option {option}", remedy=f"known options are {', '.join(known)}")
    try:
        merged = msgspec.convert({**msgspec.structs.asdict(settings), **options}, NodeSettings)
    except msgspec.ValidationError as exc:
        raise ConfigError("bad_option", str(exc).replace(" - at `$.", " in `"), remedy="change its value") from None
    return merged.checked()
