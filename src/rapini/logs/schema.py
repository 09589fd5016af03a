"""What a log consists of: its path and its columns, derived from an event type's fields.

Below the formats, on `events`. A column has a Zeek type (`zeek-interop.md` 5.2), because the files are Zeek's; nested
records are flattened with a dot, as Zeek does. A field's Zeek type follows from its Python type:

    Time → time    Interval → interval   Address → addr   Network → subnet      Port → port    bool → bool
    int → int (`count` where declared not negative)       float → double        str, bytes → string
    Enum, Literal → enum                 list, tuple → vector[T]                set, frozenset → set[T]

Dictionaries and containers of containers have no column type in Zeek, and are refused.
"""

from __future__ import annotations

import re
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Final, Literal, Self

import msgspec

from rapini.errors import LogError
from rapini.events import Address, Event, Network, Port, Record

__all__ = ["Column", "Container", "LogSchema", "ZeekType", "zeek_schema"]


class ZeekType(Enum):
    """Zeek's scalar column types."""

    BOOL = "bool"
    INT = "int"
    COUNT = "count"
    DOUBLE = "double"
    TIME = "time"
    INTERVAL = "interval"
    STRING = "string"
    PORT = "port"
    ADDR = "addr"
    SUBNET = "subnet"
    ENUM = "enum"


class Container(Enum):
    """Zeek's container column types."""

    SET = "set"
    VECTOR = "vector"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """A column: what it is called, its type, and where its value is in the event."""

    name: str
    """As in the log's header: `id.orig_h`."""
    zeek_type: ZeekType
    """Of the value, or of a container's elements."""
    container: Container | None = None
    source: tuple[str, ...]
    """The event's field, then fields of nested records."""
    optional: bool = False
    """Whether the value may be unset. `None` where this is false is a wrong value."""
    python_type: object = None
    """The field's type without `None`, or the elements' type."""

    @property
    def type_name(self) -> str:
        """The type as in the log's header: `set[string]`."""
        scalar = self.zeek_type.value
        return f"{self.container.value}[{scalar}]" if self.container else scalar


