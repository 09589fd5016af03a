"""What every transport promises, whichever it is: one suite over real sockets.

Where it sits: the executable form of `rapini.transport.base`. The driver checks each connection's life on the way.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rapini.errors import LocalError, TransportError
from rapini.transport.base import Accepted, Connected, ConnectFailed, Disconnected, Options, SendResult, Writable
from rapini.transport.endpoint import Endpoint
from tests.integration.transport import zmtp
from tests.integration.transport.driver import Driver, drivers, joined, run, run_for


@pytest.fixture(params=["zmq", "tcp"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(kind: str) -> Iterator[list[Driver]]:
    with drivers(kind) as made:
        yield made


def test_both_sides_see_the_connection_and_each_others_bytes(pair: list[Driver], kind: str) -> None:
    server, client = pair
    accepted, dialled = joined(server, client)
    assert accepted.is_message_based == (kind == "zmq")
    assert accepted.address.startswith("127.0.0.1:")
    assert dialled.address == accepted.endpoint.rpartition("/")[2]
    assert accepted.id != dialled.id


def test_what_is_sent_arrives_whole_and_in_order_while_sends_park(pair: list[Driver]) -> None:
    server, client = pair
    accepted, dialled = joined(server, client)
    messages = [bytes([n % 251]) * (1 + n * 7919 % 65_536) for n in range(400)]  # 13 MB, far beyond all buffers
    total, sent, parked = sum(map(len, messages)), 0, 0
    while sent < len(messages):  # the server does not read
        if dialled.send(messages[sent]) is SendResult.PARKED:
            parked += 1
            break
        sent += 1
    assert parked, "the transport took everything: its buffers are not bounded"
    tries = 0

    def push() -> bool:
        nonlocal sent, tries
        if len(client.of(Writable, dialled)) > tries:
            tries = len(client.of(Writable, dialled))
            while sent < len(messages) and dialled.send(messages[sent]) is SendResult.SENT:
                sent += 1
        return sum(map(len, server.data[accepted])) >= total

    run([server, client], push, 20)
    assert b"".join(server.data[accepted]) == b"".join(messages)
    if dialled.is_message_based:
        assert server.data[accepted] == messages


def test_an_accepted_connection_parks_and_becomes_writable_too(pair: list[Driver]) -> None:
    server, client = pair
    accepted, dialled = joined(server, client)
    sent = 0
    while accepted.send(b"x" * 32_768) is SendResult.SENT:
        sent += 1
        assert sent < 10_000
    run(
        [server, client], lambda: server.of(Writable, accepted) and sum(map(len, client.data[dialled])) == sent * 32_768
    )
    assert accepted.send(b"y") is SendResult.SENT


def test_a_refused_dial_fails_promptly_and_says_so(pair: list[Driver]) -> None:
    server, client = pair
    endpoint = server.listen()
    server.transport.unlisten(endpoint)
    run_for([server], 0.05)
    dialled = client.dial(endpoint)
    assert run([client], lambda: client.of(ConnectFailed, dialled)) < 1.0
    assert client.of(ConnectFailed, dialled)[0].code == "refused"
    assert dialled.send(b"x") is SendResult.GONE


def test_a_dial_that_nobody_answers_times_out(kind: str) -> None:
    with drivers(kind, 1, Options(connect_timeout_s=0.4)) as (client,), socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        fillers = [socket.socket() for _ in range(3)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())  # the accept queue is full now, further SYNs are dropped
        time.sleep(0.05)
        dialled = client.dial(Endpoint.parse(f"{kind}+plain://127.0.0.1:{full.getsockname()[1]}"))
        assert 0.3 < run([client], lambda: client.of(ConnectFailed, dialled)) < 2.0
        assert client.of(ConnectFailed, dialled)[0].code == "timeout"
        for filler in fillers:
            filler.close()


@pytest.mark.parametrize("side", ["accepted", "dialled"])
def test_abort_ends_it_at_both_sides_once(pair: list[Driver], side: str) -> None:
    server, client = pair
    accepted, dialled = joined(server, client)
    (accepted if side == "accepted" else dialled).abort()
    run([server, client], lambda: server.of(Disconnected, accepted) and client.of(Disconnected, dialled))
    (accepted if side == "accepted" else dialled).abort()
    run_for([server, client], 0.1)
    codes = {"accepted": server.of(Disconnected, accepted), "dialled": client.of(Disconnected, dialled)}
    for where, ends in codes.items():
        assert len(ends) == 1
        assert (ends[0].code == "aborted") == (where == side)
    assert accepted.send(b"x") is SendResult.GONE
    assert dialled.send(b"x") is SendResult.GONE


def test_abort_ends_one_connection_and_no_other(pair: list[Driver]) -> None:
    server, client = pair
    endpoint = server.listen()
    first, first_dialled = joined(server, client, endpoint)
    second, second_dialled = joined(server, client, endpoint)
    first.abort()
    run([server, client], lambda: client.of(Disconnected, first_dialled))
    assert second.send(b"still here") is SendResult.SENT
    run([server, client], lambda: client.data[second_dialled] == [b"still here"])
    assert not server.of(Disconnected, second)


def test_abort_while_dialling_is_reported_as_such(pair: list[Driver]) -> None:
    server, client = pair
    dialled = client.dial(server.listen())
    dialled.abort()
    run([server, client], lambda: client.of(Disconnected, dialled))
    assert client.of(Disconnected, dialled)[0].code == "aborted"
    run_for([server, client], 0.1)


@pytest.mark.parametrize("side", ["accepted", "dialled"])
def test_close_lets_the_last_words_arrive(pair: list[Driver], side: str) -> None:
    server, client = pair
    for _ in range(10):
        accepted, dialled = joined(server, client)
        teller, hearer, other = (accepted, client, dialled) if side == "accepted" else (dialled, server, accepted)
        assert teller.send(b"alert" * 100) is SendResult.SENT
        teller.close(linger_s=0.2)
        assert teller.send(b"more") is SendResult.GONE
        run([server, client], lambda hearer=hearer, other=other: hearer.of(Disconnected, other))
        assert b"".join(hearer.data[other]) == b"alert" * 100
        run(
            [server, client], lambda teller=teller: (*server.of(Disconnected, teller), *client.of(Disconnected, teller))
        )


def test_giving_an_endpoint_up_ends_its_connections_and_frees_the_port(pair: list[Driver]) -> None:
    server, client = pair
    endpoint = server.listen()
    accepted, dialled = joined(server, client, endpoint)
    server.transport.unlisten(endpoint)
    run([server, client], lambda: server.of(Disconnected, accepted) and client.of(Disconnected, dialled))
    assert server.of(Disconnected, accepted)[0].code == "unlistened"
    start = time.monotonic()
    while True:  # libzmq gives the port back on a thread of its own
        try:
            assert server.transport.listen(endpoint) == endpoint
            break
        except TransportError:
            assert time.monotonic() - start < 2.0
            time.sleep(0.01)
    joined(server, client, endpoint)


@pytest.mark.parametrize("host", ["::1", "*"])
def test_ipv6_and_every_address(pair: list[Driver], host: str) -> None:
    server, client = pair
    endpoint = server.listen(host)
    dialled = client.dial(Endpoint.parse(f"{client.kind}+plain://[::1]:{endpoint.port}"))
    run([server, client], lambda: client.of(Connected, dialled) and server.of(Accepted))
    assert server.accepted().address.startswith("[::1]:")
    if host == "*":
        client.dial(Endpoint.parse(f"{client.kind}+plain://127.0.0.1:{endpoint.port}"))
        run([server, client], lambda: len(server.of(Accepted)) == 2)
        assert server.accepted().address.startswith("127.0.0.1:")


def test_listening_twice_and_elsewhere_has_its_codes(pair: list[Driver]) -> None:
    server, client = pair
    endpoint = server.listen()
    with pytest.raises(TransportError) as in_use:
        client.transport.listen(endpoint)
    assert in_use.value.code == "address_in_use"
    with pytest.raises(TransportError) as elsewhere:
        client.transport.listen(Endpoint.parse(f"{client.kind}+plain://192.0.2.1:0"))
    assert elsewhere.value.code == "bad_address"
    with pytest.raises(TransportError) as everywhere:
        client.transport.dial(Endpoint.parse(f"{client.kind}+plain://*:1"), ("0.0.0.0", 1))
    assert everywhere.value.code == "bad_address"


def test_a_message_too_large_is_the_callers_mistake(pair: list[Driver]) -> None:
    accepted, _ = joined(pair[0], pair[1])
    with pytest.raises(LocalError) as error:
        accepted.send(bytes(Options().max_message_bytes + 1))
    assert error.value.code == "too_large"


def _fds_and_threads() -> tuple[int, int]:
    return len(list(Path("/proc/self/fd").iterdir())), len(list(Path("/proc/self/task").iterdir()))


def test_two_hundred_reconnects_leave_nothing_behind(pair: list[Driver]) -> None:
    server, client = pair
    endpoint = server.listen()
    joined(server, client, endpoint)[1].abort()
    run_for([server, client], 0.1)
    before = _fds_and_threads()
    for n in range(200):
        accepted, dialled = joined(server, client, endpoint)
        (accepted if n % 2 else dialled).abort()
        run(
            [server, client],
            lambda a=accepted, d=dialled: server.of(Disconnected, a) and client.of(Disconnected, d),
        )
        server.outcomes.clear()
        client.outcomes.clear()
    run_for([server, client], 0.1)
    assert _fds_and_threads() == before
    refused = Endpoint.parse(f"{client.kind}+plain://127.0.0.1:1")
    for _ in range(50):
        dialled = client.dial(refused)
        run([client], lambda d=dialled: client.of(ConnectFailed, d))
    run_for([server, client], 0.1)
    assert _fds_and_threads() == before


def test_silent_strangers_leave_room_for_an_honest_peer(kind: str) -> None:
    """Two thousand idle connections, or ones that send a byte a second, do not keep an honest peer out."""
    options = Options(max_half_open=64, silence_grace_s=0.1)
    with drivers(kind, 2, options) as (server, client):
        endpoint = server.listen()
        strangers = []
        for _ in range(600):
            raw = socket.create_connection(("127.0.0.1", endpoint.port), timeout=5)
            raw.send(b"\xff")
            strangers.append(raw)
            server.turn()
        run_for([server], 0.2)
        start = time.monotonic()
        joined(server, client, endpoint)
        assert time.monotonic() - start < 1.0
        refused = server.transport.counters.refused
        assert refused["half_open_limit"] + refused["silent"] >= 600 - 64
        for raw in strangers:
            raw.close()


def test_strangers_in_their_handshake_are_never_pushed_out(kind: str) -> None:
    options = Options(max_half_open=4, silence_grace_s=0.0)
    with drivers(kind, 2, options) as (server, client):
        endpoint = server.listen()
        talking = [joined(server, client, endpoint, authenticated=False) for _ in range(4)]
        late = client.dial(endpoint)
        run([server, client], lambda: [*client.of(ConnectFailed, late), *client.of(Disconnected, late)])
        assert server.transport.counters.refused["half_open_limit"] == 1
        assert not server.of(Disconnected)
        talking[0][0].authenticated = True
        joined(server, client, endpoint)
        assert not server.of(Disconnected)


def test_a_stranger_who_says_nothing_is_ended(kind: str) -> None:
    with drivers(kind, 1, Options(first_message_timeout_s=0.3)) as (server,):
        endpoint = server.listen()
        with socket.create_connection(("127.0.0.1", endpoint.port), timeout=5) as raw:
            if kind == "zmq":
                raw.sendall(zmtp.GREETING + zmtp.ready())  # 0MQ's own greeting is not speaking
            assert 0.25 < run([server], lambda: server.of(Disconnected)) < 1.5
            assert server.of(Disconnected)[0].code == "silent"


_STOPPED_PEER = """
import sys, time
from tests.integration.transport.driver import Driver
from rapini.transport.endpoint import Endpoint
driver = Driver(sys.argv[1])
dialled = driver.dial(Endpoint.parse(sys.argv[2]))
end = time.monotonic() + 30
spoken = False
while time.monotonic() < end:
    driver.turn(0.05)
    if driver.outcomes and not spoken:
        dialled.send(b"x" * 64); spoken = True; print("up", flush=True)
