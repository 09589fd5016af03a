"""The rules of architecture 5a, each against real libzmq, with peers that speak ZMTP by hand.

Where it sits: beside `test_contract`, for what 0MQ alone does.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rapini import limits
from rapini.transport.base import Accepted, ConnectFailed, Connection, Disconnected, Options, Received, SendResult
from rapini.transport.endpoint import Endpoint
from tests.integration.transport import zmtp
from tests.integration.transport.driver import Driver, drivers, joined, run, run_for


@pytest.fixture
def server() -> Iterator[Driver]:
    with drivers("zmq", 1) as (made,):
        yield made


@pytest.fixture
def pair() -> Iterator[list[Driver]]:
    with drivers("zmq") as made:
        yield made


def _only(server: Driver) -> Connection:
    assert len(server.of(Accepted)) == 1
    return server.accepted()


def _still_serves(server: Driver, endpoint: Endpoint) -> float:
    """An honest peer connects and is answered, at its second attempt if need be; how long that took."""
    start = time.monotonic()
    with drivers("zmq", 1) as (client,):
        while time.monotonic() - start < 5.0:
            dialled = client.dial(endpoint)
            run([server, client], lambda d=dialled: any(o.connection is d for o in client.outcomes))
            token = os.urandom(64)
            dialled.send(token)
            run(
                [server, client],
                lambda d=dialled, t=token: client.of(Disconnected, d) or any([t] == v for v in server.data.values()),
            )
            if not client.of(Disconnected, dialled):
                return time.monotonic() - start
    raise AssertionError("no honest peer got through")


# --- rule 1: routing ids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "chosen", [b"me", b"\x00abc", b"\x00abcde", b"\x01abcd", b"\x00" + bytes(4), b"\x00\x6b\x8b\x45\x67", bytes(200)]
)
def test_a_connection_that_chose_its_routing_id_is_shut_down(server: Driver, chosen: bytes) -> None:
    """Also one that looks automatic: libzmq cannot have given it by now."""
    endpoint = server.listen()
    with zmtp.connect(endpoint.port, chosen) as raw:
        raw.sendall(zmtp.frame(b"hello"))
        run([server], lambda: server.of(Disconnected))
    assert server.of(Disconnected)[0].code == "bad_routing_id"
    assert not server.of(Received)
    assert server.transport.counters.refused["bad_routing_id"] == 1
    assert _still_serves(server, endpoint) < 1.0


def test_no_routing_id_shows_in_what_we_print(pair: list[Driver]) -> None:
    accepted, _ = joined(pair[0], pair[1])
    assert repr(accepted.routing_id) not in repr(pair[0].outcomes)  # type: ignore[attr-defined]


# --- rule 2: which connection ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_every_message_is_given_to_the_connection_it_came_from(server: Driver, seed: int) -> None:
    """Descriptors are used again at once, and events are read late: matched by address, which the message repeats."""
    chance = random.Random(seed)
    endpoint = server.listen()
    open_ones: list[socket.socket] = []
    for _ in range(400):
        raw = zmtp.connect(endpoint.port)
        text = raw.getsockname()[1].to_bytes(2, "big")
        for _ in range(chance.choice((0, 1, 1, 3))):
            raw.sendall(zmtp.frame(text))
        if chance.random() < 0.7:
            raw.close()
        else:
            open_ones.append(raw)
        if chance.random() < 0.2:
            server.turn()
        if len(open_ones) > 5:
            open_ones.pop(chance.randrange(len(open_ones))).close()
    for raw in open_ones:
        raw.close()
    run_for([server], 0.5)
    right = wrong = 0
    for connection, messages in server.data.items():
        port = connection.address.rpartition(":")[2]
        if connection.address == "unknown":
            continue
        for message in messages:
            if int.from_bytes(message, "big") == int(port):
                right += 1
            else:
                wrong += 1
    assert wrong == 0
    assert right > 20, server.transport.counters
    assert len(server.of(Disconnected)) == len(server.of(Accepted))
    assert _still_serves(server, endpoint) < 1.0


# --- rule 3: order --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("abortive", [False, True])
@pytest.mark.parametrize("pause_s", [0.0, 0.2])
def test_all_that_libzmq_has_of_a_peer_comes_before_its_end(server: Driver, abortive: bool, pause_s: float) -> None:
    """Hundreds of small messages and the end at once; the driver fails if anything follows `Disconnected`."""
    endpoint = server.listen()
    for _ in range(20):
        server.outcomes.clear()
        server.data.clear()
        raw = zmtp.connect(endpoint.port)
        raw.sendall(b"".join(zmtp.frame(b"%04d" % n) for n in range(600)))
        time.sleep(0.02)  # libzmq takes them off the wire; we have read none
        if abortive:
            zmtp.reset(raw)
        else:
            raw.close()
        time.sleep(pause_s / 10)
        run([server], lambda: server.of(Disconnected))
        got = server.data[_only(server)]
        assert got == [b"%04d" % n for n in range(600)]


def test_many_peers_that_leave_at_once_are_all_heard_out(server: Driver) -> None:
    """More messages than a turn reads, from peers whose ends are all known before the first is read."""
    endpoint = server.listen()
    for _ in range(5):
        before = len(server.of(Disconnected))
        peers = [zmtp.connect(endpoint.port) for _ in range(40)]
        for raw in peers:
            raw.sendall(b"".join(zmtp.frame(b"%d" % n) for n in range(12)))
        time.sleep(0.05)
        for raw in peers:
            raw.close()
        time.sleep(0.05)
        server.data.clear()
        run([server], lambda wanted=before + 40: len(server.of(Disconnected)) == wanted)
        assert list(server.data.values()) == [[b"%d" % n for n in range(12)]] * len(peers)


def test_a_stopped_listener_is_noticed_by_the_dialler_after_its_last_message(pair: list[Driver]) -> None:
    server, client = pair
    accepted, dialled = joined(server, client)
    for n in range(40):
        assert accepted.send(b"%d" % n) is SendResult.SENT
    time.sleep(0.5)  # nobody reads: they lie in the dialler's queues
    accepted.abort()
    run([server, client], lambda: client.of(Disconnected, dialled))
    assert client.data[dialled] == [b"%d" % n for n in range(40)]


# --- rule 4: the monitor --------------------------------------------------------------------------------------------


def test_a_flood_of_connects_does_not_delay_a_peer(pair: list[Driver]) -> None:
    server, client = pair
    endpoint = server.listen()
    accepted, dialled = joined(server, client, endpoint)
    stop = threading.Event()

    def flood() -> None:
        while not stop.is_set():
            try:
                zmtp.reset(socket.create_connection(("127.0.0.1", endpoint.port), timeout=5))
            except OSError:
                pass

    threads = [threading.Thread(target=flood) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        longest = 0.0
        for n in range(100):
            start = time.monotonic()
            assert dialled.send(b"%d" % n) is SendResult.SENT
            run([server, client], lambda n=n: server.data[accepted] and server.data[accepted][-1] == b"%d" % n)
            longest = max(longest, time.monotonic() - start)
        assert longest < 0.5
        assert _still_serves(server, endpoint) < 1.0
    finally:
        stop.set()
        for thread in threads:
            thread.join(10)


def test_events_left_unread_stop_no_accept(server: Driver) -> None:
    """At its default limit of 1,000 the monitor would make libzmq's thread wait for us."""
    endpoint = server.listen()
    for _ in range(1_500):
        zmtp.reset(socket.create_connection(("127.0.0.1", endpoint.port), timeout=5))
    start = time.monotonic()
    zmtp.connect(endpoint.port).close()  # answered although nobody has read one event
    assert time.monotonic() - start < 2.0


