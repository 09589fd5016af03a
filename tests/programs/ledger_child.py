"""A node in a process of its own that keeps a ledger: a publisher of what it published, a receiver of what it took.

Started by `tests.programs.child.Child` with, beside what `node_child` is told: `ledger` (a file), `life` (which start
of this name it is), `delivery`, for publishers `rate` (events/s) and `pad` (bytes an event), and for receivers
`checkpoint`.

Without a checkpoint, lines are appended with one `write` each, so a line that was written survives SIGKILL: it is the
kernel's then. It would not survive a power cut, which no test here makes. What a publisher *intends* is written before,
what was *accepted* after `publish()`; between the two a killed process leaves events of which nobody can say whether
they went out. Of the durable class the last event of a turn is published by `publish_durable()`: accepted is what is on
disk.

With a checkpoint (`sqlite` or `file`) a receiver's ledger is its output in `node.checkpoint()`'s sense: lines and
positions are committed together, ten times a second, and what a killed life wrote after its last commit is gone when
the next one begins. `read_ledger` makes text of either.

The format is `tests.faults.kit.ledger`'s; both sides import its line makers.
"""

from __future__ import annotations

import json
import os
import sqlite3
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from rapini import (
    EventRun,
    FileCheckpoint,
    Gap,
    Node,
    PeerStatus,
    PublishOutcome,
    RapiniError,
    SqliteCheckpoint,
)
from rapini.errors import PeerTimeoutError, StoreError
from tests.faults.kit import ledger
from tests.programs.ledger_events import ENTRIES, PREFIX, DurableEntry, Entry

_TURN_S: Final = 0.02
_SNAPSHOT_S: Final = 0.2
_COMMIT_S: Final = 0.1

_output = threading.Lock()


def say(**line: object) -> None:
    """Write one line for the parent."""
    with _output:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class Output(Protocol):
    """Where the lines go."""

    @property
    def checkpoint(self) -> SqliteCheckpoint | FileCheckpoint | None:
        """Where positions are committed with them."""

    def write(self, lines: str) -> None:
        """Append lines."""

    def commit(self) -> None:
        """After `node.checkpoint()`: what is left to do."""


class AppendedFile:
    """Every line is the kernel's when it is written."""

    checkpoint: None = None

    def __init__(self, path: Path) -> None:
        ledger.mend(path)
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def write(self, lines: str) -> None:
        """Append lines."""
        data = lines.encode()
        written = os.write(self._file, data)
        if written != len(data):
            raise OSError(f"{written} of {len(data)} bytes of the ledger were written")

    def commit(self) -> None:
        """Nothing to do."""


class CommittedTable:
    """A table in SQLite; our own transaction has lines and positions."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, check_same_thread=False)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("CREATE TABLE IF NOT EXISTS ledger (lines TEXT)")
        self.checkpoint = SqliteCheckpoint(self._connection)

    def write(self, lines: str) -> None:
        """Append lines."""
        self._connection.execute("INSERT INTO ledger VALUES (?)", (lines,))

    def commit(self) -> None:
        """Commit lines and positions."""
        self._connection.commit()


class CommittedFile:
    """A file that is cut back to its last commit when it is opened."""

    def __init__(self, path: Path) -> None:
        self.checkpoint = FileCheckpoint(path)

    def write(self, lines: str) -> None:
        """Append lines."""
        self.checkpoint.write(lines.encode())

    def commit(self) -> None:
        """Nothing to do: `node.checkpoint()` has committed both."""


OUTPUTS: Final[dict[str, Callable[[Path], Output]]] = {
    "": AppendedFile,
    "sqlite": CommittedTable,
    "file": CommittedFile,
}


def read_ledger(path: Path, checkpoint: str) -> str:
    """A receiver's ledger as text, as far as it was committed. Not while its process runs."""
    if checkpoint == "sqlite":
        with sqlite3.connect(path) as connection:
            return "".join(lines for (lines,) in connection.execute("SELECT lines FROM ledger ORDER BY rowid"))
    if checkpoint == "file":
        FileCheckpoint(path).close()
    return path.read_text(encoding="utf-8")


