"""What can be done to one entry, as a pure function from the old value to the new one. Sans-IO.

A clone's write travels as an `Operation`; the master's own calls make the same. Whatever the operation, a change leaves
as the entry's *new state*, not as the operation: so a delta means the same to whoever applies it, and the history that
a clone may have missed does not matter. The price is that appending to a large value sends the large value.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Annotated, Final

import msgspec

from rapini import limits
from rapini.errors import StoreError
from rapini.stores.values import Key, WireKey, check_key, decode_value, encode_value

__all__ = ["Cause", "Operation", "Verdict", "evaluate", "is_expiry", "make_operation"]


class Cause(IntEnum):
    """Why an entry changed; the first eight are also the operations."""

    PUT = 1
    PUT_UNIQUE = 2
    DELETE = 3
    INCREMENT = 4
    APPEND = 5
    ADD = 6
    """An element was added to a set."""
    REMOVE = 7
    """An element was taken out of a set."""
    CLEAR = 8
    TOUCH = 9
    """The expiry alone; changes no entry that a clone can see."""
    EXPIRE = 10
    SYNC = 11
    """A clone caught up by a snapshot: what happened in between is not known, only the difference."""


class Operation(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """One write."""

    kind: Annotated[int, msgspec.Meta(ge=1, le=9)]
    key: WireKey = None
    """`None` for CLEAR alone."""
    blob: bytes = b""
    """The encoded argument: the value, the amount, what is appended, the element."""
    expires_in_s: float | None = None
    """When the entry expires, from the moment the master applies this. `None`: PUT and PUT_UNIQUE take an earlier
    expiry away, the others leave it."""


class Verdict(msgspec.Struct, frozen=True, gc=False):
    """What an operation comes to."""

    code: str
    """`ok`, or why nothing was done."""
    blob: bytes | None
    """The entry's new value; `None`: absent."""
    is_change: bool
    result: object = None
    """For the caller: whether it won, whether it was there, the new number."""


_ABSENT: Final = Verdict("absent", None, False, False)
_WRONG: Final = Verdict("wrong_type", None, False)


def is_expiry(seconds: float | None) -> bool:
    """Whether this can be an expiry: none, or more than 0 and at most `limits.MAX_STORE_EXPIRY_S` seconds."""
    return seconds is None or (math.isfinite(seconds) and 0 < seconds <= limits.MAX_STORE_EXPIRY_S)


def evaluate(kind: int, old: bytes | None, blob: bytes) -> Verdict:
    """Work out any operation on one entry but CLEAR. `blob` is a checked value. Nothing is changed."""
    if kind == Cause.PUT:
        return Verdict("ok", blob, True)
    if kind == Cause.PUT_UNIQUE:
        return Verdict("ok", blob, True, True) if old is None else Verdict("exists", None, False, False)
    if kind == Cause.DELETE:
        return _ABSENT if old is None else Verdict("ok", None, True, True)
    if kind == Cause.TOUCH:
        return _ABSENT if old is None else Verdict("ok", old, False, True)
    try:
        argument = decode_value(blob)
        present = None if old is None else decode_value(old)
        if kind == Cause.INCREMENT:
            return _increment(present if old is not None else 0, argument)
        if kind == Cause.APPEND:
            return _append(present if old is not None else argument, argument, is_new=old is None)
        return _set(kind, present if old is not None else set(), argument)
    except StoreError as exc:  # the new value is too large, a sum out of range, the old value damaged
        is_sum = kind == Cause.INCREMENT and exc.code == "not_encodable"
        return Verdict("out_of_range" if is_sum else exc.code, None, False)
    except OverflowError:  # a float that an int is too large for
        return Verdict("out_of_range", None, False)


def _increment(present: object, amount: object) -> Verdict:
    if type(present) not in (int, float) or type(amount) not in (int, float):
        return _WRONG
    total: object = present + amount  # type: ignore[operator] # as just checked
    return Verdict("ok", encode_value(total), True, total)


def _append(present: object, more: object, *, is_new: bool) -> Verdict:
    if type(present) is not type(more) or not isinstance(present, list | str | bytes):
        return _WRONG
    return Verdict("ok", encode_value(more if is_new else present + more), True)  # type: ignore[operator]


def _set(kind: int, present: object, element: object) -> Verdict:
    if isinstance(element, list):
        element = tuple(element)
    if not isinstance(present, set):
        return _WRONG
    try:
        hash(element)
    except TypeError:
        return _WRONG
    is_there = element in present
    if is_there == (kind == Cause.ADD):
        return Verdict("ok", None, False, False)
    if kind == Cause.ADD:
        present.add(element)
    else:
        present.discard(element)
    return Verdict("ok", encode_value(present), True, True)


_WITHOUT_VALUE: Final = frozenset({Cause.DELETE, Cause.TOUCH, Cause.CLEAR})


def make_operation(kind: Cause, key: Key | None, value: object = None, expires_in_s: float | None = None) -> Operation:
    """An operation from a caller's arguments; `value` means nothing to DELETE, TOUCH and CLEAR.

    Raises:
        StoreError: `bad_key`, `not_encodable`, `too_large` or `bad_expiry`.
    """
    if kind is not Cause.CLEAR:
        check_key(key)
    if not is_expiry(expires_in_s):
        raise StoreError("bad_expiry", f"an expiry of {expires_in_s} s", remedy="use more than 0, at most ten years")
    blob = b"" if kind in _WITHOUT_VALUE else encode_value(value)
    return Operation(int(kind), key, blob, expires_in_s)
