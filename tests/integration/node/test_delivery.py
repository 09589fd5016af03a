"""Delivery classes over real sockets: reliable and durable events, gaps, policies, leases, checkpoints."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from rapini import AsyncNode, Event, FileCheckpoint, Gap, Node, PeerState, PublishOutcome, SqliteCheckpoint
from rapini.errors import LocalError, StoreError
from tests.integration.node.support import QUICK, SCHEMES, Keys, Recorder, eventually, port_of, running
from tests.programs.events import KeptTick, SureTick, Tick
from tests.programs.proxy import Proxy


def numbers(seen: Recorder, kind: type[Event]) -> list[int]:
    """The numbers of the ticks of one type so far."""
    return [item[0].number for _, item in list(seen.items) if isinstance(item, tuple) and isinstance(item[0], kind)]  # type: ignore[attr-defined]


def gaps(seen: Recorder) -> list[Gap]:
    return [item for _, item in list(seen.items) if isinstance(item, Gap)]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_reliable_events_cross_any_number_of_lost_connections_once_and_in_order(keys: Keys, scheme: str) -> None:
    sender_node = Node("sender", **keys.of("sender"), **QUICK)
    receiver_node = Node("receiver", **keys.of("receiver"), **QUICK)
    with running(sender_node) as (sender, told), running(receiver_node) as (receiver, seen):
        receiver.subscribe("sure/", "tick/")
        url = receiver.listen(f"{scheme}://127.0.0.1:0")
        with Proxy(port_of(url)) as proxy:
            sender.connect(f"{scheme}://127.0.0.1:{proxy.port}")
            number = 0
            for size in (30_011, 100_003, 77_777):
                since = told.count
                proxy.cut_after(size, "client")
                cuts = proxy.cuts
                while proxy.cuts == cuts:
                    for _ in range(20):
                        sender.publish(SureTick(sender="sender", number=number, pad=bytes(200)))
                        sender.publish(Tick(sender="sender", number=number, pad=bytes(20)))
                        number += 1
                    time.sleep(0.001)
                told.wait_status(PeerState.LOST, "receiver", since=since)
                for _ in range(20):
                    sender.publish(SureTick(sender="sender", number=number))
                    number += 1
                told.wait_status(PeerState.RESUMED, "receiver", since=since)
            assert sender.flush(10)
            eventually(lambda: len(numbers(seen, SureTick)) == number)
            sent = sender.counters().sent["receiver"]
        replayed = sent - receiver.counters().received["sender"]
        assert numbers(seen, SureTick) == list(range(number))
        assert {gap.delivery for gap in gaps(seen)} <= {"best_effort"}, "what is reliable has no gap"
        assert replayed > 0, "the cuts hit nothing: the test tests nothing"
        counters = sender.counters()
        assert "sure/tick" not in {topic for causes in counters.dropped["receiver"].values() for topic in causes}


def test_a_peer_that_returns_within_its_lease_gets_what_it_missed_and_after_it_a_gap(keys: Keys) -> None:
    sender_node = Node("sender", **keys.of("sender"), **QUICK, lease_s=1.5)
    receiver_node = Node("receiver", **keys.of("receiver"), **QUICK)
    with running(sender_node) as (sender, told), running(receiver_node) as (receiver, seen):
        receiver.subscribe("sure/")
        url = receiver.listen("tcp+tls://127.0.0.1:0")
        proxy = Proxy(port_of(url))
        with proxy:
            sender.connect(f"tcp+tls://127.0.0.1:{proxy.port}")
            sender.publish(SureTick(sender="sender", number=0))
            eventually(lambda: numbers(seen, SureTick) == [0])
        told.wait_status(PeerState.LOST, "receiver")
        for number in (1, 2, 3):
            sender.publish(SureTick(sender="sender", number=number))
        with Proxy(port_of(url), own_port=proxy.port):
            told.wait_status(PeerState.RESUMED, "receiver")
            eventually(lambda: numbers(seen, SureTick) == [0, 1, 2, 3])
            assert sender.flush()
        since = told.count
        told.wait_status(PeerState.LOST, "receiver")
        for number in (4, 5):
            sender.publish(SureTick(sender="sender", number=number))
        _, released = told.wait_status(PeerState.RELEASED, "receiver", since=since)
        assert released.code == "lease_expired"
        assert sender.counters().dropped["receiver"] == {"lease_expired": {"sure/tick": 2}}
        sender.publish(SureTick(sender="sender", number=6))  # nothing is owed any more
        with Proxy(port_of(url), own_port=proxy.port):
            told.wait_status(PeerState.RESUMED, "receiver", since=since)
            sender.publish(SureTick(sender="sender", number=7))
            eventually(lambda: numbers(seen, SureTick) == [0, 1, 2, 3, 7])
        (gap,) = gaps(seen)
        assert (gap.peer, gap.delivery, gap.reason, gap.first, gap.last) == (
            "sender",
            "reliable",
            "lease_expired",
            4,
            5,
        )
        assert gap.topics == {"sure/tick": 2}
        assert sender.counters().unrouted == {"sure/tick": 1}


def test_a_publisher_of_reliable_events_waits_for_a_slow_subscriber_and_try_publish_says_full(keys: Keys) -> None:
    options: dict[str, Any] = {"window_bytes": 8192}
    with (
        running(Node("receiver", **keys.of("receiver"), **options)) as (receiver, seen),
        running(Node("sender", **keys.of("sender"), send_queue_bytes=16_384, max_batch_events=4)) as (sender, _),
    ):
        receiver.subscribe("sure/")
        sender.connect(receiver.listen("tcp+tls://127.0.0.1:0"))
        seen.pause()
        event = SureTick(sender="sender", number=0, pad=bytes(1000))
        outcomes = [sender.try_publish(event) for _ in range(200)]
        while outcomes[-1] is not PublishOutcome.FULL and len(outcomes) < 10_000:
            outcomes.append(sender.try_publish(event))
        accepted = outcomes.count(PublishOutcome.ACCEPTED)
        assert 0 < accepted < 200
        done = threading.Event()

        def publish() -> None:
            for _ in range(100):
                assert sender.publish(event) is PublishOutcome.ACCEPTED
            done.set()

        threading.Thread(target=publish, daemon=True).start()
        assert not done.wait(0.3)
        seen.resume()
        assert done.wait(10)
        assert sender.flush()
        eventually(lambda: len(numbers(seen, SureTick)) == accepted + 100)
        assert not sender.counters().dropped.get("receiver")
        assert sender.try_publish(Tick(sender="sender", number=1)) is PublishOutcome.UNROUTED


def test_a_stalled_subscriber_is_disconnected_and_costs_nobody_else(keys: Keys) -> None:
    """It answers pings and takes nothing: without an end to patience it would hold the publisher for ever."""
    with (
        running(Node("stalled", **keys.of("stalled"), window_bytes=4096)) as (stalled, asleep),
        running(Node("quick", **keys.of("quick"))) as (quick, seen),
        running(Node("sender", **keys.of("sender"), send_queue_bytes=8192, stall_timeout_s=1.0)) as (sender, told),
    ):
        for node in (stalled, quick):
            node.subscribe("sure/")
            sender.connect(node.listen("tcp+tls://127.0.0.1:0"))
        asleep.pause()
        for number in range(200):
            sender.publish(SureTick(sender="sender", number=number, pad=bytes(500)))
        _, lost = told.wait_status(PeerState.LOST, "stalled")
        assert lost.code == "stalled"
        eventually(lambda: numbers(seen, SureTick) == list(range(200)))
        asleep.resume()


@pytest.mark.parametrize("policy", ["drop_newest", "drop_oldest", "disconnect"])
def test_overflow_policies_of_reliable_events(keys: Keys, policy: str) -> None:
    small: dict[str, Any] = {"send_queue_bytes": 8192, "max_batch_events": 2}
    with (
        running(Node("receiver", **keys.of("receiver"), window_bytes=4096, **QUICK)) as (receiver, seen),
        running(Node("sender", **keys.of("sender"), **small, reliable_overflow=policy)) as (sender, told),
    ):
        receiver.subscribe("sure/")
        sender.connect(receiver.listen("tcp+tls://127.0.0.1:0"))
        seen.pause()
        for number in range(100):
            sender.publish(SureTick(sender="sender", number=number, pad=bytes(500)))
        if policy == "disconnect":
            _, lost = told.wait_status(PeerState.LOST, "receiver")
            assert lost.code == "slow"
        seen.resume()
        eventually(lambda: len(numbers(seen, SureTick)) + sum(gap.count for gap in gaps(seen)) == 100)
        got = numbers(seen, SureTick)
        assert got == sorted(set(got))
        covered = [number for gap in gaps(seen) for number in range(gap.first, gap.last + 1)]
        assert sorted(got + covered) == list(range(100)), "each number is delivered or in one gap"
        if policy == "drop_oldest":
            assert got[-1] == 99
        if policy == "drop_newest":
            assert got[0] == 0
            assert covered


def test_what_is_too_old_is_dropped_and_told(keys: Keys) -> None:
    with (
        running(Node("receiver", **keys.of("receiver"), window_bytes=2048)) as (receiver, seen),
        running(Node("sender", **keys.of("sender"), max_age_s=0.3, max_batch_events=2)) as (sender, _),
    ):
        receiver.subscribe("sure/")
        sender.connect(receiver.listen("tcp+tls://127.0.0.1:0"))
        seen.pause()
        for number in range(20):
            sender.publish(SureTick(sender="sender", number=number, pad=bytes(500)))
        eventually(lambda: bool(sender.counters().dropped.get("receiver", {}).get("expired")))
        seen.resume()
        eventually(lambda: len(numbers(seen, SureTick)) + sum(gap.count for gap in gaps(seen)) == 20)
        assert {gap.reason for gap in gaps(seen)} == {"expired"}


# -- durable ----------------------------------------------------------------------------------------------------------


def test_durable_needs_a_spool(keys: Keys) -> None:
    with Node("sender", **keys.of("sender")) as sender:
        with pytest.raises(LocalError) as caught:
            sender.publish(KeptTick(sender="sender", number=0))
        assert caught.value.code == "no_spool"


@pytest.mark.parametrize("scheme", SCHEMES)
def test_durable_events_are_on_disk_and_survive_a_restart_of_the_publisher(
    keys: Keys, scheme: str, tmp_path: Path
) -> None:
    options: dict[str, Any] = {**keys.of("sender"), **QUICK, "spool": str(tmp_path / "spool")}
    with running(Node("receiver", **keys.of("receiver"), **QUICK)) as (receiver, seen):
        receiver.subscribe("kept/")
        url = receiver.listen(f"{scheme}://127.0.0.1:0")
        with running(Node("sender", **options)) as (sender, _):
            assert sender.publish_durable(KeptTick(sender="sender", number=-1)) is PublishOutcome.UNROUTED
            sender.connect(url)
            eventually(lambda: sender.publish_durable(KeptTick(sender="sender", number=0)) is PublishOutcome.ON_DISK)
            for number in range(1, 300):
                sender.publish(KeptTick(sender="sender", number=number))
            assert sender.flush()
            stream = sender._core.durable.spool.stream_id  # type: ignore[union-attr]
        with running(Node("sender", **options)) as (sender, told):
            for number in range(300, 500):
                sender.publish(KeptTick(sender="sender", number=number))  # before the subscriber is there again
            sender.connect(url)
            told.wait_status(PeerState.UP, "receiver")
            assert sender.flush()
            assert sender._core.durable.spool.stream_id == stream  # type: ignore[union-attr]
        eventually(lambda: len(numbers(seen, KeptTick)) == 500)
    assert numbers(seen, KeptTick) == list(range(500))
    assert not gaps(seen)


def test_an_absent_subscriber_is_owed_from_its_first_subscription(keys: Keys, tmp_path: Path) -> None:
    with running(Node("sender", **keys.of("sender"), spool=str(tmp_path / "spool"))) as (sender, told):
        url = sender.listen("tcp+tls://127.0.0.1:0")
        with running(Node("receiver", **keys.of("receiver"))) as (receiver, seen):
            receiver.subscribe("kept/")
            receiver.connect(url)
            eventually(lambda: sender.publish_durable(KeptTick(sender="sender", number=0)).value == "on_disk")
            eventually(lambda: numbers(seen, KeptTick) == [0])
        told.wait_status(PeerState.LEFT, "receiver")
        for number in range(1, 1001):
            sender.publish(KeptTick(sender="sender", number=number))
            sender.publish(Tick(sender="sender", number=number), "kept/other")
        with running(Node("receiver", **keys.of("receiver"))) as (receiver, seen):
            receiver.subscribe("kept/")
            receiver.connect(url)
            eventually(lambda: len(numbers(seen, KeptTick)) == 1000)
            assert numbers(seen, KeptTick) == list(range(1, 1001))
        with running(Node("passer-by", **keys.of("passer-by"), keeps_durable=False)) as (passer, seen):
            passer.subscribe("kept/")
            passer.connect(url)
            eventually(lambda: sender.publish_durable(KeptTick(sender="sender", number=2000)).value == "on_disk")
            eventually(lambda: numbers(seen, KeptTick) == [2000])
        assert set(sender._core.durable.spool.consumers()) == {"receiver"}  # type: ignore[union-attr]


def test_what_a_subscriber_by_configuration_is_owed_waits_for_it(keys: Keys, tmp_path: Path) -> None:
    options: dict[str, Any] = {"spool": str(tmp_path / "spool"), "durable_subscribers": {"receiver": ["kept/"]}}
    with running(Node("sender", **keys.of("sender"), **options)) as (sender, _):
        for number in range(10):
            assert sender.publish_durable(KeptTick(sender="sender", number=number)) is PublishOutcome.ON_DISK
        with running(Node("receiver", **keys.of("receiver"))) as (receiver, seen):
            receiver.subscribe("kept/")
            receiver.connect(sender.listen("tcp+tls://127.0.0.1:0"))
            eventually(lambda: numbers(seen, KeptTick) == list(range(10)))


def test_a_full_spool_drops_the_oldest_and_tells_the_subscriber(keys: Keys, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "spool": str(tmp_path / "spool"),
        "spool_bytes": 64 * 1024,
        "durable_subscribers": {"receiver": ["kept/"]},
    }
    with running(Node("sender", **keys.of("sender"), **options)) as (sender, _):
        for number in range(300):
            sender.publish_durable(KeptTick(sender="sender", number=number, pad=bytes(1000)))
        with running(Node("receiver", **keys.of("receiver"))) as (receiver, seen):
            receiver.subscribe("kept/")
            receiver.connect(sender.listen("tcp+tls://127.0.0.1:0"))
            eventually(lambda: numbers(seen, KeptTick)[-1:] == [299])
            got = numbers(seen, KeptTick)
            (gap,) = gaps(seen)
            assert (gap.delivery, gap.reason, gap.first) == ("durable", "trimmed", 0)
            assert got == list(range(gap.count, 300))
            assert 30 < len(got) < 70


def test_a_publisher_may_wait_for_room_in_the_spool(keys: Keys, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "spool": str(tmp_path / "spool"),
        "spool_bytes": 64 * 1024,
        "durable_overflow": "block",
        "durable_subscribers": {"receiver": ["kept/"]},
    }
    with running(Node("sender", **keys.of("sender"), **options)) as (sender, _):
        codes = []
        for number in range(100):
            try:
                sender.publish_durable(KeptTick(sender="sender", number=number, pad=bytes(1000)), timeout_s=0.2)
            except StoreError as error:
                codes.append(error.code)
                break
        assert codes == ["spool_full"]
        assert number > 30
        with running(Node("receiver", **keys.of("receiver"))) as (receiver, seen):
            receiver.subscribe("kept/")
            receiver.connect(sender.listen("tcp+tls://127.0.0.1:0"))
            for number in range(1000, 1200):
                sender.publish(KeptTick(sender="sender", number=number, pad=bytes(1000)))
            assert sender.flush(10)
            eventually(lambda: numbers(seen, KeptTick)[-200:] == list(range(1000, 1200)))
            assert not gaps(seen)


def test_durable_events_keep_within_the_credit_of_a_subscriber_that_is_behind(keys: Keys, tmp_path: Path) -> None:
    """More than the credit is on disk while the consumer pauses: it waits there, and the link stays up."""
    window_bytes = 64 * 1024
    sender_node = Node("sender", **keys.of("sender"), spool=str(tmp_path / "spool"))
    with (
        running(sender_node) as (sender, told),
        running(Node("receiver", **keys.of("receiver"), window_bytes=window_bytes)) as (receiver, seen),
    ):
        receiver.subscribe("kept/")
        sender.connect(receiver.listen("tcp+tls://127.0.0.1:0"))
        eventually(lambda: sender.publish_durable(KeptTick(sender="sender", number=-1)).value == "on_disk")
        seen.pause()
        for number in range(20):
            sender.publish_many([KeptTick(sender="sender", number=number * 500 + at) for at in range(500)])
            sender.flush(0.01)
        assert sender.peers()[0].is_up
        seen.resume()
        assert sender.flush(10)
        eventually(lambda: len(numbers(seen, KeptTick)) == 10_001)
        assert numbers(seen, KeptTick) == list(range(-1, 10_000))
        assert [status for status in told.statuses("receiver") if status.state is PeerState.LOST] == []


def test_without_a_checkpoint_what_was_in_hand_comes_again(keys: Keys, tmp_path: Path) -> None:
    """At least once: an event counts as taken only when the application asks for the next."""
    with running(Node("sender", **keys.of("sender"), spool=str(tmp_path / "spool"))) as (sender, told):
        url = sender.listen("tcp+tls://127.0.0.1:0")
        with Node("receiver", **keys.of("receiver")) as receiver:
            receiver.subscribe("kept/")
            receiver.connect(url)
            eventually(lambda: sender.publish_durable(KeptTick(sender="sender", number=0)).value == "on_disk")
            item = next(receiver.events(timeout_s=5))
            assert isinstance(item, tuple)
        told.wait_status(PeerState.LEFT, "receiver")
        with running(Node("receiver", **keys.of("receiver"))) as (receiver, seen):
            receiver.subscribe("kept/")
            receiver.connect(url)
            eventually(lambda: numbers(seen, KeptTick) == [0])


@pytest.mark.parametrize("owner", ["path", "connection"])
def test_with_an_sqlite_checkpoint_output_and_position_are_one(keys: Keys, tmp_path: Path, owner: str) -> None:
    """The receiver is thrown away in the middle of a batch, again and again; every event is in the table once."""
    database = tmp_path / "output.db"
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE output (number INTEGER)")
    with running(Node("sender", **keys.of("sender"), **QUICK, spool=str(tmp_path / "spool"))) as (sender, told):
        url = sender.listen("tcp+tls://127.0.0.1:0")
        done = 0
        for turn in range(4):
            since = told.count
            connection = sqlite3.connect(database)
            checkpoint = SqliteCheckpoint(database if owner == "path" else connection)
            with Node("receiver", **keys.of("receiver"), checkpoint=checkpoint) as receiver:
                receiver.subscribe("kept/")
                receiver.connect(url)
                eventually(lambda: bool(sender._core.durable.spool.consumers()))  # type: ignore[union-attr]
                if turn == 0:
                    for number in range(1000):
                        sender.publish(KeptTick(sender="sender", number=number))
                for count, (event, _) in enumerate(receiver.events(timeout_s=5), 1):
                    assert isinstance(event, KeptTick)
                    checkpoint.connection.execute("INSERT INTO output VALUES (?)", (event.number,))
                    if count % 100 == 0:
                        receiver.checkpoint()
                        if owner == "connection":
                            connection.commit()
                        done += 100
                    if count == 257 or done == 1000:  # 57 of them are not committed, and are rolled back
                        break
            checkpoint.connection.rollback()
            checkpoint.close()
            connection.close()
            told.wait_status(PeerState.LEFT, "receiver", since=since)
    with sqlite3.connect(database) as connection:
        stored = [number for (number,) in connection.execute("SELECT number FROM output ORDER BY rowid")]
    assert stored == list(range(done))
    assert done >= 800


def test_with_a_file_checkpoint_output_and_position_are_one(keys: Keys, tmp_path: Path) -> None:
    with running(Node("sender", **keys.of("sender"), **QUICK, spool=str(tmp_path / "spool"))) as (sender, told):
        url = sender.listen("tcp+tls://127.0.0.1:0")
        for turn in range(3):
            since = told.count
            with (
                FileCheckpoint(tmp_path / "output") as checkpoint,
                Node("receiver", **keys.of("receiver"), checkpoint=checkpoint) as receiver,
            ):
                receiver.subscribe("kept/")
                receiver.connect(url)
                eventually(lambda: bool(sender._core.durable.spool.consumers()))  # type: ignore[union-attr]
                if turn == 0:
                    for number in range(300):
                        sender.publish(KeptTick(sender="sender", number=number))
                for count, (event, _) in enumerate(receiver.events(timeout_s=5), 1):
                    assert isinstance(event, KeptTick)
                    checkpoint.write(b"%d\n" % event.number)
                    if count == 100:
                        receiver.checkpoint()
                    if count == 133 or (turn == 2 and count == 100):
                        break
            told.wait_status(PeerState.LEFT, "receiver", since=since)
    with FileCheckpoint(tmp_path / "output"):
        lines = (tmp_path / "output").read_text().split()
    assert lines == [str(number) for number in range(300)]


def test_a_checkpoint_needs_somewhere_to_go(keys: Keys) -> None:
    with Node("receiver", **keys.of("receiver")) as receiver, pytest.raises(LocalError) as caught:
        receiver.checkpoint()
    assert caught.value.code == "no_checkpoint"


def test_what_memory_has_no_room_for_spills_to_disk_and_comes_back(keys: Keys, tmp_path: Path) -> None:
    options: dict[str, Any] = {
        "send_queue_bytes": 16_384,
        "reliable_overflow": "spill",
        "spill": str(tmp_path / "spill"),
    }
    with (
        running(Node("receiver", **keys.of("receiver"), window_bytes=4096)) as (receiver, seen),
        running(Node("sender", **keys.of("sender"), **options, max_batch_events=4)) as (sender, _),
    ):
        receiver.subscribe("sure/")
        sender.connect(receiver.listen("tcp+tls://127.0.0.1:0"))
        seen.pause()
        for number in range(1000):
            sender.publish(SureTick(sender="sender", number=number, pad=bytes(500)))
        (peer,) = sender.peers()
        assert peer.queued_bytes < 20_000
        with sender._lock:
            spill = sender._core.peers.spill
            assert spill is not None
            assert spill.kept_bytes > 400_000
        seen.resume()
        eventually(lambda: numbers(seen, SureTick) == list(range(1000)))
        assert not gaps(seen)
        assert spill.kept_bytes == 0


def test_asyncio_programs_checkpoint_too(keys: Keys, tmp_path: Path) -> None:
    """Callbacks and tasks alike: what was given to the application is what a checkpoint covers."""
    output = tmp_path / "output"

    async def take(url: str, most: int) -> None:
        with FileCheckpoint(output) as checkpoint:
            async with AsyncNode("receiver", **keys.of("receiver"), checkpoint=checkpoint) as receiver:
                await receiver.subscribe("kept/")
                await receiver.connect(url)
                count = 0
                async for event, _ in receiver.events():
                    assert isinstance(event, KeptTick)
                    checkpoint.write(b"%d\n" % event.number)
                    count += 1
                    if count == most:
                        receiver.checkpoint()
                        return

    async def play() -> None:
        options = {**keys.of("sender"), "spool": str(tmp_path / "spool")}
        async with AsyncNode("sender", **options, durable_subscribers={"receiver": ["kept/"]}) as sender:
            url = sender.listen("tcp+tls://127.0.0.1:0")
            for number in range(20):
                outcome = await sender.publish_durable(KeptTick(sender="sender", number=number))
                assert outcome is PublishOutcome.ON_DISK
            await take(url, 7)
            await take(url, 13)

    asyncio.run(play())
    assert output.read_text().split() == [str(number) for number in range(20)]
