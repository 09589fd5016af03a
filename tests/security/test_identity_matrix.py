"""Who may not in, and what each side learns of it: every wrong peer, over both transports.

The side that can know the reason has its own code for it; the other side gets what TLS tells it (an alert) or what our
envelope does, as a status line that says so. No session, no event.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from rapini import Node, PeerState
from rapini.errors import AuthenticationError, ConfigError, HandshakeError, PeerError, PeerTimeoutError
from rapini.testing.authority import IssuedFiles, ThrowawayAuthority, Usage
from tests.integration.node.support import QUICK, SCHEMES, Keys, Recorder, port_of, running
from tests.programs import raw_tls

HOUR = timedelta(hours=1)


@dataclass
class World:
    """Two authorities; nodes trust the first."""

    ours: ThrowawayAuthority
    theirs: ThrowawayAuthority

    def good(self, name: str) -> dict[str, Any]:
        """Right keys."""
        return _options(self.ours.issue(name))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Made once: nothing in it changes."""
    return World(
        ThrowawayAuthority(tmp_path_factory.mktemp("ours")), ThrowawayAuthority(tmp_path_factory.mktemp("theirs"))
    )


def _options(files: IssuedFiles) -> dict[str, Any]:
    return {
        "certificate": str(files.certificate_path),
        "key": str(files.key_path),
        "trust": str(files.trust_path),
    }


def _wrong_ca(world: World, name: str) -> IssuedFiles:
    return world.theirs.issue(name, trust=world.ours)


def _wrong_use(world: World, name: str) -> IssuedFiles:
    return world.ours.issue(name, usages=(Usage.CLIENT,) if name == "server" else (Usage.SERVER,))


def _wrong_host(world: World, name: str) -> IssuedFiles:
    return world.ours.issue(name, hosts=("other.example",))


def _wrong_cluster(world: World, name: str) -> IssuedFiles:
    return world.ours.issue(name, cluster="elsewhere")


def _soon_expired(world: World, name: str) -> IssuedFiles:
    # Right when the node starts, wrong when it connects: the tests wait for that.
    return world.ours.issue(name, not_after=datetime.now(UTC) + timedelta(seconds=1.5))


# (who is wrong, how), what the dialler learns, what the listener learns
NODE_CASES = [
    pytest.param("client", _wrong_ca, "peer_refused_unknown_ca", "unknown_ca", id="client-of-wrong-ca"),
    pytest.param("server", _wrong_ca, "unknown_ca", "peer_refused_unknown_ca", id="server-of-wrong-ca"),
    pytest.param("client", _soon_expired, "peer_refused_expired", "certificate_expired", id="client-expired"),
    pytest.param("server", _soon_expired, "certificate_expired", "peer_refused_expired", id="server-expired"),
    pytest.param("client", _wrong_use, "peer_refused_bad_key_usage", "bad_key_usage", id="client-wrong-usage"),
    pytest.param("server", _wrong_use, "bad_key_usage", "peer_refused_bad_key_usage", id="server-wrong-usage"),
    pytest.param("server", _wrong_host, "wrong_host", "peer_refused_certificate", id="server-wrong-host"),
    pytest.param("client", _wrong_cluster, "wrong_cluster", "wrong_cluster", id="client-wrong-cluster"),
    pytest.param("server", _wrong_cluster, "wrong_cluster", "wrong_cluster", id="server-wrong-cluster"),
]


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("who", "how", "dialler_learns", "listener_learns"), NODE_CASES)
def test_wrong_node(
    world: World,
    scheme: str,
    who: str,
    how: Callable[[World, str], IssuedFiles],
    dialler_learns: str,
    listener_learns: str,
) -> None:
    """Two real nodes, one of them wrong."""
    files = how(world, who)
    options = {name: _options(files) if name == who else world.good(name) for name in ("client", "server")}
    with (
        running(Node("server", **options["server"])) as (server, at_server),
        running(Node("client", **options["client"], **QUICK)) as (client, at_client),
    ):
        server.subscribe("")
        url = server.listen(f"{scheme}://127.0.0.1:0")
        if how is _soon_expired:
            _wait_until_expired(files)
        with pytest.raises(AuthenticationError) as caught:
            client.connect(url)
        assert caught.value.code == dialler_learns
        assert url in str(caught.value)
        _check_rejected(at_server, listener_learns)
        _check_rejected(at_client, dialler_learns)
        assert not client.peers()
        assert not server.peers()


