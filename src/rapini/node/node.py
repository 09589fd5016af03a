"""The public face: a node listens, dials, publishes and subscribes. Client and server alike.

See `rapini.AsyncNode` for the same over asyncio.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Any, Literal, Self, overload

from rapini import limits
from rapini.errors import (
    ConfigError,
    LocalError,
    PeerTimeoutError,
)
from rapini.events import Event, check_topic
from rapini.node.admission import Admission
from rapini.node.assembling import durable_stream, merged_settings
from rapini.node.channels import ChannelFactory
from rapini.node.control import ControlServer, open_control
from rapini.node.core import Core
from rapini.node.counters import CountersSnapshot
from rapini.node.dial_errors import dial_error, is_final
from rapini.node.dials import Dial, DialState
from rapini.node.dispatcher import Dispatcher, EventCallback, StatusCallback
from rapini.node.inbox import EventRun, Inbox, deadline_after, rest_of
from rapini.node.keeping import Keeping
from rapini.node.report_status import StatusSource
from rapini.node.settings import NodeSettings
from rapini.node.status import Gap, Origin, PeerInfo, PeerStatus
from rapini.node.streams import Checkpoint
from rapini.transport import Endpoint

__all__ = ["Node"]

_log = logging.getLogger("rapini.node")

_GOODBYE_S = 1.0


class Node(Keeping):
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
        settings = merged_settings(config, keys, options)
        self._admission = Admission(admit, name)
        channels = ChannelFactory(name, settings)
        self._channels = channels
        self._checkpoint = checkpoint
        self._uncommitted: dict[bytes, int] = {}
        self._core = Core(
            name, settings, channels, self._admission, checkpoint=checkpoint, durable=durable_stream(settings)
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

        A loop over them may be left at any time; the next one goes on with the next event.

        Args:
            timeout_s: End when nothing has come for so long; `None` waits for ever.
            with_status: Also yield `PeerStatus` reports and `Gap`s, in order with the events.
        """
        for item in self.inbox.items(timeout_s):
            if isinstance(item, list):
                runs = iter(item)
                for run in runs:
                    origin, events = run.origin, iter(run.events)
                    try:
                        if run.stream_id:
                            yield from self.inbox.events_of(run, events)
                            continue
                        for event in events:
                            yield event, origin
                    except GeneratorExit:
                        self.inbox.put_back((rest_of(run, events), *runs))
                        raise
            elif with_status:
                yield item

    def items(self, *, timeout_s: float | None = None) -> Iterator[EventRun | PeerStatus | Gap]:
        """Runs of events, gaps and status reports, in order: the fastest way to consume. Ends as `events()` does."""
        for item in self.inbox.items(timeout_s):
            if isinstance(item, list):
                runs = iter(item)
                for run in runs:
                    if run.stream_id:
                        self.inbox.progress[run.stream_id] = run.first_sequence + len(run.events)
                    try:
                        yield run
                    except GeneratorExit:
                        self.inbox.put_back(runs)
                        raise
            else:
                yield item

    def _dispatch(self) -> Dispatcher:
        if self._dispatcher is None:
            self._dispatcher = Dispatcher(self.name, self._core.counters, self._on_status, self._core.settings.relays)
            self._core.peers.inboxes.append(self._dispatcher.inbox)
            self._dispatcher.start()
        return self._dispatcher

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
