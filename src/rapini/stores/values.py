"""Keys and values of a store: what may be one, and how it becomes bytes. Sans-IO.

A value is plain data: None, bool, int, float, str, bytes, list, dict and set, nested up to `limits.MAX_STORE_NESTING`.
Stores keep them *encoded* (MessagePack; a set is extension type 1 around an array). So a reader gets a copy of its own
that nobody can change under the table, the size of a table is known to the byte, what a hostile master makes a clone
hold is no more than it sent, and a snapshot or a delta is made without encoding a value again. A read pays for it with
one decoding (`docs/design/stores.md` has the figures).

Tuples become lists on the way, as everywhere in MessagePack; elements of a set that are tuples stay tuples.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, Final, TypeGuard

import msgspec

from rapini import limits
from rapini.errors import DecodeError, StoreError

__all__ = [
    "SCALARS",
    "Key",
    "WireKey",
    "check_blob_untrusted",
    "check_key",
    "decode_value",
    "encode_value",
    "is_key",
    "key_bytes",
    "key_untrusted",
]

Key = str | bytes | int | tuple[str | bytes | int, ...]
"""Text, bytes, a whole number (not a bool), or a tuple of these."""

_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
WireKey = Any
"""`Key` as a decoder reads it: msgspec has no union of text and bytes. `key_untrusted` makes it one or refuses."""

SCALARS: Final = frozenset({type(None), bool, int, float, str, bytes})
_DICT_KEYS: Final = frozenset({str, bytes, int})
_SET: Final = 1
_MAX_PARTS: Final = 64

_ENCODER: Final = msgspec.msgpack.Encoder()


def _ext(code: int, data: memoryview) -> object:
    if code != _SET:
        raise ValueError(f"extension type {code}")
    return {tuple(item) if type(item) is list else item for item in _ITEMS.decode(data)}


_ITEMS: Final = msgspec.msgpack.Decoder(list[object])
_DECODER: Final = msgspec.msgpack.Decoder(ext_hook=_ext)
_FAULTS: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)


# -- keys ------------------------------------------------------------------------------------------------------------


def key_bytes(key: Key) -> int:
    """How large a key counts, in bytes; text that is not valid Unicode raises `UnicodeEncodeError`."""
    if type(key) is str:
        return len(key) if key.isascii() else len(key.encode())
    if type(key) is int:
        return 9
    if type(key) is bytes:
        return len(key)
    return sum(key_bytes(part) + 5 for part in key) if isinstance(key, tuple) else 0


def is_key(key: object) -> TypeGuard[Key]:
    """Whether this can be a key: its type, its range and its size."""
    parts = key if type(key) is tuple else (key,)
    if len(parts) > _MAX_PARTS:
        return False
    for part in parts:
        if type(part) is int:
            if not _INT_MIN <= part <= _INT_MAX:
                return False
        elif type(part) is not str and type(part) is not bytes:
            return False
    try:
        return key_bytes(key) <= limits.MAX_STORE_KEY_BYTES  # type: ignore[arg-type] # as just checked
    except UnicodeEncodeError:
        return False


def check_key(key: object) -> None:
    """Refuse what cannot be a key.

    Raises:
        StoreError: `bad_key`.
    """
    if not is_key(key):
        raise StoreError(
            "bad_key",
            f"{key!r:.80} cannot be a key",
            remedy=f"use str, bytes, int or a tuple of these, up to {limits.MAX_STORE_KEY_BYTES} bytes",
        )


def key_untrusted(raw: object) -> Key:
    """A key as it was decoded: a tuple is a list there.

    Raises:
        DecodeError: `bad_key`.
    """
    if type(raw) is str and len(raw) <= 255:
        return raw  # nearly always; decoded text is valid Unicode
    key = tuple(raw) if type(raw) is list else raw
    if not is_key(key):
        raise DecodeError("bad_key", f"{raw!r:.80} cannot be a key")
    return key


# -- values ----------------------------------------------------------------------------------------------------------


def encode_value(value: object) -> bytes:
    """A value as the table keeps it.

    Raises:
        StoreError: `not_encodable` or `too_large`.
    """
    try:
        blob = _ENCODER.encode(value if type(value) in SCALARS else _plain(value, 0))
    except _FAULTS as exc:
        raise StoreError(
            "not_encodable", f"{value!r:.80} cannot be a value: {exc}"[: limits.MAX_DETAIL_CHARS]
        ) from None
    if len(blob) > limits.MAX_STORE_VALUE_BYTES:
        raise StoreError("too_large", f"a value of {len(blob)} bytes; at most {limits.MAX_STORE_VALUE_BYTES}")
    # An element takes a byte at least.
    if len(blob) > limits.MAX_STORE_VALUE_ITEMS and type(value) not in SCALARS and not _is_plain(decode_value(blob)):
        raise StoreError("too_large", f"a value of more than {limits.MAX_STORE_VALUE_ITEMS} elements")
    return blob


def decode_value(blob: bytes) -> object:
    """A value out of the table, a fresh copy; the blob is one of ours or was checked.

    Raises:
        StoreError: `damaged`: somebody else changed the file that it came from.
    """
    try:
        return _DECODER.decode(blob)
    except _FAULTS as exc:
        raise StoreError("damaged", f"a value cannot be read: {exc}"[: limits.MAX_DETAIL_CHARS]) from None


def check_blob_untrusted(blob: bytes) -> object:
    """Decode a value that a peer sent, and see that it is one.

    Raises:
        DecodeError: `bad_value`.
    """
    if len(blob) > limits.MAX_STORE_VALUE_BYTES:
        raise DecodeError("bad_value", f"a value of {len(blob)} bytes")
    try:
        value: object = _DECODER.decode(blob)
    except _FAULTS as exc:
        raise DecodeError("bad_value", f"not a value: {exc}"[: limits.MAX_DETAIL_CHARS]) from None
    if type(value) not in SCALARS and not _is_plain(value):
        raise DecodeError("bad_value", "not plain data, nested too deep, or too many elements")
    return value


def _plain(value: object, depth: int) -> object:
    """The value with what MessagePack has no type for replaced, or an error that says what it is."""
    kind = type(value)
    if kind in SCALARS:
        return value
    if depth >= limits.MAX_STORE_NESTING:
        raise ValueError("it is nested too deep")
    if isinstance(value, list | tuple):
        if SCALARS.issuperset(map(type, value)):
            return value
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, set | frozenset):
        return msgspec.msgpack.Ext(_SET, _ENCODER.encode([_element(item) for item in value]))
    if isinstance(value, dict):
        for key in value:
            if type(key) not in _DICT_KEYS:
                raise TypeError(f"a dict's key must be str, bytes or int, not {type(key).__name__}")
        if SCALARS.issuperset(map(type, value.values())):
            return value
        return {key: _plain(item, depth + 1) for key, item in value.items()}
    raise TypeError(f"{kind.__name__} is not plain data")


def _element(item: object) -> object:
    if type(item) in SCALARS or (type(item) is tuple and all(type(part) in SCALARS for part in item)):
        return item
    raise TypeError(f"a set holds plain values or tuples of them, not {type(item).__name__}")


def _is_plain(value: object) -> bool:
    """Whether it is plain data within its bounds; does not recurse, whatever it is."""
    level, room = [value], limits.MAX_STORE_VALUE_ITEMS
    for _ in range(limits.MAX_STORE_NESTING):
        deeper: list[object] = []
        for item in level:
            children: Collection[object]
            if isinstance(item, list):
                children = item
            elif isinstance(item, dict):
                if not _DICT_KEYS.issuperset(map(type, item)):
                    return False
                children = item.values()
            elif isinstance(item, set):
                if not (SCALARS.issuperset(map(type, item)) or all(map(_is_element, item))):
                    return False
                room -= len(item)
                continue
            elif type(item) in SCALARS:
                continue
            else:
                return False
            room -= len(children)
            if not SCALARS.issuperset(map(type, children)):
                deeper += [child for child in children if type(child) not in SCALARS]
        if room < 0:
            return False
        if not deeper:
            return True
        level = deeper
    return False


def _is_element(item: object) -> bool:
    return type(item) in SCALARS or (type(item) is tuple and all(type(part) in SCALARS for part in item))
