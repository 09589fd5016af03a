"""Five hundred clients with certificates of their own on one listener, a tenth of them leaving each second."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from typing import Any

import pytest

from rapini import Node
from tests.integration.node.support import Keys
from tests.programs.child import ROOT
from tests.programs.events import Canary, Tick

CLIENTS = 500
PROCESSES = 2


@pytest.mark.parametrize(
    ("scheme", "seconds"),
    [
        pytest.param("zmq+tls", 30, marks=pytest.mark.timeout(150)),
        pytest.param("tcp+tls", 6, marks=pytest.mark.timeout(150)),
        pytest.param("zmq+tls", 600, marks=[pytest.mark.soak, pytest.mark.timeout(900)]),
    ],
)
def test_500_clients_with_churn(keys: Keys, scheme: str, seconds: int) -> None:
    """Every message reaches its peer only, all of them while it is up, and the accounts agree."""
    names = [f"swarm-{i:03}" for i in range(CLIENTS)]
    everybody = {name: keys.of(name) for name in names}
    with Node("server", **keys.of("server")) as server, ExitStack() as stack:
        server.subscribe("tick/")
        consumer = _Consumer(server)
        url = server.listen(f"{scheme}://127.0.0.1:0")
        swarms = [
            stack.enter_context(_swarm(url, dict(list(everybody.items())[i::PROCESSES]), seconds))
            for i in range(PROCESSES)
        ]
        assert sum(_line(swarm)["up"] for swarm in swarms) == CLIENTS
        rounds = 0
        while any(swarm.poll() is None for swarm in swarms):
            began = time.monotonic()
            for name in names:
                server.publish(Canary(receiver=name, number=rounds), f"canary/{name}/")
            rounds += 1
            time.sleep(max(0.0, began + 0.5 - time.monotonic()))
        reports = [_line(swarm) for swarm in swarms]
        for swarm in swarms:
            assert swarm.wait(20) == 0
    consumer.join()
    total = {key: sum(r[key] for r in reports) for key in reports[0] if isinstance(reports[0][key], int)}
    counters = server.counters()
    print(scheme, total, [r["codes"] for r in reports], [r["failures"] for r in reports])
    assert total["foreign"] == 0, "somebody got what was not for them"
    assert total["gaps"] == 0, "somebody missed an event while it was up"
    assert total["starved"] == 0
    assert total["idle_at_the_end"] == 0
    assert total["up"] == CLIENTS
    assert total["ups"] >= CLIENTS + 0.9 * seconds * CLIENTS / 10, "too little churn: the test tests nothing"
    assert consumer.wrong == []
    assert consumer.count >= 0.9 * total["sent"]
    assert total["own"] <= sum(counters.sent.values())
    lost = counters.total_dropped + sum(counters.unrouted.values())
    assert counters.total_published == sum(counters.acknowledged.values()) + lost
    assert total["own"] >= 0.5 * rounds * CLIENTS
    assert not counters.bad_events
    assert set(counters.rejected) <= {"closed", "closed_in_handshake", "reset", "aborted"}, counters.rejected


class _Consumer:
    """Checks that what says it is from a client came over that client's connection."""

    def __init__(self, node: Node) -> None:
        self.wrong: list[object] = []
        self.count = 0
        self._node = node
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for item in self._node.events(with_status=True):
            if not isinstance(item, tuple):
                continue
            event, origin = item
            self.count += 1
            if not isinstance(event, Tick) or event.sender != origin.peer:
                self.wrong.append(item)

    def join(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()


class _swarm:  # noqa: N801 - a context manager
    def __init__(self, url: str, clients: dict[str, Any], seconds: int) -> None:
        start = json.dumps({"url": url, "clients": clients, "seconds": seconds, "churn": 0.1})
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.programs.swarm", start], stdout=subprocess.PIPE, cwd=ROOT, text=True
        )

    def __enter__(self) -> subprocess.Popen[str]:
        return self._process

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.kill()
        self._process.wait(10)
        if self._process.stdout is not None:
            self._process.stdout.close()


def _line(swarm: subprocess.Popen[str]) -> dict[str, Any]:
    assert swarm.stdout is not None
    text = swarm.stdout.readline()
    assert text, f"the swarm ended early with status {swarm.wait(10)}"
    parsed: dict[str, Any] = json.loads(text)
    return parsed
