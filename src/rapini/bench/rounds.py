"""What the benchmarks share: worker processes that speak JSON lines, keys for a run, medians and ratios by round.

A worker is ``python -m MODULE ROLE VARIANT OPTIONS-AS-JSON``. It prints one JSON object a line; some also take commands
from standard input, one JSON object a line, and end when that ends.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rapini import Authority
from rapini.errors import RapiniError

__all__ = ["Progress", "Result", "Worker", "make_keys", "median", "ratio", "run_pair"]

Result = dict[str, Any]
Progress = Callable[[str], None]

WORKERS: Final = "rapini.bench.workers"
_END_S: Final = 60.0


class Worker:
    """A process that measures. A context manager: at its end the process is gone, by its id.

    Args:
        role: What it does.
        variant: In which way.
        options: For it; must be JSON.
        module: The program.
    """

    def __init__(self, role: str, variant: str, options: Result, *, module: str = WORKERS) -> None:
        self.role = role
        command = [sys.executable, "-m", module, role, variant, json.dumps(options)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._close_input()  # which ends one that takes commands
                self._process.wait(_END_S)
        except subprocess.TimeoutExpired:
            raise RapiniError("bench_failed", f"the {self.role} process did not end in {_END_S:g} s") from None
        finally:
            self._process.kill()
            self._process.wait()
            self._close_input()
            if self._process.stdout is not None:
                self._process.stdout.close()

    def _close_input(self) -> None:
        if self._process.stdin is not None:
            self._process.stdin.close()

    def read(self) -> Result:
        """The next thing it says.

        Raises:
            RapiniError: `bench_failed`: it ended instead.
        """
        text = self._process.stdout.readline() if self._process.stdout is not None else ""
        if not text:
            detail = f"the {self.role} process ended without a result"
            raise RapiniError("bench_failed", detail, remedy="see its message above")
        facts: Result = json.loads(text)
        return facts

    def call(self, do: str, **arguments: object) -> Result:
        """Give it a command and read its answer."""
        if self._process.stdin is None:
            raise AssertionError("made with a pipe")
        try:
            self._process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # it has ended; `read` says so
        return self.read()


def run_pair(variant: str, options: Result) -> tuple[Result, Result]:
    """Run a source against a sink; returns what each measured. The source may be given options of its own."""
    own = options.get("source", {})
    with Worker("fan" if options.get("subscribers") else "sink", variant, options) as sink:
        hello = sink.read()
        urls = hello.get("urls") or [hello["url"]]
        options = {**options, **own, "urls": urls, "server_key": hello.get("server_key", "")}
        with Worker("source", variant, options) as source:
            sent = source.read()
            taken = sink.read()
    return sent, taken


@contextmanager
def make_keys(names: Iterable[str]) -> Iterator[str]:
    """A folder with a new authority and certificates for these nodes, for as long as the block runs."""
    with tempfile.TemporaryDirectory(prefix="rapini-bench-") as folder:
        keys = Path(folder) / "keys"
        authority = Authority.create(keys, cluster="bench")
        for name in names:
            authority.issue(name, hosts=["127.0.0.1"], out_dir=keys)
        yield str(keys)


def median(values: Iterable[float]) -> float:
    """The median."""
    return statistics.median(values)


def ratio(ours: Sequence[float], theirs: Sequence[float]) -> Result:
    """Ours to theirs, round by round: median, least and greatest."""
    ratios = [a / b for a, b in zip(ours, theirs, strict=True)]
    return {"median": median(ratios), "min": min(ratios), "max": max(ratios)}
