"""Clones equal their master once faults stop: any calls, cuts, restarts and delays, in memory and in SQLite.

And the proof that this test finds what it should: small mutations that misbehave without crashing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from rapini.stores.backend import MemoryBackend, TableSnapshot
from rapini.stores.clone import CloneStore
from rapini.stores.copy import TableCopy
from rapini.stores.expiry import Expiry
from rapini.stores.log import DeltaLog
from rapini.stores.master import MasterStore
from rapini.stores.messages import Change, Chunk, Reply
from rapini.stores.writers import Writer, Writers
from tests.unit.stores.machine import DurableReplicas, Replicas

STEPS = 40
QUIET = [HealthCheck.too_slow, HealthCheck.filter_too_much]


TestInMemory = Replicas.TestCase
TestInMemory.settings = settings(stateful_step_count=STEPS, suppress_health_check=QUIET)
TestInSqlite = DurableReplicas.TestCase
TestInSqlite.settings = settings(stateful_step_count=STEPS, max_examples=25, suppress_health_check=QUIET)


# -- mutations -------------------------------------------------------------------------------------------------------


def snapshot_without_its_last_change(patch: pytest.MonkeyPatch) -> None:
    def snapshot(self: MemoryBackend, prefix: object = None) -> TableSnapshot:
        return TableSnapshot(dict(list(self._table.items())[:-1]))

    patch.setattr(MemoryBackend, "snapshot", snapshot)


def delta_applied_twice(patch: pytest.MonkeyPatch) -> None:
    real = TableCopy.apply

    def apply(self: TableCopy, first_version: int, changes: list[Change], *, wants_changes: bool) -> None:
        real(self, first_version, changes, wants_changes=wants_changes)
        self.version = first_version - 1
        real(self, first_version, changes, wants_changes=wants_changes)

    patch.setattr(TableCopy, "apply", apply)


def version_off_by_one_after_a_snapshot(patch: pytest.MonkeyPatch) -> None:
    real = TableCopy.replace

    def replace(self: TableCopy, *, wants_changes: bool) -> int:
        changed = real(self, wants_changes=wants_changes)
        self.version += 1
        return changed

    patch.setattr(TableCopy, "replace", replace)


def write_not_remembered(patch: pytest.MonkeyPatch) -> None:
    def answered(self: Writers, writer: Writer, reply: Reply) -> None:
        writer.replies[reply.number] = reply

    patch.setattr(Writers, "answered", answered)


def any_run_is_ours(patch: pytest.MonkeyPatch) -> None:
    def judge(self: MasterStore, run: bytes, version: int) -> tuple[bool, bool]:
        return bool(run), bool(run) and version <= self.version

    patch.setattr(MasterStore, "_judge", judge)


def snapshot_shown_before_it_is_complete(patch: pytest.MonkeyPatch) -> None:
    real = TableCopy.add_staged

    def add_staged(self: TableCopy, chunk: Chunk) -> None:
        real(self, chunk)
        self.blobs.update({entry.key: entry.blob for entry in chunk.entries})

    patch.setattr(TableCopy, "add_staged", add_staged)


def reply_reported_before_its_delta(patch: pytest.MonkeyPatch) -> None:
    real = CloneStore._report

    def held(self: CloneStore) -> dict[int, Reply]:
        return Eager(self, real)

    class Eager(dict[int, Reply]):
        def __init__(self, clone: CloneStore, report: Callable[..., None]) -> None:
            super().__init__()
            self._clone, self._report = clone, report

        def __setitem__(self, number: int, reply: Reply) -> None:
            self._report(self._clone, reply, is_visible=True)

    patch.setattr(CloneStore, "_held", property(held, lambda self, value: None), raising=False)


def expiry_of_a_rewritten_entry_stays(patch: pytest.MonkeyPatch) -> None:
    real = Expiry.set

    def set_(self: Expiry, key: Any, deadline: float | None) -> bool:
        return deadline is not None and real(self, key, deadline)

    patch.setattr(Expiry, "set", set_)


def deltas_from_the_wrong_place(patch: pytest.MonkeyPatch) -> None:
    real = DeltaLog.message_after

    def message_after(self: DeltaLog, version: int) -> tuple[bytes, int] | None:
        return real(self, max(version, self.oldest))

    patch.setattr(DeltaLog, "message_after", message_after)
    patch.setattr(DeltaLog, "reaches", lambda self, version: version <= self.version)


def doubt_told_as_certainty(patch: pytest.MonkeyPatch) -> None:
    real = CloneStore._lose_master

    def lose_master(self: CloneStore, now: float) -> None:
        real(self, now)
        for pending in self._pending.values():
            pending.was_sent = False  # as if nothing had left: its end will be told as certain

    patch.setattr(CloneStore, "_lose_master", lose_master)


MUTATIONS: list[Callable[[pytest.MonkeyPatch], None]] = [
    snapshot_without_its_last_change,
    delta_applied_twice,
    version_off_by_one_after_a_snapshot,
    write_not_remembered,
    any_run_is_ours,
    snapshot_shown_before_it_is_complete,
    reply_reported_before_its_delta,
    expiry_of_a_rewritten_entry_stays,
    deltas_from_the_wrong_place,
    doubt_told_as_certainty,
]


PLAYED = settings(
    max_examples=300,
    stateful_step_count=STEPS,
    phases=[Phase.generate],
    database=None,
    derandomize=True,
    deadline=None,
    suppress_health_check=QUIET,
    report_multiple_bugs=False,
    print_blob=False,
)


def test_the_games_that_find_mutations_find_nothing_without_them() -> None:
    run_state_machine_as_test(Replicas, settings=PLAYED)


@pytest.mark.parametrize("mutate", MUTATIONS, ids=lambda mutate: mutate.__name__)
def test_a_mutation_is_found(mutate: Callable[[pytest.MonkeyPatch], None], monkeypatch: pytest.MonkeyPatch) -> None:
    mutate(monkeypatch)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(Replicas, settings=PLAYED)
