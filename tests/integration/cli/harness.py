"""Runs the real `rapini` command, in processes with deadlines, ended by their ids."""

from __future__ import annotations

import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

COMMAND = (sys.executable, "-m", "rapini")
DEADLINE_S = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def errors(self) -> list[str]:
        """The lines of stderr that say what is wrong."""
        return [line for line in self.err.splitlines() if line.startswith("rapini: error: ")]


def rapini(*arguments: str | Path, cwd: Path, stdin: str | bytes = b"", command: Sequence[str] = COMMAND) -> Finished:
    """Run a command to its end; a traceback anywhere fails the test."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    done = subprocess.run(
        [*command, *map(str, arguments)], cwd=cwd, input=data, capture_output=True, timeout=DEADLINE_S, check=False
    )
    out, err = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in err, err
    return Finished(status=done.returncode, out=out, err=err)


class Running:
    """A command that runs beside the test. Made by `background`."""

    def __init__(self, arguments: Sequence[str | Path], cwd: Path) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *map(str, arguments)],
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        self.err = ""

    def await_err(self, pattern: str) -> re.Match[str]:
        """Read stderr until a line matches."""
        stream = self.process.stderr
        assert stream is not None
        deadline = time.monotonic() + DEADLINE_S
        while not (match := re.search(pattern, self.err)):
            left = deadline - time.monotonic()
            assert left > 0, f"{pattern!r} not in time; there is {self.err!r}"
            if select.select([stream], [], [], left)[0]:
                part = os.read(stream.fileno(), 65536).decode()
                assert part, f"ended without {pattern!r}: {self.err!r}"
                self.err += part
        return match

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.await_err(r"listening on (\S+)\n")[1]

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def finish(self) -> Finished:
        """Wait for its end."""
        out, err = self.process.communicate(timeout=DEADLINE_S)
        self.err += err.decode()
        assert "Traceback" not in self.err, self.err
        return Finished(status=self.process.returncode, out=out.decode(), err=self.err)


@contextmanager
def background(*arguments: str | Path, cwd: Path) -> Iterator[Running]:
    """Run a command beside the test; it is killed at the end if it has not ended."""
    running = Running(arguments, cwd)
    try:
        yield running
    finally:
        running.process.kill()
        for stream in (running.process.stdin, running.process.stdout, running.process.stderr):
            if stream is not None:
                stream.close()
        running.process.wait(DEADLINE_S)


def make_keys(cwd: Path, *names: str, folder: str = "keys") -> None:
    """An authority and certificates, by the commands themselves."""
    assert rapini("ca", "init", folder, cwd=cwd).status == 0
    for name in names:
        assert rapini("ca", "issue", folder, name, cwd=cwd).status == 0
