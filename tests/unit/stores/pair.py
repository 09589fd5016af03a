"""Machines joined by lossless links: for traces."""

from __future__ import annotations

from collections.abc import Callable

from rapini.stores import Backend, CloneStore, MasterStore
from rapini.stores.messages import (
    FromClone,
    FromMaster,
    decode_from_clone_untrusted,
    decode_from_master_untrusted,
)
from rapini.stores.outcomes import CloneOutcome, MasterOutcome


def make_master(
    *,
    run: bytes = b"r" * 16,
    may_write: Callable[[str], bool] = lambda peer: True,
    backend: Backend | None = None,
    now: float = 0.0,
    wall_now: float = 1e9,
    log_changes: int = 1000,
) -> MasterStore:
    return MasterStore(
        "s", run=run, may_write=may_write, now=now, wall_now=wall_now, backend=backend, log_changes=log_changes
    )


def make_clone(number: int = 1, *, max_entries: int = 1000, max_bytes: int = 10**9) -> CloneStore:
    return CloneStore(
        "s", writer=bytes([number]) * 16, now=0.0, max_entries=max_entries, max_bytes=max_bytes, wants_changes=True
    )


def join(master: MasterStore, clone: CloneStore, name: str = "c", now: float = 0.0) -> None:
    master.link_up(name, now)
    clone.link_up("m", now)


def part(master: MasterStore, clone: CloneStore, name: str = "c", now: float = 0.0) -> None:
    master.link_lost(name, now)
    clone.link_lost("m", now)


def to_clone(master: MasterStore, clone: CloneStore, name: str = "c", now: float = 0.0) -> list[FromMaster]:
    """Deliver all that the master has to say; what it was."""
    said: list[FromMaster] = []
    while (data := master.next_chunk(name)) is not None:
        said.append(decode_from_master_untrusted(data))
        clone.receive("m", data, now)
    return said


def to_master(clone: CloneStore, master: MasterStore, name: str = "c", now: float = 0.0) -> list[FromClone]:
    """Deliver all that the clone has to say; what it was."""
    said: list[FromClone] = []
    while (data := clone.next_chunk("m")) is not None:
        said.append(decode_from_clone_untrusted(data))
        master.receive(name, data, now)
    return said


def talk(master: MasterStore, clone: CloneStore, name: str = "c", now: float = 0.0) -> list[str]:
    """Deliver everything in both directions; the names of the messages in order."""
    names: list[str] = []
    for _ in range(100):
        said = [*to_master(clone, master, name, now), *to_clone(master, clone, name, now)]
        if not said:
            return names
        names += [type(message).__name__ for message in said]
    raise AssertionError("they never fall silent")


def kinds(outcomes: list[CloneOutcome] | list[MasterOutcome]) -> list[str]:
    return [type(outcome).__name__ for outcome in outcomes]
