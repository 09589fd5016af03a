"""Starts `node_child` processes and follows them: every wait has a deadline, every process is ended by its pid."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["Child", "Line"]

ROOT = Path(__file__).resolve().parents[2]

Line = dict[str, Any]


class Child:
    """A node in another process. `lines` holds everything it said, in order.

    Args:
        name: The node's name.
        options: For `Node`; must be JSON.
        topics: What it subscribes to before it connects anywhere.
        program: The module that runs, which must speak as `node_child` does.
        more: Told to the program beside the three above; must be JSON.
        command: Makes of a command the one that is started, to run it elsewhere: in a network namespace, or with a disk
            of its own. The process that answers must be the one started (`exec`), or signals meet another.
        errors: A file that its stderr is appended to; ours by default.
    """

    def __init__(
        self,
        name: str,
        options: dict[str, Any],
        topics: list[str] | None = None,
        *,
        program: str = "tests.programs.node_child",
        more: dict[str, Any] | None = None,
        command: Callable[..., list[str]] = lambda *words: list(words),
        errors: Path | None = None,
    ) -> None:
        self.name = name
        self.lines: list[Line] = []
        self._changed = threading.Condition()
        self._is_over = False
        start = json.dumps({"name": name, "options": options, "topics": topics or [], **(more or {})})
        with ExitStack() as stack:
            self._process = subprocess.Popen(
                command(sys.executable, "-m", program, start),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stack.enter_context(errors.open("ab")) if errors is not None else None,
                cwd=ROOT,
                text=True,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self.wait(lambda line: line.get("reply") == "started", 20)
        except BaseException:
            self.end()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for text in self._process.stdout:
            with self._changed:
                self.lines.append(json.loads(text))
                self._changed.notify_all()
        with self._changed:
            self._is_over = True
            self._changed.notify_all()

    # -- what it says --------------------------------------------------------------------------------------------

    def wait(self, wanted: Callable[[Line], bool], timeout_s: float = 10.0, since: int = 0) -> Line:
        """The first line from number `since` on that is wanted."""
        deadline = time.monotonic() + timeout_s
        seen = since
        with self._changed:
            while True:
                for line in self.lines[seen:]:
                    if wanted(line):
                        return line
                seen = max(since, len(self.lines))
                left = deadline - time.monotonic()
                if left <= 0 or self._is_over:
                    why = "ended" if self._is_over else f"said nothing of it within {timeout_s:g} s"
                    raise AssertionError(f"{self.name} {why}; its last lines: {self.lines[-12:]}")
                self._changed.wait(left)

    def wait_status(self, state: str, peer: str = "", timeout_s: float = 10.0, since: int = 0) -> Line:
        """A status of a peer (any, if unnamed)."""
        return self.wait(
            lambda line: line.get("status") == state and (not peer or line["peer"] == peer), timeout_s, since
        )

    def wait_event(self, number: int, timeout_s: float = 10.0, since: int = 0) -> Line:
        """The event with this number."""
        return self.wait(lambda line: line.get("event") == number, timeout_s, since)

    def events(self) -> list[int]:
        """The numbers of all events so far."""
        with self._changed:
            return [line["event"] for line in self.lines if "event" in line]

    @property
    def count(self) -> int:
        """How many lines there are: a `since` for later."""
        with self._changed:
            return len(self.lines)

    # -- what it is told -----------------------------------------------------------------------------------------

    def call(self, do: str, *, timeout_s: float = 20.0, **arguments: Any) -> Line:
        """Give a command and wait for its reply."""
        since = self.count
        self.tell(do, **arguments)
        return self.wait(lambda line: line.get("reply") == do, timeout_s, since)

    def tell(self, do: str, **arguments: Any) -> None:
        """Give a command."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        os.kill(self._process.pid, number)

    def kill(self) -> None:
        """End it with SIGKILL, and wait until the kernel has closed its sockets."""
        self.signal(signal.SIGKILL)
        self._process.wait(10)

    def freeze(self) -> float:
        """Stop it; returns when (monotonic)."""
        self.signal(signal.SIGSTOP)
        return time.monotonic()

    def thaw(self) -> None:
        """Let it go on."""
        self.signal(signal.SIGCONT)

    def end(self) -> None:
        """Clean up whatever is left of it."""
        if self._process.poll() is None:
            self.kill()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
        self._reader.join(5)
