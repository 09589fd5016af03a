"""Event types: classes with typed fields, a name and a topic.

An event type is a frozen `msgspec.Struct` underneath. On the wire its fields are an array in the order of their
declaration (`docs/wire.md`), so fields may be *appended* with defaults without breaking older peers: a receiver that
does not know them skips them, one that knows more fills in its defaults. They are never inserted, removed or retyped.

The *name* identifies the type between nodes; the *topic* says where an event goes, and a subscription is a prefix of
it. Names live in one registry a process, so that a decoder knows which class to make of what arrives.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from rapini import limits
from rapini.errors import EventError

__all__ = ["Event", "RawEvent", "UnknownEvent", "check_topic", "event_type", "event_types"]

_registry: dict[str, type[Event]] = {}


def check_topic(topic: str) -> str:
    """Return `topic` if it can be one.

    Raises:
        EventError: `bad_topic`: it is empty, too long (`limits.MAX_TOPIC_BYTES`) or holds a control character.
    """
    if (
        not topic
        or len(topic.encode("utf-8", "surrogatepass")) > limits.MAX_TOPIC_BYTES
        or not topic.isprintable()
    ):
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
        **config: Any,
    ) -> type:
        namespace.setdefault("__annotations__", {})
        for option, value in (("frozen", True), ("array_like", True), ("gc", False)):
            if config.setdefault(option, value) is not value:
                raise EventError("bad_definition", f"event type {class_name}: {option} is always {value}")
        cls = super().__new__(mcls, class_name, bases, namespace, **config)
        cls.__rapini_name__ = name or class_name  # type: ignore[attr-defined]
        cls.__rapini_topic__ = check_topic(topic) if topic is not None else ""  # type: ignore[attr-defined]
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

    Events are immutable and compared by value. Raises `EventError` (`bad_definition`, `bad_topic`) when defined badly.
    """

    __rapini_name__: ClassVar[str]
    __rapini_topic__: ClassVar[str]

    if TYPE_CHECKING:

        def __init_subclass__(
            cls, *, topic: str | None = None, name: str | None = None, **config: Any
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
        """The field values in order, decoded without types."""
        decoded: list[object] = msgspec.msgpack.decode(self.encoded)
        return decoded


def event_type(name: str) -> type[Event] | None:
    """The event type of this name, or `None` if this process does not know it. Any thread."""
    return _registry.get(name)


def event_types() -> dict[str, type[Event]]:
    """All event types known to this process, by name. Any thread."""
    return dict(_registry)
