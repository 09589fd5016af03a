"""A shell that stays, for pages whose blocks belong together: jobs, `kill %1` and `wait` mean what they say.

Used by `test_manual`. What is printed by the shell and by what it started in the background is one text, as on a
terminal, but without prompts and what was typed.
"""

from __future__ import annotations

import re
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from tests.docs.programs import DEADLINE_S, environment

__all__ = ["Shell"]


class Shell:
    """One interactive shell, as far as a page needs it. A context manager; at its end nothing it started is left."""

    def __init__(self, name: str, cwd: Path) -> None:
        self._log = cwd.parent / f"{cwd.name}-shell-{name or 'main'}.txt"
        self._from = 0
        """Where the text begins that no `shows` has seen yet."""
        self._commands = 0
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                ["bash", "--norc"],
                cwd=cwd,
                env=environment(),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                text=True,
            )
        self._type("set -m")  # jobs as on a terminal

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in psutil.Process(self._process.pid).children(recursive=True):
            child.kill()
        self._process.kill()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(DEADLINE_S)

    @property
    def text(self) -> str:
        """Everything printed so far."""
        return self._log.read_text("utf-8", "replace")

    def _type(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()

    def run(self, block: str) -> None:
        """Type the lines of a block, each after the one before is done; fail if one fails."""
        for line in block.splitlines():
            if line.strip():
                self._run(line)

    def _run(self, line: str) -> None:
        self._commands += 1
        mark = f"<<{self._commands} done>>"
        self._type(line)
        if not line.endswith("\\"):
            self._type(f'echo "{mark} $?"')
            status = self._await(re.compile(re.escape(mark) + r" (\d+)"), line)[1]
            assert status == "0" or line == "wait", f"{line}: status {status}: {self.text}"

    def shows(self, block: str) -> None:
        """Wait until each line of a block was printed, in this order; `…` in it stands for anything."""
        for line in filter(str.strip, block.splitlines()):
            pattern = "[^\n]*".join(map(re.escape, line.strip().split("…")))
            self._from += self._await(re.compile(pattern), f"to see: {line}", self._from).end()

    def _await(self, pattern: re.Pattern[str], what: str, start: int = 0) -> re.Match[str]:
        deadline = time.monotonic() + DEADLINE_S
        while not (match := pattern.search(self.text[start:])):
            assert self._process.poll() is None, f"the shell ended ({what}): {self.text}"
            assert time.monotonic() < deadline, f"not in time ({what}): {self.text}"
            time.sleep(0.05)
        return match
