"""Rapini's batch format: runs of events of one type and topic, both sent once a run.

A batch is a MessagePack array of runs; a run is ``[name, topic, count, events, first]`` where *events* is a binary
string that holds a MessagePack array of *count* arrays, one an event, with the fields in order, and *first* the number
of the first event among all that its publisher has published (`docs/wire.md`). Where name and topic are empty,
``number`` follows, by which the publisher's table has them (`strings`). A run that was relayed goes on with ``origin,
stream, hops``: who published it, in which incarnation, how many relays it has passed. So

* a run is encoded once, whatever the number of receivers, and receivers with other subscriptions get other runs of it;
* a relay forwards a run without touching its events;
* a receiver finds the runs it wants in one call without touching the events, then makes all events of a run, finished
  and validated, in one more (`docs/design/measurements.md`: runs of one type are the fastest of the formats measured);
* an event that does not fit its type costs that event: only then is the run decoded again one by one.

A `Codec` holds msgspec's encoder and decoders; it is not thread-safe (its owner's lock guards it).
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, TypeVar

import msgspec

from rapini import limits
from rapini.codec.strings import StringTable
from rapini.errors import DecodeError, EventError
from rapini.events import Event, UnknownEvent, event_type, is_topic, is_type_name

__all__ = [
    "BadEvent",
    "Codec",
    "DecodedRun",
    "EncodeFailure",
    "EncodedRun",
    "Transit",
    "join_runs",
    "split_into_batches",
]

_T = TypeVar("_T")

Strings = Sequence[tuple[str, str]]
"""A table: type names and topics, by number."""

_SMALL_ARRAY: Final = 15
_ARRAY16: Final = struct.Struct(">BH")
_MAX_RUNS: Final = 65_535
_MAX_SOUND_TEXTS: Final = 1_024
"""Pairs of a name and a topic that were found sound and need not be looked at again; peers can invent any number."""
_MAX_DATA_BYTES: Final = limits.MAX_FRAME_BYTES // 2
_MAX_EVENTS: Final = limits.MAX_BATCH_EVENTS
_MAX_NUMBER: Final = 2**62
"""Of an event at its publisher; leaves room to add a count."""
_MAX_HOPS: Final = 255
_STREAM_BYTES: Final = 16
_IS_ORIGIN: Final = re.compile(rf"[A-Za-z0-9_][A-Za-z0-9._-]{{0,{limits.MAX_NAME_BYTES - 1}}}", re.ASCII)
"""A node's name, as `rapini.secure.identity.check_name` has it."""

# What msgspec may raise for somebody's bytes: the last three come from values that Python itself refuses, such as a set
# of dicts, or from nesting without end.
_DECODE_ERRORS: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
_ENCODE_ERRORS: Final = _DECODE_ERRORS


