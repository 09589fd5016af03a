"""Events as JSON for people and their scripts: what `rapini publish` reads and `rapini tail` prints.

On the wire an event's fields are an array without names (`docs/wire.md`); here they are an object. Addresses, networks
and ports are text (``"192.0.2.1"``, ``"10.0.0.0/8"``, ``"443/tcp"``), times and intervals seconds. Bytes are text
where they are printable, else ``{"base64": "..."}``.
"""

from __future__ import annotations

import base64
import enum
import types
from collections.abc import Mapping
from typing import Annotated, Any, Final, Union, get_args, get_origin

import msgspec

from rapini.errors import DecodeError, EventError
from rapini.events import Address, Event, Network, Port, RawEvent, UnknownEvent

__all__ = ["event_from_fields", "event_to_fields", "plain"]

_JSON: Final = "application/json"
_BASE64: Final = "base64"


def event_to_fields(event: Event) -> dict[str, Any] | list[Any]:
    """An event's fields as plain JSON values, by name; of a type that we do not know, their values in order."""
    if isinstance(event, UnknownEvent):
        return _unknown_fields(event)
    if isinstance(event, RawEvent):
        return {"data": _raw_data(event), "media_type": event.media_type}
    return {name: plain(getattr(event, name)) for name in event.__struct_fields__}


def plain(value: Any) -> Any:
    """A field's value as JSON knows it."""
    match value:
        case None | bool() | int() | str():
            return value
        case float():
            return value if value - value == 0 else str(value)  # JSON knows neither inf nor nan
        case bytes():
            return _bytes(value)
        case Address() | Network() | Port():
            return str(value)
        case enum.Enum():
            return plain(value.value)
        case msgspec.Struct():
            return {name: plain(getattr(value, name)) for name in value.__struct_fields__}
        case Mapping():
            return {key if isinstance(key, str) else str(plain(key)): plain(item) for key, item in value.items()}
        case list() | tuple() | set() | frozenset():
            return [plain(item) for item in value]
        case _:
            return str(value)


def _bytes(value: bytes) -> str | dict[str, str]:
    try:
        text = value.decode("utf-8")
    except UnicodeDecodeError:
        text = "\0"
    return text if text.isprintable() else {_BASE64: base64.b64encode(value).decode("ascii")}


def _raw_data(event: RawEvent) -> Any:
    if event.media_type == _JSON:
        try:
            return msgspec.json.decode(event.data)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            pass
    return _bytes(event.data)


def _unknown_fields(event: UnknownEvent) -> list[Any]:
    try:
        return [plain(field) for field in event.fields]
    except (DecodeError, RecursionError):
        return [_bytes(event.encoded)]


def event_from_fields(kind: type[Event], fields: Any) -> Event:
    """Make an event of a type from JSON values, strictly: every field of its type, none missing, none unknown.

    Raises:
        EventError: `wrong_type`; `path` names the field.
    """
    event: Event = _struct(kind, fields, "$")
    return event


def _wrong(path: str, detail: str) -> EventError:
    return EventError("wrong_type", f"{path}: {detail}", path=path)


def _struct(kind: Any, fields: Any, path: str) -> Any:
    if not isinstance(fields, dict):
        raise _wrong(path, f"expected an object with the fields of {kind.__name__}")
    known = {field.name: field for field in msgspec.structs.fields(kind)}
    for name in fields:
        if name not in known:
            raise _wrong(f"{path}.{name}", f"{kind.__name__} has no such field")
    for name, field in known.items():
        if field.required and name not in fields:
            raise _wrong(f"{path}.{name}", "is missing")
    return kind(**{name: _value(known[name].type, value, f"{path}.{name}") for name, value in fields.items()})


def _value(kind: Any, value: Any, path: str) -> Any:
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Annotated and _is_simple(arguments[0]):
        return _converted(kind, value, path)  # with its bounds
    if origin is Annotated:
        return _value(arguments[0], value, path)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, value, path)
    if kind in (Address, Network, Port):
        return _from_text(kind, value, path)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return _struct(kind, value, path)
    if kind is bytes:
        return _bytes_from(value, path)
    if origin in (list, set, frozenset, tuple) and isinstance(value, list) and arguments:
        element = arguments[0]
        return origin(_value(element, item, f"{path}[{index}]") for index, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {_value(arguments[0], k, path): _value(arguments[1], v, f"{path}[{k}]") for k, v in value.items()}
    return _converted(kind, value, path)


def _is_simple(kind: Any) -> bool:
    return kind in (bool, int, float, str)


def _one_of(kinds: tuple[Any, ...], value: Any, path: str) -> Any:
    if value is None and type(None) in kinds:
        return None
    errors = []
    for kind in kinds:
        if kind is type(None):
            continue
        try:
            return _value(kind, value, path)
        except EventError as error:
            errors.append(error)
    raise errors[0]


def _converted(kind: Any, value: Any, path: str) -> Any:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise _wrong(path, str(error).replace("`", "").replace("Expected", "expected")) from None


def _from_text(kind: Any, value: Any, path: str) -> Any:
    if not isinstance(value, str):
        raise _wrong(path, f"expected text such as {_EXAMPLES[kind]!r}")
    try:
        if kind is Port:
            number, _, proto = value.partition("/")
            return msgspec.convert([int(number), proto or "tcp"], Port)
        return kind.of(value)
    except (ValueError, msgspec.ValidationError):
        raise _wrong(path, f"{value[:60]!r} is not {_NAMES[kind]} such as {_EXAMPLES[kind]!r}") from None


_EXAMPLES: Final[dict[Any, str]] = {Address: "192.0.2.1", Network: "10.0.0.0/8", Port: "443/tcp"}
_NAMES: Final[dict[Any, str]] = {Address: "an address", Network: "a network", Port: "a port"}


def _bytes_from(value: Any, path: str) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if isinstance(value, dict) and set(value) == {_BASE64}:
        try:
            return base64.b64decode(str(value[_BASE64]), validate=True)
        except ValueError:
            pass
    raise _wrong(path, 'expected text, or {"base64": "..."}')
