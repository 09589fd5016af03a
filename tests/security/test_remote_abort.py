"""T1: a stranger who takes the next automatic routing id aborts a plain ROUTER's process, and not ours.

Invariant: nothing that a stranger says to a listener ends the listener's process.

Where it sits: keeps the attack of architecture 5a rule 1 alive, against a control: should libzmq be mended one day, the
control fails, and our counter-measures can go. Each listener is a process of its own.
"""

from __future__ import annotations

import contextlib
import queue
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from rapini.transport.base import Connected, Disconnected, SendResult
from rapini.transport.endpoint import Endpoint
from tests.integration.transport import zmtp
from tests.integration.transport.driver import Driver, drivers, run

_PLAIN = """
import zmq
router = zmq.Context().socket(zmq.ROUTER)
port = router.bind_to_random_port("tcp://127.0.0.1")
print(port, flush=True)
while True:
    routing_id, data = router.recv_multipart()
    print(routing_id.hex(), flush=True)
    router.send_multipart([routing_id, data])
"""

_OURS = """
from tests.integration.transport.driver import Driver
from rapini.transport.base import Received, Disconnected
driver = Driver("zmq")
print(driver.listen().port, flush=True)
while True:
    for outcome in driver.turn(1.0):
        if isinstance(outcome, Received):
            outcome.connection.send(bytes(outcome.data))
        elif isinstance(outcome, Disconnected):
            print(outcome.code, flush=True)
"""

_FIRST_UNSEEDED = 0x6B8B4567  # rand() & 2**31-1 of a process that never called srand(), with glibc


class Listener:
    """A listening process and what it prints."""

    def __init__(self, program: str) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
        self._lines: queue.Queue[str] = queue.Queue()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self._lines.put(line.strip())

    def line(self) -> str:
        return self._lines.get(timeout=20)

    def close(self) -> None:
        self.process.kill()
        self.process.wait(10)
        self._reader.join(10)
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextlib.contextmanager
def _listener(program: str) -> Iterator[tuple[Listener, int]]:
    child = Listener(program)
    try:
        yield child, int(child.line())
    finally:
        child.close()


def _say(port: int, routing_id: bytes) -> socket.socket:
    raw = zmtp.connect(port, routing_id)
    raw.sendall(zmtp.frame(b"hello"))
    return raw


def _id(number: int) -> bytes:
    return b"\x00" + (number % 2**32).to_bytes(4, "big")


def test_control_the_attack_aborts_a_plain_router() -> None:
    """Without knowing anything: the first id of an unseeded process is always the same."""
    with _listener(_PLAIN) as (child, port):
        attacker = _say(port, _id(_FIRST_UNSEEDED))
        assert child.line() == _id(_FIRST_UNSEEDED).hex()
        with contextlib.suppress(OSError):
            _say(port, b"").close()  # an honest connection is enough
        assert child.process.wait(10) == -signal.SIGABRT
        attacker.close()


def _is_served(client: Driver, port: int) -> bool:
    dialled = client.dial(Endpoint.parse(f"zmq+plain://127.0.0.1:{port}"))
    run([client], lambda: client.of(Connected, dialled) or client.of(Disconnected, dialled))
    assert dialled.send(b"honest") is SendResult.SENT
    run([client], lambda: client.data[dialled] or client.of(Disconnected, dialled))
    return client.data[dialled] == [b"honest"]


def test_our_listener_survives_the_same_attack_and_serves_on() -> None:
    with _listener(_OURS) as (child, port), drivers("zmq", 1) as (client,):
        assert _is_served(client, port)
        attackers = [_say(port, _id(_FIRST_UNSEEDED + n)) for n in range(60)]
        assert {child.line() for _ in attackers} <= {"bad_routing_id", "ambiguous"}
        for raw in attackers:
            raw.settimeout(5)
            assert not _rest(raw), "an attacker was answered"
            raw.close()
        for _ in range(80):  # runs through the ids that the attacker took
            assert _is_served(client, port)
        assert child.process.poll() is None


def _rest(raw: socket.socket) -> bytes:
    """What still comes until the connection ends; a reset is an end, too."""
    try:
        return raw.recv(1000)
    except ConnectionResetError:
        return b""


def test_ids_differ_from_run_to_run() -> None:
    """The counter is our seed's: five processes that begin alike would be the fault again."""
    program = (
        "from tests.integration.transport.driver import Driver; d = Driver('zmq'); d.listen();"
        "print(d.transport._listeners.popitem()[1]._first_id)"
    )
    firsts = {
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30, check=True).stdout
        for _ in range(5)
    }
    assert len(firsts) == 5
    assert f"{_FIRST_UNSEEDED}\n" not in firsts


@pytest.mark.parametrize("ahead", [2, 5, 1000, 2**31])
def test_an_id_planted_ahead_of_the_counter_is_found_before_the_counter_gets_there(ahead: int) -> None:
    """Even one who knew the counter could not lie in wait: what libzmq cannot have given by now was chosen."""
    with drivers("zmq") as (server, client):
        endpoint = server.listen()
        assert endpoint.port
        listener = next(iter(server.transport._listeners.values()))  # type: ignore[attr-defined]
        raw = _say(endpoint.port, _id(listener._first_id + ahead))
        run([server, client], lambda: server.of(Disconnected))
        assert server.of(Disconnected)[0].code == "bad_routing_id"
        raw.close()