"""


def test_a_stopped_process_does_not_delay_another_peer(kind: str) -> None:
    with drivers(kind, 2) as (server, client):
        endpoint = server.listen()
        child = subprocess.Popen([sys.executable, "-c", _STOPPED_PEER, kind, str(endpoint)], stdout=subprocess.PIPE)
        try:
            run([server], lambda: any(server.data.values()), 20)
            stopped = server.accepted()
            child.send_signal(signal.SIGSTOP)
            accepted, dialled = joined(server, client, endpoint)
            while stopped.send(b"z" * 32_768) is SendResult.SENT:
                pass
            start, longest = time.monotonic(), 0.0
            for n in range(200):
                sent_at = time.monotonic()
                assert accepted.send(b"%064d" % n) is SendResult.SENT
                run([server, client], lambda n=n: b"".join(client.data[dialled]).endswith(b"%064d" % n))
                longest = max(longest, time.monotonic() - sent_at)
                stopped.send(b"z")
            assert time.monotonic() - start < 5.0
            assert longest < 0.5
        finally:
            child.kill()
            child.wait(10)
            assert child.stdout is not None
            child.stdout.close()


def test_no_message_of_a_burst_waits_for_the_next_burst(kind: str) -> None:
    """Where messages come one by one, 0MQ's sources ask for another only when the owner asks whether there is more."""
    with drivers(kind, 2) as (server, client):
        accepted, dialled = joined(server, client)
        for burst in (1, 1, 2, 1, 1, 3, 1, 300, 1, 1, 2, 2, 1, 5):
            for sender, receiver, source in ((dialled, server, accepted), (accepted, client, dialled)):
                for number in range(burst):
                    while sender.send(b"%064d" % number) is not SendResult.SENT:
                        run_for([server, client], 0.005)
                run([server, client], lambda r=receiver, s=source, b=burst: len(b"".join(r.data[s])) == 64 * b)
                receiver.data[source].clear()


