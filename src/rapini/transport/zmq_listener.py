"""A listening 0MQ endpoint: one ROUTER, whose TCP connections are made visible.

Where it sits: used by `zmq`; imports `zmq`.

A ROUTER names peers by routing ids and its monitor names TCP connections by descriptor numbers; joining the two is what
this module is for (architecture 5a, rules 2 and 3).

*Accept.* At ACCEPTED the descriptor is duplicated: it gives the peer's address and, later, a way to end this one peer,
by `shutdown()`. The number may have been closed and used again before we read the event. libzmq posts DISCONNECTED
before it closes, so a duplicate is believed only when the monitor, read to its end *after* duplicating, holds no
DISCONNECTED of that number.

*Match.* The first message under a new routing id carries its descriptor number (`SRCFD`); it belongs to the connection
accepted on that number which has no id yet. There may be two such when a number was used again: the older one already
disconnected, its last messages perhaps unread. HANDSHAKE_SUCCEEDED events (which name no descriptor, but come in order)
rule out a connection that cannot have spoken. If two remain, nothing tells them apart; then the message is dropped and
the younger connection is shut down (`ambiguous`); its dialler comes back a moment later. To guess could give a peer's
first bytes to another's channel.

*End.* At DISCONNECTED hundreds of its messages may be unread, or not even handed over. First its descriptor must be
closed (see `zmq_context`), then the ROUTER must have been read to its end once, or, if others keep it full, as far as
fair queueing needs to reach this peer's last message. Only then comes `Disconnected`.

*Send.* MANDATORY and DONTWAIT (rule 5). A peer whose pipe is full is parked alone; the ROUTER cannot say when one
peer's pipe has room, so `Writable` comes by a timer of a few milliseconds which backs off while it does not help.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, Final

import zmq

from rapini.errors import LocalError, TransportError
from rapini.transport.base import (
    Accepted,
    Disconnected,
    Received,
    SendResult,
    TransportOutcome,
    Writable,
    format_address,
)
from rapini.transport.endpoint import Endpoint
from rapini.transport.gate import HalfOpenGate
from rapini.transport.listen_error import listen_error
from rapini.transport.zmq_accepted import DETAILS, PARK_FIRST_S, ZmqAccepted
from rapini.transport.zmq_context import (
    BACKLOG,
    DONTWAIT,
    EVENTS,
    POLLIN,
    RECEIVE_LIMIT_MESSAGES,
    SEND_MORE,
    Monitor,
    bare_send,
    is_inode_of,
    zmq_socket,
)

if TYPE_CHECKING:
    from rapini.transport.zmq import ZmqTransport

__all__ = ["ZmqListener"]

TURN_MESSAGES: Final = 128
TURN_BYTES: Final = 2 * 1024 * 1024
"""A turn reads no more than this from one socket, so that the node's lock is free again soon."""
TURN_EVENTS: Final = 4_096
SETTLE_S: Final = 0.001
SETTLE_MAX_S: Final = 0.05
"""If a descriptor that libzmq must close is not seen closed by then, its number was used again before we looked."""
PARK_MAX_S: Final = 0.02
WATCH_S: Final = 0.02
UNREAD_BYTES: Final = 512 * 1024
"""What an unauthenticated peer may have sent beyond what we were given: libzmq limits a frame, but collects a message
of endlessly many frames for ever. The kernel counts (TCP_INFO), so this also holds where libzmq does not look."""


