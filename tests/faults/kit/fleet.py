"""Sensors that publish and receivers that take, each a process with a ledger, on a network or all on this machine.

The workload of the storms: every sensor dials every receiver and publishes at a constant rate; everybody may be killed
and started anew at any time (`tests.programs.ledger_child`).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.faults.kit.disk import SmallDisk
from tests.faults.kit.ledger import Account
from tests.faults.kit.namespaces import Network
from tests.faults.kit.programs import Restartable
from tests.integration.node.support import QUICK, Keys
from tests.programs.child import Child
from tests.programs.ledger_child import read_ledger
from tests.programs.ledger_events import PREFIX

__all__ = ["Fleet", "Workload", "free_port"]

OPTIONS: Final[dict[str, Any]] = {
    **QUICK,
    "heartbeat_interval_s": 0.5,
    "heartbeat_timeout_s": 1.5,
    "connect_timeout_s": 2.0,
    "handshake_timeout_s": 3.0,
    "insecure": False,
}
_PORT: Final = 9750


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Who publishes what to whom."""

    delivery: str
    """The class of all events, as in `tests.programs.ledger_events.ENTRIES`."""
    scheme: str
    receivers: Mapping[str, str]
    """Names, and the checkpoint that each commits to: `sqlite`, `file`, or none (empty)."""
    sensors: tuple[str, ...] = ("sensor-1", "sensor-2", "sensor-3")
    rate: int = 1000
    """Events per second and sensor."""
    pad: int = 100
    """Bytes that an event has beside its number."""
    disks: Mapping[str, SmallDisk] = field(default_factory=dict)
    """Where the spools of some sensors lie; the others' lie in the folder of the ledgers."""
    options: Mapping[str, Any] = field(default_factory=dict)
    """More options of the sensors' nodes."""


class Fleet:
    """The processes of a workload, all started when this is made.

    Args:
        workload: Who they are.
        keys: Issues their certificates.
        folder: For ledgers and spools.
        stack: Ends the processes.
        network: With a host of each name; without one, all are on this machine, at free ports.
    """

    def __init__(
        self, workload: Workload, keys: Keys, folder: Path, stack: ExitStack, network: Network | None = None
    ) -> None:
        self.workload = workload
        self.ledgers = {name: folder / f"{name}.ledger" for name in (*workload.receivers, *workload.sensors)}
        self.programs: dict[str, Restartable] = {}
        self._folder = folder
        self._keys = keys
        self._network = network
        self._urls: dict[str, str] = {}
        for name in workload.receivers:
            self._start(name, stack)
        for name in workload.sensors:
            self._start(name, stack)

    def _start(self, name: str, stack: ExitStack) -> None:
        address = self._network.hosts[name].address if self._network is not None else "127.0.0.1"
        files = self._keys.authority.issue(name, hosts=[address])
        options: dict[str, Any] = {
            **OPTIONS,
            "certificate": str(files.certificate_path),
            "key": str(files.key_path),
            "trust": str(files.trust_path),
        }
        more: dict[str, Any] = {"ledger": str(self.ledgers[name]), "delivery": self.workload.delivery}
        is_receiver = name in self.workload.receivers
        if is_receiver:
            port = _PORT if self._network is not None else free_port()
            self._urls[name] = f"{self.workload.scheme}://{address}:{port}"
            options["listen"] = [self._urls[name]]
            more["checkpoint"] = self.workload.receivers[name]
        else:
            options |= {"connect": list(self._urls.values()), **self.workload.options}
            more |= {"rate": self.workload.rate, "pad": self.workload.pad}
            if self.workload.delivery == "durable":
                disk = self.workload.disks.get(name)
                spool = (disk.folder if disk is not None else self._folder) / f"{name}.spool"
                options |= {
                    "spool": str(spool),
                    "durable_subscribers": {receiver: [PREFIX] for receiver in self.workload.receivers},
                }

        def start(life: int) -> Child:
            return Child(
                name,
                options,
                [PREFIX] if is_receiver else [],
                program="tests.programs.ledger_child",
                more={**more, "life": life},
                command=self._command(name),
                errors=self._folder / f"{name}.errors",
            )

        self.programs[name] = stack.enter_context(Restartable(start))

    def _command(self, name: str) -> Callable[..., list[str]]:
        host = self._network.hosts[name] if self._network is not None else None
        disk = self.workload.disks.get(name)

        def command(*words: str) -> list[str]:
            inside = disk.command(*words) if disk is not None else list(words)
            return host.command(*inside) if host is not None else inside

        return command

    # -- how they are --------------------------------------------------------------------------------------------

    def call(self, name: str, do: str) -> dict[str, Any]:
        """Ask one of them."""
        return self.programs[name].child.call(do)

    def is_up(self) -> bool:
        """Whether every sensor is up at every receiver, and sees it up."""
        receivers, sensors = set(self.workload.receivers), set(self.workload.sensors)
        return all(set(self.call(name, "peers")["up"]) >= sensors for name in receivers) and all(
            set(self.call(name, "peers")["up"]) >= receivers for name in sensors
        )

    def received(self) -> dict[tuple[str, str], int]:
        """Events received in the receivers' present lives, by receiver and sensor."""
        told = {name: self.call(name, "counters")["received"] for name in self.workload.receivers}
        return {(name, sensor): told[name].get(sensor, 0) for name in told for sensor in self.workload.sensors}

    def settle(self) -> None:
        """Let every sensor end its account."""
        for name in self.workload.sensors:
            reply = self.call(name, "cease")
            assert reply["settled"], f"{name} did not get rid of what it had: {reply}"

    def leave(self) -> None:
        """End the sensors, then the receivers, which commit what they have."""
        for name in (*self.workload.sensors, *self.workload.receivers):
            self.call(name, "leave")

    def errors(self, name: str) -> str:
        """What one of them wrote to stderr, all its lives."""
        return (self._folder / f"{name}.errors").read_text(encoding="utf-8")

    # -- what they wrote down ------------------------------------------------------------------------------------

    def ledger_of(self, receiver: str) -> Path:
        """A receiver's ledger as a text file; when it has left."""
        checkpoint = self.workload.receivers[receiver]
        if not checkpoint:
            return self.ledgers[receiver]
        path = self._folder / f"{receiver}.read"
        path.write_text(read_ledger(self.ledgers[receiver], checkpoint), encoding="utf-8")
        return path

    def account(self, receiver: str) -> Account:
        """What was published, against what a receiver took; when all have left."""
        return Account({name: self.ledgers[name] for name in self.workload.sensors}, self.ledger_of(receiver))


def free_port() -> int:
    """A port that nobody has now; a receiver that is started anew listens at it again."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
