"""The tools for bad networks do what they say, seen by real UDP datagrams and real TCP transfers."""

from __future__ import annotations

import hashlib
import itertools
import random
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.kit.bridge import Conditions
from tests.faults.kit.firewall import Firewall
from tests.faults.kit.namespaces import Host, Namespace, Network
from tests.faults.kit.offload import offloads

PORT = 9750
COUNT = 2_000
CLEAN = Conditions()


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    """Three hosts."""
    with Network(["a", "b", "c"], seed=7) as network:
        yield network
        assert network.bridge.overruns() == 0, "the bridge lost frames that nobody told it to lose"


@pytest.fixture(autouse=True)
def _perfect_again(network: Network) -> Iterator[None]:
    yield
    network.bridge.heal()


def _receiver(host: Host) -> socket.socket:
    receiver = host.open_socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, 33, 16 * 1024 * 1024)  # SO_RCVBUFFORCE: the receiver loses nothing
    receiver.bind((host.address, PORT))
    return receiver


def _send(source: Host, target: Host, count: int, *, pause_s: float = 0.0001, size: int = 100) -> list[int]:
    """Send numbered datagrams; returns the numbers in the order in which they arrived."""
    arrived: list[int] = []
    with _receiver(target) as receiver, source.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for number in range(count):
            sender.sendto(number.to_bytes(4, "big").ljust(size, b"\0"), (target.address, PORT))
            time.sleep(pause_s)
        receiver.settimeout(0.3)
        try:
            while len(arrived) < 4 * count:
                arrived.append(int.from_bytes(receiver.recv(2048)[:4], "big"))
        except TimeoutError:
            pass
    return arrived


def _transfer(source: Host, target: Host, size: int, timeout_s: float = 15.0) -> float:
    """Send bytes over TCP and compare their hash; returns the seconds it took."""
    payload = random.Random(size).randbytes(size)
    took: list[bytes] = []
    with (
        target.open_socket(socket.AF_INET, socket.SOCK_STREAM) as listener,
        source.open_socket(socket.AF_INET, socket.SOCK_STREAM) as client,
    ):
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((target.address, PORT))
        listener.listen()
        listener.settimeout(timeout_s)

        def take() -> None:
            connection, _ = listener.accept()
            digest = hashlib.sha256()
            with connection:
                connection.settimeout(timeout_s)
                while data := connection.recv(65_536):
                    digest.update(data)
            took.append(digest.digest())

        thread = threading.Thread(target=take)
        began = time.monotonic()
        thread.start()
        client.settimeout(timeout_s)
        client.connect((target.address, PORT))
        client.sendall(payload)
        client.shutdown(socket.SHUT_WR)
        thread.join(timeout_s)
        seconds = time.monotonic() - began
    assert took == [hashlib.sha256(payload).digest()]
    return seconds


def test_an_untouched_link_loses_nothing_and_keeps_the_order(network: Network) -> None:
    a, b = network.hosts["a"], network.hosts["b"]
    assert _send(a, b, COUNT) == list(range(COUNT))
    assert _send(b, a, COUNT) == list(range(COUNT))


def test_offloads_are_off_so_tcp_arrives_intact(network: Network) -> None:
    a, b = network.hosts["a"], network.hosts["b"]
    for host in (a, b):
        with host.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            assert not any(offloads(control, "eth0").values())
    _transfer(a, b, 8_000_000)


def test_tcp_gets_through_a_link_that_loses_delays_repeats_and_reorders(network: Network) -> None:
    bad = Conditions(loss=0.02, delay_s=0.002, jitter_s=0.002, reorder=0.02, reorder_hold_s=0.005, duplicate=0.02)
    network.bridge.set_both("a", "b", bad)
    before = network.bridge.counts()["a", "b"]
    _transfer(network.hosts["a"], network.hosts["b"], 500_000, timeout_s=30)
    after = network.bridge.counts()["a", "b"]
    assert after.lost > before.lost, "the transfer met no loss: the test tests nothing"


@pytest.mark.parametrize("loss", [0.3, 0.05])
def test_loss_is_what_was_asked_for(network: Network, loss: float) -> None:
    network.bridge.set("a", "b", Conditions(loss=loss))
    arrived = _send(network.hosts["a"], network.hosts["b"], COUNT)
    assert arrived == sorted(set(arrived))
    lost = 1 - len(arrived) / COUNT
    assert abs(lost - loss) < 0.05 if loss == 0.3 else abs(lost - loss) < 0.02
    assert len(_send(network.hosts["b"], network.hosts["a"], 200)) == 200, "the other direction was to lose nothing"


def test_the_same_seed_loses_the_same_datagrams() -> None:
    def run(seed: int) -> list[int]:
        with Network(["x", "y"], seed=seed) as network:
            network.bridge.set("x", "y", Conditions(loss=0.5))
            return _send(network.hosts["x"], network.hosts["y"], 200)

    first = run(1)
    assert first == run(1)
    assert first != run(2)


def test_duplicates_are_what_was_asked_for(network: Network) -> None:
    network.bridge.set("a", "b", Conditions(duplicate=0.2))
    arrived = _send(network.hosts["a"], network.hosts["b"], COUNT)
    assert set(arrived) == set(range(COUNT))
    assert 0.15 < len(arrived) / COUNT - 1 < 0.25


def test_reordering_loses_and_repeats_nothing(network: Network) -> None:
    network.bridge.set("a", "b", Conditions(reorder=0.1))
    arrived = _send(network.hosts["a"], network.hosts["b"], COUNT)
    assert sorted(arrived) == list(range(COUNT))
    overtaken = sum(1 for before, after in itertools.pairwise(arrived) if after < before)
    assert 0.05 < overtaken / COUNT < 0.15


