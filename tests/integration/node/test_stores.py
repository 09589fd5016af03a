"""Stores over real links: what two nodes see of one table."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from rapini import Node, PeerState
from rapini.errors import ConfigError, LocalError, PeerTimeoutError, StoreError
from rapini.stores import EntryChanged
from tests.integration.node.support import QUICK, SCHEMES, Keys, eventually, port_of, running
from tests.programs.events import Tick
from tests.programs.proxy import Proxy


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_clone_has_what_the_master_has_and_its_writes_travel(keys: Keys, scheme: str) -> None:
    with (
        running(Node("manager", **keys.of("manager"))) as (manager, _),
        running(Node("sensor", **keys.of("sensor"))) as (sensor, _),
    ):
        hosts = manager.store("hosts", master=True)
        hosts.put("a", 1)
        copy = sensor.store("hosts")
        assert copy.is_stale
        sensor.connect(manager.listen(f"{scheme}://127.0.0.1:0"))
        assert copy.get("a") == 1, "the table was here before the link was up"
        assert not copy.is_stale
        copy.put("b", {"seen": [1, 2]})
        assert (copy.get("b"), hosts.get("b")) == ({"seen": [1, 2]}, {"seen": [1, 2]})
        assert copy.put_unique("c", 1)
        assert not copy.put_unique("c", 2)
        assert hosts.get("c") == 1
        assert copy.increment("n", 5) == 5
        hosts.delete("a")
        eventually(lambda: "a" not in copy)
        assert copy.version == hosts.version
        assert sensor.store("hosts").version == hosts.version, "the same store again"


def test_the_table_is_there_before_the_first_event(keys: Keys) -> None:
    """State before ordinary events: a callback that looks an event up in the table always finds it."""
    missing: list[int] = []
    with Node("manager", **keys.of("manager")) as manager, Node("sensor", **keys.of("sensor")) as sensor:
        table = manager.store("table", master=True)
        for number in range(20_000):
            table.put(number, b"x" * 50)
        copy = sensor.store("table")
        seen: list[int] = []

        def look(event: object, origin: object) -> None:
            assert isinstance(event, Tick)
            seen.append(event.number)
            if event.number not in copy:
                missing.append(event.number)

        sensor.subscribe("tick/", callback=look)
        sensor.connect(manager.listen("tcp+tls://127.0.0.1:0"), wait_s=0)
        number = 0
        while not seen:
            manager.publish(Tick(sender="manager", number=number % 20_000))
            number += 1
            time.sleep(0.0005)
        assert manager.flush()
        manager.publish_many([Tick(sender="manager", number=number) for number in range(20)])
        eventually(lambda: len(seen) > 20)
    assert not missing


def test_a_clone_that_returns_gets_what_it_missed_and_is_stale_meanwhile(keys: Keys) -> None:
    changes: list[EntryChanged] = []
    with (
        running(Node("manager", **keys.of("manager"))) as (manager, _),
        running(Node("sensor", **keys.of("sensor"), **QUICK)) as (sensor, told),
    ):
        table = manager.store("table", master=True)
        for number in range(1000):
            table.put(number, number)
        copy = sensor.store("table")
        url = manager.listen("tcp+tls://127.0.0.1:0")
        with Proxy(port_of(url)) as proxy:
            sensor.connect(f"tcp+tls://127.0.0.1:{proxy.port}")
            copy.subscribe(changes.append)
        told.wait_status(PeerState.LOST, "manager")
        assert copy.is_stale
        assert copy.get(7) == 7, "readable all the same"
        with pytest.raises(StoreError) as caught:
            copy.put("x", 1, timeout_s=0.2)
        assert caught.value.code in ("master_away", "deadline")
        table.put(7, "new")
        table.delete(8)
        with pytest.raises(PeerTimeoutError):
            copy.wait_synced(0.1)
        with Proxy(port_of(url), own_port=proxy.port):
            copy.wait_synced(10)
            assert (copy.get(7), 8 in copy, len(copy)) == ("new", False, 999)
            eventually(lambda: len(changes) == 2)
        assert {change.key for change in changes} == {7, 8}, "the difference, and not everything"


def test_a_master_with_a_file_goes_on_after_its_restart(keys: Keys, tmp_path: Path) -> None:
    path = tmp_path / "table.db"
    with running(Node("sensor", **keys.of("sensor"), **QUICK)) as (sensor, told):
        copy = sensor.store("table")
        with running(Node("manager", **keys.of("manager"))) as (manager, _):
            manager.store("table", master=True, path=path).put("kept", 1)
            url = manager.listen("tcp+tls://127.0.0.1:0")
            sensor.connect(url)
            copy.put("also", 2)
        told.wait_status(PeerState.LEFT, "manager")
        assert copy.is_stale
        with running(Node("manager", **keys.of("manager"), listen=[url])) as (manager, _):
            assert manager.store("table", master=True, path=path).get("also") == 2
            copy.wait_synced(10)
            assert dict(copy.items()) == {"kept": 1, "also": 2}
            copy.put("then", 3)
            assert manager.store("table", master=True, path=path).get("then") == 3


def test_who_may_write_is_the_masters_to_say(keys: Keys) -> None:
    with (
        running(Node("manager", **keys.of("manager"))) as (manager, _),
        running(Node("reader", **keys.of("reader"))) as (reader, _),
        running(Node("writer", **keys.of("writer"))) as (writer, _),
    ):
        manager.store("table", master=True, may_write=lambda peer: peer == "writer")
        url = manager.listen("tcp+tls://127.0.0.1:0")
        for node in (reader, writer):
            node.store("table")
            node.connect(url)
        writer.store("table").put("a", 1)
        with pytest.raises(StoreError) as caught:
            reader.store("table").put("a", 2)
        assert caught.value.code == "not_authorised"
        eventually(lambda: reader.store("table").get("a") == 1)


def test_stores_made_while_connected_and_stores_that_nobody_has(keys: Keys) -> None:
    with (
        running(Node("manager", **keys.of("manager"))) as (manager, _),
        running(Node("sensor", **keys.of("sensor"))) as (sensor, told),
    ):
        sensor.store("nobodys")
        sensor.connect(manager.listen("tcp+tls://127.0.0.1:0"))
        assert sensor.store("nobodys").is_stale
        manager.store("late", master=True).put("a", 1)
        copy = sensor.store("late")
        copy.wait_synced(5)
        assert copy.get("a") == 1
        manager.store("nobodys", master=True).put("b", 2)
        sensor.store("nobodys").wait_synced(5)
        assert sensor.store("nobodys").get("b") == 2
        assert "lost" not in told.states("manager")


def test_names_and_kinds_are_checked(keys: Keys) -> None:
    with Node("manager", **keys.of("manager")) as manager:
        with pytest.raises(ConfigError) as config:
            manager.store("no name")
        assert config.value.code == "bad_name"
        with pytest.raises(ConfigError):
            manager.store("clone", path="/nowhere")
        manager.store("table", master=True)
        with pytest.raises(LocalError) as local:
            manager.store("table")
        assert local.value.code == "store_kind"
    with pytest.raises(LocalError):
        manager.store("more", master=True)
