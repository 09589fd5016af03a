"""The part of a node's public face that asks: requests, events for one peer, handlers, and waiting for a group.

`Node` and `AsyncNode` are these and the rest. Everything here is *at most once*: a request is sent over one connection,
and ends with it; nothing is sent again by itself.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Mapping, Sequence

from rapini.errors import LocalError, PeerTimeoutError, RequestError
from rapini.events import Event, check_topic
from rapini.node.absences import describe_missing
from rapini.node.asker import Asked, RequestHandler
from rapini.node.choosing import Turns, rendezvous
from rapini.node.core import Core
from rapini.node.sessions import Session

__all__ = ["Requests"]

_MAX_TIMEOUT_S = 86_400.0


class Requests:
    """What `Node` inherits; see there."""

    _core: Core
    _lock: threading.RLock
    _changed: threading.Condition

    def __init__(self) -> None:
        self._turns = Turns()

    def _check_open(self) -> None:
        raise NotImplementedError

    # -- asking --------------------------------------------------------------------------------------------------

    def request(
        self,
        event: Event,
        *,
        to: str | None = None,
        role: str | None = None,
        key: str | bytes | None = None,
        timeout_s: float = 5.0,
        topic: str | None = None,
    ) -> Event | None:
        """Ask one peer, and wait for its answer.

        At most once: if the connection ends first, the request has failed, and the peer may have acted on it or not.
        It is never sent again by itself.

        Args:
            event: What is asked.
            to: The peer's name; or
            role: one of the peers of this role that are up: in turn, or with
            key: the one that this key belongs to (rendezvous hashing), the same while it is up, whoever else comes and
                goes.
            timeout_s: How long the answer may take, in seconds, at most a day.
            topic: Says what is asked, instead of the event's class's topic; the peer's handler is found by it.

        Returns:
            The handler's answer; `None` where that is nothing.

        Raises:
            RequestError: It came to nothing; `code` says why.
            LocalError: `closed`, `node_failed`, `no_topic`, `not_an_event`, `bad_timeout` or `whom`.
            EventError: `bad_topic` or `not_encodable`.

        Thread: any.
        """
        return self.start(event, to, role, key, timeout_s, topic, wants_reply=True).wait()

    def send(
        self,
        event: Event,
        *,
        to: str | None = None,
        role: str | None = None,
        key: str | bytes | None = None,
        timeout_s: float = 5.0,
        topic: str | None = None,
    ) -> str:
        """Send an event to one peer, whether or not it subscribed, and wait until its application took it.

        There it comes to the callbacks subscribed to its topic, or out of `events()`. At most once; arguments and
        errors are those of `request`. After `RequestError` `deadline` from the peer it was not delivered there.

        Returns:
            Who took it.
        """
        asked = self.start(event, to, role, key, timeout_s, topic, wants_reply=False)
        asked.wait()
        return asked.peer

    def request_all(
        self, event: Event, *, role: str | None = None, timeout_s: float = 5.0, topic: str | None = None
    ) -> dict[str, Event | RequestError | None]:
        """Ask every peer that is up, or every one of a role, at once.

        Returns:
            The answer, or why there is none, by the peer's name; empty if nobody is up.

        Raises: as `request`, but no `RequestError` other than `too_large`.
        """
        started = self.start_all(event, role, timeout_s, topic, wants_reply=True)
        return {name: _settled(asked) for name, asked in started.items()}

    def send_all(
        self, event: Event, *, role: str | None = None, timeout_s: float = 5.0, topic: str | None = None
    ) -> dict[str, RequestError | None]:
        """Send an event to every peer that is up, or every one of a role, subscribed or not.

        Returns:
            `None` for each peer that took it, or why one did not, by name; empty if nobody is up.

        Raises: as `request_all`.
        """
        started = self.start_all(event, role, timeout_s, topic, wants_reply=False)
        ends = {name: _settled(asked) for name, asked in started.items()}
        return {name: end if isinstance(end, RequestError) else None for name, end in ends.items()}

    def start(
        self,
        event: Event,
        to: str | None,
        role: str | None,
        key: str | bytes | None,
        timeout_s: float,
        topic: str | None,
        *,
        wants_reply: bool,
    ) -> Asked:
        """Begin a request; `request` and `send` wait for it. Raises as they do."""
        if (to is None) == (role is None) or (key is not None and role is None):
            raise LocalError("whom", "a request is for one peer (to=) or for one of a role (role=, and perhaps key=)")
        _check_timeout(timeout_s)
        target, payload = self._core.peers.asker.pack(event, topic)
        with self._lock:
            self._check_open()
            session = self._one(to, role, key, len(payload))
            asked = self._core.peers.asker.ask(session, target, payload, timeout_s, wants_reply=wants_reply)
            if asked is None:
                raise _overloaded(session.name)
            return asked

    def start_all(
        self, event: Event, role: str | None, timeout_s: float, topic: str | None, *, wants_reply: bool
    ) -> dict[str, Asked | RequestError]:
        """Begin a request to several; `request_all` and `send_all` wait for them. Raises as they do."""
        _check_timeout(timeout_s)
        asker = self._core.peers.asker
        target, payload = asker.pack(event, topic)
        with self._lock:
            self._check_open()
            return {
                session.name: asker.ask(session, target, payload, timeout_s, wants_reply=wants_reply)
                or _overloaded(session.name)
                for session in self._up(role)
            }

    def _up(self, role: str | None = None) -> list[Session]:
        """The peers that are up, or those of a role, by name."""
        sessions = self._core.peers.sessions.values()
        up = [each for each in sessions if each.record is not None and each.record.is_up]
        return sorted((s for s in up if role is None or _role(s) == role), key=lambda session: session.name)

    def _one(self, to: str | None, role: str | None, key: str | bytes | None, size: int) -> Session:
        if to is not None:
            session = next((each for each in self._up() if each.name == to), None)
            if session is None:
                why = self._missing({}, (to,))
                raise RequestError("no_peer", f"it is not up: {why}", peer=to)
            return session
        there = {session.name: session for session in self._up(role)}
        if not there:
            why = self._missing({role or "": 1}, ())
            raise RequestError("no_peer", f"no {role} is up: {why}")
        if key is not None:
            return there[rendezvous(key, there)]
        # Those that can take no more are passed over; if none can, whose turn it is says so.
        free = [name for name, each in there.items() if each.record and each.record.link.asking.has_room(size)]
        return there[self._turns.next(role or "", free or there)]

    # -- being asked ---------------------------------------------------------------------------------------------

    def serve(self, prefix: str, handler: RequestHandler) -> None:
        """Answer requests whose topic begins with `prefix`; the longest prefix wins, an empty one takes the rest.

        Args:
            prefix: Of topics, as for `subscribe`. A second handler for the same takes the place of the first.
            handler: Called as ``handler(event, origin)``; returns the answering event, or `None`. It runs on one of
                `handler_threads` threads, several at a time, and may wait, also for requests of its own. An exception
                is logged and answered with `handler_failed`. Once the asker's deadline has passed its answer is
                dropped; a request whose time is over before its turn comes is not begun.

        Raises:
            EventError: `bad_topic`.
            LocalError: `closed`.
        """
        if prefix:
            check_topic(prefix)
        with self._lock:
            self._check_open()
            self._core.peers.asker.serve(prefix, handler)

    # -- who is there --------------------------------------------------------------------------------------------

    def ready(
        self, *, roles: Mapping[str, int] | None = None, names: Sequence[str] = (), timeout_s: float = 30.0
    ) -> None:
        """Wait until so many peers of each role, and these by name, are up.

        Args:
            roles: How many of each role, as in ``{"sensor": 4}``.
            names: Who else.
            timeout_s: How long, in seconds.

        Raises:
            PeerTimeoutError: `not_ready`; the text says who is missing and why: which dials fail with what, who was
                lost when and why, who was rejected.
            LocalError: `closed` or `node_failed`.
        """
        deadline = time.monotonic() + timeout_s
        with self._lock:
            while True:
                self._check_open()
                missing = self._missing(roles or {}, names)
                if not missing:
                    return
                left = deadline - time.monotonic()
                if left <= 0:
                    raise PeerTimeoutError("not_ready", f"not ready within {timeout_s:g} s: {missing}")
                self._changed.wait(left)

    def _missing(self, roles: Mapping[str, int], names: Sequence[str]) -> str:
        peers = self._core.peers
        return describe_missing(
            roles=roles,
            names=names,
            up={session.name: _role(session) for session in self._up()},
            dials=peers.dials,
            absences=peers.reports.absences,
            now=time.monotonic(),
        )


def _role(session: Session) -> str:
    record = session.record
    return record.link.greeting.role if record is not None and record.link.greeting is not None else ""


def _overloaded(name: str) -> RequestError:
    detail = "too much is unanswered there already"
    return RequestError("overloaded", detail, peer=name, remedy="wait for answers before asking more")


def _settled(asked: Asked | RequestError) -> Event | RequestError | None:
    if isinstance(asked, RequestError):
        return asked
    try:
        return asked.wait()
    except RequestError as exc:
        return exc


def _check_timeout(timeout_s: float) -> None:
    if not (math.isfinite(timeout_s) and 0 < timeout_s <= _MAX_TIMEOUT_S):
        raise LocalError("bad_timeout", f"a deadline in {timeout_s:g} s", remedy="give seconds, more than 0")
