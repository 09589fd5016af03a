"""Network namespaces joined by our own bridge: hosts that share no wire with anything but each other.

    test process (root namespace: nothing is added to it)
    [ host "manager" eth0 ]---veth---[ p0        ]
    [ host "sensor"  eth0 ]---veth---[ p1   hub  ]   the hub has no addresses; `bridge_program` carries the frames

Namespaces are named `rapini-PID-RANDOM-LABEL` after the process that made them, and removed at the end. If that process
was killed before it could, the next one to make a network removes what the dead one left; nobody else's are touched.

The addresses are of 192.0.2.0/24 (RFC 5737: documentation, nobody's), exist inside the namespaces alone, and there is
no route to anything else. Neighbours are entered by hand, so a cut link fails as a cut link does and not for want of
an ARP reply.
"""

from __future__ import annotations

import ctypes
import os
import secrets
import socket
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.conftest import missing_component, require_component
from tests.faults.kit.bridge import Bridge
from tests.faults.kit.offload import switch_offloads_off

__all__ = ["Host", "Namespace", "Network", "require_namespaces"]

_FOLDER: Final = Path("/run/netns")
_PREFIX: Final = "rapini"
_CLONE_NEWNET: Final = 0x4000_0000
_COMMAND_S: Final = 10


def require_namespaces() -> None:
    """End the running test unless it may make network namespaces: a failure on CI, a loud skip elsewhere."""
    require_component("ip", hint="Debian package iproute2")
    if os.geteuid() != 0:
        missing_component("network namespaces need root")


def _run(*command: str, stdin: str = "") -> str:
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=_COMMAND_S, check=False)
    if done.returncode:
        raise OSError(f"{' '.join(command)}: status {done.returncode}: {done.stderr.strip()}")
    return done.stdout


class Namespace:
    """One network namespace, with nothing but a loopback interface that is up.

    Args:
        label: The end of its name, for whoever lists namespaces.
    """

    def __init__(self, label: str) -> None:
        self.name = f"{_PREFIX}-{os.getpid()}-{secrets.token_hex(3)}-{label}"
        _run("ip", "netns", "add", self.name)
        try:
            # No IPv6: no router solicitations and no neighbour discovery among the frames that tests count.
            self.run("sh", "-c", "echo 1 > /proc/sys/net/ipv6/conf/all/disable_ipv6")
            self.ip("link", "set", "lo", "up")
        except BaseException:
            self.remove()
            raise

    def command(self, *command: str) -> list[str]:
        """A command as it is started in here. `ip` replaces itself by it, so the process id is the command's own."""
        return ["ip", "netns", "exec", self.name, *command]

    def run(self, *command: str, stdin: str = "") -> str:
        """Run a command in here and return its output; `OSError` if it fails."""
        return _run(*self.command(*command), stdin=stdin)

    def ip(self, *arguments: str) -> None:
        """Run `ip` on this namespace."""
        _run("ip", "-n", self.name, *arguments)

    def open_socket(self, family: socket.AddressFamily, kind: socket.SocketKind) -> socket.socket:
        """A socket of this namespace for the calling process, which stays where it is.

        `setns` moves one thread; a socket belongs for good to the namespace of the thread that opened it.
        """
        opened: list[socket.socket] = []
        failed: list[OSError] = []

        def enter_and_open() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            file = os.open(_FOLDER / self.name, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(file, _CLONE_NEWNET):
                    error = ctypes.get_errno()
                    raise OSError(error, os.strerror(error))
                opened.append(socket.socket(family, kind))
            except OSError as exc:
                failed.append(exc)
            finally:
                os.close(file)

        thread = threading.Thread(target=enter_and_open)
        thread.start()
        thread.join()
        if failed:
            raise failed[0]
        return opened[0]

    def remove(self) -> None:
        """Remove it. Interfaces in it go too; a process still in it keeps an unnamed remainder until it ends."""
        _run("ip", "netns", "delete", self.name)


class Host(Namespace):
    """A namespace with one interface, `eth0`, on the bridge.

    Args:
        label: The host's name.
        number: From 1; makes its address.
    """

    def __init__(self, label: str, number: int) -> None:
        super().__init__(label)
        self.label = label
        self.address = f"192.0.2.{number}"
        self.hardware_address = f"02:00:00:00:00:{number:02x}"


class Network:
    """Hosts on one bridge; a context manager. The links are perfect until `bridge` is told otherwise.

    Args:
        labels: The hosts' names, at most 16.
        seed: Of every decision the bridge makes by chance.
    """

    def __init__(self, labels: Sequence[str], *, seed: int) -> None:
        if not 2 <= len(set(labels)) == len(labels) <= 16:
            raise ValueError("2 to 16 hosts with different names")
        require_namespaces()
        _remove_orphans()
        self.hosts: dict[str, Host] = {}
        self._namespaces: list[Namespace] = []
        self._bridge: Bridge | None = None
        try:
            hub = Namespace("hub")
            self._namespaces.append(hub)
            for number, label in enumerate(labels, 1):
                host = Host(label, number)
                self._namespaces.append(host)
                self.hosts[label] = host
                _attach(host, hub, f"p{number}")
            for host in self.hosts.values():
                for other in self.hosts.values():
                    if other is not host:
                        host.ip(
                            "neigh", "add", other.address, "lladdr", other.hardware_address, "dev", "eth0",
                            "nud", "permanent",
                        )  # fmt: skip
            ports = {label: (f"p{i}", self.hosts[label].hardware_address) for i, label in enumerate(labels, 1)}
            self._bridge = Bridge(hub.command, ports, seed=seed)
        except BaseException:
            self.remove()
            raise

    @property
    def bridge(self) -> Bridge:
        """What carries the frames, and damages them when told to."""
        assert self._bridge is not None
        return self._bridge

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    def remove(self) -> None:
        """End the bridge and remove every namespace; whatever fails, the rest is still removed."""
        failures: list[OSError] = []
        if self._bridge is not None:
            self._bridge.end()
        for namespace in reversed(self._namespaces):
            try:
                namespace.remove()
            except OSError as exc:
                failures.append(exc)
        self._namespaces.clear()
        if failures:
            raise failures[0]


def _attach(host: Host, hub: Namespace, port: str) -> None:
    pair = ("type", "veth", "peer", "name", "eth0", "address", host.hardware_address, "netns", host.name)
    hub.ip("link", "add", port, *pair)
    host.ip("address", "add", f"{host.address}/24", "dev", "eth0")
    for namespace, interface in ((hub, port), (host, "eth0")):
        with namespace.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            switch_offloads_off(control, interface)
        namespace.ip("link", "set", interface, "up")


def _remove_orphans() -> None:
    """Remove what a process that is no more has left behind."""
    for path in _FOLDER.glob(f"{_PREFIX}-*") if _FOLDER.is_dir() else ():
        pid = path.name.split("-")[1]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            try:
                _run("ip", "netns", "delete", path.name)
            except OSError:  # another test process was quicker
                if path.exists():
                    raise
