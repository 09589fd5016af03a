"""Who leaves a loop over events in the middle of a batch, and begins another one, goes on with the next event."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rapini import AsyncNode, Event, EventRun, FileCheckpoint, Node
from tests.integration.node.support import QUICK, Keys, eventually
from tests.programs.events import KeptTick, SureTick, Tick

COUNT = 300
BATCHED: dict[str, Any] = {"max_batch_delay_s": 0.5, "drain_timeout_s": 0.2}
"""So that the receiver gets them in few batches, and nobody waits for what it does not take."""


def _by_events(node: Node) -> Iterator[tuple[int, str]]:
    for event, origin in node.events(timeout_s=5):
        assert isinstance(event, (Tick, SureTick, KeptTick))
        yield event.number, origin.topic


def _by_runs(node: Node) -> Iterator[tuple[int, str]]:
    for item in node.items(timeout_s=5):
        if isinstance(item, EventRun):
            (event,) = item.events  # their topics differ
            assert isinstance(event, (Tick, SureTick, KeptTick))
            yield event.number, item.origin.topic


@pytest.mark.parametrize("kind", [Tick, SureTick, KeptTick])
@pytest.mark.parametrize("consume", [_by_events, _by_runs])
def test_the_next_loop_goes_on_where_the_last_one_stopped(
    keys: Keys, tmp_path: Path, kind: type[Tick], consume: Callable[[Node], Iterator[tuple[int, str]]]
) -> None:
    with (
        Node("sender", **keys.of("sender"), **BATCHED, spool=str(tmp_path / "spool")) as sender,
        Node("receiver", **keys.of("receiver")) as receiver,
    ):
        receiver.subscribe("many/")
        sender.connect(receiver.listen("tcp+tls://127.0.0.1:0"))
        _wait_until_wanted(sender, "many/0")
        for number in range(COUNT):
            sender.publish(kind(sender="sender", number=number), f"many/{number % 2}")
        assert _flush(sender)
        seen: list[int] = []
        while len(seen) < COUNT:
            for count, (number, topic) in enumerate(consume(receiver), 1):
                assert topic == f"many/{number % 2}"
                seen.append(number)
                if count == 7 or len(seen) == COUNT:
                    break
            else:
                raise AssertionError(f"nothing came after {seen[-1:]}")
        assert seen == list(range(COUNT))


def _wait_until_wanted(sender: Node, topic: str) -> None:
    durable = sender._core.durable
    assert durable is not None
    eventually(lambda: durable.wants(topic))


def _flush(sender: Node) -> bool:
    """Send what waits; nobody takes it yet."""
    return not sender.flush(0.2)


def test_a_checkpoint_between_two_loops_covers_what_was_given_and_no_more(keys: Keys, tmp_path: Path) -> None:
    seen: list[int] = []
    with Node("sender", **keys.of("sender"), **QUICK, **BATCHED, spool=str(tmp_path / "spool")) as sender:
        url = sender.listen("tcp+tls://127.0.0.1:0")
        while len(seen) < COUNT:
            with (
                FileCheckpoint(tmp_path / "output") as checkpoint,
                Node("receiver", **keys.of("receiver"), **QUICK, checkpoint=checkpoint) as receiver,
            ):
                receiver.subscribe("kept/")
                receiver.connect(url)
                if not seen:
                    _wait_until_wanted(sender, "kept/tick")
                    for number in range(COUNT):
                        sender.publish(KeptTick(sender="sender", number=number))
                for _ in range(2):  # 50 in one loop, 50 in the next
                    for count, (event, _) in enumerate(receiver.events(timeout_s=5), 1):
                        assert isinstance(event, KeptTick)
                        seen.append(event.number)
                        if count == 50:
                            break
                    receiver.checkpoint()
    assert seen == list(range(COUNT))


def test_over_asyncio_too(keys: Keys, tmp_path: Path) -> None:
    """The loop that was left is ended when asyncio comes to it, which may be after the next one has begun."""

    async def consume(receiver: AsyncNode, wanted: int) -> list[int]:
        numbers: list[int] = []
        async for event, _ in receiver.events():
            assert isinstance(event, (Tick, KeptTick))
            numbers.append(event.number)
            if len(numbers) == wanted:
                break
        return numbers

    async def run() -> None:
        checkpoint = FileCheckpoint(tmp_path / "output")
        receiver_node = AsyncNode("receiver", **keys.of("receiver"), checkpoint=checkpoint)
        sender_node = AsyncNode("sender", **keys.of("sender"), **BATCHED, spool=str(tmp_path / "spool"))
        async with receiver_node as receiver, sender_node as sender:
            await receiver.subscribe("tick/", "kept/")
            await sender.connect(receiver.listen("tcp+tls://127.0.0.1:0"))
            _wait_until_wanted(sender.node, "kept/tick")
            for kind in (Tick, KeptTick):
                await _publish(sender, kind, range(COUNT))
                seen: list[int] = []
                for _ in range(3):
                    seen += await asyncio.wait_for(consume(receiver, 100), 5)
                    receiver.node.checkpoint()
                    if kind is KeptTick:
                        assert [*checkpoint.positions().values()] == [len(seen)]
                assert seen == list(range(COUNT))
                later = asyncio.create_task(consume(receiver, 1))
                await asyncio.sleep(0.1)  # it waits, and the loops before it have been ended meanwhile
                await _publish(sender, kind, [COUNT])
                assert await asyncio.wait_for(later, 5) == [COUNT]

    asyncio.run(run())


async def _publish(sender: AsyncNode, kind: type[Event], numbers: Any) -> None:
    for number in numbers:
        sender.publish(kind(sender="sender", number=number))
    await sender.flush(0.2)
