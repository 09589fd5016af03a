"""The demo's story: the same steps every time, each with a deadline, told as they happen.

Where it sits: tells the `cast` what to do, waits for what their reports and ledgers show, and tells a `view`.

What is shown was thought impossible over 0MQ, which reconnects behind one's back: a killed peer is noticed, one that
was restarted is told from one that is back, and after each there is a new handshake of a secured channel. Times are
measured from the cause to the report of whoever noticed, by their own clocks, which on one machine are one.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from rapini.apps.demo.cast import RECEIVERS, SENSORS, Cast
from rapini.apps.demo.summary import DemoReport, StepReport, summarise
from rapini.apps.demo.view import View
from rapini.apps.processes import Child, Line, tell
from rapini.apps.programs.stopping import Stop
from rapini.errors import RapiniError

__all__ = ["DemoError", "Interrupted", "Story"]

FREEZE_S: Final = 4.5
SILENT_LOST_S: Final = 3.5
"""A frozen peer is lost after 3 s of silence, and at most half a second later is noticed."""

_STEPS: Final = 6
_DEADLINE_S: Final = 15.0
_STEADY_S: Final = 13.0
"""What the story takes without its pauses, about."""
_PAUSES: Final = 4
_REFRESH_S: Final = 0.5
_UP_AGAIN: Final = ("up", "restarted", "resumed")


class DemoError(RapiniError):
    """A step of the demo did not happen in time; the text says which."""


class Interrupted(Exception):  # noqa: N818 - it ends the story and is no error
    """Somebody pressed Ctrl-C."""


class Story:
    """One telling. Thread: the main thread.

    Args:
        cast: The processes.
        view: Who is told.
        stop: Ends it early.
        log_dir: Where the logger writes.
        seconds: How long it should take, about; the pauses are made to fit.
    """

    def __init__(self, cast: Cast, view: View, stop: Stop, log_dir: Path, seconds: float) -> None:
        self._cast = cast
        self._view = view
        self._stop = stop
        self._log_dir = log_dir
        self._pause_s = min(60.0, max(1.0, (seconds - _STEADY_S) / _PAUSES))
        self._began = time.monotonic()
        self._refreshed = self._began
        self._steps: list[StepReport] = []
        self._step = ""
        self._may_end: set[Child] = set()

    def tell(self) -> DemoReport:
        """Tell it.

        Raises:
            DemoError: `step_failed`: a step did not happen within its deadline.
            Interrupted: Somebody wants to stop.
        """
        self._start()
        self._flow()
        self._kill_a_sensor()
        self._kill_the_manager()
        self._freeze_a_sensor()
        self._end()
        self._cast.measure(0.0)
        seconds = time.monotonic() - self._began
        return summarise(self._cast.family.children, self._cast.links, self._steps, self._log_dir, seconds)

    # -- the steps -----------------------------------------------------------------------------------------------

    def _start(self) -> None:
        self._begin(1, "start", "A throwaway authority, a manager, a logger, two sensors: four processes, mutual TLS")
        began = time.time()
        self._cast.make_authority()
        for receiver in RECEIVERS:
            self._cast.start_receiver(receiver)
        self._wait("manager and logger listen", lambda: all(map(self._cast.is_listening, RECEIVERS)))
        for sensor in SENSORS:
            self._cast.start_sensor(sensor)
        for sensor in SENSORS:
            for receiver in RECEIVERS:
                self._status(receiver, sensor, "up", after=began)
        self._happened("all four links are up", time.time() - began)

    def _flow(self) -> None:
        self._begin(2, "flow", "The sensors replay a real capture in a loop; events flow")
        began = time.time()
        for sensor in SENSORS:
            for receiver in RECEIVERS:
                self._flows(receiver, sensor, epoch=1)
        self._happened("the first events of both sensors are with the logger and the manager", time.time() - began)
        self._pause()

    def _kill_a_sensor(self) -> None:
        sensor = SENSORS[0]
        self._begin(3, "kill a sensor", f"SIGKILL to {sensor}: no goodbye, no close")
        killed = time.time()
        self._cast.kill(sensor)
        for receiver in RECEIVERS:
            line = self._status(receiver, sensor, "lost", after=killed)
            self._happened(f"{receiver} noticed: {sensor} is lost ({line['code']})", line["at"] - killed)
        self._wait_s(min(1.0, self._pause_s))
        started = time.time()
        self._cast.start_sensor(sensor)
        epochs = {}
        for receiver in RECEIVERS:
            line = self._status(receiver, sensor, "restarted", after=started)
            epochs[receiver] = line["epoch"]
            text = f"{receiver}: new handshake, {sensor} is new (restarted, channel {line['epoch']})"
            self._happened(text, line["at"] - started)
        for receiver, epoch in epochs.items():
            self._flows(receiver, sensor, epoch)
        self._happened("its events flow again to both", time.time() - started)
        self._pause()

    def _kill_the_manager(self) -> None:
        self._begin(4, "kill the manager", "SIGKILL to the manager; the logger goes on")
        killed = time.time()
        self._cast.kill("manager")
        for sensor in SENSORS:
            line = self._status(sensor, "manager", "lost", after=killed)
            self._happened(f"{sensor} noticed: manager is lost ({line['code']})", line["at"] - killed)
        self._wait_s(min(1.0, self._pause_s))
        started = time.time()
        self._cast.start_receiver("manager")
        for sensor in SENSORS:
            line = self._status(sensor, "manager", "restarted", after=started)
            text = f"{sensor} dialled anew: new handshake, manager is new (restarted)"
            self._happened(text, line["at"] - started)
        for sensor in SENSORS:
            line = self._status("manager", sensor, _UP_AGAIN, after=started)
            self._flows("manager", sensor, line["epoch"])
        self._happened("events of both sensors flow to it again", time.time() - started)
        self._pause()

    def _freeze_a_sensor(self) -> None:
        sensor = SENSORS[1]
        self._begin(5, "freeze a sensor", f"SIGSTOP to {sensor} for {FREEZE_S:g} s: its connections stay open, silent")
        frozen = time.time()
        self._cast.freeze(sensor)
        for receiver in RECEIVERS:
            line = self._status(receiver, sensor, "lost", after=frozen, deadline_s=FREEZE_S - 0.1)
            seconds = line["at"] - frozen
            self._happened(f"{receiver} noticed: {sensor} is silent, so lost ({line['code']})", seconds)
        self._wait_s(frozen + FREEZE_S - time.time())
        thawed = time.time()
        self._cast.thaw(sensor)
        epochs = {}
        for receiver in RECEIVERS:
            line = self._status(receiver, sensor, "resumed", after=thawed)
            epochs[receiver] = line["epoch"]
            text = f"{receiver}: new handshake, {sensor} is back (resumed, channel {line['epoch']})"
            self._happened(text, line["at"] - thawed)
        for receiver, epoch in epochs.items():
            self._flows(receiver, sensor, epoch)
        self._happened("its events flow again to both", time.time() - thawed)
        self._pause()

    def _end(self) -> None:
        self._begin(6, "stop", "SIGTERM to all: drain, say goodbye, close the logs")
        asked = time.time()
        self._dismiss(*SENSORS)
        for sensor in SENSORS:
            for receiver in RECEIVERS:
                self._status(receiver, sensor, "left", after=asked)
        self._happened("manager and logger saw both sensors say goodbye: left, not lost", time.time() - asked)
        self._dismiss("logger")
        self._dismiss("manager")
        self._happened("everybody ended in order, the logs are closed", time.time() - asked)

    def _dismiss(self, *nodes: str) -> None:
        children = [self._cast.actors[node] for node in nodes]
        self._may_end.update(children)
        self._cast.dismiss(*nodes)
        if not self._cast.family.wait_end(children, _DEADLINE_S, self._turn):
            self._fail(f"{' and '.join(nodes)} did not end within {_DEADLINE_S:g} s")
        for child in children:
            if child.process.returncode != 0:
                self._fail(f"{child.label} ended with status {child.process.returncode}: {child.complaint()}")

    # -- waiting -------------------------------------------------------------------------------------------------

    def _begin(self, number: int, name: str, text: str) -> None:
        self._step = name
        self._view.step(number, _STEPS, text)

    def _happened(self, what: str, seconds: float) -> None:
        self._steps.append(StepReport(step=self._step, what=what, seconds=seconds))
        self._view.done(what, seconds)

    def _status(
        self, at: str, peer: str, state: str | tuple[str, ...], *, after: float, deadline_s: float = _DEADLINE_S
    ) -> Line:
        """Wait until a node reports this of a peer."""
        child = self._cast.actors[at]
        found: list[Line] = []

        def is_there() -> bool:
            line = child.find("status", after, peer=peer, state=state)
            found.extend([line] if line is not None else [])
            return line is not None

        wanted = state if isinstance(state, str) else " or ".join(state)
        self._wait(f"{child.label} reports {peer} as {wanted}", is_there, deadline_s)
        return found[0]

    def _flows(self, receiver: str, sensor: str, epoch: int) -> None:
        what = f"events of {sensor} reach the {receiver}"
        self._wait(what, lambda: self._cast.taken(receiver, sensor, epoch) > 0)

    def _wait(self, what: str, condition: Callable[[], bool], deadline_s: float = _DEADLINE_S) -> None:
        if not self._cast.family.wait_until(condition, deadline_s, self._turn):
            self._check_interrupted()
            self._fail(f"not within {deadline_s:.1f} s: {what}")

    def _pause(self) -> None:
        self._wait_s(self._pause_s)

    def _wait_s(self, seconds: float) -> None:
        self._cast.family.wait_until(lambda: False, seconds, self._turn)
        self._check_interrupted()

    def _check_interrupted(self) -> None:
        if self._stop.is_set:
            raise Interrupted

    def _turn(self) -> None:
        self._cast.listen()
        now = time.monotonic()
        if now - self._refreshed >= _REFRESH_S:
            self._cast.measure(now - self._refreshed)
            self._refreshed = now
            self._view.links(self._cast.links)
        for child in self._cast.actors.values():
            if not child.is_running and not child.was_killed and child not in self._may_end and not self._stop.is_set:
                self._fail(f"{child.label} ended by itself: {child.complaint()}")

    def _fail(self, text: str) -> None:
        heard = [f"{child.label}: {child.complaint()}" for child in self._cast.family.children if child.has_complained]
        raise DemoError("step_failed", "; ".join([f"{self._step}: {text}", *heard]))

    def abandon(self) -> None:
        """End early, but in order: everybody is asked to stop, and has three seconds."""
        living = list(self._cast.family.living())
        for child in living:
            tell(child, signal.SIGCONT)
            tell(child, signal.SIGTERM)
        self._cast.family.wait_end(living, 3.0, lambda: None)