def test_files_that_cannot_be_right_are_refused_at_the_start(world: World) -> None:
    """A node does not even start with them, and says which file and what to do."""
    now = datetime.now(UTC)
    wrong = {
        "certificate_expired": world.ours.issue("n", not_before=now - 2 * HOUR, not_after=now - HOUR),
        "certificate_not_yet_valid": world.ours.issue("n", not_before=now + HOUR, not_after=now + 2 * HOUR),
        "no_identity": world.ours.issue("n", uris=[]),
        "wrong_name": world.ours.issue("somebody-else"),
    }
    for code, files in wrong.items():
        with pytest.raises(ConfigError) as caught:
            Node("n", **_options(files))
        assert caught.value.code == code
        assert str(files.certificate_path) in str(caught.value)
        assert caught.value.remedy


RAW_CASES = [
    pytest.param("none", "no_certificate", "TLSV13_ALERT_CERTIFICATE_REQUIRED", id="no-certificate"),
    pytest.param("expired", "certificate_expired", "SSLV3_ALERT_CERTIFICATE_EXPIRED", id="expired"),
    pytest.param("not-yet", "certificate_not_yet_valid", "SSLV3_ALERT_BAD_CERTIFICATE", id="not-yet-valid"),
    pytest.param("nobody", "no_identity", "closed", id="no-name"),
    pytest.param("two", "no_identity", "closed", id="two-names"),
    pytest.param("wrong-ca", "unknown_ca", "TLSV1_ALERT_UNKNOWN_CA", id="wrong-ca"),
]


def _raw_files(world: World, kind: str, name: str) -> tuple[Path, Path] | None:
    now = datetime.now(UTC)
    issue = world.ours.issue
    match kind:
        case "none":
            return None
        case "expired":
            files = issue(name, not_before=now - 2 * HOUR, not_after=now - HOUR)
        case "not-yet":
            files = issue(name, not_before=now + HOUR, not_after=now + 2 * HOUR)
        case "nobody":
            files = issue(name, uris=[])
        case "two":
            files = issue(name, uris=[f"rapini://test/{name}", "rapini://test/other"])
        case _:
            files = world.theirs.issue(name)
    return files.certificate_path, files.key_path


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("kind", "listener_learns", "alert"), RAW_CASES)
def test_wrong_client_that_obeys_no_rules(
    world: World, scheme: str, kind: str, listener_learns: str, alert: str
) -> None:
    """A TLS client not of our making; it is told by TLS's own alert, or by the end of the connection."""
    with running(Node("server", **world.good("server"))) as (server, at_server):
        server.subscribe("")
        url = server.listen(f"{scheme}://127.0.0.1:0")
        heard = raw_tls.attempt(scheme, port_of(url), _raw_files(world, kind, "client"))
        _check_rejected(at_server, listener_learns)
        assert heard == alert or alert == "closed", heard
        assert not server.peers()


@pytest.mark.parametrize(
    ("kind", "dialler_learns"),
    [
        ("expired", "certificate_expired"),
        ("not-yet", "certificate_not_yet_valid"),
        ("nobody", "no_identity"),
        ("wrong-ca", "unknown_ca"),
    ],
)
def test_wrong_server_that_obeys_no_rules(world: World, kind: str, dialler_learns: str) -> None:
    """The reverse: our node dials a TLS server not of our making."""
    files = _raw_files(world, kind, "server")
    assert files is not None
    with raw_tls.serve_once(files) as server, running(Node("client", **world.good("client"))) as (client, seen):
        with pytest.raises(AuthenticationError) as caught:
            client.connect(f"tcp+tls://127.0.0.1:{server.port}")
        assert caught.value.code == dialler_learns
        _check_rejected(seen, dialler_learns)
    assert server.heard not in {"", "nothing"}


