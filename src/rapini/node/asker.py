"""Requests between nodes: who is asked, who answers, and what becomes of each.

Above `session.asking`, which counts and times them on one link; below `Node`. All of it happens under the node's lock
but three things: encoding and decoding (under a lock of their own), and handlers, which run on `Servants`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from typing import Final

from rapini import limits
from rapini.codec import Codec, join_runs
from rapini.errors import DecodeError, EventError, LocalError, RapiniError, RequestError
from rapini.events import Event, check_topic
from rapini.events.delivery import Delivery
from rapini.node.counters import MAX_CODES, Counters
from rapini.node.inbox import Inbox, ReceivedBatch
from rapini.node.links import LinkRecord
from rapini.node.loop import Loop
from rapini.node.serving import Servants
from rapini.node.sessions import Session
from rapini.node.status import Origin
from rapini.session.link import CloseKind, LinkClosed
from rapini.session.outcomes import AnswerReceived, RequestReceived

__all__ = ["Asked", "Asker", "RequestHandler"]

_log = logging.getLogger("rapini.node")

RequestHandler = Callable[[Event, Origin], Event | None]
"""Called with the event and where it came from; returns the answer."""

_GRACE_S: Final = 2.0
"""The I/O thread ends a request at its deadline; whoever waits looks for itself so much later."""

_MAX_HELD: Final = 4 * limits.MAX_REQUESTS
"""Addressed events of one peer that wait for consumers, given up ones among them."""

_ADVICE: Final = "the peer may have acted on it: ask again only if that does no harm"


class Asked:
    """One request under way."""

    def __init__(self, peer: str, timeout_s: float, unpack: Callable[[bytes, str], Event | None]) -> None:
        self.peer = peer
        self.future: Future[bytes] = Future()
        self._timeout_s = timeout_s
        self._unpack = unpack

    def wait(self) -> Event | None:
        """Wait for the answer. Any thread but the node's own.

        Raises:
            RequestError: It came to nothing.
            LocalError: `closed` or `node_failed`.
        """
        try:
            return self._unpack(self.future.result(self._timeout_s + _GRACE_S), self.peer)
        except TimeoutError:
            self.future.cancel()
            raise self.too_late() from None
        except BaseException:
            self.future.cancel()
            raise

    async def wait_async(self) -> Event | None:
        """The same for an event loop; cancelling it cancels the request."""
        return self._unpack(await asyncio.wrap_future(self.future), self.peer)

    def too_late(self) -> RequestError:
        """What it fails with at its deadline."""
        detail = f"no answer within {self._timeout_s:g} s"
        return RequestError("deadline", detail, peer=self.peer, remedy=_ADVICE)

    def succeed(self, payload: bytes) -> None:
        """The answer is here."""
        with contextlib.suppress(InvalidStateError):  # it was cancelled just now
            self.future.set_result(payload)

    def fail(self, error: RapiniError) -> None:
        """It came to nothing."""
        with contextlib.suppress(InvalidStateError):
            self.future.set_exception(error)


class Asker:
    """A node's requests, both ways. Under the node's lock unless a method says otherwise.

    Args:
        name: The node's name.
        handler_threads: How many requests are served at a time.
        counters: Where each request's end is counted.
        loop: For its lock.
        inboxes: Where addressed events go; the node's own list.
        clock: Monotonic seconds.
        send: Sends what a link has queued, and arms its timer.
    """

    def __init__(
        self,
        *,
        name: str,
        handler_threads: int,
        counters: Counters,
        loop: Loop,
        inboxes: Sequence[Inbox],
        clock: Callable[[], float],
        send: Callable[[LinkRecord, float], None],
    ) -> None:
        self.is_stopped = False
        """Whether requests of peers are refused, because we are about to leave."""
        self._counters = counters
        self._loop = loop
        self._inboxes = inboxes
        self._clock = clock
        self._send = send
        self._pending: dict[tuple[int, int], Asked] = {}
        self._held: Counter[str] = Counter()
        """Addressed events that wait for consumers, by peer."""
        self._handlers: list[tuple[str, RequestHandler]] = []
        """The longest prefix first."""
        self._servants = Servants(name, handler_threads)
        self._codec = Codec()
        self._codec_lock = threading.Lock()

    # -- asking --------------------------------------------------------------------------------------------------

    def pack(self, event: Event, topic: str | None) -> tuple[str, bytes]:
        """Check and encode what is asked; returns its topic and payload. Any thread, without the lock.

        Raises:
            LocalError: `not_an_event` or `no_topic`.
            EventError: `bad_topic` or `not_encodable`.
            RequestError: `too_large`.
        """
        kind = event.__class__
        if not isinstance(event, Event):
            raise LocalError("not_an_event", f"{kind.__name__} is not an event: derive it from rapini.Event")
        target = kind.__rapini_topic__ if topic is None else topic
        if not target:
            raise LocalError("no_topic", f"{kind.__name__} has no topic", remedy="say topic='...'")
        check_topic(target)
        with self._codec_lock:
            runs, failures = self._codec.encode_run(target, [event])
        for failure in failures:
            if failure.is_too_large:
                raise RequestError("too_large", f"{failure.type_name}: {failure.detail}")
            raise EventError("not_encodable", f"{failure.type_name}: {failure.detail}", path="$")
        return target, join_runs(runs)

    def ask(self, session: Session, topic: str, payload: bytes, timeout_s: float, *, wants_reply: bool) -> Asked | None:
        """Ask a peer that is up; `None` if it has as many unanswered requests of ours as it may."""
        record = session.record
        if record is None or not record.is_up:
            return None
        now = self._clock()
        number = record.link.ask(topic, payload, now + timeout_s, wants_reply=wants_reply)
        if number is None:
            return None
        asked = self._pending[record.id, number] = Asked(session.name, timeout_s, self.unpack_answer)
        asked.future.add_done_callback(lambda future: self._cancelled(record, number) if future.cancelled() else None)
        self._send(record, now)
        return asked

    def _cancelled(self, record: LinkRecord, number: int) -> None:
        """Nobody waits for this one any more. Any thread."""
        with self._loop.lock:
            if self._pending.pop((record.id, number), None) is not None:
                record.link.asking.cancel(number)
                self._counters.requests["cancelled"] += 1

    def unpack_answer(self, payload: bytes, peer: str) -> Event | None:
        """The event in an answer. Any thread, without the lock.

        Raises:
            RequestError: `bad_event`.
        """
        if not payload:
            return None
        try:
            return self._unpack(payload, "")
        except DecodeError as exc:
            raise RequestError("bad_event", f"its answer does not fit: {exc}", peer=peer) from None

    def _unpack(self, payload: bytes, topic: str) -> Event:
        with self._codec_lock:
            runs = self._codec.decode_batch_untrusted(payload)
        if len(runs) != 1 or (topic and runs[0].topic != topic):
            raise DecodeError("bad_event", "not one run on its topic")
        (run,) = runs
        if run.bad:
            raise DecodeError("bad_event", f"{run.name}: {run.bad[0].detail} at {run.bad[0].path}")
        if len(run.events) != 1:
            raise DecodeError("bad_event", f"{len(run.events)} events where one belongs")
        return run.events[0]

    def answered(self, record: LinkRecord, answer: AnswerReceived) -> None:
        """The peer answered."""
        asked = self._pending.pop((record.id, answer.id), None)
        if asked is None:
            return
        self._count(self._counters.requests, answer.code)
        if answer.code:
            detail = answer.detail or answer.code
            asked.fail(RequestError(answer.code, detail, peer=asked.peer))
        else:
            asked.succeed(answer.payload)

    def expired(self, record: LinkRecord, number: int) -> None:
        """A deadline of ours has passed."""
        asked = self._pending.pop((record.id, number), None)
        if asked is not None:
            self._count(self._counters.requests, "deadline")
            asked.fail(asked.too_late())

    def link_ended(self, record: LinkRecord, closed: LinkClosed) -> None:
        """What was unanswered on a link has failed: whether the peer acted on it, nobody knows."""
        asking = record.link.asking
        self._counters.late_answers += asking.late
        if asking.overdue:
            self._counters.served["deadline"] += asking.overdue
        asking.late = asking.overdue = 0  # now counted; some links end twice, by a fault of ours
        code = "peer_left" if closed.kind in (CloseKind.LEFT, CloseKind.CLOSED) else "peer_lost"
        how = "left" if code == "peer_left" else f"was lost ({closed.code})"
        for number in asking.end():
            asked = self._pending.pop((record.id, number), None)
            if asked is not None:
                self._count(self._counters.requests, code)
                detail = f"it {how} before it answered"
                asked.fail(RequestError(code, detail, peer=asked.peer, remedy=_ADVICE))

    def fail_all(self, error: RapiniError) -> None:
        """The node does nothing any more: nobody may wait for it."""
        pending, self._pending = self._pending, {}
        for asked in pending.values():
            asked.fail(error)

    @staticmethod
    def _count(counter: Counter[str], code: str) -> None:
        end = code or "ok"  # some are the peers' words
        counter[end if end in counter or len(counter) < MAX_CODES else "(others)"] += 1

    # -- being asked ---------------------------------------------------------------------------------------------

    def serve(self, prefix: str, handler: RequestHandler) -> None:
        """Answer requests whose topic begins like this."""
        others = [(known, each) for known, each in self._handlers if known != prefix]
        self._handlers = sorted([*others, (prefix, handler)], key=lambda item: -len(item[0]))

    def requested(self, record: LinkRecord, session: Session, request: RequestReceived, now: float) -> None:
        """A peer asks."""
        if self.is_stopped:
            self._answer(record, request.id, "peer_left", "it is about to leave", now)
        elif not request.wants_reply:
            self._deliver(record, session, request, now)
        else:
            self._serve(record, session, request, now)

    def _serve(self, record: LinkRecord, session: Session, request: RequestReceived, now: float) -> None:
        topic = request.topic
        handler = next((each for prefix, each in self._handlers if topic.startswith(prefix)), None)
        if handler is None:
            self._answer(record, request.id, "no_handler", f"nobody serves {topic!r:.100} there", now)
            return
        origin = Origin(peer=session.name, topic=topic, epoch=session.epoch, node=session.name)

        def job() -> None:
            self._work(record, request, handler, origin)

        if not self._servants.put(session.name, job):
            self._answer(record, request.id, "overloaded", "too many requests wait there", now)

    def _work(self, record: LinkRecord, request: RequestReceived, handler: RequestHandler, origin: Origin) -> None:
        """Run a handler, and send what it says. Thread: a servant's."""
        with self._loop.lock:
            if not record.link.asking.is_open(request.id):
                return  # its time is over, or whoever asked is gone
        code, detail, payload = self._outcome(request, handler, origin)
        with self._loop.lock:
            self._answer(record, request.id, code, detail, self._clock(), payload)

    def _outcome(self, request: RequestReceived, handler: RequestHandler, origin: Origin) -> tuple[str, str, bytes]:
        try:
            event = self._unpack(request.payload, request.topic)
        except DecodeError as exc:
            self._counters.bad_event(origin.peer, "", "$", str(exc), 1)
            return "bad_event", str(exc), b""
        try:
            answer = handler(event, origin)
        except BaseException as exc:  # noqa: BLE001 - the application's fault, SystemExit included, must not end the thread
            _log.exception("the handler failed for a request of %s on %s", origin.peer, request.topic)
            return "handler_failed", type(exc).__name__, b""
        if answer is None:
            return "", "", b""
        try:
            return "", "", self.pack(answer, getattr(answer, "__rapini_topic__", "") or request.topic)[1]
        except RapiniError as exc:
            _log.error("the answer to %s on %s cannot be sent: %s", origin.peer, request.topic, exc)
            return ("too_large" if exc.code == "too_large" else "handler_failed"), exc.detail, b""

    def _deliver(self, record: LinkRecord, session: Session, request: RequestReceived, now: float) -> None:
        """An event for us alone: to those who subscribed to its topic here, else to whoever reads `events()`."""
        topic, name = request.topic, session.name
        wanted = [inbox for inbox in self._inboxes if inbox.prefixes and topic.startswith(inbox.prefixes)]
        wanted = wanted or list(self._inboxes[:1])
        if not wanted or self._held[name] >= _MAX_HELD:
            self._answer(record, request.id, "overloaded", "nobody takes what comes there", now)
            return
        self._held[name] += 1
        batch = ReceivedBatch(
            peer=name,
            epoch=session.epoch,
            generation=session.generation,
            delivery=Delivery.BEST_EFFORT,
            first_sequence=0,
            count=1,
            data=request.payload,
            taken=lambda batch: self._taken(record, request.id, batch),
            incarnation=session.incarnation,
            addressed_to=topic,
        )
        for inbox in wanted:
            if self._loop.is_in_turn:
                inbox.hold(batch)
            else:
                inbox.put(batch)

    def _taken(self, record: LinkRecord, number: int, batch: ReceivedBatch) -> None:
        """A consumer took an addressed event; it must not see one that was given up. Thread: the consumer's."""
        with self._loop.lock:
            if batch.is_settled:
                return
            batch.is_settled = True
            self._held[batch.peer] -= 1
            if not self._held[batch.peer]:
                del self._held[batch.peer]
            batch.is_void = not record.link.asking.is_open(number)
            self._answer(record, number, batch.fault, "", self._clock())

    def _answer(
        self, record: LinkRecord, number: int, code: str, detail: str, now: float, payload: bytes = b""
    ) -> None:
        if record.link.answer(number, code, detail, payload):
            self._count(self._counters.served, code)
            self._send(record, now)

    def close(self, timeout_s: float) -> bool:
        """Serve no more; wait for the handlers that run. Without the lock."""
        return self._servants.close(timeout_s)
