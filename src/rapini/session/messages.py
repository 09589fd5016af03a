"""The session's frames: what crosses inside a channel, byte by byte (`docs/wire.md`).

A channel's plaintext is a stream of frames: four bytes of length (big-endian, of what follows), one byte of kind, the
body. Bodies are MessagePack arrays, read under the same evolution rule as events (fields are only appended), except
those of `EVENTS` and `DURABLE`, which begin with fixed numbers so that a batch is neither copied nor wrapped.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from enum import IntEnum
from typing import Annotated, Final, NewType, TypeVar

import msgspec

from rapini import limits
from rapini.errors import DecodeError
from rapini.events.delivery import Delivery

__all__ = [
    "PROTOCOL_VERSION",
    "Ack",
    "Body",
    "Epoch",
    "DurableHeader",
    "EventsHeader",
    "FrameKind",
    "FrameReader",
    "Gap",
    "Goodbye",
    "Greeting",
    "Hello",
    "Incarnation",
    "Ping",
    "Pong",
    "Position",
    "Ready",
    "Reject",
    "Request",
    "Response",
    "Stream",
    "Strings",
    "Subscribed",
    "Subscriptions",
    "Welcome",
    "decode_body_untrusted",
    "encode_frame",
    "is_name",
    "pack_durable_frame",
    "pack_events_frame",
    "pack_store_frame",
    "split_durable_untrusted",
    "split_events_untrusted",
    "split_store_untrusted",
]

PROTOCOL_VERSION: Final = 2
"""What we speak. `Hello` carries the lowest and highest version a node speaks; the responder picks."""

Epoch = NewType("Epoch", int)
Incarnation = NewType("Incarnation", bytes)

_HEAD: Final = struct.Struct(">IB")
_EVENTS: Final = struct.Struct(">IBBQI")
_EVENTS_BODY: Final = struct.Struct(">BQI")
_DURABLE: Final = struct.Struct(">IBQQI")
_DURABLE_BODY: Final = struct.Struct(">QQI")

_NAME: Final = "[A-Za-z0-9_][A-Za-z0-9._-]*"
"""As `rapini.secure.identity.check_name` has it: names end up in diagnostics, and a plain peer may claim any."""
_IS_NAME: Final = re.compile(rf"{_NAME}\Z").match
_Name = Annotated[str, msgspec.Meta(max_length=limits.MAX_NAME_BYTES, pattern=rf"^{_NAME}\Z")]
_OptionalName = Annotated[str, msgspec.Meta(max_length=limits.MAX_NAME_BYTES, pattern=rf"^({_NAME})?\Z")]
_Incarnation = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_KnownIncarnation = Annotated[bytes, msgspec.Meta(max_length=16)]
_MAX_COUNT: Final = 2**63 - 1
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX_COUNT)]
_MAX_KNOWN_EPOCH: Final = 2**62
"""Leaves room to count on from whatever a peer says it knows."""
_KnownEpoch = Annotated[int, msgspec.Meta(ge=0, le=_MAX_KNOWN_EPOCH)]
_Numbers = Annotated[list[_Count], msgspec.Meta(max_length=8)]
_Text = Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_TOPIC_BYTES)]
_StreamId = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_Prefix = Annotated[str, msgspec.Meta(max_length=limits.MAX_TOPIC_BYTES)]
_Prefixes = Annotated[list[_Prefix], msgspec.Meta(max_length=limits.MAX_SUBSCRIPTIONS)]


def is_name(text: str) -> bool:
    """Whether a node could have this name."""
    return len(text) <= limits.MAX_NAME_BYTES and _IS_NAME(text) is not None


class FrameKind(IntEnum):
    """The byte after a frame's length."""

    HELLO = 1
    WELCOME = 2
    REJECT = 3
    SUBSCRIPTIONS = 4
    SUBSCRIBED = 5
    READY = 6
    EVENTS = 7
    ACK = 8
    PING = 9
    PONG = 10
    GOODBYE = 11
    GAP = 12
    STREAM = 13
    POSITION = 14
    DURABLE = 15
    REQUEST = 16
    RESPONSE = 17
    STORE = 18
    STRINGS = 19


