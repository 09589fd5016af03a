"""The bridge between namespaces, as a test sees it: conditions of each directed link, changed while it runs.

A *link* here is one direction between two hosts, `("sensor", "manager")` for what the sensor sends to the manager. The
frames are carried by a process of its own, `bridge_program`, in the hub's namespace, told over its stdin and answering
on its stdout, one JSON object a line.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

__all__ = ["Bridge", "Conditions", "LinkCount"]

_ROOT: Final = Path(__file__).resolve().parents[3]


class Conditions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How one direction of a link treats frames. The default does nothing to them."""

    loss: float = 0.0
    """Share of frames that vanish, 0 to 1."""
    delay_s: float = 0.0
    jitter_s: float = 0.0
    """The delay varies evenly by so much to either side, never below 0. Frames keep their order all the same."""
    reorder: float = 0.0
    """Share of frames that are held back so that later ones overtake them."""
    reorder_hold_s: float = 0.02
    """How long they are held back, beside the delay."""
    duplicate: float = 0.0
    """Share of frames that arrive twice."""
    rate_bytes_per_s: float = 0.0
    """Bandwidth; 0 sets no limit."""
    queue_bytes: int = 64 * 1024
    """What may wait for the bandwidth; what comes when it is full is dropped."""
    is_cut: bool = False
    """Nothing passes, and what was under way (delayed) is gone too."""


class LinkCount(msgspec.Struct, kw_only=True):
    """What became of one direction's frames so far."""

    offered: int = 0
    """Frames that the sender's interface gave out."""
    delivered: int = 0
    """Frames handed to the receiver's interface, duplicates included."""
    lost: int = 0
    cut: int = 0
    duplicated: int = 0
    reordered: int = 0
    over_rate: int = 0
    """Dropped because the queue for the bandwidth was full."""
    refused: int = 0
    """The kernel did not take the frame: 0 unless the machine is out of memory."""


class Bridge:
    """Carries frames between ports. Thread: any; one command at a time.

    Args:
        command: Makes a command run in the hub's namespace.
        ports: For each host its interface in the hub and its hardware address.
        seed: Of all chance: each link draws from a stream of its own, so that traffic on one does not move another's.
    """

    def __init__(self, command: Callable[..., list[str]], ports: Mapping[str, tuple[str, str]], *, seed: int) -> None:
        self.hosts = tuple(ports)
        self.seed = seed
        self._lock = threading.Lock()
        start = json.dumps({"ports": ports, "seed": seed})
        self._process = subprocess.Popen(
            command(sys.executable, "-m", "tests.faults.kit.bridge_program", start),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
            text=True,
        )
        try:
            self._answer()
        except BaseException:
            self.end()
            raise

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise OSError(f"the bridge has ended with status {self._process.wait(5)}; see its message above")
        return json.loads(line)

    def _call(self, **order: object) -> Any:
        assert self._process.stdin is not None
        with self._lock:
            self._process.stdin.write(json.dumps(order) + "\n")
            self._process.stdin.flush()
            return self._answer()

    def set(self, source: str, target: str, conditions: Conditions) -> None:
        """Put one direction under these conditions; in force when the call returns."""
        for host in (source, target):
            if host not in self.hosts:
                raise ValueError(f"no host {host}")
        self._call(source=source, target=target, conditions=msgspec.to_builtins(conditions))

    def set_both(self, one: str, other: str, conditions: Conditions) -> None:
        """Put both directions between two hosts under these conditions."""
        self.set(one, other, conditions)
        self.set(other, one, conditions)

    def set_all(self, conditions: Conditions) -> None:
        """Put every link under these conditions."""
        for source in self.hosts:
            for target in self.hosts:
                if source != target:
                    self.set(source, target, conditions)

    def heal(self) -> None:
        """Make every link perfect again."""
        self.set_all(Conditions())

    def counts(self) -> dict[tuple[str, str], LinkCount]:
        """What became of the frames, by (source, target)."""
        links = self._call(ask="counts")["links"]
        return {(source, target): msgspec.convert(count, LinkCount) for source, target, count in links}

    def overruns(self) -> int:
        """Frames that the kernel dropped because the bridge did not read fast enough: losses nobody ordered."""
        return int(self._call(ask="counts")["overruns"])

    def end(self) -> None:
        """End the process. No frame passes any more."""
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass
