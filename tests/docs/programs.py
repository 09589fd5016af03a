"""Runs what the pages show: with this environment's `rapini` and `python`, at a free port, with a deadline."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

SHOWN_PORT = "9750"
"""The port that README and examples name; the tests take a free one instead."""

DEADLINE_S = 30.0


def environment() -> dict[str, str]:
    """This process's, with the tested `rapini` and `python` first."""
    places = [sysconfig.get_path("scripts"), str(Path(sys.executable).parent), os.environ["PATH"]]
    return {**os.environ, "PATH": os.pathsep.join(places), "PYTHONUNBUFFERED": "1"}


def free_port() -> str:
    """A port that nobody listens on now."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return str(taken.getsockname()[1])


def run(command: str, cwd: Path) -> str:
    """Run one line of a shell block; returns what it printed on stdout."""
    done = subprocess.run(
        ["bash", "-c", command], cwd=cwd, env=environment(), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, f"{command}: status {done.returncode}: {done.stderr}"
    return done.stdout


class Program:
    """A program that runs beside the test, with its output in a file. Made by `running`."""

    def __init__(self, command: str, cwd: Path) -> None:
        self.command = command
        self._log = cwd / f"output-{time.monotonic_ns()}.txt"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", f"exec {command}"],
                cwd=cwd,
                env=environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def output(self) -> str:
        """What it has printed so far."""
        return self._log.read_text("utf-8")

    def await_output(self, is_enough: Callable[[str], bool]) -> str:
        """Wait until it has printed enough."""
        deadline = time.monotonic() + DEADLINE_S
        while not is_enough(self.output):
            assert self.process.poll() is None, f"{self.command} ended: {self.output}"
            assert time.monotonic() < deadline, f"{self.command}: not in time: {self.output}"
            time.sleep(0.05)
        return self.output

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(DEADLINE_S)


@contextmanager
def running(command: str, cwd: Path) -> Iterator[Program]:
    """Run a program beside the test; killed at the end if it still runs."""
    program = Program(command, cwd)
    try:
        yield program
    finally:
        program.process.kill()
        program.process.wait(DEADLINE_S)
