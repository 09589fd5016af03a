"""What the node's tests share: keys for a whole run, a recorder for what a node sees, waiting with a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rapini import Event, Gap, Node, Origin, PeerState, PeerStatus
from rapini.testing.authority import ThrowawayAuthority
from tests.programs.events import Tick

__all__ = ["QUICK", "SCHEMES", "Keys", "Recorder", "eventually", "port_of", "running"]

SCHEMES = ("zmq+tls", "tcp+tls")

QUICK: dict[str, Any] = {"backoff_first_s": 0.05, "backoff_max_s": 0.2}
"""So that reconnecting takes no longer than the machine needs."""


class Keys:
    """One authority, and the key files of its nodes as options of `Node`."""

    def __init__(self, folder: Path) -> None:
        self.authority = ThrowawayAuthority(folder)
        self._issued: dict[str, dict[str, Any]] = {}

    def of(self, name: str) -> dict[str, Any]:
        """The options `certificate`, `key` and `trust` of a node; issued once."""
        if name not in self._issued:
            files = self.authority.issue(name)
            self._issued[name] = {
                "certificate": str(files.certificate_path),
                "key": str(files.key_path),
                "trust": str(files.trust_path),
            }
        return self._issued[name]


class Recorder:
    """Consumes a node's events and statuses on a thread, and keeps them in order with the time of each."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.items: list[tuple[float, tuple[Event, Origin] | PeerStatus | Gap]] = []
        self._changed = threading.Condition()
        self._reads = threading.Event()
        self._reads.set()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for item in self.node.events(with_status=True):
            self._reads.wait()
            with self._changed:
                self.items.append((time.monotonic(), item))
                self._changed.notify_all()

    def pause(self) -> None:
        """Take no more; one item may be in hand."""
        self._reads.clear()

    def resume(self) -> None:
        """Take on."""
        self._reads.set()

    def join(self) -> None:
        """Wait until the node has ended and everything was consumed."""
        self._reads.set()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def statuses(self, peer: str = "") -> list[PeerStatus]:
        """The statuses so far."""
        with self._changed:
            return [i for _, i in self.items if isinstance(i, PeerStatus) and (not peer or i.peer == peer)]

    def states(self, peer: str) -> list[str]:
        """The states of a peer that an application acts on, in order."""
        passing = (PeerState.CONNECTING, PeerState.HANDSHAKING, PeerState.SYNCING)
        return [status.state.value for status in self.statuses(peer) if status.state not in passing]

    def ticks(self, sender: str = "") -> list[int]:
        """The numbers of the ticks so far."""
        with self._changed:
            return [
                item[0].number
                for _, item in self.items
                if isinstance(item, tuple) and isinstance(item[0], Tick) and (not sender or item[0].sender == sender)
            ]

    def wait(
        self, wanted: Callable[[tuple[Event, Origin] | PeerStatus | Gap], bool], timeout_s: float = 10.0, since: int = 0
    ) -> tuple[float, Any]:
        """The first wanted item and when it came."""
        deadline = time.monotonic() + timeout_s
        seen = since
        with self._changed:
            while True:
                for at, item in self.items[seen:]:
                    if wanted(item):
                        return at, item
                seen = max(since, len(self.items))
                left = deadline - time.monotonic()
                if left <= 0:
                    tail = [str(item) for _, item in self.items[-8:]]
                    raise AssertionError(f"{self.node.name} saw nothing of it within {timeout_s:g} s; last: {tail}")
                self._changed.wait(left)

    def wait_status(
        self, state: PeerState, peer: str = "", timeout_s: float = 10.0, since: int = 0
    ) -> tuple[float, PeerStatus]:
        """The first such status and when it came."""
        return self.wait(
            lambda item: isinstance(item, PeerStatus) and item.state is state and (not peer or item.peer == peer),
            timeout_s,
            since,
        )

    def wait_tick(self, number: int, sender: str = "", timeout_s: float = 10.0, since: int = 0) -> float:
        """When the tick with this number came."""
        return self.wait(
            lambda item: (
                isinstance(item, tuple)
                and isinstance(item[0], Tick)
                and item[0].number == number
                and (not sender or item[0].sender == sender)
            ),
            timeout_s,
            since,
        )[0]

    @property
    def count(self) -> int:
        """How many items there are: a `since` for later."""
        with self._changed:
            return len(self.items)


@contextmanager
def running(node: Node) -> Iterator[tuple[Node, Recorder]]:
    """A node with a recorder, closed at the end."""
    recorder = Recorder(node)
    try:
        yield node, recorder
    finally:
        recorder.resume()
        node.close(drain_timeout_s=1.0)
        recorder.join()


def eventually(check: Callable[[], bool], timeout_s: float = 10.0, what: str = "it") -> float:
    """Wait until something is true; returns the seconds it took."""
    began = time.monotonic()
    while not check():
        if time.monotonic() - began > timeout_s:
            raise AssertionError(f"{what} did not come true within {timeout_s:g} s")
        time.sleep(0.005)
    return time.monotonic() - began


def port_of(url: str) -> int:
    """The port of an endpoint."""
    return int(url.rpartition(":")[2])
