"""The recorder's laboratory: two network namespaces joined by a cable, and the programs that run in them.

Used by `record_capture.py`; `Lab` builds the namespaces, runs programs in them and removes all of it at the
end.

Theory: a veth pair is a virtual cable. With the offload of checksums and segmentation off, a packet on it
looks as it would on a wire. A UTS namespace gives each side a host name of its own, /etc/netns/NAME/ its own
resolver; MAC addresses are set by hand: nothing of the recording machine gets into the capture.

Source: ip-netns(8), veth(4), ethtool(8).
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Self

CLIENT, SERVER = "rapini-rec-client", "rapini-rec-server"
HOST = {CLIENT: "client", SERVER: "server"}
LINK = {CLIENT: "rapcli0", SERVER: "rapsrv0"}
MAC = {CLIENT: "02:00:00:00:00:0c", SERVER: "02:00:00:00:00:05"}
CLIENTS = (10, 11, 12)
"""The client's host numbers."""
DNS, WEB, SSH, SYSLOG, TICKER, DARK = 53, 80, 22, 14, 70, 99
"""The server's host numbers, one for each service; the dark one drops whatever it gets."""
COMMAND_LIMIT_S = 60.0


def v4(host: int) -> str:
    """The IPv4 address of a host of the laboratory."""
    return f"10.20.0.{host}"


def v6(host: int) -> str:
    """The IPv6 address of the same host: it is written with the same digits."""
    return f"fd00:20::{host}"


class Lab:
    """Two joined namespaces and every process started in them; leaving it removes all of it, also after a failure."""

    def __init__(self, work: Path) -> None:
        self.work = work
        self._started: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        remove_namespaces()
        try:
            self._build()
        except BaseException:
            remove_namespaces()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for process in reversed(self._started):
            self.stop(process)
        remove_namespaces()

    def _build(self) -> None:
        for ns in (CLIENT, SERVER):
            resolver = Path("/etc/netns", ns, "resolv.conf")
            resolver.parent.mkdir(parents=True, exist_ok=True)
            resolver.write_text(f"nameserver {v4(DNS)}\noptions timeout:2 attempts:2\n")
            sh("ip", "netns", "add", ns)
        peer = ["type", "veth", "peer", "name", LINK[SERVER], "netns", SERVER]
        sh("ip", "link", "add", LINK[CLIENT], "netns", CLIENT, *peer)
        for ns, hosts in ((CLIENT, CLIENTS), (SERVER, (DNS, WEB, SSH, SYSLOG, TICKER, DARK))):
            dev = LINK[ns]
            sh("ip", "-n", ns, "link", "set", dev, "address", MAC[ns])
            for host in hosts:
                sh("ip", "-n", ns, "addr", "add", f"{v4(host)}/24", "dev", dev)
                sh("ip", "-n", ns, "addr", "add", f"{v6(host)}/64", "dev", dev, "nodad")
            offload = [word for what in ("rx", "tx", "tso", "gso", "gro") for word in (what, "off")]
            sh("ip", "netns", "exec", ns, "ethtool", "-K", dev, *offload)
            sh("ip", "-n", ns, "link", "set", "lo", "up")
            sh("ip", "-n", ns, "link", "set", dev, "up")
        # IPv6 keeps its neighbour discovery, without which no packet for that address would be sent at all
        dark6 = f"ip6 daddr {v6(DARK)} meta l4proto {{ tcp, udp }} drop"
        self.firewall(SERVER, "input", f"ip daddr {v4(DARK)} drop; {dark6}")

    def firewall(self, ns: str, hook: str, rules: str) -> None:
        """Adds a chain of nftables rules to a namespace."""
        chain = f"table inet rec {{ chain {hook} {{ type filter hook {hook} priority 0; {rules}\n }}\n }}\n"
        subprocess.run(["ip", "netns", "exec", ns, "nft", "-f", "-"], input=chain.encode(), check=True)

    def start(self, ns: str, *command: str, stderr: int = subprocess.DEVNULL) -> subprocess.Popen[bytes]:
        """Starts a program in a namespace, under that namespace's host name."""
        process = subprocess.Popen(
            inside(ns, command),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=self.work,
            env=environment(self.work),
        )
        self._started.append(process)
        return process

    def run(self, ns: str, *command: str, stdin: bytes = b"") -> int:
        """Runs a program to its end; many of them are meant to fail, so the caller judges the status."""
        try:
            done = subprocess.run(
                inside(ns, command),
                input=stdin,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                cwd=self.work,
                env=environment(self.work),
                timeout=COMMAND_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return -1
        return done.returncode

    def stop(self, process: subprocess.Popen[bytes], how: signal.Signals = signal.SIGTERM) -> None:
        """Ends one process that this laboratory started, and waits for it."""
        if process.poll() is None:
            process.send_signal(how)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def sh(*command: str) -> str:
    """Runs a command that must succeed; gives its output."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def inside(ns: str, command: Sequence[str]) -> list[str]:
    """The command line that runs a command in a namespace with that namespace's host name."""
    named = ["unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', HOST[ns]]
    return ["ip", "netns", "exec", ns, *named, *command]


def environment(home: Path) -> dict[str, str]:
    """An environment that tells the programs, and so the capture, nothing of the machine."""
    return {"PATH": os.environ["PATH"] + ":/usr/sbin:/sbin", "HOME": str(home), "LC_ALL": "C", "TZ": "UTC"}


def remove_namespaces() -> None:
    """Ends what still runs in our two namespaces, by process id, and removes them. Harmless if there are none."""
    existing = sh("ip", "netns", "list").split()
    for ns in (CLIENT, SERVER):
        if ns in existing:
            for pid in sh("ip", "netns", "pids", ns).split():
                try:
                    os.kill(int(pid), signal.SIGKILL)
                except ProcessLookupError:
                    pass  # it ended by itself meanwhile
            sh("ip", "netns", "del", ns)
        shutil.rmtree(Path("/etc/netns", ns), ignore_errors=True)