class Body(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of frame bodies."""


class Greeting(Body, frozen=True, array_like=True, gc=False):
    """Who a node says it is. The channel's identity must agree with it."""

    cluster: _Name
    node: _Name
    role: _OptionalName
    incarnation: _Incarnation
    """Fresh random bytes each time a node starts."""
    window_bytes: _Count
    """How many bytes of events may be under way to this node unacknowledged."""
    known_incarnation: _KnownIncarnation
    """The other node's incarnation that this node last had a session with, or empty."""
    known_epoch: _KnownEpoch
    """The last epoch of that session; 0 when there is none."""
    reserved: _Count = 0
    """Was a number in version 1, whose nodes still read this far to find that they do not speak ours."""
    received: _Numbers = []
    """The number after the last event of that session that this node has received, by delivery class: settles what was
    in doubt when a channel was lost, and says where to go on."""


class Hello(Body, frozen=True, array_like=True, gc=False):
    """The initiator's first frame."""

    version_min: int
    version_max: int
    greeting: Greeting


class Welcome(Body, frozen=True, array_like=True, gc=False):
    """The responder admits the initiator, and counts the session's epoch on."""

    version: int
    epoch: _Count
    greeting: Greeting


class Reject(Body, frozen=True, array_like=True, gc=False):
    """The peer is refused, after authentication, with a code (`docs/wire.md` lists them)."""

    code: str
    detail: str
    retry_after_ms: _Count = 0


class Subscriptions(Body, frozen=True, array_like=True, gc=False):
    """All topic prefixes that the sender wants, replacing earlier ones."""

    version: _Count
    prefixes: _Prefixes


class Subscribed(Body, frozen=True, array_like=True, gc=False):
    """The subscriptions of this version are in force here: what is published from now on is matched by them."""

    version: _Count


class Ready(Body, frozen=True, array_like=True, gc=False):
    """The state exchange is complete on the sender's side."""


class Ack(Body, frozen=True, array_like=True, gc=False):
    """What was taken by the application: the number after the last event, by delivery class (cumulative)."""

    taken: _Numbers


class Ping(Body, frozen=True, array_like=True, gc=False):
    """Something to answer."""

    token: _Count


class Pong(Body, frozen=True, array_like=True, gc=False):
    """The answer to a `Ping`."""

    token: _Count


class Goodbye(Body, frozen=True, array_like=True, gc=False):
    """The sender leaves on purpose. The answer is another `Goodbye`, then the channel closes."""

    code: str
    detail: str = ""


class Gap(Body, frozen=True, array_like=True, gc=False):
    """Numbers of a delivery class that no event will come for; acknowledged like events."""

    delivery: Annotated[int, msgspec.Meta(ge=0, le=2)]
    first_sequence: _Count
    count: Annotated[int, msgspec.Meta(ge=1, le=_MAX_COUNT)]
    reason: Annotated[str, msgspec.Meta(max_length=64)]
    topics: dict[_Prefix, _Count] = {}
    """Events by topic, as far as the sender knows."""


class Stream(Body, frozen=True, array_like=True, gc=False):
    """The sender has a durable stream, and asks where the receiver is in it."""

    stream_id: _StreamId


class Position(Body, frozen=True, array_like=True, gc=False):
    """Where the sender of this is in the other's stream."""

    stream_id: _StreamId
    position: _Count | None
    """The first number that it wants; `None` if it does not know: where the publisher thinks it is, or from now on."""
    is_kept: bool = True
    """Whether it is to be owed what it misses while it is away."""


class Request(Body, frozen=True, array_like=True, gc=False):
    """One event for the receiver alone; answered by exactly one `Response`."""

    id: _Count
    """The sender's, on this channel; no other request with it is unanswered."""
    expires_ms: _Count
    """How long the sender still waits, when this is sent."""
    topic: _Prefix
    """Says what is asked."""
    wants_reply: bool
    """Whether an event is wanted in return, or only the word that the application took this one."""
    payload: bytes
    """A batch of one run with one event."""


class Response(Body, frozen=True, array_like=True, gc=False):
    """The answer to a `Request`."""

    id: _Count
    code: Annotated[str, msgspec.Meta(max_length=64)]
    """Empty if all went well, else why not (`docs/wire.md` lists the codes)."""
    detail: str = ""
    payload: bytes = b""
    """A batch of one run with one event, or nothing."""


class Strings(Body, frozen=True, array_like=True, gc=False):
    """What the sender's table of names and topics has grown by: all of it first, in the state exchange."""

    base: _Count
    """How many were told before on this channel."""
    pairs: Annotated[list[tuple[_Text, _Text]], msgspec.Meta(max_length=limits.MAX_STRINGS)]


class DurableHeader(msgspec.Struct, frozen=True, gc=False):
    """What stands before durable events."""

    after: int
    """The position that this continues from."""
    first_sequence: int
    count: int


class EventsHeader(msgspec.Struct, frozen=True, gc=False):
    """What stands before a batch."""

    delivery: Delivery
    first_sequence: int
    """Number of the batch's first event in this session and class, from 0."""
    count: int


_BODIES: Final[dict[FrameKind, type[Body]]] = {
    FrameKind.HELLO: Hello,
    FrameKind.WELCOME: Welcome,
    FrameKind.REJECT: Reject,
    FrameKind.SUBSCRIPTIONS: Subscriptions,
    FrameKind.SUBSCRIBED: Subscribed,
    FrameKind.READY: Ready,
    FrameKind.ACK: Ack,
    FrameKind.PING: Ping,
    FrameKind.PONG: Pong,
    FrameKind.GOODBYE: Goodbye,
    FrameKind.GAP: Gap,
    FrameKind.STREAM: Stream,
    FrameKind.POSITION: Position,
    FrameKind.STRINGS: Strings,
    FrameKind.REQUEST: Request,
    FrameKind.RESPONSE: Response,
}
_DELIVERIES: Final = tuple(Delivery)
_EVENTS_KIND: Final = int(FrameKind.EVENTS)
"""As a plain number: comparing and packing an enum's member takes longer."""
_BY_NUMBER: Final = {int(kind): kind for kind in FrameKind}
_KINDS: Final = {body: kind for kind, body in _BODIES.items()}
_DECODERS: Final = {kind: msgspec.msgpack.Decoder(body) for kind, body in _BODIES.items()}
_ENCODER: Final = msgspec.msgpack.Encoder()

BodyT = TypeVar("BodyT", bound=Body)


def encode_frame(body: Body) -> bytes:
    """One frame, ready to be sent through a channel."""
    data = _ENCODER.encode(body)
    return _HEAD.pack(len(data) + 1, _KINDS[type(body)]) + data


def pack_events_frame(delivery: int, first_sequence: int, count: int, batch: bytes) -> bytes:
    """An `EVENTS` frame around an encoded batch."""
    return _EVENTS.pack(len(batch) + 1 + _EVENTS_BODY.size, _EVENTS_KIND, delivery, first_sequence, count) + batch


def split_events_untrusted(body: memoryview) -> tuple[EventsHeader, memoryview]:
    """Part the body of an `EVENTS` frame into its header and the batch.

    Raises:
        DecodeError: `bad_frame`.
    """
    if len(body) < _EVENTS_BODY.size:
        raise DecodeError("bad_frame", "an EVENTS frame is too short for its header")
    delivery, first_sequence, count = _EVENTS_BODY.unpack_from(body)
    if delivery >= len(_DELIVERIES):
        raise DecodeError("bad_frame", f"no delivery class has the number {delivery}")
    if count > min(len(body), limits.MAX_BATCH_EVENTS):  # an event takes a byte at least
        raise DecodeError("bad_frame", f"{count} events in {len(body)} bytes")
    if first_sequence + count > _MAX_COUNT:  # what comes after it must fit an Ack
        raise DecodeError("bad_frame", f"event number {first_sequence} is out of range")
    return EventsHeader(_DELIVERIES[delivery], first_sequence, count), body[_EVENTS_BODY.size :]


def pack_durable_frame(after: int, first_sequence: int, count: int, batch: bytes) -> bytes:
    """A `DURABLE` frame around an encoded batch; without events it moves the position alone."""
    size = len(batch) + 1 + _DURABLE_BODY.size
    return _DURABLE.pack(size, FrameKind.DURABLE, after, first_sequence, count) + batch


def split_durable_untrusted(body: memoryview) -> tuple[DurableHeader, memoryview]:
    """Part the body of a `DURABLE` frame into its header and the batch.

    Raises:
        DecodeError: `bad_frame`.
    """
    if len(body) < _DURABLE_BODY.size:
        raise DecodeError("bad_frame", "a DURABLE frame is too short for its header")
    after, first_sequence, count = _DURABLE_BODY.unpack_from(body)
    if count > min(len(body), limits.MAX_BATCH_EVENTS):
        raise DecodeError("bad_frame", f"{count} events in {len(body)} bytes")
    if first_sequence + count > _MAX_COUNT or after > first_sequence + max(0, count - 1):
        raise DecodeError("bad_frame", f"events from number {first_sequence} after {after}")
    return DurableHeader(after, first_sequence, count), body[_DURABLE_BODY.size :]


def pack_store_frame(store: str, data: bytes) -> bytes:
    """A `STORE` frame: a message between the replicas of one store."""
    name = store.encode()
    return _HEAD.pack(2 + len(name) + len(data), FrameKind.STORE) + bytes((len(name),)) + name + data


def split_store_untrusted(body: memoryview) -> tuple[str, bytes]:
    """Part the body of a `STORE` frame into the store's name and the message.

    Raises:
        DecodeError: `bad_frame`.
    """
    size = body[0] if body else 0
    if not 0 < size < len(body) - 1 or len(body) - 1 - size > limits.MAX_STORE_MESSAGE_BYTES:
        raise DecodeError("bad_frame", "a STORE frame without a name or a message, or too large")
    try:
        name = str(body[1 : 1 + size], "utf-8")
    except UnicodeDecodeError:
        raise DecodeError("bad_frame", "a STORE frame whose name is no text") from None
    if not _IS_NAME(name):
        raise DecodeError("bad_frame", "a STORE frame for what cannot be a store")
    return name, bytes(body[1 + size :])


def decode_body_untrusted(kind: FrameKind, body: memoryview) -> Body:
    """Decode the body of any frame but `EVENTS` and `DURABLE`.

    Raises:
        DecodeError: `bad_frame`.
    """
    try:
        return _DECODERS[kind].decode(body)
    except (msgspec.MsgspecError, ValueError, RecursionError) as exc:
        raise DecodeError("bad_frame", f"{kind.name}: {exc}"[: limits.MAX_DETAIL_CHARS]) from None


class FrameReader:
    """Cuts a channel's plaintext into frames, however it arrives.

    `max_frame_bytes` bounds what a peer can make us hold; raise it once the peer is admitted.
    """

    def __init__(self, max_frame_bytes: int = limits.MAX_GREETING_FRAME_BYTES) -> None:
        self.max_frame_bytes = max_frame_bytes
        self._kept = bytearray()

    @property
    def kept_bytes(self) -> int:
        """Bytes of an unfinished frame."""
        return len(self._kept)

    def sole_batch_untrusted(self, data: bytes) -> tuple[Delivery, int, int, bytes] | None:
        """Class, first number, count and batch, if `data` is one sound `EVENTS` frame and no more; changes nothing.

        Nearly always so while events are few, and what counts then is delay: a call in place of ten. `None` is no
        verdict: whatever else arrives, faults included, is for `frames_untrusted`.
        """
        if self._kept or len(data) <= _EVENTS.size:
            return None
        size, kind, delivery, first_sequence, count = _EVENTS.unpack_from(data)
        if size + 4 != len(data) or kind != _EVENTS_KIND or size > self.max_frame_bytes:
            return None
        if (
            delivery >= len(_DELIVERIES)
            or count >= size
            or count > limits.MAX_BATCH_EVENTS
            or first_sequence + count > _MAX_COUNT
        ):
            return None
        return _DELIVERIES[delivery], first_sequence, count, data[_EVENTS.size :]

    def frames_untrusted(self, data: bytes) -> Iterator[tuple[FrameKind, memoryview]]:
        """Add plaintext and yield the frames that are complete.

        Raises:
            DecodeError: `frame_too_large`, `bad_frame` (an empty one) or `unknown_kind`.
        """
        if self._kept:
            self._kept += data
            if not self._is_complete():
                return
            data = bytes(self._kept)
            self._kept.clear()
        view = memoryview(data)
        at, end = 0, len(view)
        while end - at >= 4:
            size = int.from_bytes(view[at : at + 4], "big")
            self._check(size)
            if end - at - 4 < size:
                break
            kind = view[at + 4]
            body = view[at + 5 : at + 4 + size]
            at += 4 + size
            known = _BY_NUMBER.get(kind)
            if known is None:
                raise DecodeError("unknown_kind", f"unknown frame kind {kind}")
            yield known, body
        if at < end:
            self._kept += view[at:]

    def _is_complete(self) -> bool:
        if len(self._kept) < 4:
            return False
        size = int.from_bytes(self._kept[:4], "big")
        self._check(size)
        return len(self._kept) >= 4 + size

    def _check(self, size: int) -> None:
        if size == 0:
            raise DecodeError("bad_frame", "an empty frame")
        if size > self.max_frame_bytes:
            raise DecodeError("frame_too_large", f"a frame of {size} bytes; at most {self.max_frame_bytes} here")
