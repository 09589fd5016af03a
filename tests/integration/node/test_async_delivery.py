"""Durable events in an event loop: positions are noted event by event, as in the plain node."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

from rapini import AsyncNode, Node, PublishOutcome, SqliteCheckpoint
from tests.integration.node.support import QUICK, Keys, eventually
from tests.programs.events import KeptTick


def test_output_and_position_are_one_when_a_task_stops_anywhere(keys: Keys, tmp_path: Path) -> None:
    """The consumer is thrown away in the middle of a batch, again and again; every event is in the table once."""
    database = tmp_path / "output.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE output (number INTEGER)")
    owed = {"receiver": ["kept/"]}
    with Node(
        "sender", **keys.of("sender"), **QUICK, spool=str(tmp_path / "spool"), durable_subscribers=owed
    ) as sender:
        url = sender.listen("tcp+tls://127.0.0.1:0")
        sender.publish_many([KeptTick(sender="sender", number=number) for number in range(500)])
        assert sender.flush()

        async def take(count: int, *, commit_at: int) -> None:
            checkpoint = SqliteCheckpoint(database)
            async with AsyncNode("receiver", **keys.of("receiver"), checkpoint=checkpoint) as receiver:
                await receiver.subscribe("kept/")
                await receiver.connect(url)
                taken = 0
                async for event, _ in receiver.events():
                    assert isinstance(event, KeptTick)
                    checkpoint.connection.execute("INSERT INTO output VALUES (?)", (event.number,))
                    taken += 1
                    if taken == commit_at:
                        receiver.checkpoint()
                    if taken == count:
                        break
            checkpoint.close()  # what was not committed is rolled back

        for count, commit_at in ((130, 100), (77, 77), (323, 323)):
            eventually(lambda: not sender.peers())
            asyncio.run(take(count, commit_at=commit_at))
    with sqlite3.connect(database) as connection:
        stored = [number for (number,) in connection.execute("SELECT number FROM output ORDER BY rowid")]
    assert stored == list(range(500))


def test_publish_durable_waits_for_the_disk_and_not_in_the_event_loop(keys: Keys, tmp_path: Path) -> None:
    async def publish() -> list[PublishOutcome]:
        owed = {"receiver": ["kept/"]}
        async with AsyncNode(
            "sender", **keys.of("sender"), spool=str(tmp_path / "spool"), durable_subscribers=owed
        ) as sender:
            events = [KeptTick(sender="sender", number=number) for number in range(20)]
            return await asyncio.gather(*map(sender.publish_durable, events))

    assert asyncio.run(publish()) == [PublishOutcome.ON_DISK] * 20
