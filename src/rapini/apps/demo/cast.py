"""Who plays in the demo: a manager, a logger and two sensors, each a process, and what is known of the links.

Where it sits: between `processes`, which holds the children, and `story`, which tells them what to do.
"""

from __future__ import annotations

import signal
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rapini import Authority
from rapini.apps.processes import Child, Family, Line, tell

__all__ = ["RECEIVERS", "SENSORS", "Cast", "Link"]

SENSORS: Final = ("sensor-1", "sensor-2")
RECEIVERS: Final = ("logger", "manager")

_ENDPOINT: Final = "zmq+tls://127.0.0.1:0"
_SAMPLES: Final = 24


@dataclass(slots=True)
class Link:
    """One sensor and one of those it sends to, as last heard from either end."""

    sensor: str
    receiver: str
    state: str = "starting"
    code: str = ""
    heard_at: float = 0.0
    received: int = 0
    """Events taken by all incarnations of the receiver."""
    rates: deque[float] = field(default_factory=lambda: deque([0.0], maxlen=_SAMPLES))
    """Events a second, the newest last."""

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.sensor} → {self.receiver}"

    @property
    def rate(self) -> float:
        """Events a second just now."""
        return self.rates[-1]

    def heard(self, line: Line) -> None:
        """A status report from one of its ends."""
        state, at = line["state"], line["at"]
        if at < self.heard_at or state not in _STATES:
            return
        # Both ends report a return, and one of them may be new itself: what the other remembers says more.
        if state == "up" and self.state in ("restarted", "resumed") and at - self.heard_at < 1.0:
            return
        self.heard_at, self.state, self.code = at, state, line["code"]


_STATES: Final = frozenset({"up", "restarted", "resumed", "lost", "left", "rejected"})


class Cast:
    """The processes of the demo. Thread: the main thread.

    Args:
        family: Holds them.
        keys: Folder for the throwaway authority.
        capture: What the sensors replay, over and over.
        rate: Packets a second for each sensor.
        log_dir: Where the logger writes.
    """

    def __init__(self, family: Family, keys: Path, capture: Path, rate: float, log_dir: Path) -> None:
        self.family = family
        self.links = [Link(sensor, receiver) for sensor in SENSORS for receiver in RECEIVERS]
        self.actors: dict[str, Child] = {}
        """The present incarnation of each node."""
        self._keys = keys
        self._capture = capture
        self._rate = rate
        self._log_dir = log_dir
        self._endpoints: dict[str, str] = {}
        self._heard: dict[Child, int] = {}

    def make_authority(self) -> None:
        """A throwaway authority and everybody's keys."""
        authority = Authority.create(self._keys, "demo")
        for receiver in RECEIVERS:
            authority.issue(receiver, role=receiver, hosts=["127.0.0.1"])
        for sensor in SENSORS:
            authority.issue(sensor, role="sensor")

    def start_receiver(self, node: str) -> Child:
        """Start the manager or the logger, at its old endpoint if it had one."""
        arguments = ["--keys", str(self._keys), "--listen", self._endpoints.get(node, _ENDPOINT)]
        if node == "logger":
            arguments += ["--log-dir", str(self._log_dir)]
        child = self.actors[node] = self.family.start(node, node, *arguments)
        return child

    def is_listening(self, node: str) -> bool:
        """Whether this receiver has told its endpoint."""
        line = self.actors[node].find("listening")
        if line is not None:
            self._endpoints[node] = line["endpoint"]
        return line is not None

    def start_sensor(self, node: str) -> Child:
        """Start a sensor that begins when both receivers are up."""
        arguments = ["--keys", str(self._keys), "--read", str(self._capture), "--rate", str(self._rate), "--loop"]
        for receiver in RECEIVERS:
            arguments += ["--connect", self._endpoints[receiver], "--wait-for", receiver]
        child = self.actors[node] = self.family.start(node, "sensor", *arguments)
        return child

    def kill(self, node: str) -> None:
        """SIGKILL: no goodbye, nothing flushed."""
        tell(self.actors[node], signal.SIGKILL)

    def freeze(self, node: str) -> None:
        """SIGSTOP: its connections stay open, and silent."""
        tell(self.actors[node], signal.SIGSTOP)

    def thaw(self, node: str) -> None:
        """SIGCONT."""
        tell(self.actors[node], signal.SIGCONT)

    def dismiss(self, *nodes: str) -> list[Child]:
        """SIGTERM: drain, say goodbye, end."""
        children = [self.actors[node] for node in nodes if node in self.actors]
        for child in children:
            tell(child, signal.SIGTERM)
        return children

    def taken(self, receiver: str, sensor: str, epoch: int) -> int:
        """Events that the present incarnation of a receiver took from one channel of a sensor."""
        return self.actors[receiver].read_ledger().get(f"taken/{sensor}/{epoch}", 0)

    def listen(self) -> None:
        """Bring the links' states up to date with the reports."""
        for child in self.family.children:
            for line in child.lines[self._heard.get(child, 0) :]:
                if line["kind"] == "status":
                    for link in self.links:
                        if (child.node, line["peer"]) in ((link.sensor, link.receiver), (link.receiver, link.sensor)):
                            link.heard(line)
            self._heard[child] = len(child.lines)

    def measure(self, seconds: float) -> None:
        """Bring the links' counts up to date.

        Args:
            seconds: Since the last call.
        """
        for child in self.family.children:
            if child.is_running or not child.counters:
                child.read_ledger()
        for link in self.links:
            received = sum(
                count
                for child in self.family.children
                if child.node == link.receiver
                for name, count in child.counters.items()
                if name.startswith(f"taken/{link.sensor}/")
            )
            link.rates.append((received - link.received) / seconds if seconds > 0 else 0.0)
            link.received = received
