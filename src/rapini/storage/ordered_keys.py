"""A store's keys as bytes whose order allows to look up a prefix: for tables that are sorted by bytes.

A tag for the type comes first. Text and bytes follow as they are, so a prefix of the key is a prefix of the bytes. A
number takes 9 bytes, big-endian, moved up so that it is not negative. A tuple is its parts, each with its tag; text
and bytes in it end with 00 01 and have 00 FF for 00, so that a tuple of the first parts is a prefix too. (The scheme
is that of FoundationDB's tuple layer.)
"""

from __future__ import annotations

from typing import Final

from rapini.errors import StoreError
from rapini.stores import Key

__all__ = ["decode_key", "encode_key", "prefix_range"]

_INT: Final = 1
_BYTES: Final = 2
_TEXT: Final = 3
_TUPLE: Final = 4
_OFFSET: Final = 2**63
_INT_BYTES: Final = 9
_END: Final = b"\x00\x01"


def encode_key(key: Key) -> bytes:
    """The bytes of a key."""
    if isinstance(key, tuple):
        return bytes((_TUPLE,)) + b"".join([_part(part) for part in key])
    return _scalar(key)


def _scalar(key: str | bytes | int) -> bytes:
    if isinstance(key, str):
        return b"\x03" + key.encode()
    if isinstance(key, bytes):
        return b"\x02" + key
    return b"\x01" + (key + _OFFSET).to_bytes(_INT_BYTES, "big")


def _part(part: str | bytes | int) -> bytes:
    data = _scalar(part)
    return data if isinstance(part, int) else data.replace(b"\x00", b"\x00\xff") + _END


def decode_key(data: bytes) -> Key:
    """The key of these bytes.

    Raises:
        StoreError: `damaged`.
    """
    try:
        if data[0] != _TUPLE:
            return _decode_scalar(data)
        parts: list[str | bytes | int] = []
        at = 1
        while at < len(data):
            if data[at] == _INT:
                end = after = at + 1 + _INT_BYTES
            else:
                end = _end_of(data, at)
                after = end + len(_END)
            parts.append(_decode_scalar(data[at:end].replace(b"\x00\xff", b"\x00") if end < after else data[at:end]))
            at = after
        return tuple(parts)
    except (ValueError, IndexError) as exc:
        raise StoreError("damaged", f"a key cannot be read: {exc}") from None


def _end_of(data: bytes, at: int) -> int:
    end = data.index(b"\x00", at)
    while data[end + 1] != _END[1]:
        end = data.index(b"\x00", end + 2)
    return end


def _decode_scalar(data: bytes) -> str | bytes | int:
    tag, body = data[0], data[1:]
    if tag == _TEXT:
        return body.decode()
    if tag == _BYTES:
        return body
    if tag != _INT or len(body) != _INT_BYTES:
        raise ValueError(f"tag {tag}")
    return int.from_bytes(body, "big") - _OFFSET


def prefix_range(prefix: Key) -> tuple[bytes, bytes]:
    """All keys that begin with `prefix` are at least the first and less than the second."""
    first = encode_key(prefix)
    body = first.rstrip(b"\xff")  # never empty: the tag is not ff
    return first, body[:-1] + bytes((body[-1] + 1,))