class ZmqListener:
    """One bound ROUTER and its connections.

    Args:
        transport: The owner.
        endpoint: Where to listen; `endpoint` is what was bound.

    Raises:
        TransportError: It cannot be bound.
    """

    def __init__(self, transport: ZmqTransport, endpoint: Endpoint) -> None:
        self.transport = transport
        self.options = transport.options
        self.gate: HalfOpenGate[ZmqAccepted] = HalfOpenGate(transport.options)
        self.closing: set[ZmqAccepted] = set()
        self._by_id: dict[bytes, ZmqAccepted] = {}
        self._by_fd: dict[int, list[ZmqAccepted]] = {}
        self._unconfirmed: list[ZmqAccepted] = []
        self._leaving: dict[ZmqAccepted, None] = {}
        self._parked: dict[ZmqAccepted, None] = {}
        self._successes = 0  # HANDSHAKE_SUCCEEDED so far
        self._accepted = 0
        self._reads = 0
        self._watch_at: float | None = None
        self._has_news = True
        """Whether the monitor may have something to read."""
        self._is_lull = True
        """Whether messages come one by one. Then whether another waits is asked when this one is dealt with."""
        self._is_timed = False
        """Whether the transport holds a timer of ours."""
        self._router = zmq_socket(transport.context, zmq.ROUTER, transport.options)
        self._router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._router.setsockopt(zmq.BACKLOG, BACKLOG)
        self._monitor = Monitor(
            transport.context,
            self._router,
            # Not ACCEPT_FAILED: out of descriptors, libzmq tries in a loop and would fill our memory with it.
            zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED | zmq.EVENT_HANDSHAKE_SUCCEEDED,
        )
        try:
            self._first_id = self._learn_first_id()
            self.endpoint = self._bind(endpoint)
        except BaseException:
            self._monitor.close()
            self._router.close(linger=0)
            raise
        self.url = str(self.endpoint)
        self._router_fd = int(self._router.getsockopt(zmq.FD))
        transport.watch(self, self._router_fd, self._monitor.fd)

    def _learn_first_id(self) -> int:
        """The number of the last automatic routing id given so far, learnt from a connection of our own.

        With it, and the number of accepts, we know every id that libzmq can have given; others were chosen.
        """
        name = f"inproc://rapini-router-{id(self)}"
        self._router.bind(name)
        probe = self.transport.context.socket(zmq.DEALER)
        try:
            probe.setsockopt(zmq.LINGER, 0)
            probe.connect(name)
            probe.send(b"")
            if not self._router.poll(5_000):
                raise TransportError("listen_failed", "0MQ does not answer within its own process")
            number = int.from_bytes(self._router.recv()[1:], "big")
            self._router.recv()
        finally:
            probe.close(linger=0)
            self._router.unbind(name)
        return number

    def _bind(self, endpoint: Endpoint) -> Endpoint:
        host = f"[{endpoint.host}]" if ":" in endpoint.host else endpoint.host
        try:
            self._router.bind(f"tcp://{host}:{endpoint.port}")
        except zmq.ZMQError as error:
            raise listen_error(endpoint, error.errno or 0) from error
        bound = self._router.getsockopt(zmq.LAST_ENDPOINT)
        text = bound.rstrip(b"\0").decode() if isinstance(bound, bytes) else str(bound)
        return endpoint.with_port(int(text.rpartition(":")[2]))

    # --- the turn --------------------------------------------------------------------------------------------------

    def note_ready(self, fd: int) -> None:
        """One of our descriptors is ready."""
        if fd == self._monitor.fd:
            self._has_news = True

    def work(self, now: float, out: list[TransportOutcome]) -> bool:
        """One turn; returns whether there is more to do at once."""
        # First of all, as rule 4 asks; but asking it costs as much as reading a message, and its descriptor tells.
        if self._has_news and not self._read_monitor(now, out):
            return True
        if self._leaving:
            self._look_for_flushed(now)
        is_drained = self._read_messages(now, out)
        if self._leaving:
            self._settle(is_drained, out)
        self._keep_time(now, out)
        return not is_drained

    def _read_monitor(self, now: float, out: list[TransportOutcome], limit: int = TURN_EVENTS) -> bool:
        """Read the monitor; returns whether its end was reached, which is when newcomers can be believed."""
        count = 0
        for event, value in self._monitor.read(limit):
            count += 1
            if event == zmq.EVENT_ACCEPTED:
                self._on_accepted(value)
            elif event == zmq.EVENT_DISCONNECTED:
                self._on_disconnected(value, now)
            else:
                self._successes += 1
        if count == limit:
            return False
        self._has_news = False
        newcomers, self._unconfirmed = self._unconfirmed, []
        for connection in newcomers:
            self._confirm(connection, now, out)
        return True

    def _on_accepted(self, fd: int) -> None:
        self._accepted += 1
        connection = ZmqAccepted(self, fd, self._successes)
        connection.take_duplicate()
        self._by_fd.setdefault(fd, []).append(connection)
        self._unconfirmed.append(connection)

    def _on_disconnected(self, fd: int, now: float) -> None:
        of_fd = self._by_fd.get(fd)
        if not of_fd or of_fd[-1].left_at is not None:
            return
        connection = of_fd[-1]
        connection.left_at = now
        self._leaving[connection] = None
        self.gate.forget(connection)
        self._parked.pop(connection, None)
        if not connection.reported:
            connection.drop_duplicate()  # it may be of the number's next owner
        if connection.routing_id is None and connection.accepted_successes == self._successes:
            # Nobody completed 0MQ's handshake while it was here, so it sent no message.
            of_fd.remove(connection)
            if not of_fd:
                del self._by_fd[fd]
            connection.flushed = True

    def _confirm(self, connection: ZmqAccepted, now: float, out: list[TransportOutcome]) -> None:
        """The duplicate is of this connection: judge the newcomer and report it."""
        if connection.duplicate is None:
            if connection.left_at is None:
                connection.cause = "no_descriptor"  # we could never end it; ZMTP's timeouts will
                self.transport.counters.refused["no_descriptor"] += 1
                return
        else:
            try:
                connection.address = format_address(connection.duplicate.getpeername())
            except OSError:
                pass  # reset meanwhile
        if connection.left_at is None:
            is_admitted, pushed_out = self.gate.admit(connection, now)
            if pushed_out is not None:
                is_ours = pushed_out.close_at is not None
                self.refuse(pushed_out, "aborted" if is_ours else "silent", is_ours=is_ours)
            if not is_admitted:
                self.refuse(connection, "half_open_limit")
                return
            self._watch_at = self._watch_at or now + WATCH_S
        connection.reported = True
        self.transport.counters.accepted += 1
        out.append(Accepted(connection))

    def _read_messages(self, now: float, out: list[TransportOutcome]) -> bool:
        """Read messages within a turn's bounds; returns whether the end was reached."""
        is_lull, self._is_lull = self._is_lull and not self._leaving, False
        receive, by_id, counters = self._router.recv, self._by_id, self.transport.counters
        unread_bytes = TURN_BYTES
        look = self._router.getsockopt
        for number in range(TURN_MESSAGES):
            if number == 1 and is_lull:
                self._is_lull = True
                self.transport.settle_later(self)
                return True
            if number and not int(look(EVENTS)) & POLLIN:  # an `Again` costs three times as much as asking
                self._is_lull = number == 1
                return True
            try:
                routing_id = receive(DONTWAIT)
            except zmq.Again:
                self._is_lull = True
                return True
            frame = receive(DONTWAIT, copy=False)
            self._reads += 1
            connection = by_id.get(routing_id)
            if connection is None:
                connection = self._identify(routing_id, frame, now, out)
            if frame.more or not len(frame):
                self._skip_parts(frame)
                if connection is not None:
                    self.refuse(connection, "bad_framing")
            if connection is None or connection.cause is not None or connection.close_at is not None:
                counters.dropped["unmatched" if connection is None else connection.cause or "aborted"] += 1
                continue
            size = len(frame)
            connection.taken_bytes += size
            counters.messages_received += 1
            counters.bytes_received += size
            out.append(Received(connection, frame.buffer))
            unread_bytes -= size
            if unread_bytes <= 0:
                return False
        return False

    def is_settled(self) -> bool:
        """After `settle_later`: whether there was no other message to read."""
        self._is_lull = not int(self._router.getsockopt(EVENTS)) & POLLIN
        return self._is_lull

    def _skip_parts(self, frame: zmq.Frame) -> None:
        """Messages of several parts arrive whole, so this never waits; `_keep_time` bounds how many there can be."""
        while frame.more:
            frame = self._router.recv(DONTWAIT, copy=False)

    # --- which connection --------------------------------------------------------------------------------------------

    def _identify(
        self, routing_id: bytes, frame: zmq.Frame, now: float, out: list[TransportOutcome]
    ) -> ZmqAccepted | None:
        """Match a new routing id to the connection that its first message came from."""
        try:
            fd = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:
            return None
        # What was posted before the message can be read by now: its ACCEPTED, the success of its handshake, and the end
        # of whoever had the number before. Without looking, that one would be the only candidate.
        while not self._read_monitor(now, out):
            pass
        candidates = self._unidentified(fd)
        if len(candidates) > 1 and candidates[-1].accepted_successes == self._successes:
            candidates.pop()
        if len(candidates) > 1:
            for candidate in candidates:
                candidate.is_ambiguous = True  # until they are over: the next new id is one's of them too, but whose?
                self.refuse(candidate, "ambiguous")
        if len(candidates) != 1 or candidates[0].is_ambiguous:
            return None
        connection = candidates[0]
        connection.routing_id = routing_id
        self._by_id[routing_id] = connection
        if connection.cause is not None:
            return connection
        if not self._is_automatic(routing_id):
            self.refuse(connection, "bad_routing_id")
        elif connection.left_at is None:
            self.gate.spoke(connection)
            if connection.parked_until is not None:
                self._park(connection, 0.0)
        return connection

    def _unidentified(self, fd: int) -> list[ZmqAccepted]:
        return [c for c in self._by_fd.get(fd, ()) if c.routing_id is None]

    def _is_automatic(self, routing_id: bytes) -> bool:
        """Whether libzmq can have given this id by now."""
        if len(routing_id) != 5 or routing_id[0] != 0:
            return False
        return 0 < (int.from_bytes(routing_id[1:], "big") - self._first_id) % 2**32 <= self._accepted

    # --- the end of a connection ------------------------------------------------------------------------------------

    def refuse(self, connection: ZmqAccepted, cause: str, *, is_ours: bool = False) -> None:
        """Shut a connection down; DISCONNECTED follows, and then the owner hears of `cause`."""
        if connection.cause is not None:
            return
        connection.cause = cause
        if not is_ours:
            self.transport.counters.refused[cause] += 1
        self.gate.forget(connection)
        self._parked.pop(connection, None)
        self.closing.discard(connection)
        connection.shut_down()

    def _look_for_flushed(self, now: float) -> None:
        """Find leaving connections whose last messages are in the ROUTER for certain."""
        is_new = False
        for connection in self._leaving:
            if connection.flushed or connection.left_at is None:
                continue
            # Another connection on its number proves that it was closed, as does another socket there, or none.
            of_fd = self._by_fd.get(connection.fd)
            is_closed = (of_fd is not None and of_fd[-1] is not connection) or not is_inode_of(
                connection.fd, connection.inode
            )
            if is_closed or now - connection.left_at > SETTLE_MAX_S:
                connection.flushed = is_new = True
                of_all = sum(map(len, self._by_fd.values())) + 1
                connection.settle_reads = self._reads + (RECEIVE_LIMIT_MESSAGES + 2) * of_all
        if is_new:
            self._router.getsockopt(EVENTS)  # makes libzmq take note of what was handed over

    def _settle(self, is_drained: bool, out: list[TransportOutcome]) -> None:
        """Declare those lost whose messages have all been read."""
        done = [c for c in self._leaving if c.flushed and (is_drained or self._reads >= c.settle_reads)]
        for connection in done:
            self._forget(connection)
            if connection.reported:
                code = connection.cause or ("aborted" if connection.close_at is not None else "closed")
                self.transport.counters.ended += 1
                out.append(Disconnected(connection, code, DETAILS[code]))

    def _forget(self, connection: ZmqAccepted) -> None:
        self._leaving.pop(connection, None)
        self._parked.pop(connection, None)
        self.closing.discard(connection)
        self.gate.forget(connection)
        if connection.routing_id is not None:
            self._by_id.pop(connection.routing_id, None)
        of_fd = self._by_fd.get(connection.fd)
        if of_fd is not None and connection in of_fd:
            of_fd.remove(connection)
            if not of_fd:
                del self._by_fd[connection.fd]
        connection.drop_duplicate()

    # --- sending -----------------------------------------------------------------------------------------------------

    def send(self, connection: ZmqAccepted, data: bytes) -> SendResult:
        """Send one message to one peer, or find that it is full or gone."""
        if len(data) > self.options.max_message_bytes:
            raise LocalError("too_large", f"a message of {len(data)} bytes is larger than a carrier takes")
        if connection.routing_id is None:
            connection.parked_until = float("inf")  # until its first message; the dialling side speaks first
            return SendResult.PARKED
        counters = self.transport.counters
        try:
            bare_send(self._router, connection.routing_id, SEND_MORE)
            bare_send(self._router, data, DONTWAIT)
        except zmq.Again:
            counters.parked += 1
            self._park(connection, connection.park_s)
            connection.park_s = min(connection.park_s * 2, PARK_MAX_S)
            self.transport.after_send(self, self._router)
            return SendResult.PARKED
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise TransportError("send_failed", f"0MQ could not send: {error.strerror}") from error
            self.transport.after_send(self, self._router)
            return SendResult.GONE
        connection.park_s = PARK_FIRST_S
        counters.messages_sent += 1
        counters.bytes_sent += len(data)
        self.transport.after_send(self, self._router)
        return SendResult.SENT

    def _park(self, connection: ZmqAccepted, pause_s: float) -> None:
        connection.parked_until = self.transport.clock() + pause_s
        self._parked[connection] = None
        self.retime()

    # --- time --------------------------------------------------------------------------------------------------------

    def _keep_time(self, now: float, out: list[TransportOutcome]) -> None:
        if not (self._is_timed or self._parked or self.closing or self._leaving or self._watch_at or len(self.gate)):
            return  # nobody waits for anything: nearly every turn
        for connection in [c for c in self._parked if (c.parked_until or 0.0) <= now]:
            del self._parked[connection]
            connection.parked_until = None
            out.append(Writable(connection))
        for connection in [c for c in self.closing if c.close_at is not None and c.close_at <= now]:
            self.refuse(connection, "aborted", is_ours=True)
        for connection in self.gate.take_overdue(now):
            self.refuse(connection, "silent")
        if self._watch_at is not None and self._watch_at <= now:
            self._watch_unread()
            self._watch_at = now + WATCH_S if len(self.gate) else None
        self.retime()

    def _watch_unread(self) -> None:
        """End strangers who send what never becomes a message (an endless one, or more than we take)."""
        for connection in self.gate.members():
            if connection.kernel_bytes() - connection.taken_bytes > UNREAD_BYTES:
                self.refuse(connection, "flood")

    def retime(self) -> None:
        """Tell the transport when this listener must have its next turn."""
        timers = [self.gate.next_timer(), self._watch_at]
        timers += [c.parked_until for c in self._parked]
        timers += [c.close_at for c in self.closing]
        if self._leaving:
            timers.append(self.transport.clock() + SETTLE_S)
        due = min((t for t in timers if t is not None), default=None)
        self._is_timed = due is not None
        self.transport.set_timer(self, due)

    def close(self, out: list[TransportOutcome] | None = None) -> None:
        """Give the endpoint up; with `out`, its connections are reported as `unlistened`."""
        self.transport.unwatch(self, self._router_fd, self._monitor.fd)
        for connection in [c for of_fd in self._by_fd.values() for c in of_fd] + list(self._leaving):
            connection.cause = connection.cause or "unlistened"
            connection.shut_down()
            connection.drop_duplicate()
            if connection.reported and out is not None:
                connection.reported = False
                self.transport.counters.ended += 1
                out.append(Disconnected(connection, connection.cause, DETAILS[connection.cause]))
        self._by_id.clear()
        self._by_fd.clear()
        self._monitor.close()
        self._router.close(linger=0)
