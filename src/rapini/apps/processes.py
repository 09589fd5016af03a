"""A family of processes on this machine: started, listened to, told to stop, and never left behind.

Where it sits: `rapini run` and `rapini demo` start their nodes with it. Each child is `python -m rapini PROGRAM` in a
session of its own (Ctrl-C on the terminal is the parent's to handle), reports as JSON lines on its standard output,
keeps a ledger, and dies with its parent (`lifeline`). The parent is one thread around one `select`.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, Self

from rapini.apps.ledger import read_ledger
from rapini.apps.programs.stopping import Stop
from rapini.errors import LocalError

__all__ = ["Child", "Family", "Line"]

_READ_BYTES: Final = 65_536

Line = dict[str, Any]
"""One line of a child's report: `kind`, `time`, and what goes with the kind."""


@dataclass(slots=True, eq=False)
class Child:
    """One process: an incarnation of a node."""

    node: str
    number: int
    """Which incarnation of this node, from 1."""
    process: subprocess.Popen[bytes]
    ledger_path: Path
    stderr_path: Path
    started_at: float
    """By `time.time()`, as are the times in its report."""
    was_killed: bool = False
    lines: list[Line] = field(default_factory=list)
    """All its report, counters left out."""
    counters: dict[str, int] = field(default_factory=dict)
    """Its ledger when last read."""
    buffer: bytes = b""

    @property
    def label(self) -> str:
        """For people: the node, and which incarnation from the second on."""
        return self.node if self.number == 1 else f"{self.node} (incarnation {self.number})"

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self.process.poll() is None

    def read_ledger(self) -> dict[str, int]:
        """Its counters now."""
        self.counters = read_ledger(self.ledger_path)
        return self.counters

    def find(self, kind: str, after: float = 0.0, **wanted: object) -> Line | None:
        """The first line of a kind with these fields, reported at or after a time."""
        for line in self.lines:
            if (
                line["kind"] == kind
                and line["time"] >= after
                and all(line.get(k) in _any(v) for k, v in wanted.items())
            ):
                return line
        return None

    @property
    def has_complained(self) -> bool:
        """Whether it wrote to its standard error."""
        return self.stderr_path.stat().st_size > 0

    def complaint(self) -> str:
        """The last line that it wrote to its standard error."""
        text = self.stderr_path.read_text(encoding="utf-8", errors="replace").strip()
        last = text.splitlines()[-1] if text else f"ended with status {self.process.poll()}"
        return last.removeprefix("rapini: error: ")


def _any(wanted: object) -> tuple[object, ...]:
    return wanted if isinstance(wanted, tuple) else (wanted,)


class Family:
    """The children of one parent. A context manager: none is alive after it. Thread: one, the main thread.

    Args:
        folder: Where ledgers and standard errors go.
        stop: Ends every wait early.
    """

    def __init__(self, folder: Path, stop: Stop) -> None:
        self.children: list[Child] = []
        self._folder = folder
        self._stop = stop
        self._selector = selectors.DefaultSelector()
        self._selector.register(stop.fileno(), selectors.EVENT_READ)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self.children:
            if child.is_running:
                child.process.kill()  # ends a stopped process too
        for child in self.children:
            child.process.wait()
            if child.process.stdout is not None:
                child.process.stdout.close()
        self._selector.close()

    def start(self, node: str, program: str, *arguments: str) -> Child:
        """Start a program as the next incarnation of a node."""
        number = 1 + sum(child.node == node for child in self.children)
        stem = self._folder / f"{node}.{number}"
        ledger, stderr = stem.with_name(stem.name + ".ledger"), stem.with_name(stem.name + ".err")
        command = [sys.executable, "-P", "-m", "rapini", program, *arguments]
        command += ["--name", node, "--json", "--ledger", str(ledger), "--parent", str(os.getpid())]
        with stderr.open("wb") as errors:
            process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, start_new_session=True
            )
        child = Child(
            node=node,
            number=number,
            process=process,
            ledger_path=ledger,
            stderr_path=stderr,
            started_at=time.time(),
        )
        self.children.append(child)
        os.set_blocking(_stdout(child).fileno(), False)
        self._selector.register(_stdout(child), selectors.EVENT_READ, child)
        return child

    def living(self) -> Iterator[Child]:
        """The children that have not ended."""
        return (child for child in self.children if child.is_running)

    def poll(self, timeout_s: float) -> list[tuple[Child, Line]]:
        """Wait for reports, at most so long; return them. Returns early when told to stop."""
        heard: list[tuple[Child, Line]] = []
        for key, _ in self._selector.select(timeout_s):
            if isinstance(key.data, Child):
                heard += ((key.data, line) for line in self._read(key.data))
        return heard

    def wait_until(
        self, condition: Callable[[], bool], timeout_s: float, turn: Callable[[], None], turn_s: float = 0.05
    ) -> bool:
        """Listen until the condition holds; false if it does not within the time, or somebody wants to stop.

        Args:
            condition: What to wait for; looked at once a turn.
            timeout_s: How long.
            turn: Called once a turn.
            turn_s: The longest turn.
        """
        deadline = time.monotonic() + timeout_s
        while True:
            self.poll(min(turn_s, max(0.0, deadline - time.monotonic())))
            turn()
            if condition():
                return True
            if self._stop.is_set or time.monotonic() >= deadline:
                return False

    def wait_end(self, children: Sequence[Child], timeout_s: float, turn: Callable[[], None]) -> bool:
        """Listen until these children have ended and all they said was heard; say whether they have, in time.

        Unlike other waits, this one goes on when somebody wants to stop: it is how stopping ends.
        """
        deadline = time.monotonic() + timeout_s
        while any(child.is_running for child in children) and time.monotonic() < deadline:
            self.poll(0) if self._stop.is_set else self.poll(0.05)
            if self._stop.is_set:
                time.sleep(0.02)
            turn()
        while self.poll(0):
            pass
        return not any(child.is_running for child in children)

    def _read(self, child: Child) -> list[Line]:
        stream = _stdout(child)
        data = os.read(stream.fileno(), _READ_BYTES)
        if not data:
            self._selector.unregister(stream)
            return []
        *complete, child.buffer = (child.buffer + data).split(b"\n")
        lines: list[Line] = [json.loads(line) for line in complete]
        child.lines += [line for line in lines if line["kind"] != "counters"]
        return lines


def _stdout(child: Child) -> IO[bytes]:
    if child.process.stdout is None:
        raise LocalError("no_pipe", "the child has no pipe")
    return child.process.stdout


def tell(child: Child, number: signal.Signals) -> None:
    """Send a signal to a child that is still there."""
    if child.is_running:
        child.process.send_signal(number)
        child.was_killed = child.was_killed or number is signal.SIGKILL
