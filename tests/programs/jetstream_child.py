"""The ledger's workload on NATS JetStream, for the control: the same ledger lines, another engine between them.

Started by `tests.programs.child.Child` as `ledger_child` is, with the `url` of the server beside. A publisher publishes
as JetStream's manual asks of who wants no loss: each message with an id of its own (`Nats-Msg-Id`, by which the server
recognises a repetition for two minutes), and again until it is acknowledged. *Accepted* is what was acknowledged. A
receiver is a durable pull consumer that acknowledges each message after it has written it down.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import nats
import nats.errors
from nats.aio.client import Client
from nats.js.api import ConsumerConfig

from tests.faults.kit import ledger

STREAM: Final = "LEDGER"
SUBJECT: Final = "ledger.entry"
CONSUMER: Final = "receiver"
_TURN_S: Final = 0.02
_PATIENCE_S: Final = 1.0
_ACK_WAIT_S: Final = 2.0
"""After so long the server delivers again what a receiver did not acknowledge."""


def say(**line: object) -> None:
    """Write one line for the parent."""
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


class Program:
    """The client, on an event loop of a thread of its own; commands come on the main thread."""

    def __init__(self, start: dict[str, Any]) -> None:
        self.name: str = start["name"]
        self.life: int = start["life"]
        self.rate: int = start.get("rate", 0)
        self.pad = "0" * start.get("pad", 0)
        self._url: str = start["url"]
        ledger.mend(Path(start["ledger"]))
        self._file = os.open(start["ledger"], os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._write(ledger.life_line(self.name, self.life))
        self._ceases = threading.Event()
        self._is_settled = False
        self._waiting = -1
        self._is_up = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()), daemon=True)
        self._thread.start()
        if not self._is_up.wait(15):
            raise TimeoutError("no connection to the server")

    def _write(self, lines: str) -> None:
        os.write(self._file, lines.encode())

    async def _run(self) -> None:
        async def ignore(_: Exception) -> None:
            """Connections are lost here on purpose."""

        client = await nats.connect(
            self._url, reconnect_time_wait=0.1, max_reconnect_attempts=-1, ping_interval=1, error_cb=ignore
        )
        self._is_up.set()
        try:
            await (self._publish(client) if self.rate else self._receive(client))
        finally:
            await client.close()

    async def _publish(self, client: Client) -> None:
        stream = client.jetstream()
        number, count = 0, max(1, round(self.rate * _TURN_S))
        next_turn = time.monotonic()
        while not self._ceases.is_set():
            self._write(ledger.intended_line(self.life, number, count))
            left = list(range(number, number + count))
            while left:  # bounded by the test: a server that never comes back is the test's failure, not a loss
                acks = await asyncio.gather(*(self._try(stream, n) for n in left))
                left = [n for n, is_acked in zip(left, acks, strict=True) if not is_acked]
            number += count
            self._write(ledger.accepted_line(self.life, number))
            next_turn = max(next_turn + _TURN_S, time.monotonic() - 1)
            await asyncio.sleep(max(0.0, next_turn - time.monotonic()))
        self._is_settled = True

    async def _try(self, stream: Any, number: int) -> bool:
        payload = f"{self.name} {self.life} {number} {self.pad}".encode()
        identity = {"Nats-Msg-Id": f"{self.name}/{self.life}/{number}"}
        try:
            await stream.publish(SUBJECT, payload, timeout=_PATIENCE_S, headers=identity)
        except (nats.errors.Error, TimeoutError, OSError):
            await asyncio.sleep(0.05)
            return False
        return True

    async def _receive(self, client: Client) -> None:
        stream = client.jetstream(timeout=_PATIENCE_S)
        subscription: Any = None
        while not self._ceases.is_set():
            try:
                if subscription is None:
                    subscription = await stream.pull_subscribe(
                        SUBJECT, durable=CONSUMER, stream=STREAM, config=ConsumerConfig(ack_wait=_ACK_WAIT_S)
                    )
                messages = await subscription.fetch(200, timeout=0.3)
                taken = [message.data.decode().split(" ") for message in messages]
                self._write("".join(ledger.taken_line(o, int(life), int(n), "-", 0) for o, life, n, _ in taken))
                for message in messages:
                    await message.ack()
            except (nats.errors.Error, TimeoutError, OSError):
                pass  # nothing came, or the server is away: ask again
            try:
                info = await stream.consumer_info(STREAM, CONSUMER)
                self._waiting = (info.num_pending or 0) + (info.num_ack_pending or 0)
            except (nats.errors.Error, TimeoutError, OSError):
                self._waiting = -1

    # -- commands ------------------------------------------------------------------------------------------------

    def cease(self, timeout_s: float = 15.0) -> dict[str, object]:
        """Publish no more; settled when everything was acknowledged."""
        self._ceases.set()
        self._thread.join(timeout_s)
        return {"settled": self._is_settled}

    def waiting(self) -> dict[str, object]:
        """Messages that the receiver has yet to take; -1 while the server does not say."""
        return {"waiting": self._waiting}


def main() -> None:
    """Obey until stdin ends."""
    program = Program(json.loads(sys.argv[1]))
    say(reply="started", pid=os.getpid())
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        if do not in {"cease", "waiting"}:
            raise ValueError(f"no such command: {do}")
        say(reply=do, **getattr(program, do)(**command))
    program.cease()


if __name__ == "__main__":
    main()