# --- rule 5: sending ------------------------------------------------------------------------------------------------


def test_a_send_to_a_peer_that_vanished_is_gone_and_not_taken(pair: list[Driver]) -> None:
    server, client = pair
    accepted, dialled = joined(server, client)
    dialled.abort()
    time.sleep(0.05)  # the server has not looked yet
    results = {accepted.send(b"into the void") for _ in range(3)}
    assert results <= {SendResult.GONE, SendResult.SENT}
    run([server], lambda: server.of(Disconnected, accepted))
    assert accepted.send(b"x") is SendResult.GONE


def test_nobody_can_be_answered_before_it_spoke(pair: list[Driver]) -> None:
    server, client = pair
    dialled = client.dial(server.listen())
    run([server, client], lambda: server.of(Accepted))
    assert server.accepted().send(b"early") is SendResult.PARKED
    run_for([server, client], 0.1)
    dialled.send(b"now")
    run([server, client], lambda: any(type(o).__name__ == "Writable" for o in server.outcomes))
    assert server.accepted().send(b"late") is SendResult.SENT


# --- rule 6: memory before authentication ---------------------------------------------------------------------------


def _rss_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_an_oversize_message_ends_only_its_connection(pair: list[Driver]) -> None:
    server, client = pair
    endpoint = server.listen()
    accepted, dialled = joined(server, client, endpoint)
    with zmtp.connect(endpoint.port) as raw:
        raw.sendall(struct.pack("!BQ", 2, limits.MAX_CARRIER_BYTES + 1) + bytes(1000))
        run([server], lambda: server.of(Disconnected))
    assert server.of(Disconnected)[0].connection is not accepted
    dialled.send(b"fine")
    run([server, client], lambda: server.data[accepted] == [b"fine"])


@pytest.mark.parametrize("announced", [limits.MAX_CARRIER_BYTES, 2**40, 2**63 - 1, 2**64 - 1])
def test_an_unfinished_giant_frame_costs_nothing_and_ends(announced: int) -> None:
    with drivers("zmq", 1, Options(first_message_timeout_s=0.5)) as (server,):
        endpoint = server.listen()
        before = _rss_bytes()
        strangers = [zmtp.connect(endpoint.port) for _ in range(20)]
        for raw in strangers:
            raw.sendall(struct.pack("!BQ", 2, announced) + bytes(100))
        assert _still_serves(server, endpoint) < 1.0
        run([server], lambda: len(server.of(Disconnected)) > len(strangers))  # the honest one may have tried twice
        assert _rss_bytes() - before < 50_000_000
        for raw in strangers:
            raw.close()


