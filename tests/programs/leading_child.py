"""A node whose main thread consumes its events, as most programs do, and and which is sent signals.

Started by `tests.programs.child.Child` with, beside what `node_child` takes, `connect`: where to; and `handler`: what
SIGTERM does: `raise` an exception, `stop` the node, or nothing. It says what it sees and what interrupts it. Signals
that raise are survived, and the consuming goes on; `leave` ends it with a goodbye.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from types import FrameType
from typing import Any

from rapini import Gap, Node, PeerStatus
from tests.programs.events import Tick


class SignalledError(Exception):
    """Raised by a signal's handler, in the middle of whatever the main thread does."""


def say(**line: object) -> None:
    """Write one line. One call, so that a signal does not leave half of it."""
    os.write(1, json.dumps(line).encode() + b"\n")


class Program:
    """Consumes in the main thread; obeys on another."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.node = Node(start["name"], **start["options"])
        self.says_events = start.get("says_events", True)
        self.count = 0
        self.interruptions = 0
        self.is_over = False
        self.node.subscribe(*start["topics"])
        for url in start["connect"]:
            self.node.connect(url)
        self._is_armed = self._is_late = False
        match start.get("handler"):
            case "raise":
                signal.signal(signal.SIGINT, self._raise)
                signal.signal(signal.SIGTERM, self._raise)
            case "stop":
                signal.signal(signal.SIGTERM, self._stop)
            case _:
                pass

    def _raise(self, number: int, _frame: FrameType | None) -> None:
        if not self._is_armed:  # we are not consuming: an exception here would show nothing and end the program
            self._is_late = True
            return
        self._is_armed = False
        raise KeyboardInterrupt if number == signal.SIGINT else SignalledError

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        began = time.monotonic()
        self.node.stop()
        self.is_over = True
        say(stopped_in=time.monotonic() - began)

    def consume(self) -> None:
        """Until told to leave; signals interrupt it again and again."""
        while not self.is_over:
            try:
                self._is_armed = True
                if self._is_late:
                    self._is_late = self._is_armed = False
                    raise SignalledError
                for item in self.node.events(with_status=True):
                    self._take(item)
                self.is_over = True
            except (KeyboardInterrupt, SignalledError) as error:
                self.interruptions += 1
                say(interrupted=type(error).__name__, at=time.monotonic(), failure=str(self.node.failure or ""))
        self._is_armed = False
        is_handled = signal.getsignal(signal.SIGINT) is signal.default_int_handler
        say(ended=True, interruptions=self.interruptions, is_handler_back=is_handled)

    def _take(self, item: object) -> None:
        if isinstance(item, PeerStatus):
            say(status=item.state.value, peer=item.peer, code=item.code)
        elif isinstance(item, Gap):
            say(gap=item.count)
        elif isinstance(item, tuple) and isinstance(item[0], Tick):
            self.count += 1
            if self.says_events:
                say(event=item[0].number)

    def obey(self) -> None:
        """Commands from stdin, on a thread."""
        for line in sys.stdin:
            command = json.loads(line)
            do = command.pop("do")
            if do == "usage":
                say(reply=do, count=self.count, interruptions=self.interruptions, leads=self.node._core.loop.leads)
            elif do == "publish":
                self.node.publish(Tick(sender=self.node.name, number=command["number"]))
                say(reply=do)
            elif do == "leave":
                self.node.stop()
                say(reply=do)


def main() -> None:
    """Consume until told to leave."""
    program = Program(json.loads(sys.argv[1]))
    threading.Thread(target=program.obey, daemon=True).start()
    say(reply="started", pid=os.getpid())
    program.consume()
    program.node.publish(Tick(sender=program.node.name, number=-1))
    program.node.close()
    say(closed=True)


if __name__ == "__main__":
    main()