def test_a_send_from_another_thread_leaves_no_message_unread(kind: str) -> None:
    """0MQ's descriptor is edge-triggered, and a send may swallow the edge; the wake-up makes good for it.

    The server's loop waits 1 s at most for a descriptor; every echo that needs longer was left lying.
    """
    with drivers(kind, 2) as (server, client):
        accepted, dialled = joined(server, client)
        lock, stop = threading.Lock(), threading.Event()

        def publish() -> None:
            while not stop.is_set():
                with lock:
                    accepted.send(b"p" * 100)
                time.sleep(0.0002)

        def serve() -> None:
            while not stop.is_set():
                with lock:
                    more = server.transport.has_more
                    timer = server.transport.next_timer()
                timeout_s = 0.0 if more else 1.0 if timer is None else max(0.0, min(1.0, timer - time.monotonic()))
                ready = server.selector.select(timeout_s)
                with lock:
                    for key, mask in ready:
                        if key.data is None:
                            server._wakee.recv(4096)
                        else:
                            key.data.transport.on_ready(key, mask)
                    for outcome in server.transport.outcomes():
                        if hasattr(outcome, "data"):
                            accepted.send(b"e" + bytes(outcome.data))

        threads = [threading.Thread(target=publish), threading.Thread(target=serve)]
        for thread in threads:
            thread.start()
        try:
            longest = 0.0
            for n in range(300):
                question = b"<%06d>" % n
                sent_at = time.monotonic()
                assert dialled.send(question) is SendResult.SENT
                run([client], lambda q=question: q in b"".join(client.data[dialled][-2000:]))
                longest = max(longest, time.monotonic() - sent_at)
                client.outcomes.clear()
                del client.data[dialled][:-200]
            assert longest < 0.6
        finally:
            stop.set()
            server.wake()
            for thread in threads:
                thread.join(10)
