"""The `rapini` command as a real process, the children it has, and what the analyzer alone makes of a capture."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import psutil

from rapini.apps.sensor import Analyzer, AnalyzerConfig, open_capture
from rapini.errors import CaptureError
from rapini.events import Event

COMMAND = (sys.executable, "-P", "-m", "rapini")
CAPTURES = Path(__file__).parents[2] / "data" / "captures"


@dataclass(frozen=True)
class Ended:
    """A process that ended."""

    status: int
    stdout: str
    stderr: str


def rapini(*arguments: str | Path, timeout_s: float = 40.0) -> Ended:
    """Run a command to its end."""
    done = subprocess.run(
        [*COMMAND, *map(str, arguments)], check=False, capture_output=True, text=True, timeout=timeout_s
    )
    assert "Traceback" not in done.stderr, done.stderr
    return Ended(done.returncode, done.stdout, done.stderr)


@contextmanager
def running(*arguments: str | Path, **options: Any) -> Iterator[subprocess.Popen[str]]:
    """A command in the background; it and its children are killed at the end, if they still are."""
    process = subprocess.Popen(
        [*COMMAND, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )
    family = []
    try:
        yield process
        family = descendants(process.pid)
    finally:
        if process.poll() is None:
            family = family or descendants(process.pid)
            process.kill()
        process.communicate(timeout=10)
        for child in family:
            if child.is_running():
                child.kill()


def temporary(folder: Path) -> dict[str, str]:
    """An environment in which temporary files go into this folder: for parents that are killed and cannot tidy up."""
    return {**os.environ, "TMPDIR": str(folder)}


def finish(process: subprocess.Popen[str], timeout_s: float = 30.0) -> Ended:
    """Wait for the end of a background process."""
    stdout, stderr = process.communicate(timeout=timeout_s)
    assert "Traceback" not in stderr, stderr
    return Ended(process.returncode, stdout, stderr)


def stop(process: subprocess.Popen[str], number: signal.Signals) -> Ended:
    """Send a signal and wait for the end."""
    process.send_signal(number)
    return finish(process)


def next_line(stream: IO[str] | None, kind: str, **wanted: object) -> dict[str, Any]:
    """Read JSON lines up to the first of a kind with these fields. The test's own timeout bounds it."""
    assert stream is not None
    for text in stream:
        line: dict[str, Any] = json.loads(text)
        if line["kind"] == kind and all(line.get(key) == value for key, value in wanted.items()):
            return line
    raise AssertionError(f"the process ended without a line {kind} {wanted}")


def descendants(pid: int) -> list[psutil.Process]:
    """All that a process has started, and what those have."""
    try:
        found: list[psutil.Process] = psutil.Process(pid).children(recursive=True)
        return found
    except psutil.NoSuchProcess:
        return []


def wait_until(condition: Callable[[], bool], timeout_s: float) -> bool:
    """Wait for something to become true."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def are_gone(processes: list[psutil.Process], timeout_s: float = 5.0) -> bool:
    """Whether none of these processes is there any more (in time). A zombie, whom nobody awaits, is gone."""

    def is_gone(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    return wait_until(lambda: all(map(is_gone, processes)), timeout_s)


def events_of(*captures: Path) -> list[Event]:
    """What the analyzer makes of captures, read as parts of one, as far as they can be read."""
    analyzer = Analyzer(AnalyzerConfig(uid_seed=os.urandom(16)))
    for path in captures:
        with open_capture(path) as capture:
            try:
                analyzer.feed(capture)
            except CaptureError:
                pass  # damaged: what was readable counts
    analyzer.finish()
    return list(analyzer.drain())


def tsv_rows(log: Path) -> list[dict[str, object]]:
    """The rows of a log that is complete: it has its last line, and every row has all fields."""
    lines = log.read_text(encoding="utf-8").splitlines()
    assert lines[-1].startswith("#close\t"), f"{log} was not closed"
    fields = next(line for line in lines if line.startswith("#fields\t")).split("\t")[1:]
    return [dict(zip(fields, line.split("\t"), strict=True)) for line in lines if not line.startswith("#")]