def test_jitter_alone_keeps_the_order(network: Network) -> None:
    network.bridge.set("a", "b", Conditions(delay_s=0.01, jitter_s=0.01))
    assert _send(network.hosts["a"], network.hosts["b"], COUNT) == list(range(COUNT))


def test_delay_is_what_was_asked_for(network: Network) -> None:
    """Out and back: 40 ms there, 10 ms back."""
    a, b = network.hosts["a"], network.hosts["b"]

    def round_trips() -> list[float]:
        times = []
        with _receiver(a) as here, _receiver(b) as there:
            here.settimeout(2)
            there.settimeout(2)
            for _ in range(20):
                began = time.monotonic()
                here.sendto(b"ping", (b.address, PORT))
                _, address = there.recvfrom(16)
                there.sendto(b"pong", address)
                here.recv(16)
                times.append(time.monotonic() - began)
        return sorted(times)

    assert round_trips()[10] < 0.01
    network.bridge.set("a", "b", Conditions(delay_s=0.04))
    network.bridge.set("b", "a", Conditions(delay_s=0.01))
    times = round_trips()
    assert times[0] >= 0.05
    assert times[10] < 0.1


def test_bandwidth_is_what_was_asked_for(network: Network) -> None:
    network.bridge.set("a", "b", Conditions(rate_bytes_per_s=1_000_000))
    seconds = _transfer(network.hosts["a"], network.hosts["b"], 1_500_000)
    assert 1.3 < seconds < 4.0


def test_what_exceeds_the_bandwidth_and_its_queue_is_dropped(network: Network) -> None:
    network.bridge.set("a", "b", Conditions(rate_bytes_per_s=100_000, queue_bytes=10_000))
    before = network.bridge.counts()["a", "b"].over_rate
    arrived = _send(network.hosts["a"], network.hosts["b"], 400, pause_s=0, size=1000)
    dropped = network.bridge.counts()["a", "b"].over_rate - before
    assert dropped > 200
    assert len(arrived) + dropped == 400


def test_a_one_way_cut_is_one_way(network: Network) -> None:
    a, b, c = (network.hosts[name] for name in "abc")
    network.bridge.set("a", "b", Conditions(is_cut=True))
    assert _send(a, b, 100) == []
    assert _send(b, a, 100) == list(range(100))
    assert _send(a, c, 100) == list(range(100)), "a's link to another host was not to be cut"
    network.bridge.set("a", "b", CLEAN)
    assert _send(a, b, 100) == list(range(100))


def test_a_cut_takes_what_was_under_way(network: Network) -> None:
    a, b = network.hosts["a"], network.hosts["b"]
    network.bridge.set("a", "b", Conditions(delay_s=0.5))
    with _receiver(b) as receiver, a.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.sendto(b"late", (b.address, PORT))
        time.sleep(0.1)
        network.bridge.set("a", "b", Conditions(is_cut=True))
        network.bridge.set("a", "b", CLEAN)
        receiver.settimeout(0.8)
        with pytest.raises(TimeoutError):
            receiver.recv(16)


def test_a_full_cut_and_its_end(network: Network) -> None:
    a, b = network.hosts["a"], network.hosts["b"]
    network.bridge.set_both("a", "b", Conditions(is_cut=True))
    assert _send(a, b, 50) == []
    assert _send(b, a, 50) == []
    network.bridge.heal()
    assert _send(a, b, 50) == list(range(50))


def test_nftables_drops_one_way_then_both_ways(network: Network) -> None:
    a, b, c = (network.hosts[name] for name in "abc")
    firewall = Firewall(b)
    firewall.drop(a.address, "in")
    assert _send(a, b, 100) == []
    assert _send(b, a, 100) == list(range(100)), "only what comes in was to be dropped"
    assert _send(c, b, 100) == list(range(100)), "only a's packets were to be dropped"
    assert firewall.dropped() == {"in": 100, "out": 0}
    firewall.allow()
    assert _send(a, b, 100) == list(range(100))
    firewall.drop(a.address)
    assert _send(a, b, 100) == []
    with pytest.raises(PermissionError):  # the kernel tells the sender of a datagram that its own rules drop
        _send(b, a, 1)
    assert firewall.dropped() == {"in": 100, "out": 1}
    firewall.allow()


def test_nothing_is_left_behind() -> None:
    names = []
    with Network(["x", "y"], seed=1) as network:
        names = [host.name for host in network.hosts.values()]
        bridge = network.bridge.pid
        assert all(Path("/run/netns", name).exists() for name in names)
    assert not any(Path("/run/netns", name).exists() for name in names)
    assert not Path("/proc", str(bridge)).exists()


def test_a_dead_process_s_namespaces_are_removed_and_a_live_one_s_are_not(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("os.getpid", lambda: 4_194_305)  # above every process id that the kernel gives out
        orphan = Namespace("orphan")
    assert Path("/run/netns", orphan.name).exists()
    with Network(["x", "y"], seed=1):
        assert not Path("/run/netns", orphan.name).exists()
        assert Path("/run/netns", network.hosts["a"].name).exists()


def test_a_namespace_has_no_way_out(network: Network) -> None:
    with (
        network.hosts["a"].open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
        pytest.raises(OSError, match="unreachable"),
    ):
        sender.connect(("198.51.100.1", 9))  # documentation's; connect() sends nothing, it looks for a route
