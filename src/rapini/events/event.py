"""Event types: classes with typed fields, a name and a topic.

An event type is a frozen `msgspec.Struct` underneath. On the wire its fields are an array in the order of their
declaration (`docs/wire.md`), so fields may be *appended* with defaults without breaking older peers: a receiver that
does not know them skips them, one that knows more fills in its defaults. They are never inserted, removed or retyped.

The *name* identifies the type between nodes; the *topic* says where an event goes, and a subscription is a prefix of
it. Names live in one registry a process, so that a decoder knows which class to make of what arrives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

import msgspec

from rapini import limits
from rapini.errors import DecodeError, EventError
from rapini.events.delivery import DELIVERIES, Delivery, DeliveryName

__all__ = [
    "Event",
    "RawEvent",
    "UnknownEvent",
    "check_topic",
    "event_type",
    "event_types",
    "is_topic",
    "is_type_name",
]

_FIXED: Final = {"frozen": True, "array_like": True, "gc": False}
_FORBIDDEN: Final = {
    "tag": "it would stand in the place of the first field",
    "tag_field": "it would stand in the place of the first field",
    "forbid_unknown_fields": "newer peers append fields",
    "kw_only": "it changes the order of inherited fields",
}

_registry: dict[str, type[Event]] = {}


def is_topic(text: str) -> bool:
    """Whether a text can be a topic: 1 to `limits.MAX_TOPIC_BYTES` bytes of printable characters."""
    # The first comparison spares nearly everybody the encoding; it holds because a character takes 4 bytes at most.
    size = len(text)
    return (
        0 < size <= limits.MAX_TOPIC_BYTES
        and text.isprintable()
        and (size * 4 <= limits.MAX_TOPIC_BYTES or len(text.encode()) <= limits.MAX_TOPIC_BYTES)
    )


def is_type_name(text: object) -> bool:
    """Whether this can be the name of an event type: the rule is that of topics."""
    return isinstance(text, str) and is_topic(text)


def check_topic(topic: str) -> str:
    """Return `topic` if it can be one.

    Raises:
        EventError: `bad_topic`: it is empty, too long (`limits.MAX_TOPIC_BYTES`) or holds a control character.
    """
    if not is_topic(topic):
        raise EventError(
            "bad_topic",
            f"{topic[:40]!r} cannot be a topic",
            remedy=f"use 1 to {limits.MAX_TOPIC_BYTES} bytes of printable text such as 'conn/closed'",
        )
    return topic


class _EventMeta(msgspec.StructMeta):
    """Takes `topic=` and `name=` from the class statement and registers the type."""

    def __new__(
        mcls,
        class_name: str,
        bases: tuple[type, ...],
        namespace: dict[str, Any],
        *,
        topic: str | None = None,
        name: str | None = None,
        delivery: DeliveryName | None = None,
        **config: Any,
    ) -> type:
        namespace.setdefault("__annotations__", {})
        for option, value in _FIXED.items():
            if config.setdefault(option, value) is not value:
                raise EventError("bad_definition", f"event type {class_name}: {option} is always {value}")
        for option in _FORBIDDEN.keys() & config.keys():
            if config[option]:
                raise EventError("bad_definition", f"event type {class_name}: no {option}, {_FORBIDDEN[option]}")
        if name is not None and not is_type_name(name):
            detail = f"event type {class_name}: {name!r:.80} cannot be its name"
            raise EventError("bad_definition", detail, remedy="use 1 to 255 bytes of printable text")
        try:
            cls = super().__new__(mcls, class_name, bases, namespace, **config)
        except TypeError as exc:
            raise EventError("bad_definition", f"event type {class_name}: {exc}") from None
        cls.__rapini_name__ = name or class_name  # type: ignore[attr-defined]
        cls.__rapini_topic__ = check_topic(topic) if topic is not None else ""  # type: ignore[attr-defined]
        if delivery is not None:
            if delivery not in DELIVERIES:
                remedy = f"it is one of {', '.join(DELIVERIES)}"
                raise EventError("bad_definition", f"event type {class_name}: delivery {delivery!r}", remedy=remedy)
            cls.__rapini_delivery__ = DELIVERIES[delivery]  # type: ignore[attr-defined]
        if bases and bases[0] is not msgspec.Struct:
            _register(cls)
        return cls


def _register(cls: Any) -> None:
    known = _registry.get(cls.__rapini_name__)
    if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
        raise EventError(
            "bad_definition",
            f"two event types are named {cls.__rapini_name__!r}: {known.__module__}.{known.__qualname__} "
            f"and {cls.__module__}.{cls.__qualname__}",
            remedy="give one of them another name: class X(Event, topic=..., name='...')",
        )
    _registry[cls.__rapini_name__] = cls


class Event(msgspec.Struct, metaclass=_EventMeta):
    """Base class of event types::

        class ConnectionClosed(Event, topic="conn/closed"):
            ts: Time
            uid: str
            orig_h: Address

    Class keywords:
        topic: Where events of this type go unless `publish` is told otherwise. Without one, `publish` must be told.
        name: The type's name between nodes; the class's name by default.
        delivery: `best_effort` (unless a base class says otherwise), `reliable` or `durable`; a node's configuration
            may say otherwise for a topic.

    Events are immutable and compared by value. Raises `EventError` (`bad_definition`, `bad_topic`) when defined badly.
    """

    __rapini_name__: ClassVar[str]
    __rapini_topic__: ClassVar[str]
    __rapini_delivery__: ClassVar[Delivery] = Delivery.BEST_EFFORT

    if TYPE_CHECKING:

        def __init_subclass__(
            cls,
            *,
            topic: str | None = None,
            name: str | None = None,
            delivery: DeliveryName | None = None,
            **config: Any,
        ) -> None: ...


class RawEvent(Event, name="rapini.RawEvent"):
    """Bytes as they are, for those who bring their own format. Needs a topic at `publish`."""

    data: bytes
    media_type: str = "application/octet-stream"


class UnknownEvent(Event, name="rapini.UnknownEvent"):
    """An event of a type that this process does not know, intact: published again, it crosses unchanged."""

    type_name: str
    """The name of its type, as its publisher gave it."""
    encoded: bytes
    """Its fields, encoded as they came (a MessagePack array)."""

    @property
    def fields(self) -> list[object]:
        """The field values in order, decoded without types.

        Raises:
            DecodeError: `bad_fields`, if they are not MessagePack after all.
        """
        try:
            decoded: list[object] = msgspec.msgpack.decode(self.encoded, type=list)
        except (msgspec.MsgspecError, ValueError, TypeError, RecursionError) as exc:
            raise DecodeError("bad_fields", f"not the fields of an event: {exc}"[: limits.MAX_DETAIL_CHARS]) from None
        return decoded


def event_type(name: str) -> type[Event] | None:
    """The event type of this name, or `None` if this process does not know it. Any thread."""
    return _registry.get(name)


def event_types() -> dict[str, type[Event]]:
    """All event types known to this process, by name. Any thread."""
    return dict(_registry)
