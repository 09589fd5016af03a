"""Waiting for a group: it returns as soon as all are there, and says who is missing and why when they are not."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path

import pytest

from rapini import Node
from rapini.errors import LocalError, PeerTimeoutError
from tests.docs.programs import free_port
from tests.integration.node.support import QUICK, eventually
from tests.integration.node.test_requests import Roles


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Roles:
    return Roles(tmp_path_factory.mktemp("roles"))


def not_ready(node: Node, **arguments: object) -> str:
    with pytest.raises(PeerTimeoutError) as error:
        node.ready(timeout_s=0.2, **arguments)  # type: ignore[arg-type]
    assert error.value.code == "not_ready"
    return str(error.value)


def test_it_returns_when_the_last_one_is_up(roles: Roles) -> None:
    with (
        Node("manager", **roles.of("manager")) as manager,
        Node("s1", **roles.of("s1", "sensor")) as s1,
        Node("s2", **roles.of("s2", "sensor")) as s2,
        Node("logger", **roles.of("logger", "logger")) as logger,
    ):
        url = manager.listen("tcp+tls://127.0.0.1:0")
        waited: list[float] = []
        began = time.monotonic()

        def wait() -> None:
            manager.ready(roles={"sensor": 2}, names=("logger",), timeout_s=20)
            waited.append(time.monotonic() - began)

        thread = threading.Thread(target=wait)
        thread.start()
        for node in (s1, logger):
            node.connect(url)
        thread.join(0.2)
        assert thread.is_alive()
        assert not_ready(manager, roles={"sensor": 2}).startswith("not ready within 0.2 s: 1 of 2 sensor (s1)")
        s2.connect(url)
        thread.join(5)
        assert len(waited) == 1
        manager.ready(roles={"sensor": 1, "logger": 1})


def test_nothing_to_wait_for(roles: Roles) -> None:
    with Node("manager", **roles.of("manager")) as manager:
        manager.ready(timeout_s=0.01)


def test_it_says_which_dials_fail_with_what(roles: Roles) -> None:
    with Node("manager", **roles.of("manager"), **QUICK) as manager:
        url = f"tcp+tls://127.0.0.1:{free_port()}"
        manager.connect(url, wait_s=0)
        eventually(lambda: "refused" in not_ready(manager, names=("logger",)))
        text = not_ready(manager, names=("logger",), roles={"sensor": 4})
        assert "0 of 4 sensor, no logger; " in text
        assert f"{url}: " in text


def test_it_says_who_was_lost_or_left_and_when(roles: Roles) -> None:
    with Node("manager", **roles.of("manager"), **QUICK) as manager:
        url = manager.listen("tcp+tls://127.0.0.1:0")
        with (
            Node("s1", **roles.of("s1", "sensor")) as s1,
            Node("s2", **roles.of("s2", "sensor"), reconnect="manual") as s2,
        ):
            s1.connect(url)
            s2.connect(url)
            manager.ready(roles={"sensor": 2})
            with s2._lock:
                for record in s2._core.peers.records.values():
                    record.connection.abort()
            eventually(lambda: len(manager.peers()) == 1)
        text = not_ready(manager, roles={"sensor": 1})
        assert re.search(r"s1 left \d\.\d s ago \(goodbye\)", text)
        assert re.search(r"s2 was lost \d\.\d s ago \(\w+\)", text)


def test_a_peer_that_is_back_is_not_called_absent(roles: Roles) -> None:
    with Node("manager", **roles.of("manager"), **QUICK) as manager:
        url = manager.listen("tcp+tls://127.0.0.1:0")
        for _ in range(2):
            with Node("s1", **roles.of("s1", "sensor")) as s1:
                s1.connect(url)
                manager.ready(names=("s1",))
                assert "s1 left" not in not_ready(manager, names=("s2",))
            eventually(lambda: not manager.peers())
            assert "s1 left" in not_ready(manager, names=("s1",))


def test_it_says_who_was_rejected(roles: Roles, tmp_path: Path) -> None:
    strangers = Roles(tmp_path)
    with Node("manager", **roles.of("manager"), admit=lambda peer: peer.name != "s1") as manager:
        url = manager.listen("tcp+tls://127.0.0.1:0")
        with Node("s1", **roles.of("s1", "sensor")) as s1, Node("evil", **strangers.of("evil")) as evil:
            for node in (s1, evil):
                node.connect(url, wait_s=0)
            eventually(lambda: "s1 was rejected" in not_ready(manager, roles={"sensor": 1}))
            eventually(lambda: not_ready(manager, roles={"sensor": 1}).count("was rejected") == 2)
        text = not_ready(manager, roles={"sensor": 1})
        assert "(denied)" in text
        assert "unknown_ca" in text


def test_a_closed_node_is_told_apart_from_a_late_one(roles: Roles) -> None:
    manager = Node("manager", **roles.of("manager"))
    failures: list[Exception] = []

    def wait() -> None:
        try:
            manager.ready(names=("s1",), timeout_s=20)
        except LocalError as exc:
            failures.append(exc)

    thread = threading.Thread(target=wait)
    thread.start()
    time.sleep(0.05)
    manager.close()
    thread.join(5)
    assert [type(each) for each in failures] == [LocalError]
