"""What a master and its clones say to each other, byte by byte. Sans-IO.

Each message is a MessagePack array that begins with its tag; the session carries it whole, in order, within one link.

    clone                                        master
    Follow(writer, run, version)  ------------>             what I have, and who writes
                                  <------------  Following   from which version I go on, by deltas or a snapshot
                                  <------------  Chunk ...   the snapshot, where it is one
    Writes  ---------------------------------->
                                  <------------  Deltas, Replies

`NoStore` answers a `Follow` for a store that has no master here; `Offer` says that there is one; `Unfollow` ends it.

A *run* is one start of a master: 16 random bytes. A version means something together with the run that counted it. A
master whose data survive a restart knows where each of its earlier runs ended, so it can tell whether a clone's version
is a part of its own history, or of one that was lost with a disk or undone by a backup.
"""

from __future__ import annotations

from typing import Annotated, Final

import msgspec

from rapini import limits
from rapini.errors import DecodeError
from rapini.stores.operations import Operation
from rapini.stores.values import WireKey, key_untrusted

__all__ = [
    "Change",
    "Chunk",
    "Deltas",
    "Entry",
    "Follow",
    "Following",
    "FromClone",
    "FromMaster",
    "NoStore",
    "Offer",
    "Replies",
    "Reply",
    "Unfollow",
    "Write",
    "Writes",
    "answer_unknown_untrusted",
    "decode_changes_untrusted",
    "decode_from_clone_untrusted",
    "decode_from_master_untrusted",
    "encode",
    "encode_changes",
    "is_from_clone_untrusted",
]

_MAX_COUNT: Final = 2**62
_Count = Annotated[int, msgspec.Meta(ge=0, le=_MAX_COUNT)]
_Run = Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
_KnownRun = Annotated[bytes, msgspec.Meta(max_length=16)]
_Code = Annotated[str, msgspec.Meta(pattern=r"^[a-z][a-z0-9_]{0,39}\Z", max_length=40)]
_Who = Annotated[str, msgspec.Meta(max_length=limits.MAX_NAME_BYTES)]


