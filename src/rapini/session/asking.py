"""Requests under way over one link, ours and the peer's: numbers, deadlines, bounds. Sans-IO.

A `Link` owns one from its admission on. Each request is answered by exactly one response, whatever becomes of it: when
its deadline passes at the one who was asked, the machine itself answers `deadline`. So both sides agree on how many are
unanswered, and a bound that one keeps is one that the other may enforce:

    asker                                           asked
    ask() ──> queued ──next_frame()──> Request ───> received() ──> open
                 │ deadline, cancel()      │                        │ answer(), or its deadline
                 └──> forgotten            │                        v
              answered, or late  <──── Response <──next_frame()── answered

A request whose deadline has passed here still counts until its response has come, which is then dropped and counted
(`late`). Nothing is ever sent twice: when the link ends, what was unanswered has failed, and whether the peer acted on
it is not known (at most once; Birrell and Nelson, "Implementing Remote Procedure Calls", 1984, section 1.3).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final

from rapini import limits
from rapini.session.messages import Request, Response

__all__ = ["Asking", "Heard"]

_NEVER: Final = float("inf")
_OVERLOADED: Final = "its answers are not read fast enough"


class Heard(Enum):
    """What a response turned out to be."""

    ANSWER = "answer"
    """Somebody waits for it."""
    LATE = "late"
    """Nobody does any more: its deadline has passed, or it was cancelled."""
    UNASKED = "unasked"
    """It answers nothing that was sent: the peer breaks the protocol."""


@dataclass(slots=True)
class _Ours:
    """A request of ours."""

    topic: str
    payload: bytes
    size: int
    deadline: float
    wants_reply: bool
    is_sent: bool = False
    is_awaited: bool = True


@dataclass(slots=True)
class _Theirs:
    """A request of the peer's, until its response has gone."""

    size: int
    deadline: float
    is_open: bool = True


