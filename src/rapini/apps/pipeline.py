"""`rapini run`: captures into logs on one machine, by the same programs that make up a cluster.

Where it sits: starts a logger and a sensor as processes (`processes`), joined over `zmq+tls://` on loopback with keys
of a throwaway authority, and adds up what became of the events (`account`).

Nothing is lost on the way: the sensor publishes with ``overflow = "block"``, so a slow disk slows the reading. What
cannot be used (a file that is no capture, a folder with something in it) is refused before anything starts.
"""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rapini import Authority
from rapini.apps.account import Account, Incarnation, add_up
from rapini.apps.processes import Child, Family, Line, tell
from rapini.apps.programs.stopping import Stop
from rapini.apps.sensor import open_capture
from rapini.errors import ConfigError, LocalError, LogError
from rapini.logs import LogFormat

__all__ = ["RunPlan", "RunProgress", "RunReport", "run_pipeline"]

START_TIMEOUT_S: Final = 30.0
DRAIN_TIMEOUT_S: Final = 60.0

_ENDPOINT: Final = "zmq+tls://127.0.0.1:0"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """What `rapini run` was told."""

    captures: tuple[str, ...]
    directory: Path
    format: LogFormat = LogFormat.TSV
    is_forced: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RunProgress:
    """How far it is."""

    bytes_read: int
    bytes_total: int
    packets: int
    events: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunReport:
    """What came of it."""

    account: Account
    packets: int
    seconds: float
    """From the first packet read to the last row written."""
    undecoded: Mapping[str, int]
    """Packets that became part of no flow, by reason."""
    damages: tuple[str, ...]
    """Captures that could not be read to their end: file, packet number, what is wrong."""
    failures: tuple[str, ...]
    """Processes and logs that failed."""
    exit_status: int


def run_pipeline(plan: RunPlan, stop: Stop, progress: Callable[[RunProgress], None]) -> RunReport:
    """Turn captures into logs.

    Args:
        plan: What to read and where to write.
        stop: Ends it early; the logs are closed in order.
        progress: Called several times a second while captures are read.

    Raises:
        CaptureError: A file cannot be read as a capture at all.
        ConfigError: `log_dir_not_empty`.
        LogError: `unwritable`.
    """
    check(plan)
    with tempfile.TemporaryDirectory(prefix="rapini-run-") as folder, Family(Path(folder), stop) as family:
        pipeline = _Pipeline(plan, family, Path(folder), stop, progress)
        pipeline.start()
        pipeline.read()
        return pipeline.finish()


def check(plan: RunPlan) -> None:
    """Refuse what cannot be used; see `run_pipeline`."""
    for path in plan.captures:
        open_capture(path).close()
    folder = plan.directory
    if folder.exists() and not folder.is_dir():
        raise LogError("unwritable", f"{folder} is not a folder", remedy="give another --log-dir")
    if not plan.is_forced and folder.is_dir() and any(folder.iterdir()):
        raise ConfigError(
            "log_dir_not_empty",
            "this folder for the logs is not empty",
            where=str(folder),
            remedy="choose another, or say --force to replace the logs in it",
        )


