"""A node in a process of its own, driven by JSON lines: commands on stdin, everything it sees on stdout.

Started by `tests.programs.child.Child`, with one JSON object as argument: `name`, `options` for `Node`, `topics` to
subscribe to. It ends when its stdin does, with a goodbye unless it was told otherwise.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any

from rapini import Gap, Node, PeerStatus, RapiniError
from tests.programs.events import Tick

_output = threading.Lock()


def say(**line: object) -> None:
    """Write one line."""
    with _output:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class Program:
    """The commands; each returns what its reply carries."""

    def __init__(self, name: str, options: dict[str, Any], topics: list[str]) -> None:
        self.node = Node(name, **options)
        self._reads = threading.Event()
        self._reads.set()
        if topics:
            self.node.subscribe(*topics)
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        for item in self.node.events(with_status=True):
            self._reads.wait()
            if isinstance(item, PeerStatus):
                say(status=item.state.value, peer=item.peer, code=item.code, epoch=item.epoch, at=time.monotonic())
                continue
            if isinstance(item, Gap):
                say(gap=item.count, peer=item.peer, epoch=item.epoch, reason=item.reason, delivery=item.delivery)
                continue
            event, origin = item
            number = event.number if isinstance(event, Tick) else -1
            say(event=number, peer=origin.peer, epoch=origin.epoch, topic=origin.topic)

    def listen(self, url: str) -> dict[str, object]:
        """Listen; the endpoint as bound."""
        return {"url": self.node.listen(url)}

    def connect(self, url: str, wait_s: float = 10.0) -> dict[str, object]:
        """Dial; the peer's name."""
        return {"peer": self.node.connect(url, wait_s=wait_s)}

    def subscribe(self, topic: str) -> dict[str, object]:
        """Subscribe to one more prefix."""
        self.node.subscribe(topic)
        return {}

    def publish(self, first: int, count: int, topic: str = "tick/main", pad: int = 0) -> dict[str, object]:
        """Publish ticks numbered from `first`."""
        padding = bytes(pad)
        for number in range(first, first + count):
            self.node.publish(Tick(sender=self.node.name, number=number, pad=padding), topic)
        return {}

    def flush(self, timeout_s: float = 5.0) -> dict[str, object]:
        """Wait until everything was taken."""
        return {"flushed": self.node.flush(timeout_s)}

    def pause(self) -> dict[str, object]:
        """Read no more."""
        self._reads.clear()
        return {}

    def resume(self) -> dict[str, object]:
        """Read on."""
        self._reads.set()
        return {}

    def counters(self) -> dict[str, object]:
        """What was counted."""
        now = self.node.counters()
        return {
            "published": now.total_published,
            "received": now.total_received,
            "dropped": {peer: {c: sum(t.values()) for c, t in by.items()} for peer, by in now.dropped.items()},
            "missed": dict(now.missed),
            "peers_lost": now.peers_lost,
        }

    def usage(self) -> dict[str, object]:
        """Descriptors, threads and resident bytes of this process."""
        own = Path("/proc/self")
        pages = int((own / "statm").read_text().split()[1])
        return {
            "fds": sum(1 for _ in (own / "fd").iterdir()),
            "threads": sum(1 for _ in (own / "task").iterdir()),
            "rss": pages * os.sysconf("SC_PAGE_SIZE"),
        }

    def leave(self) -> dict[str, object]:
        """Say goodbye and end the node."""
        self._reads.set()
        self.node.close()
        self._reader.join(5.0)
        return {}


COMMANDS = frozenset(
    {"listen", "connect", "subscribe", "publish", "flush", "pause", "resume", "counters", "usage", "leave"}
)


def main() -> None:
    """Obey until stdin ends."""
    start = json.loads(sys.argv[1])
    program = Program(start["name"], start["options"], start["topics"])
    say(reply="started", pid=os.getpid())
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        if do not in COMMANDS:
            raise ValueError(f"no such command: {do}")
        try:
            say(reply=do, **getattr(program, do)(**command))
        except RapiniError as exc:
            say(reply=do, error=exc.code, text=str(exc))
    program.leave()


if __name__ == "__main__":
    main()
