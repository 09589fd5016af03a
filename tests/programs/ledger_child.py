"""A node in a process of its own that keeps a ledger: a publisher of what it published, a receiver of what it took.

Started by `tests.programs.child.Child` with, beside what `node_child` is told: `ledger` (a file to append to), `life`
(which start of this name it is), `delivery`, and for publishers `rate` (events/s) and `pad` (bytes an event).

Lines are appended with one `write` each, so a line that was written survives SIGKILL: it is the kernel's then. It would
not survive a power cut, which no test here makes. What a publisher *intends* is written before, what was *accepted*
after `publish()`; between the two a killed process leaves events of which nobody can say whether they went out.

The format is `tests.faults.kit.ledger`'s; both sides import its line makers.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

from rapini import EventRun, Node, PeerStatus, RapiniError
from tests.faults.kit import ledger
from tests.programs.ledger_events import ENTRIES, PREFIX, Entry

_TURN_S: Final = 0.02
_SNAPSHOT_S: Final = 0.2

_output = threading.Lock()


def say(**line: object) -> None:
    """Write one line for the parent."""
    with _output:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class Program:
    """The node, its ledger and the commands; each command returns what its reply carries."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.life: int = start["life"]
        self.entry = ENTRIES[start["delivery"]]
        self.pad = bytes(start.get("pad", 0))
        ledger.mend(Path(start["ledger"]))
        self._file = os.open(start["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._ceases = threading.Event()
        self._write(ledger.life_line(start["name"], self.life))
        self.node = Node(start["name"], **start["options"])
        self._receiver = threading.Thread(target=self._receive, daemon=True)
        self._publisher = threading.Thread(target=self._publish, args=(start.get("rate", 0),), daemon=True)
        if PREFIX in start["topics"]:
            self.node.subscribe(PREFIX)
        self._receiver.start()
        if start.get("rate"):
            self._publisher.start()

    def _write(self, lines: str) -> None:
        data = lines.encode()
        written = os.write(self._file, data)
        if written != len(data):
            raise OSError(f"{written} of {len(data)} bytes of the ledger were written")

    # -- receiving -----------------------------------------------------------------------------------------------

    def _receive(self) -> None:
        for item in self.node.items():
            if isinstance(item, PeerStatus):
                self._write(ledger.status_line(item.peer, item.state.value, item.epoch, item.code))
                say(status=item.state.value, peer=item.peer, code=item.code, epoch=item.epoch, at=time.monotonic())
                continue
            if not isinstance(item, EventRun):
                continue
            origin = item.origin
            entries = [event for event in item.events if isinstance(event, Entry)]
            self._write(
                "".join(ledger.taken_line(e.origin, e.life, e.number, origin.peer, origin.epoch) for e in entries)
            )

    # -- publishing ----------------------------------------------------------------------------------------------

    def _publish(self, rate: int) -> None:
        number = 0
        count = max(1, round(rate * _TURN_S))
        next_turn = next_snapshot = time.monotonic()
        while not self._ceases.is_set():
            self._write(ledger.intended_line(self.life, number, count))
            for _ in range(count):
                self.node.publish(self.entry(self.node.name, self.life, number, self.pad))
                number += 1
            self._write(ledger.accepted_line(self.life, number))
            now = time.monotonic()
            if now >= next_snapshot:
                next_snapshot = now + _SNAPSHOT_S
                self._snapshot(is_final=False)
            next_turn = max(next_turn + _TURN_S, now - 1)  # after a stop, catch up with one second of turns at most
            self._ceases.wait(max(0.0, next_turn - now))

    def _snapshot(self, *, is_final: bool) -> None:
        now = self.node.counters()
        topic = self.entry.__rapini_topic__
        counted = {"unrouted": now.unrouted.get(topic, 0), "not_encodable": now.not_encodable.get(topic, 0)}
        for causes in now.dropped.values():
            for cause, topics in causes.items():
                counted[cause] = counted.get(cause, 0) + topics.get(topic, 0)
        self._write(
            ledger.snapshot_line(
                self.life, acknowledged=sum(now.acknowledged.values()), counted=counted, is_final=is_final
            )
        )

    # -- commands ------------------------------------------------------------------------------------------------

    def cease(self, timeout_s: float = 10.0) -> dict[str, object]:
        """Publish no more, wait until everything was taken or dropped, and close the account."""
        self._ceases.set()
        if self._publisher.is_alive():
            self._publisher.join(timeout_s)
        is_settled = self.node.flush(timeout_s)
        if is_settled:
            self._snapshot(is_final=True)
        return {"settled": is_settled}

    def peers(self) -> dict[str, object]:
        """Who is up now."""
        return {"up": [peer.name for peer in self.node.peers() if peer.is_up]}

    def counters(self) -> dict[str, object]:
        """What was counted."""
        now = self.node.counters()
        return {"received": dict(now.received), "missed": dict(now.missed), "bad": dict(now.bad_events)}

    def leave(self) -> dict[str, object]:
        """Say goodbye and end the node."""
        self._ceases.set()
        self.node.close()
        self._receiver.join(5.0)
        return {}


COMMANDS: Final = frozenset({"cease", "peers", "counters", "leave"})


def main() -> None:
    """Obey until stdin ends."""
    program = Program(json.loads(sys.argv[1]))
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