class _Part(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Base of what stands inside messages."""


class Change(_Part, frozen=True, array_like=True, gc=False):
    """One version's change."""

    cause: Annotated[int, msgspec.Meta(ge=1, le=10)]
    key: WireKey
    """`None` for CLEAR alone."""
    blob: bytes | None
    """The entry's new value, encoded; `None`: it is gone."""
    by: _Who = ""
    """The node that wrote; empty for the master's own."""


class Entry(_Part, frozen=True, array_like=True, gc=False):
    """An entry of a snapshot."""

    key: WireKey
    blob: bytes


class Write(_Part, frozen=True, array_like=True, gc=False):
    """A clone's write; `number` counts up from 1 in one incarnation of the writer."""

    number: Annotated[int, msgspec.Meta(ge=1, le=_MAX_COUNT)]
    operation: Operation


class Reply(_Part, frozen=True, array_like=True, gc=False):
    """What became of a write."""

    number: Annotated[int, msgspec.Meta(ge=1, le=_MAX_COUNT)]
    code: _Code
    version: _Count
    """The store's version with this write in it."""
    blob: bytes = b"\xc0"
    """The operation's result, encoded."""


class Follow(_Part, frozen=True, array_like=True, gc=False, tag=1):
    """A clone begins on this link."""

    writer: _Run
    """The clone's incarnation: its writes are numbered within it."""
    run: _KnownRun
    """The run in which the clone's version was counted; empty when it has nothing."""
    version: _Count


class Writes(_Part, frozen=True, array_like=True, gc=False, tag=2):
    """Writes, in the order of their numbers."""

    settled_below: _Count
    """The clone has, or no longer wants, the replies to all smaller numbers."""
    writes: list[Write]


class Unfollow(_Part, frozen=True, array_like=True, gc=False, tag=3):
    """The clone wants no more of this."""


class Offer(_Part, frozen=True, array_like=True, gc=False, tag=10):
    """This store has its master here."""


class Following(_Part, frozen=True, array_like=True, gc=False, tag=11):
    """The answer to `Follow`."""

    run: _Run
    version: _Count
    """With a snapshot: its version. Else the version that the deltas to come lead to at least."""
    is_snapshot: bool
    count: _Count
    """The snapshot's entries."""
    is_continued: bool
    """The clone's run is a part of this data's history."""
    is_known_writer: bool
    """The writer's earlier writes, where there were any, are remembered."""


class Chunk(_Part, frozen=True, array_like=True, gc=False, tag=12):
    """A part of a snapshot."""

    version: _Count
    entries: list[Entry]
    is_last: bool


class Deltas(_Part, frozen=True, array_like=True, gc=False, tag=13):
    """Changes, each one version on."""

    first_version: _Count
    count: _Count
    changes: memoryview
    """`count` encoded `Change`, one after the other: encoded once, joined as a follower needs them."""


class Replies(_Part, frozen=True, array_like=True, gc=False, tag=14):
    """What became of writes."""

    replies: list[Reply]


class NoStore(_Part, frozen=True, array_like=True, gc=False, tag=15):
    """This store has no master here (any more)."""


FromClone = Follow | Writes | Unfollow
FromMaster = Offer | Following | Chunk | Deltas | Replies | NoStore

_FAULTS: Final = (msgspec.MsgspecError, ValueError, TypeError, OverflowError, RecursionError)
_ENCODER: Final = msgspec.msgpack.Encoder()
_FROM_CLONE: Final = msgspec.msgpack.Decoder(FromClone)
_FROM_MASTER: Final = msgspec.msgpack.Decoder(FromMaster)
_CHANGES: Final = msgspec.msgpack.Decoder(list[Change])


def encode(message: FromClone | FromMaster) -> bytes:
    """A message's bytes."""
    return _ENCODER.encode(message)


def encode_changes(changes: list[Change]) -> bytes:
    """Changes one after the other, without the array's head, so that batches can be joined."""
    data = _ENCODER.encode(changes)
    count = len(changes)
    return data[1 if count < 16 else 3 if count < 65_536 else 5 :]


def decode_from_clone_untrusted(data: bytes | memoryview) -> FromClone:
    """Decode what a clone sent.

    Raises:
        DecodeError: `too_large`, `bad_store_message` or `bad_key`.
    """
    _check_size(data)
    try:
        message: FromClone = _FROM_CLONE.decode(data)
    except _FAULTS as exc:
        raise _fault(exc) from None
    if isinstance(message, Writes):
        for write in message.writes:
            _mend_key(write.operation)
    return message


def decode_from_master_untrusted(data: bytes | memoryview) -> FromMaster:
    """Decode what a master sent; the values in it are checked by whoever keeps them.

    Raises:
        DecodeError: `too_large`, `bad_store_message` or `bad_key`.
    """
    _check_size(data)
    try:
        message: FromMaster = _FROM_MASTER.decode(data)
    except _FAULTS as exc:
        raise _fault(exc) from None
    if isinstance(message, Chunk):
        for entry in message.entries:
            _mend_key(entry)
    return message


def decode_changes_untrusted(deltas: Deltas) -> list[Change]:
    """The changes of a `Deltas`.

    Raises:
        DecodeError: `bad_store_message` or `bad_key`.
    """
    if not 1 <= deltas.count <= len(deltas.changes):  # a change takes a byte at least
        raise DecodeError("bad_store_message", f"{deltas.count} changes in {len(deltas.changes)} bytes")
    try:
        changes = _CHANGES.decode(b"\xdd" + deltas.count.to_bytes(4, "big") + deltas.changes)
    except _FAULTS as exc:
        raise _fault(exc) from None
    for change in changes:
        _mend_key(change)
    return changes


def answer_unknown_untrusted(data: bytes | memoryview) -> bytes | None:
    """What a node answers to a message about a store that it does not have: `NoStore` to a `Follow`, else nothing."""
    try:
        message = decode_from_clone_untrusted(data)
    except DecodeError:
        return None
    return encode(NoStore()) if isinstance(message, Follow) else None


def is_from_clone_untrusted(data: bytes | memoryview) -> bool:
    """Whether a message is one that clones say: two clones that meet ask each other."""
    try:
        decode_from_clone_untrusted(data)
    except DecodeError:
        return False
    return True


def _check_size(data: bytes | memoryview) -> None:
    if len(data) > limits.MAX_STORE_MESSAGE_BYTES:
        raise DecodeError("too_large", f"a store message of {len(data)} bytes")


def _mend_key(holder: Change | Entry | Operation) -> None:
    raw = holder.key
    if type(raw) is str and len(raw) <= 255:
        return
    if raw is not None or isinstance(holder, Entry):
        key = key_untrusted(raw)
        if type(key) is tuple:
            msgspec.structs.force_setattr(holder, "key", key)  # nobody has seen it yet


def _fault(exc: Exception) -> DecodeError:
    return DecodeError("bad_store_message", str(exc)[: limits.MAX_DETAIL_CHARS])