class Asking:
    """Both directions of one link. Thread: the owner's.

    Args:
        peer_window_bytes: The peer's credit: bounds the payload of our unanswered requests, and what waits in answers.
        own_window_bytes: Ours: bounds the payload of the peer's unanswered requests. A single one may have any size.
    """

    def __init__(self, *, peer_window_bytes: int, own_window_bytes: int) -> None:
        self.late = 0
        """Responses that nobody waited for any more."""
        self.overdue = 0
        """Requests of the peer's that were answered `deadline` here."""
        self._peer_window = min(peer_window_bytes, limits.MAX_FRAME_BYTES)
        self._own_window = own_window_bytes
        self._ours: dict[int, _Ours] = {}
        self._theirs: dict[int, _Theirs] = {}
        self._ours_bytes = self._theirs_bytes = self._answer_bytes = 0
        self._queue: deque[int | Response] = deque()
        """Numbers of our requests, and responses, in the order in which they go out."""
        self._next_id = 0
        self._due = _NEVER
        """No deadline is earlier than this."""

    # -- asking --------------------------------------------------------------------------------------------------

    def has_room(self, size: int) -> bool:
        """Whether a request of so many bytes may be made now."""
        if len(self._ours) >= limits.MAX_REQUESTS:
            return False
        return not self._ours or self._ours_bytes + size <= self._peer_window

    def ask(self, topic: str, payload: bytes, deadline: float, *, wants_reply: bool) -> int | None:
        """Queue a request; returns its number, or `None` if there is no room.

        Args:
            topic: Says what is asked.
            payload: A batch of one run with one event.
            deadline: Monotonic seconds.
            wants_reply: Whether an event is wanted in return, or only the word that this one was taken.
        """
        size = len(payload)
        if not self.has_room(size):
            return None
        number = self._next_id
        self._next_id += 1
        self._ours[number] = _Ours(topic, payload, size, deadline, wants_reply)
        self._ours_bytes += size
        self._queue.append(number)
        self._due = min(self._due, deadline)
        return number

    def cancel(self, number: int) -> None:
        """Nobody waits for this one any more. What was not sent is not sent; else its response will be dropped."""
        asked = self._ours.get(number)
        if asked is None:
            return
        asked.is_awaited = False
        if not asked.is_sent:
            self._queue.remove(number)
            self._forget(number)

    def heard(self, number: int) -> Heard:
        """A response has come."""
        asked = self._ours.get(number)
        if asked is None or not asked.is_sent:
            return Heard.UNASKED
        self._forget(number)
        if asked.is_awaited:
            return Heard.ANSWER
        self.late += 1
        return Heard.LATE

    def _forget(self, number: int) -> None:
        self._ours_bytes -= self._ours.pop(number).size

    # -- being asked ---------------------------------------------------------------------------------------------

    def received(self, request: Request, now: float) -> str:
        """Account for a request of the peer's; returns how it breaks the protocol, or an empty string."""
        if request.id in self._theirs:
            return "a request under a number that is unanswered"
        if len(self._theirs) >= limits.MAX_REQUESTS:
            return f"more than {limits.MAX_REQUESTS} unanswered requests"
        size = len(request.payload)
        if self._theirs and self._theirs_bytes + size > self._own_window:
            return "requests beyond its credit"
        deadline = now + request.expires_ms / 1000
        self._theirs[request.id] = _Theirs(size, deadline)
        self._theirs_bytes += size
        self._due = min(self._due, deadline)
        return ""

    def is_open(self, number: int) -> bool:
        """Whether a request of the peer's still waits for our answer."""
        asked = self._theirs.get(number)
        return asked is not None and asked.is_open

    def answer(self, number: int, code: str, detail: str = "", payload: bytes = b"") -> bool:
        """Queue the response to a request; false if that was answered already (by its deadline) or never asked.

        The request counts until the response has gone out, so a peer that asks and does not read is bounded.
        """
        asked = self._theirs.get(number)
        if asked is None or not asked.is_open:
            return False
        asked.is_open = False
        if payload and self._answer_bytes and self._answer_bytes + len(payload) > self._peer_window:
            code, detail, payload = "overloaded", _OVERLOADED, b""
        self._answer_bytes += len(payload)
        self._queue.append(Response(number, code, detail[: limits.MAX_DETAIL_CHARS], payload))
        return True

    # -- going out, time, the end --------------------------------------------------------------------------------

    @property
    def has_queued(self) -> bool:
        """Whether `next_frame` may have something."""
        return bool(self._queue)

    def next_frame(self, now: float) -> Request | Response | None:
        """Take what goes out next; `None` when nothing does. It counts as sent."""
        if not self._queue:
            return None
        item = self._queue.popleft()
        if isinstance(item, Response):
            self._answer_bytes -= len(item.payload)
            self._theirs_bytes -= self._theirs.pop(item.id).size
            return item
        asked = self._ours[item]
        asked.is_sent = True
        payload, asked.payload = asked.payload, b""
        remaining_ms = max(1, round((asked.deadline - now) * 1000))
        return Request(item, remaining_ms, asked.topic, asked.wants_reply, payload)

    def next_timer(self) -> float:
        """When `handle_timer` wants to be called, in monotonic seconds; infinity for not at all."""
        return self._due

    def handle_timer(self, now: float) -> list[int]:
        """Answer `deadline` where the peer's has passed; returns the numbers of our requests whose deadline has."""
        if now < self._due:
            return []
        for number, asked in self._theirs.items():
            if asked.is_open and asked.deadline <= now:
                self.overdue += 1
                self.answer(number, "deadline", "not answered in time")
        expired = [number for number, asked in self._ours.items() if asked.is_awaited and asked.deadline <= now]
        for number in expired:
            self.cancel(number)
        self._due = min(self._deadlines(), default=_NEVER)
        return expired

    def _deadlines(self) -> Iterator[float]:
        yield from (asked.deadline for asked in self._ours.values() if asked.is_awaited)
        yield from (asked.deadline for asked in self._theirs.values() if asked.is_open)

    def forgive(self, pause_s: float) -> None:
        """Our own process stood still: the peer's requests have so much longer; ours are due when they were."""
        for asked in self._theirs.values():
            asked.deadline += pause_s

    def end(self) -> list[int]:
        """The link has ended; returns the numbers of our requests that somebody waits for: they have failed."""
        awaited = [number for number, asked in self._ours.items() if asked.is_awaited]
        self._ours.clear()
        self._theirs.clear()
        self._queue.clear()
        self._ours_bytes = self._theirs_bytes = self._answer_bytes = 0
        self._due = _NEVER
        return awaited
