"""What the replicas of a store report to their owner: past tense, plain data. Sans-IO."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from rapini.stores.operations import Cause
from rapini.stores.values import Key, decode_value

__all__ = [
    "BackendFailed",
    "CloneOutcome",
    "EntryChanged",
    "MasterFound",
    "MasterLost",
    "MasterOutcome",
    "ProtocolViolation",
    "SecondMaster",
    "SyncFailed",
    "Synced",
    "WriteDone",
    "WriteResult",
]


class WriteResult(msgspec.Struct, frozen=True, gc=False):
    """What became of a write."""

    code: str
    """`ok`, or why nothing was done (`docs/reference/stores.md` lists the codes)."""
    version: int
    """The store's version with this write in it, or the present one where nothing was done."""
    value: object = None
    """The operation's result: whether it won or was there, or the new number."""


class EntryChanged(msgspec.Struct, frozen=True, gc=False):
    """An entry changed in this replica."""

    key: Key
    was_present: bool
    is_present: bool
    version: int
    """The version that brought it; several entries share one after CLEAR and SYNC."""
    cause: Cause
    by: str
    """The node that wrote; empty for the master's own, for expiry, and where it is not known (SYNC)."""
    blob: bytes | None

    @property
    def value(self) -> object:
        """The new value, a fresh copy; `None` where the entry is gone."""
        return None if self.blob is None else decode_value(self.blob)


class WriteDone(msgspec.Struct, frozen=True, gc=False):
    """A clone's write has its outcome; reported exactly once for each."""

    number: int
    result: WriteResult
    is_visible: bool = True
    """A read on this clone sees it, where the code is `ok`. False only when the deadline passed in between."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterFound:
    """This peer has the master; the synchronisation begins."""

    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Synced:
    """The clone has caught up with what the master had when it was asked; from now on it follows live."""

    peer: str
    version: int
    was_snapshot: bool
    changes: int
    """Entries that are not as they were before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterLost:
    """The master is away; the clone is stale from now on."""

    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SecondMaster:
    """Another peer claims to have the master of this store; it is not followed while the first is there."""

    peer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncFailed:
    """The clone does not follow any more, for a reason of its own (`store_full`); no fault of the peer's."""

    peer: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ProtocolViolation:
    """The peer broke the protocol: end its link. Whatever else it sends on it is ignored."""

    peer: str
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendFailed:
    """The table could not be written: what this turn had changed is undone, the writers hear `store_failed`."""

    code: str
    detail: str
    lost_changes: int


MasterOutcome = EntryChanged | ProtocolViolation | BackendFailed
CloneOutcome = (
    EntryChanged | WriteDone | MasterFound | Synced | MasterLost | SecondMaster | SyncFailed | ProtocolViolation
)