MECHANISMS = [
    # listener, dialler, what the dialler learns, what the listener learns
    ("zmq+tls", "zmq+plain", "peer_refused_mechanism", "mechanism_mismatch"),
    ("zmq+plain", "zmq+tls", "peer_refused_mechanism", "mechanism_mismatch"),
    ("tcp+tls", "tcp+plain", "peer_speaks_tls", "peer_is_plain"),
    ("tcp+plain", "tcp+tls", "closed_in_handshake", "peer_speaks_tls"),
    ("zmq+tls", "tcp+tls", "not_tls", "closed_in_handshake"),
    ("zmq+plain", "tcp+plain", "not_rapini", "closed_in_handshake"),
    ("tcp+tls", "zmq+tls", "closed", "not_tls"),
    ("tcp+plain", "zmq+plain", "closed", "not_rapini"),
]


@pytest.mark.parametrize(("listener", "dialler", "dialler_learns", "listener_learns"), MECHANISMS)
def test_wrong_mechanism_or_transport(
    world: World, listener: str, dialler: str, dialler_learns: str, listener_learns: str
) -> None:
    """Plain against TLS and 0MQ against TCP, both ways round: a code at each side, and never a fallback."""
    with (
        running(Node("server", **world.good("server"))) as (server, at_server),
        running(Node("client", **world.good("client"), **QUICK)) as (client, at_client),
    ):
        port = port_of(server.listen(f"{listener}://127.0.0.1:0"))
        with pytest.raises(PeerError) as caught:
            client.connect(f"{dialler}://127.0.0.1:{port}", wait_s=0.5 if dialler_learns == "closed" else 5.0)
        assert caught.value.code == dialler_learns
        if dialler_learns == "closed":  # a server that restarts looks the same to 0MQ: it is tried again
            assert isinstance(caught.value, PeerTimeoutError)
            _, status = at_client.wait_status(PeerState.CONNECTING, since=1)
            assert status.code == "closed"
        else:
            assert isinstance(caught.value, HandshakeError)
            assert not isinstance(caught.value, AuthenticationError)
            _check_rejected(at_client, dialler_learns)
        _check_rejected(at_server, listener_learns)
        assert not server.peers()


def test_host_that_is_not_on_the_certificate(world: World, tmp_path: Path) -> None:
    """One server, reached by a name that its certificate has and by one that it has not."""
    keys = Keys(tmp_path)
    files = keys.authority.issue("server", hosts=("localhost",))
    with (
        running(Node("server", **_options(files))) as (server, _),
        running(Node("client", **keys.of("client"))) as (client, _),
    ):
        port = port_of(server.listen("tcp+tls://127.0.0.1:0"))
        with pytest.raises(AuthenticationError) as caught:
            client.connect(f"tcp+tls://127.0.0.1:{port}")
        assert caught.value.code == "wrong_host"
        assert client.connect(f"tcp+tls://localhost:{port}") == "server"


def _check_rejected(seen: Recorder, code: str) -> None:
    """A status with this code, a side and an address, that reads as a line of its own."""
    _, status = seen.wait_status(PeerState.REJECTED)
    assert status.code == code
    assert status.side is not None
    assert status.address
    assert status.detail
    assert "\n" not in str(status)
    assert not any(s.is_up for s in seen.statuses())


def _wait_until_expired(files: IssuedFiles) -> None:
    from cryptography import x509

    certificate = x509.load_pem_x509_certificate(Path(files.certificate_path).read_bytes())
    time.sleep(max(0.0, (certificate.not_valid_after_utc - datetime.now(UTC)).total_seconds() + 1.05))