class Program:
    """The node, its ledger and the commands; each command returns what its reply carries."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.life: int = start["life"]
        self.entry = ENTRIES[start["delivery"]]
        self.pad = bytes(start.get("pad", 0))
        self._output: Output = OUTPUTS[start.get("checkpoint", "")](Path(start["ledger"]))
        self._ceases = threading.Event()
        self._write(ledger.life_line(start["name"], self.life))
        self.node = Node(start["name"], checkpoint=self._output.checkpoint, **start["options"])
        self._committed_at = time.monotonic()
        self._receiver = threading.Thread(target=self._receive, daemon=True)
        self._publisher = threading.Thread(target=self._publish, args=(start.get("rate", 0),), daemon=True)
        if PREFIX in start["topics"]:
            self.node.subscribe(PREFIX)
        self._receiver.start()
        if start.get("rate"):
            self._publisher.start()

    def _write(self, lines: str) -> None:
        self._output.write(lines)

    # -- receiving -----------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        if self._output.checkpoint is None:
            for item in self.node.items():
                self._take(item)
            return
        while not self.node.inbox.is_ended:
            for item in self.node.items(timeout_s=_COMMIT_S):
                self._take(item)
                if time.monotonic() >= self._committed_at + _COMMIT_S:
                    self._commit()
            self._commit()

    def _commit(self) -> None:
        self.node.checkpoint()
        self._output.commit()
        self._committed_at = time.monotonic()

    def _take(self, item: EventRun | PeerStatus | Gap) -> None:
        match item:
            case PeerStatus():
                self._write(ledger.status_line(item.peer, item.state.value, item.epoch, item.code))
                say(status=item.state.value, peer=item.peer, code=item.code, epoch=item.epoch, at=time.monotonic())
            case Gap():
                self._write(ledger.gap_line(item.peer, item.epoch, item.delivery, item.count, item.reason))
            case EventRun():
                origin = item.origin
                entries = [event for event in item.events if isinstance(event, Entry)]
                self._write(
                    "".join(ledger.taken_line(e.origin, e.life, e.number, origin.peer, origin.epoch) for e in entries)
                )

    # -- publishing ----------------------------------------------------------------------------------------------

    def _publish(self, rate: int) -> None:
        number = 0
        count = max(1, round(rate * _TURN_S))
        next_turn = next_snapshot = time.monotonic()
        while not self._ceases.is_set():
            self._write(ledger.intended_line(self.life, number, count))
            entries = [self.entry(self.node.name, self.life, number + i, self.pad) for i in range(count)]
            refusal = self._publish_turn(entries)
            if refusal:
                self._write(ledger.refused_line(self.life, number, count, refusal))
            number += count
            self._write(ledger.accepted_line(self.life, number))
            now = time.monotonic()
            if now >= next_snapshot:
                next_snapshot = now + _SNAPSHOT_S
                self._snapshot(is_final=False)
            next_turn = max(next_turn + _TURN_S, now - 1)  # after a stop, catch up with one second of turns at most
            self._ceases.wait(max(0.0, next_turn - now))

    def _publish_turn(self, entries: list[Entry]) -> str:
        """Publish some events; a code if they, or some of them, were refused."""
        if self.entry is not DurableEntry:
            for entry in entries:
                self.node.publish(entry)
            return ""
        not_stored = self._not_stored()
        for entry in entries[:-1]:
            self.node.publish(entry)
        try:
            outcome = self.node.publish_durable(entries[-1])
        except (StoreError, PeerTimeoutError) as exc:
            frames = sum(1 for _ in traceback.walk_tb(exc.__traceback__))
            return exc.code if frames < 10 else "raised_again"  # one error for many calls would hold on to all of them
        if outcome is not PublishOutcome.ON_DISK:
            raise AssertionError("somebody is owed every event, by configuration")
        return "not_stored" if self._not_stored() > not_stored else ""

    def _not_stored(self) -> int:
        return sum(sum(topics.values()) for topics in self.node.counters().not_stored.values())

    def _snapshot(self, *, is_final: bool) -> None:
        now = self.node.counters()
        topic = self.entry.__rapini_topic__
        counted = {"unrouted": now.unrouted.get(topic, 0), "not_encodable": now.not_encodable.get(topic, 0)}
        for causes in now.dropped.values():
            for cause, topics in causes.items():
                counted[cause] = counted.get(cause, 0) + topics.get(topic, 0)
        self._write(
            ledger.snapshot_line(
                self.life, acknowledged=sum(now.acknowledged.values()), counted=counted, is_final=is_final
            )
        )

    # -- commands ------------------------------------------------------------------------------------------------

    def cease(self, timeout_s: float = 10.0) -> dict[str, object]:
        """Publish no more, wait until everything was taken or dropped, and close the account."""
        self._ceases.set()
        if self._publisher.is_alive():
            self._publisher.join(timeout_s)
        is_settled = self.node.flush(timeout_s)
        if is_settled:
            self._snapshot(is_final=True)
        return {"settled": is_settled}

    def peers(self) -> dict[str, object]:
        """Who is up now."""
        return {"up": [peer.name for peer in self.node.peers() if peer.is_up]}

    def counters(self) -> dict[str, object]:
        """What was counted."""
        now = self.node.counters()
        return {
            "received": dict(now.received),
            "missed": dict(now.missed),
            "gaps": {peer: dict(reasons) for peer, reasons in now.gaps.items()},
            "bad": dict(now.bad_events),
            "not_stored": {cause: sum(topics.values()) for cause, topics in now.not_stored.items()},
        }

    def leave(self) -> dict[str, object]:
        """Say goodbye and end the node."""
        self._ceases.set()
        self.node.close()
        self._receiver.join(5.0)
        return {}


COMMANDS: Final = frozenset({"cease", "peers", "counters", "leave"})


def main() -> None:
    """Obey until stdin ends."""
    program = Program(json.loads(sys.argv[1]))
    say(reply="started", pid=os.getpid())
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        if do not in COMMANDS:
            raise ValueError(f"no such command: {do}")
        try:
            say(reply=do, **getattr(program, do)(**command))
        except RapiniError as exc:
            say(reply=do, error=exc.code, text=str(exc))
    program.leave()


if __name__ == "__main__":
    main()