class _Pipeline:
    def __init__(
        self, plan: RunPlan, family: Family, folder: Path, stop: Stop, progress: Callable[[RunProgress], None]
    ) -> None:
        self._plan = plan
        self._family = family
        self._keys = folder / "keys"
        self._stop = stop
        self._progress = progress
        self._logger: Child | None = None
        self._sensor: Child | None = None
        self._failures: list[str] = []

    def start(self) -> None:
        authority = Authority.create(self._keys, "run")
        authority.issue("logger", hosts=["127.0.0.1"])
        authority.issue("sensor")
        plan = self._plan
        arguments = ["--keys", str(self._keys), "--listen", _ENDPOINT]
        arguments += ["--log-dir", str(plan.directory), "--log-format", plan.format.value]
        logger = self._logger = self._family.start("logger", "logger", *arguments, *(["--force"] * plan.is_forced))
        is_listening = self._family.wait_until(
            lambda: logger.find("listening") is not None or not logger.is_running, START_TIMEOUT_S, _nothing
        )
        listening = logger.find("listening")
        if listening is None:
            if self._stop.is_set:
                return
            if not is_listening:
                raise LocalError("not_started", f"the logger did not start within {START_TIMEOUT_S:g} s")
            raise LogError("unwritable", logger.complaint())
        arguments = ["--keys", str(self._keys), "--connect", listening["endpoint"], "--overflow", "block"]
        arguments += ["--wait-for", "logger"]
        for path in plan.captures:
            arguments += ["--read", path]
        self._sensor = self._family.start("sensor", "sensor", *arguments)

    def read(self) -> None:
        """Until the sensor has read everything and said goodbye."""
        sensor, logger = self._sensor, self._logger
        if sensor is None or logger is None:
            return
        # Each stays until its own business is over; the parent only watches.
        while sensor.is_running and logger.is_running and not self._stop.is_set:
            self._family.poll(0.1)
            self._tell_progress(sensor)
        if self._stop.is_set:
            tell(sensor, signal.SIGTERM)
        elif not logger.is_running:
            self._failures.append(f"the logger ended: {logger.complaint()}")
            tell(sensor, signal.SIGTERM)
        if not self._family.wait_end([sensor], DRAIN_TIMEOUT_S, _nothing):
            self._failures.append(f"the sensor did not end within {DRAIN_TIMEOUT_S:g} s, and was killed")
            tell(sensor, signal.SIGKILL)
            sensor.process.wait()
        self._tell_progress(sensor)

    def _tell_progress(self, sensor: Child) -> None:
        counters = sensor.read_ledger()
        self._progress(
            RunProgress(
                bytes_read=counters.get("bytes_read", 0),
                bytes_total=counters.get("bytes_total", 0),
                packets=counters.get("packets", 0),
                events=counters.get("published", 0),
            )
        )

    def finish(self) -> RunReport:
        """Close the logs and add up."""
        logger, sensor = self._logger, self._sensor
        if logger is not None:
            tell(logger, signal.SIGTERM)
            if not self._family.wait_end([logger], DRAIN_TIMEOUT_S, _nothing):
                self._failures.append(f"the logger did not end within {DRAIN_TIMEOUT_S:g} s, and was killed")
                tell(logger, signal.SIGKILL)
                logger.process.wait()
        done = time.time()
        sensor_lines: Sequence[Line] = sensor.lines if sensor is not None else ()
        logger_lines: Sequence[Line] = logger.lines if logger is not None else ()
        incarnation = _incarnation("sensor", sensor)
        counters, was_killed = incarnation.counters, incarnation.was_killed
        account = add_up([incarnation], _incarnation("logger", logger))
        if was_killed and not self._stop.is_set and sensor is not None:
            self._failures.append(f"the sensor ended: {sensor.complaint()}")
        self._failures += [line["text"] for line in logger_lines if line["kind"] in ("log_failed", "unknown_type")]
        damages = tuple(line["text"] for line in sensor_lines if line["kind"] == "damaged")
        began = sensor.find("status", state="up") if sensor is not None else None
        is_whole = not (damages or self._failures or account.total_lost) and account.is_balanced
        return RunReport(
            account=account,
            packets=counters.get("packets", 0),
            seconds=done - began["at"] if began is not None else 0.0,
            undecoded={
                name.partition("/")[2]: count for name, count in counters.items() if name.startswith("undecoded/")
            },
            damages=damages,
            failures=tuple(self._failures),
            exit_status=self._stop.exit_status or (143 if self._stop.is_set else 0 if is_whole else 1),
        )


def _incarnation(node: str, child: Child | None) -> Incarnation:
    if child is None:
        return Incarnation(node=node, counters={}, was_killed=False)
    ended_in_order = child.process.poll() in (0, 1, 130)
    return Incarnation(node=node, counters=child.read_ledger(), was_killed=not ended_in_order)


def _nothing() -> None:
    """While waiting, there is nothing else to do."""