class _WireRun(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One run as it stands in a batch; see the module's docstring."""

    name: str
    topic: str
    count: int
    events: memoryview
    first: int = -1
    number: int = -1
    """Of name and topic in the publisher's table, where they are empty."""
    origin: str = ""
    stream: bytes = b""
    hops: int = 0


class Transit(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """A run on its way through a relay: its events are not decoded."""

    name: str
    topic: str
    count: int
    events: memoryview | bytes
    first: int
    """Number of the first event at its publisher, from 0."""
    origin: str
    """Who published it; empty if that is whom it came from."""
    stream: bytes
    """The publisher's incarnation; empty likewise."""
    hops: int
    """How many relays it has passed."""


class EncodedRun(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Events of one type and topic, encoded once for all receivers."""

    topic: str
    count: int
    data: bytes
    """The run as it stands in a batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EncodeFailure:
    """An event that could not be encoded, and so was not sent to anybody."""

    topic: str
    type_name: str
    detail: str
    is_too_large: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class BadEvent:
    """An event of a run that does not fit its type: it is dropped, its neighbours are not."""

    index: int
    """Its place in the run, from 0."""
    count: int = 1
    """How many events it stands for: more than one where a whole run cannot be told apart."""
    path: str
    """The field, as in ``$[2]`` (positions, since fields have no names on the wire); ``$`` for the whole event."""
    detail: str


class DecodedRun(msgspec.Struct, frozen=True, kw_only=True):
    """Events of one type and topic, as their classes."""

    name: str
    topic: str
    events: Sequence[Event]
    bad: Sequence[BadEvent] = ()
    first: int = -1
    """Number of the first event at its publisher, from 0; -1 where it has none."""
    count: int = 0
    """How many events its publisher put into it, bad ones included."""
    origin: str = ""
    """Who published it; empty if that is whom it came from."""
    stream: bytes = b""
    """The publisher's incarnation; empty likewise."""
    hops: int = 0


def split_into_batches(runs: Sequence[EncodedRun]) -> Iterator[Sequence[EncodedRun]]:
    """Part runs, in order, into groups that each fit one batch; nearly always there is one group."""
    first = size = events = 0
    for at, run in enumerate(runs):
        size += len(run.data)
        events += run.count
        if at > first and (size > _MAX_DATA_BYTES or events > _MAX_EVENTS or at - first == _MAX_RUNS):
            yield runs[first:at]
            first, size, events = at, len(run.data), run.count
    yield runs[first:] if first else runs


def join_runs(runs: Sequence[EncodedRun]) -> bytes:
    """Make a batch of up to 65,535 runs; see `split_into_batches`."""
    count = len(runs)
    if count == 1:  # nearly always, while events are few
        return b"\x91" + runs[0].data
    head = bytes((0x90 | count,)) if count <= _SMALL_ARRAY else _ARRAY16.pack(0xDC, count)
    return head + b"".join([run.data for run in runs])


class Codec:
    """Encodes and decodes batches. Thread: the owner's (guard it with one lock).

    Args:
        strings: Our table of names and topics, for numbered runs; without one they have their texts.
    """

    def __init__(self, strings: StringTable | None = None) -> None:
        self._strings = strings
        self.encode_calls = 0
        """Runs encoded so far: it does not depend on the number of receivers."""
        self._encoder = msgspec.msgpack.Encoder()
        self._runs = msgspec.msgpack.Decoder(list[_WireRun])
        self._raws = msgspec.msgpack.Decoder(list[msgspec.Raw])
        self._sound_texts: set[tuple[str, str]] = set()
        self._lists: dict[type[Event], msgspec.msgpack.Decoder[list[Event]]] = {}
        self._singles: dict[type[Event], msgspec.msgpack.Decoder[Event]] = {}

    # -- to bytes ------------------------------------------------------------------------------------------------

    def encode_run(
        self, topic: str, events: Sequence[Event], first: int = -1
    ) -> tuple[list[EncodedRun], list[EncodeFailure]]:
        """Encode events of one type and topic.

        Args:
            topic: Theirs.
            events: One or more.
            first: Number of the first among all events of this publisher, one that cannot be encoded included; -1 for
                events that are not numbered.

        Returns:
            The run, or several where one would exceed half of `limits.MAX_FRAME_BYTES`; and the events that could not
            be encoded (only those are missing from the runs).
        """
        kind = type(events[0])
        if len(events) > _MAX_EVENTS:
            return self._halves(topic, events, first)
        self.encode_calls += 1
        try:
            if kind is UnknownEvent:
                return self._encode_unknown(topic, events, first), []
            data = self._encoder.encode(events)
        except _ENCODE_ERRORS as exc:
            if len(events) == 1:
                return [], [EncodeFailure(topic=topic, type_name=kind.__rapini_name__, detail=str(exc))]
            return self._halves(topic, events, first)
        if len(data) > _MAX_DATA_BYTES:
            if len(events) > 1:
                return self._halves(topic, events, first)
            detail = f"{len(data)} bytes encoded; at most {_MAX_DATA_BYTES} can be sent"
            failure = EncodeFailure(topic=topic, type_name=kind.__rapini_name__, detail=detail, is_too_large=True)
            return [], [failure]
        return [self._wrap(kind.__rapini_name__, topic, len(events), data, first)], []

    def _halves(self, topic: str, events: Sequence[Event], first: int) -> tuple[list[EncodedRun], list[EncodeFailure]]:
        middle = len(events) // 2
        before = self.encode_run(topic, events[:middle], first)
        after = self.encode_run(topic, events[middle:], first + middle if first >= 0 else -1)
        return before[0] + after[0], before[1] + after[1]

    def _wrap(self, name: str, topic: str, count: int, data: bytes, first: int) -> EncodedRun:
        fields: tuple[object, ...] = (name, topic, count, data)
        if first >= 0:
            number = self._strings.number_of(name, topic) if self._strings is not None else None
            fields = (*fields, first) if number is None else ("", "", count, data, first, number)
        return EncodedRun(topic=topic, count=count, data=self._encoder.encode(fields))

    def _encode_unknown(self, topic: str, events: Sequence[Event], first: int) -> list[EncodedRun]:
        return [
            self._wrap_unknown(topic, event, first + index if first >= 0 else -1)
            for index, event in enumerate(events)
            if isinstance(event, UnknownEvent)
        ]

    def _wrap_unknown(self, topic: str, event: UnknownEvent, first: int) -> EncodedRun:
        """Raises what the encoder would for an event that is not as one that arrived."""
        if not is_type_name(event.type_name):
            raise ValueError(f"{event.type_name!r:.80} cannot name a type")
        if len(event.encoded) > _MAX_DATA_BYTES:
            raise ValueError(f"{len(event.encoded)} bytes encoded; at most {_MAX_DATA_BYTES} can be sent")
        self._raws.decode(event.encoded)
        return self._wrap(event.type_name, topic, 1, b"\x91" + event.encoded, first)

    def forward_run(self, run: Transit) -> EncodedRun:
        """Encode a run that is relayed; its events are copied as they are."""
        fields = (run.name, run.topic, run.count, run.events, run.first, -1, run.origin, run.stream, run.hops)
        return EncodedRun(topic=run.topic, count=run.count, data=self._encoder.encode(fields))

    def check(self, event: Event) -> None:
        """Check every field against its declared type (development mode).

        Raises:
            EventError: `wrong_type`, with the path of the field.
        """
        if isinstance(event, UnknownEvent):
            return
        kind = type(event)
        try:
            self._single(kind).decode(self._encoder.encode(event))
        except msgspec.ValidationError as exc:
            detail, path = _split_path(str(exc))
            raise EventError(
                "wrong_type",
                f"{kind.__name__}.{_field_name(kind, path)}: {detail}",
                path=path,
                remedy="give the field a value of its declared type",
            ) from None
        except _ENCODE_ERRORS as exc:
            raise EventError("not_encodable", f"{kind.__name__}: {exc}", path="$") from None

    # -- from bytes ----------------------------------------------------------------------------------------------

    def decode_batch_untrusted(self, data: bytes | memoryview, strings: Strings = ()) -> list[DecodedRun]:
        """Decode a whole batch; hostile bytes raise `DecodeError` and nothing else.

        An event that does not fit its type is listed in its run's `bad`; one of an unknown type becomes an
        `UnknownEvent`.

        Args:
            data: The batch.
            strings: The table of whoever encoded it, as far as it was told on the channel that brought it.

        Raises:
            DecodeError: `not_a_batch`, when not even the runs can be told apart.
        """
        decoded: list[DecodedRun] = []
        room = _MAX_EVENTS
        for run in self._split_untrusted(data, strings):
            decoded.append(self._decode_run(run, room))
            room -= len(decoded[-1].events) + len(decoded[-1].bad)
        return decoded

    def split_batch_untrusted(
        self, data: bytes | memoryview, strings: Strings = (), *, numbered: bool = True
    ) -> tuple[list[Transit], int]:
        """Part a batch into its runs, for a relay: their events are not decoded, and views of `data`.

        Returns:
            The runs, and how many others were dropped because they cannot be forwarded: without a number or a proper
            name, topic, origin or count. Those without a number are kept if not `numbered`.

        Raises:
            DecodeError: `not_a_batch`.
        """
        runs = self._split_untrusted(data, strings)
        good = [
            Transit(
                name=run.name,
                topic=run.topic,
                count=run.count,
                events=run.events,
                first=run.first,
                origin=run.origin,
                stream=run.stream,
                hops=run.hops,
            )
            for run in runs
            if (run.first >= 0 or not numbered)
            and not self._fault(run)
            and 0 < run.count <= min(len(run.events), _MAX_EVENTS)
            and run.count == _announced(run.events)
        ]
        return good, len(runs) - len(good)

    def cut_run_untrusted(self, run: Transit, first: int, count: int) -> Transit:
        """The part of a run from this number on, so many events.

        Raises:
            DecodeError: `not_a_batch`: its events cannot be told apart.
        """
        try:
            events = self._raws.decode(run.events)
        except _DECODE_ERRORS as exc:
            raise DecodeError("not_a_batch", f"a run of no events: {_bounded(str(exc))}") from None
        at = first - run.first
        data = self._encoder.encode(events[at : at + count])
        return msgspec.structs.replace(run, events=data, first=first, count=count)

    def _split_untrusted(self, data: bytes | memoryview, strings: Strings) -> list[_WireRun]:
        # What is announced is looked at before anything is made of it: one byte can become an object of a hundred.
        if _announced(data) > _MAX_RUNS:
            raise DecodeError("not_a_batch", f"not a batch of events: more than {_MAX_RUNS} runs")
        try:
            runs = self._runs.decode(data)
        except _DECODE_ERRORS as exc:
            raise DecodeError("not_a_batch", f"not a batch of events: {_bounded(str(exc))}") from None
        for at, run in enumerate(runs):
            if 0 <= run.number < len(strings) and not run.name and not run.topic:
                name, topic = strings[run.number]
                runs[at] = msgspec.structs.replace(run, name=name, topic=topic)
        return runs

    def _decode_run(self, run: _WireRun, room: int) -> DecodedRun:
        fault = self._fault(run)
        if fault:
            return self._bad_run(msgspec.structs.replace(run, name="", topic=""), fault)
        if _announced(run.events) > room:
            return self._bad_run(run, f"a batch of more than {_MAX_EVENTS} events")
        kind = event_type(run.name)
        if kind is None or kind is UnknownEvent:
            return self._decode_singly(run, None)
        decoder = self._lists.get(kind)
        try:
            if decoder is None:
                decoder = self._lists[kind] = _decoder(list[kind], kind)  # type: ignore[valid-type]
            events = decoder.decode(run.events)
        except EventError as exc:  # our own class is at fault; the sender's events are dropped all the same
            return self._bad_run(run, str(exc))
        except _DECODE_ERRORS:
            return self._decode_singly(run, kind)
        if len(events) != run.count:
            return self._bad_run(run, f"{len(events)} events where {run.count} were announced")
        return _decoded(run, events, ())

    def _fault(self, run: _WireRun) -> str:
        """What is wrong with what stands before a run's events, or an empty string."""
        texts = (run.name, run.topic)
        if texts not in self._sound_texts:
            if not is_topic(run.topic) or not is_type_name(run.name):
                return "a name or a topic that cannot be one"
            if len(self._sound_texts) < _MAX_SOUND_TEXTS:
                self._sound_texts.add(texts)
        if not run.origin:
            is_sound = -1 <= run.first < _MAX_NUMBER and not run.stream and not run.hops
        else:
            is_sound = (
                0 <= run.first < _MAX_NUMBER
                and len(run.stream) == _STREAM_BYTES
                and 0 < run.hops <= _MAX_HOPS
                and _IS_ORIGIN.fullmatch(run.origin) is not None
            )
        return "" if is_sound else "a number or an origin that cannot be one"

    def _decode_singly(self, run: _WireRun, kind: type[Event] | None) -> DecodedRun:
        try:
            raws = self._raws.decode(run.events)
        except _DECODE_ERRORS as exc:
            return self._bad_run(run, str(exc))
        if len(raws) != run.count:
            return self._bad_run(run, f"{len(raws)} events where {run.count} were announced")
        events: list[Event] = []
        bad: list[BadEvent] = []
        for index, raw in enumerate(raws):
            try:
                events.append(self._decode_single(run.name, kind, raw))
            except _DECODE_ERRORS as exc:
                detail, path = _split_path(str(exc))
                bad.append(BadEvent(index=index, path=path, detail=detail))
        return _decoded(run, events, bad)

    def _decode_single(self, name: str, kind: type[Event] | None, raw: msgspec.Raw) -> Event:
        if kind is not None:
            return self._single(kind).decode(raw)
        encoded = bytes(raw)
        if not (0x90 <= encoded[0] <= 0x9F or encoded[0] in (0xDC, 0xDD)):
            raise msgspec.ValidationError("Expected `array` - at `$`")
        return UnknownEvent(type_name=name, encoded=encoded)

    def _single(self, kind: type[Event]) -> msgspec.msgpack.Decoder[Event]:
        decoder = self._singles.get(kind)
        if decoder is None:
            decoder = self._singles[kind] = _decoder(kind, kind)
        return decoder

    @staticmethod
    def _bad_run(run: _WireRun, detail: str) -> DecodedRun:
        # The announced count is the peer's word: bounded by the run's size, since an event takes at least a byte.
        count = max(1, min(run.count, len(run.events)))
        bad = (BadEvent(index=0, count=count, path="$", detail=_bounded(detail)),)
        return DecodedRun(name=run.name, topic=run.topic, events=(), bad=bad)


def _decoded(run: _WireRun, events: Sequence[Event], bad: Sequence[BadEvent]) -> DecodedRun:
    return DecodedRun(
        name=run.name,
        topic=run.topic,
        events=events,
        bad=bad,
        first=run.first,
        count=run.count,
        origin=run.origin,
        stream=run.stream,
        hops=run.hops,
    )


def _announced(data: bytes | memoryview) -> int:
    """How many elements a MessagePack array says it has; 0 if it is none (its decoder says what is wrong)."""
    first = data[0] if len(data) else 0
    if 0x90 <= first <= 0x9F:
        return first & 0x0F
    size = {0xDC: 2, 0xDD: 4}.get(first, 0)
    return int.from_bytes(data[1 : 1 + size], "big")


def _decoder(kind: type[_T], event_class: type[Event]) -> msgspec.msgpack.Decoder[_T]:
    try:
        return msgspec.msgpack.Decoder(kind)
    except (TypeError, NameError) as exc:
        raise EventError(
            "bad_definition",
            f"event type {event_class.__qualname__}: {exc}",
            remedy="see the field types in docs/reference/events.md",
        ) from None


def _split_path(text: str) -> tuple[str, str]:
    """Part msgspec's "Expected `int`, got `str` - at `$[2]`" into what and where."""
    detail, _, path = text.rpartition(" - at `")
    return (_bounded(detail), _bounded(path.rstrip("`"))) if detail else (_bounded(text), "$")


def _bounded(text: str) -> str:
    """What msgspec says quotes the peer's values, escaped but of any length."""
    return text[: limits.MAX_DETAIL_CHARS]


def _field_name(kind: type[Event], path: str) -> str:
    """The name of the field that a path such as ``$[2][0]`` leads into."""
    index, _, rest = path.removeprefix("$[").partition("]")
    fields = kind.__struct_fields__
    return fields[int(index)] + rest if index.isdigit() and int(index) < len(fields) else path
