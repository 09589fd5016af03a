"""The bridge's process: reads frames from each port's raw socket and sends them on, after doing what it was told to.

Started by `tests.faults.kit.bridge.Bridge` in the hub's namespace, with one JSON object as argument: the `ports` and
the `seed`. It ends when its stdin does. One thread: nothing needs a lock, and the order of frames is that of arrival.

The kernel here has no netem, which would do the same inside it; a user-space bridge carries some 30,000 frames/s on one
core, enough for faults, too slow for benchmarks.
"""

from __future__ import annotations

import heapq
import json
import os
import random
import select
import socket
import struct
import sys
import time
from typing import Any, Final

import msgspec

from tests.faults.kit.bridge import Conditions, LinkCount

_ETH_P_ALL: Final = 3
_SOL_PACKET: Final = 263
_PACKET_STATISTICS: Final = 6
_PACKET_IGNORE_OUTGOING: Final = 23
_SO_RCVBUFFORCE: Final = 33
_BUFFER_BYTES: Final = 32 * 1024 * 1024
_MAX_FRAME_BYTES: Final = 65_536
_TURN_FRAMES: Final = 64
"""Frames read from one port before the others have their turn."""


class Link:
    """One direction between two hosts: decides what becomes of each frame, and when."""

    def __init__(self, source: str, target: str, seed: int) -> None:
        self.source, self.target = source, target
        self.count = LinkCount()
        self.conditions = Conditions()
        self.generation = 0
        """Frames of an older one were under way when the link was cut."""
        self._random = random.Random(f"{seed} {source} {target}")
        self._last_due = 0.0
        self._free_at = 0.0

    def set(self, conditions: Conditions) -> None:
        """Work under these conditions from now on."""
        if conditions.is_cut:
            self.generation += 1
        self.conditions = conditions

    def offer(self, size: int, now: float) -> list[float]:
        """When a frame that was sent now is to arrive: never, once or twice."""
        self.count.offered += 1
        told = self.conditions
        if told.is_cut:
            self.count.cut += 1
            return []
        if told.loss and self._random.random() < told.loss:
            self.count.lost += 1
            return []
        due = now
        if told.rate_bytes_per_s:
            start = max(now, self._free_at)
            if (start - now) * told.rate_bytes_per_s > told.queue_bytes:
                self.count.over_rate += 1
                return []
            due = self._free_at = start + size / told.rate_bytes_per_s
        due += max(0.0, told.delay_s + told.jitter_s * self._random.uniform(-1, 1)) if told.jitter_s else told.delay_s
        if told.reorder and self._random.random() < told.reorder:
            self.count.reordered += 1
            due += told.reorder_hold_s  # and later frames do not wait for it
        else:
            due = self._last_due = max(due, self._last_due)
        if told.duplicate and self._random.random() < told.duplicate:
            self.count.duplicated += 1
            return [due, due]
        return [due]


class Carrier:
    """All ports and links, and the frames under way."""

    def __init__(self, ports: dict[str, tuple[str, str]], seed: int) -> None:
        self.links = {(a, b): Link(a, b, seed) for a in ports for b in ports if a != b}
        self.sockets = {name: _open(interface) for name, (interface, _) in ports.items()}
        self._owners = {bytes.fromhex(address.replace(":", "")): name for name, (_, address) in ports.items()}
        self._under_way: list[tuple[float, int, Link, int, bytes]] = []
        self._number = 0
        self._overruns = 0

    def read(self, name: str) -> None:
        """Take what came from one host."""
        source = self.sockets[name]
        for _ in range(_TURN_FRAMES):
            try:
                frame = source.recv(_MAX_FRAME_BYTES)
            except BlockingIOError:
                return
            now = time.monotonic()
            owner = self._owners.get(frame[:6])
            if owner is not None:
                targets = [owner] if owner != name else []
            else:  # broadcast and multicast: to everybody else
                targets = [other for other in self.sockets if other != name] if frame[0] & 1 else []
            for target in targets:
                self._offer(self.links[name, target], frame, now)

    def _offer(self, link: Link, frame: bytes, now: float) -> None:
        for due in link.offer(len(frame), now):
            if due <= now and not self._under_way:
                self._send(link, frame)
            else:
                self._number += 1  # frames due at the same moment leave in the order in which they came
                heapq.heappush(self._under_way, (due, self._number, link, link.generation, frame))

    def send_due(self) -> float | None:
        """Send what is due; returns the seconds to the next frame, `None` if none is under way."""
        while self._under_way:
            left = self._under_way[0][0] - time.monotonic()
            if left > 0:
                return left
            _, _, link, generation, frame = heapq.heappop(self._under_way)
            if generation == link.generation:
                self._send(link, frame)
            else:
                link.count.cut += 1
        return None

    def _send(self, link: Link, frame: bytes) -> None:
        try:
            self.sockets[link.target].send(frame)
        except OSError:  # a bridge loses frames when it must; it does not end
            link.count.refused += 1
        else:
            link.count.delivered += 1

    def obey(self, order: dict[str, Any]) -> dict[str, Any]:
        """Carry out one command; returns the answer."""
        if "ask" in order:
            return {
                "links": [[a, b, msgspec.to_builtins(link.count)] for (a, b), link in self.links.items()],
                "overruns": self._count_overruns(),
            }
        link = self.links[order["source"], order["target"]]
        link.set(msgspec.convert(order["conditions"], Conditions))
        return {"done": True}

    def _count_overruns(self) -> int:
        for port in self.sockets.values():
            _, drops = struct.unpack("=II", port.getsockopt(_SOL_PACKET, _PACKET_STATISTICS, 8))  # and resets both
            self._overruns += drops
        return self._overruns


def _open(interface: str) -> socket.socket:
    port = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)  # protocol 0: nothing arrives before it is bound
    port.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)  # else we would read what we send
    port.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER_BYTES)
    port.bind((interface, _ETH_P_ALL))
    port.setblocking(False)
    return port


def main() -> None:
    """Carry until stdin ends."""
    start = json.loads(sys.argv[1])
    carrier = Carrier({name: (port[0], port[1]) for name, port in start["ports"].items()}, start["seed"])
    names = {port.fileno(): name for name, port in carrier.sockets.items()}
    _say({"done": True})
    orders = b""
    while True:
        ready, _, _ = select.select([0, *names], [], [], carrier.send_due())
        for descriptor in ready:
            if descriptor:
                carrier.read(names[descriptor])
                continue
            data = os.read(0, 65_536)
            if not data:
                return
            *lines, orders = (orders + data).split(b"\n")
            for line in lines:
                _say(carrier.obey(json.loads(line)))


def _say(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