@pytest.mark.parametrize(
    "part", [zmtp.frame(b"", more=True) * 2000, zmtp.frame(bytes(50_000), more=True)], ids=["empty", "large"]
)
def test_a_message_of_endless_parts_is_cut_off(server: Driver, part: bytes) -> None:
    """MAXMSGSIZE bounds a part; libzmq collects the parts of one message without end, and the RCVHWM is no help."""
    endpoint = server.listen()
    before = _rss_bytes()
    raw = zmtp.connect(endpoint.port)
    stop = threading.Event()

    def pour() -> None:
        try:
            while not stop.is_set():
                raw.sendall(part)
        except OSError:
            pass

    thread = threading.Thread(target=pour)
    thread.start()
    try:
        assert run([server], lambda: server.of(Disconnected)) < 2.0
    finally:
        stop.set()
        with contextlib.suppress(OSError):
            raw.shutdown(socket.SHUT_RDWR)  # or the thread waits before a window that stays closed
        thread.join(10)
        raw.close()
    assert server.of(Disconnected)[0].code == "flood"
    assert _rss_bytes() - before < 100_000_000
    assert _still_serves(server, endpoint) < 1.0


def test_messages_of_several_parts_or_none_are_refused(server: Driver) -> None:
    endpoint = server.listen()
    for bad in (zmtp.frame(b"a", more=True) + zmtp.frame(b"b"), zmtp.frame(b"")):
        server.outcomes.clear()
        with zmtp.connect(endpoint.port) as raw:
            raw.sendall(bad)
            run([server], lambda: server.of(Disconnected))
        assert server.of(Disconnected)[0].code == "bad_framing"
        assert not server.of(Received)


@pytest.mark.parametrize("kind", [b"PUSH", b"PUB", b"ROUTER", b"REQ", b"PAIR", b"NONSENSE"])
def test_another_socket_type_hurts_nobody(server: Driver, kind: bytes) -> None:
    endpoint = server.listen()
    with zmtp.connect(endpoint.port, kind=kind) as raw:
        raw.sendall(zmtp.frame(b"hello"))
        run_for([server], 0.1)
    assert _still_serves(server, endpoint) < 1.0


def test_garbage_instead_of_a_greeting_hurts_nobody(server: Driver) -> None:
    endpoint = server.listen()
    for garbage in (b"GET / HTTP/1.1\r\n\r\n" * 9, bytes(300), b"\xff" * 300, os.urandom(5000), b"\x16\x03\x01" * 99):
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=5) as raw:
            raw.sendall(garbage)
            run_for([server], 0.05)
    assert _still_serves(server, endpoint) < 1.0


# --- rule 7: dialling -----------------------------------------------------------------------------------------------


def test_a_lost_connection_is_not_dialled_again_behind_our_back(pair: list[Driver]) -> None:
    """Not even while we do not look."""
    server, client = pair
    accepted, dialled = joined(server, client)
    accepted.abort()
    run_for([server], 0.5)
    assert len(server.of(Accepted)) == 1
    run([server, client], lambda: client.of(Disconnected, dialled))


def _serve_once(answer: bytes | None) -> tuple[socket.socket, int]:
    """A TCP server that answers its first connection with some bytes and waits, or closes it (`None`)."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        try:
            raw, _ = listener.accept()
        except OSError:
            return
        if answer is not None:
            raw.sendall(answer)
            raw.settimeout(10)
            try:
                while raw.recv(1000):
                    pass
            except OSError:
                pass
        raw.close()

    threading.Thread(target=serve, daemon=True).start()
    return listener, listener.getsockname()[1]


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (None, "closed"),
        (zmtp.GREETING + zmtp.ready(kind=b"PUB"), "not_zmq"),
        (b"\xff" + bytes(8) + b"\x7f\x03\x00CURVE".ljust(54, b"\0"), "not_zmq"),
        (b"220 mail.example ESMTP\r\n", "not_zmq"),
    ],
    ids=["closes", "another_socket_type", "another_mechanism", "not_zmtp"],
)
def test_a_server_that_is_no_rapini_listener_fails_the_dial(answer: bytes | None, code: str) -> None:
    with drivers("zmq", 1) as (client,):
        listener, port = _serve_once(answer)
        dialled = client.dial(Endpoint.parse(f"zmq+plain://127.0.0.1:{port}"))
        run([client], lambda: client.of(ConnectFailed, dialled), 8)
        listener.close()
        assert client.of(ConnectFailed, dialled)[0].code == code
        assert dialled.send(b"x") is SendResult.GONE