_PATH: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}\Z")
_SCALARS: Final[dict[object, ZeekType]] = {
    bool: ZeekType.BOOL,
    int: ZeekType.INT,
    float: ZeekType.DOUBLE,
    str: ZeekType.STRING,
    bytes: ZeekType.STRING,
    Address: ZeekType.ADDR,
    Network: ZeekType.SUBNET,
    Port: ZeekType.PORT,
}
_CONTAINERS: Final[dict[object, Container]] = {
    list: Container.VECTOR,
    tuple: Container.VECTOR,
    set: Container.SET,
    frozenset: Container.SET,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class LogSchema:
    """A log's path (the file's name without its suffix) and its columns in order."""

    path: str
    columns: tuple[Column, ...]

    @classmethod
    def for_event(
        cls,
        event_type: type[Event],
        *,
        path: str,
        rename: Mapping[str, str] | None = None,
        types: Mapping[str, str] | None = None,
        int_type: Literal["int", "count"] = "int",
    ) -> Self:
        """Derive a schema from an event type: one column a field, in order.

        Args:
            event_type: The event type.
            path: The log's name, as in `conn`; letters, digits, `_`, `-` and `.`.
            rename: Column names by field name, where they differ.
            types: Zeek types by field name, as in `{"proto": "enum", "orig_p": "port"}`, where they are not what
                follows from the Python type.
            int_type: What plain `int` fields become.

        Raises:
            LogError: `bad_schema`: a field cannot be a column, two columns have one name, or the path cannot be one.
        """
        if not _PATH.match(path):
            raise LogError("bad_schema", f"{path[:40]!r} cannot be a log's name", remedy="use letters and digits")
        columns: list[Column] = []
        for info in msgspec.structs.fields(event_type):
            columns += _columns(info.type, (info.name,), int_type)
        renamed = [_override(column, rename or {}, types or {}) for column in columns]
        names = [column.name for column in renamed]
        if len(set(names)) != len(names) or not names:
            raise LogError("bad_schema", f"log {path} has no columns, or two of one name: {', '.join(names)}")
        return cls(path=path, columns=tuple(renamed))


_ZEEK_NAMES: Final = {
    "orig_h": "id.orig_h",
    "orig_p": "id.orig_p",
    "resp_h": "id.resp_h",
    "resp_p": "id.resp_p",
}
_ZEEK_TYPES: Final = {"orig_p": "port", "resp_p": "port", "proto": "enum", "tunnel_parents": "set[string]"}


def zeek_schema(event_type: type[Event], *, path: str) -> LogSchema:
    """A schema with the habits of Zeek's own logs: made for the monitor's `conn` and `dns`.

    `orig_h`, `orig_p`, `resp_h` and `resp_p` become the columns of Zeek's `id` record, ports are ports, `proto` is an
    enum, `tunnel_parents` a set, and integers are counts. Any thread.

    Raises:
        LogError: `bad_schema`, see `LogSchema.for_event`.
    """
    return LogSchema.for_event(event_type, path=path, rename=_ZEEK_NAMES, types=_ZEEK_TYPES, int_type="count")


def _columns(annotation: object, source: tuple[str, ...], int_type: str, inside_optional: bool = False) -> list[Column]:
    plain, meta, optional = _unwrap(annotation)
    optional = optional or inside_optional
    if isinstance(plain, type) and issubclass(plain, Record) and plain not in _SCALARS:
        return [
            column
            for info in msgspec.structs.fields(plain)
            for column in _columns(info.type, (*source, info.name), int_type, optional)
        ]
    container = _CONTAINERS.get(typing.get_origin(plain) or plain)
    element: object = plain
    if container is not None:
        arguments = [a for a in typing.get_args(plain) if a is not Ellipsis]
        if len(set(arguments)) != 1:
            raise LogError("bad_schema", f"field {'.'.join(source)}: a container has elements of one type")
        element, meta, _ = _unwrap(arguments[0])
    zeek_type = _scalar(element, meta, source, int_type)
    return [
        Column(
            name=".".join(source),
            zeek_type=zeek_type,
            container=container,
            source=source,
            optional=optional,
            python_type=element,
        )
    ]


def _unwrap(annotation: object) -> tuple[object, list[msgspec.Meta], bool]:
    """Take `None` and annotations off a type; return it, the annotations, and whether `None` was there."""
    metas: list[msgspec.Meta] = []
    optional = False
    while True:
        origin = typing.get_origin(annotation)
        if origin is Annotated:
            annotation, *extras = typing.get_args(annotation)
            metas += [extra for extra in extras if isinstance(extra, msgspec.Meta)]
        elif origin in (typing.Union, types.UnionType):
            members = [a for a in typing.get_args(annotation) if a is not type(None)]
            if len(members) != 1:
                return annotation, metas, optional
            optional = True
            annotation = members[0]
        else:
            return annotation, metas, optional


def _scalar(plain: object, metas: list[msgspec.Meta], source: tuple[str, ...], int_type: str) -> ZeekType:
    if plain is float:
        titles = {meta.title for meta in metas}
        return next((t for t in (ZeekType.TIME, ZeekType.INTERVAL) if t.value in titles), ZeekType.DOUBLE)
    if plain is int:
        natural = any(
            (meta.ge is not None and meta.ge >= 0) or (meta.gt is not None and meta.gt >= -1) for meta in metas
        )
        return ZeekType.COUNT if natural else ZeekType(int_type)
    if typing.get_origin(plain) is Literal or (isinstance(plain, type) and issubclass(plain, Enum)):
        return ZeekType.ENUM
    known = _SCALARS.get(plain) if isinstance(plain, type) else None
    if known is None:
        raise LogError(
            "bad_schema",
            f"field {'.'.join(source)} of type {plain} cannot be a log column",
            remedy="log an event type with simpler fields",
        )
    return known


def _override(column: Column, rename: Mapping[str, str], types_by_field: Mapping[str, str]) -> Column:
    field = ".".join(column.source)
    name = rename.get(field, column.name)
    if not name.isprintable() or not name:
        raise LogError("bad_schema", f"{name!r} cannot be a column's name")
    container, scalar = column.container, column.zeek_type
    if field in types_by_field:
        container, scalar = _parse_type(types_by_field[field], field)
        if (container is None) != (column.container is None):
            raise LogError("bad_schema", f"field {field}: a container stays one, a scalar too")
    return replace(column, name=name, zeek_type=scalar, container=container)


def _parse_type(text: str, field: str) -> tuple[Container | None, ZeekType]:
    outer, bracket, inner = text.partition("[")
    try:
        if bracket:
            return Container(outer), ZeekType(inner.removesuffix("]"))
        return None, ZeekType(outer)
    except ValueError:
        raise LogError("bad_schema", f"field {field}: {text!r} is not a Zeek type") from None
