"""Every wrong peer has its code at the side that can know it, and a code at the other."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from rapini.limits import MAX_HANDSHAKE_BYTES
from rapini.secure import reasons
from rapini.secure.channel import ChannelClosed, ChannelFailed, HandshakeCompleted, Side
from rapini.secure.plain import OPENING, PlainChannel
from rapini.secure.reasons import failure_from_openssl
from rapini.secure.tls import TlsChannel
from rapini.testing.authority import ThrowawayAuthority, Usage
from tests.unit.secure.pairs import (
    HOST,
    NOW,
    RawTls,
    World,
    failure_of,
    load,
    raw_context,
    settle,
    started,
)

DAY = timedelta(days=1)


def _wrong(
    world: World,
    *,
    is_initiator: bool,
    authority: ThrowawayAuthority | None = None,
    trust: ThrowawayAuthority | None = None,
    **wrong: Any,
) -> TlsChannel:
    """A node with a certificate, or a trust anchor, that `TlsMaterial.load` would refuse to start with."""
    files = (authority or world.authority).issue("wrong", **wrong)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT if is_initiator else ssl.PROTOCOL_TLS_SERVER)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(files.certificate_path, files.key_path)
    context.load_verify_locations(cadata=(trust or world.authority).trust_pem.decode())
    context.set_alpn_protocols(["rapini/1"])
    return _channel(context, is_initiator=is_initiator)


def _channel(context: ssl.SSLContext, *, is_initiator: bool) -> TlsChannel:
    return TlsChannel(context, is_initiator=is_initiator, cluster="test", handshake_timeout_s=10)


NOW_UTC = datetime.now(UTC)
CASES: dict[str, tuple[dict[str, Any], str, str]] = {
    "expired": (
        {"not_before": NOW_UTC - 2 * DAY, "not_after": NOW_UTC - DAY},
        "certificate_expired",
        "peer_refused_expired",
    ),
    "not yet valid": (
        {"not_before": NOW_UTC + DAY, "not_after": NOW_UTC + 2 * DAY},
        "certificate_not_yet_valid",
        "peer_refused_certificate",
    ),
}


@pytest.mark.parametrize("case", list(CASES))
def test_a_certificate_out_of_its_time(world: World, case: str) -> None:
    wrong, at_judge, at_refused = CASES[case]
    initiator, responder = started(_wrong(world, is_initiator=True, **wrong), world.manager.responder())
    settle(initiator, responder)
    assert failure_of(responder) == (at_judge, "ours")
    completed, failed = initiator.outcomes()
    assert isinstance(completed, HandshakeCompleted), "the client of TLS 1.3 finishes before it is judged"
    assert isinstance(failed, ChannelFailed)
    assert (failed.code, failed.side) == (at_refused, Side.THEIRS)

    initiator, responder = started(world.sensor.initiator(check_host=HOST), _wrong(world, is_initiator=False, **wrong))
    settle(initiator, responder)
    assert failure_of(initiator) == (at_judge, "ours")
    assert failure_of(responder) == (at_refused, "theirs")


def test_a_certificate_of_another_authority(world: World) -> None:
    stranger = load(world.other.issue("sensor-1", trust=world.authority))
    initiator, responder = started(stranger.initiator(check_host=HOST), world.manager.responder())
    settle(initiator, responder)
    assert failure_of(responder) == ("unknown_ca", "ours")
    assert failure_of(initiator) == ("peer_refused_unknown_ca", "theirs")

    imposter = load(world.other.issue("manager", trust=world.authority))
    initiator, responder = started(world.sensor.initiator(check_host=HOST), imposter.responder())
    settle(initiator, responder)
    assert failure_of(initiator) == ("unknown_ca", "ours")
    assert failure_of(responder) == ("peer_refused_unknown_ca", "theirs")


def test_a_self_signed_certificate(world: World, tmp_path: Any) -> None:
    files = world.authority.issue("unused")
    alone = ThrowawayAuthority(tmp_path)
    files.certificate_path.write_bytes(alone.trust_pem)
    files.key_path.write_bytes(alone._issuer.key_pem())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(files.certificate_path, files.key_path)
    initiator, responder = started(world.sensor.initiator(check_host=HOST), _channel(context, is_initiator=False))
    settle(initiator, responder)
    assert failure_of(initiator) == ("unknown_ca", "ours")
    assert failure_of(responder) == ("peer_refused_unknown_ca", "theirs")


@pytest.mark.parametrize("host", ["127.0.0.2", "manager.example", "::2"])
def test_a_certificate_for_another_host(world: World, host: str) -> None:
    initiator, responder = started(world.sensor.initiator(check_host=host), world.manager.responder())
    settle(initiator, responder)
    assert failure_of(initiator) == ("wrong_host", "ours")
    assert failure_of(responder) == ("peer_refused_certificate", "theirs")


def test_a_common_name_is_no_host(world: World) -> None:
    """A certificate with an identity whose common name is the dialled host, and no host in its subjectAltName."""
    named = load(world.authority.issue("localhost", hosts=()))
    initiator, responder = started(world.sensor.initiator(check_host="localhost"), named.responder())
    settle(initiator, responder)
    assert failure_of(initiator) == ("wrong_host", "ours")


@pytest.mark.parametrize(("usage", "is_client"), [(Usage.SERVER, True), (Usage.CLIENT, False)])
def test_a_certificate_for_another_use(world: World, usage: Usage, is_client: bool) -> None:
    wrong = load(world.authority.issue("wrong", usages=[usage]))
    if is_client:
        initiator, responder = started(wrong.initiator(check_host=HOST), world.manager.responder())
    else:
        initiator, responder = started(world.sensor.initiator(check_host=HOST), wrong.responder())
    settle(initiator, responder)
    judge, judged = (responder, initiator) if is_client else (initiator, responder)
    assert failure_of(judge) == ("bad_key_usage", "ours")
    assert failure_of(judged) == ("peer_refused_bad_key_usage", "theirs")


def test_a_certificate_without_usages_serves_both(world: World) -> None:
    node = load(world.authority.issue("free", usages=()))
    initiator, responder = started(node.initiator(check_host=HOST), node.responder())
    settle(initiator, responder)
    assert initiator.is_established
    assert responder.is_established


def test_an_issuer_that_may_not_issue(world: World, tmp_path: Any) -> None:
    false_authority = ThrowawayAuthority(tmp_path, is_ca=False)
    initiator, responder = started(
        _wrong(world, is_initiator=True, authority=false_authority),
        _wrong(world, is_initiator=False, trust=false_authority),
    )
    settle(initiator, responder)
    assert failure_of(responder) == ("certificate_invalid", "ours")
    assert failure_of(initiator) == ("peer_refused_unknown_ca", "theirs")


def test_an_authority_that_has_expired(world: World, tmp_path: Any) -> None:
    old = ThrowawayAuthority(tmp_path, not_before=NOW_UTC - 2 * DAY, not_after=NOW_UTC - DAY)
    initiator, responder = started(
        _wrong(world, is_initiator=True, authority=old, not_after=NOW_UTC + DAY),
        _wrong(world, is_initiator=False, trust=old),
    )
    settle(initiator, responder)
    assert failure_of(responder) == ("certificate_expired", "ours")


NO_IDENTITY = {
    "none": [],
    "another scheme": ["https://test/sensor-1"],
    "two": ["rapini://test/a", "rapini://test/b"],
    "a second in capitals": ["rapini://test/a", "RAPINI://test/b"],
    "malformed": ["rapini://test/a/b"],
    "role of another cluster": ["rapini://test/a", "rapini-role://elsewhere/manager"],
    "two roles": ["rapini://test/a", "rapini-role://test/x", "rapini-role://test/y"],
}


@pytest.mark.parametrize("case", list(NO_IDENTITY))
def test_a_certificate_that_does_not_name_one_node(world: World, case: str) -> None:
    """TLS has completed by then, so that the other side sees an orderly end in place of a greeting."""
    uris = NO_IDENTITY[case]
    initiator, responder = started(_wrong(world, is_initiator=True, uris=uris), world.manager.responder())
    settle(initiator, responder)
    assert failure_of(responder) == ("no_identity", "ours")
    completed, closed = initiator.outcomes()
    assert isinstance(completed, HandshakeCompleted)
    assert closed == ChannelClosed()

    initiator, responder = started(
        world.sensor.initiator(check_host=HOST), _wrong(world, is_initiator=False, uris=uris)
    )
    settle(initiator, responder)
    assert failure_of(initiator) == ("no_identity", "ours")
    assert responder.outcomes()[-1] == ChannelClosed()


def test_a_node_of_another_cluster_under_the_same_authority(world: World) -> None:
    foreign = load(world.authority.issue("sensor-1", cluster="elsewhere"))
    initiator, responder = started(foreign.initiator(check_host=HOST), world.manager.responder())
    settle(initiator, responder)
    assert failure_of(responder) == ("wrong_cluster", "ours")
    assert failure_of(initiator) == ("wrong_cluster", "ours")


def test_another_node_than_expected(world: World) -> None:
    initiator = world.sensor.initiator(check_host=HOST, expect_peer="logger")
    responder = world.manager.responder()
    settle(*started(initiator, responder))
    assert failure_of(initiator) == ("wrong_name", "ours")
    assert responder.outcomes()[-1] == ChannelClosed()


# --- peers that are not ours ---


def test_a_client_without_a_certificate(world: World) -> None:
    responder = world.manager.responder()
    responder.start(NOW)
    client = RawTls(raw_context(world, certificate=False))
    client.talk_to(responder)
    assert failure_of(responder) == ("no_certificate", "ours")
    assert client.error is not None
    assert failure_from_openssl(client.error).code == "peer_refused_no_certificate"


def test_a_client_without_a_certificate_is_refused_even_by_a_context_that_would_let_it_pass(world: World) -> None:
    lax = raw_context(world, server=True)
    lax.verify_mode = ssl.CERT_OPTIONAL
    responder = _channel(lax, is_initiator=False)
    responder.start(NOW)
    RawTls(raw_context(world, certificate=False)).talk_to(responder)
    assert failure_of(responder) == ("no_certificate", "ours")


@pytest.mark.filterwarnings("ignore:ssl.TLSVersion:DeprecationWarning")
def test_a_peer_that_knows_nothing_newer_than_tls_1_2(world: World) -> None:
    old = raw_context(world)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    responder = world.manager.responder()
    responder.start(NOW)
    client = RawTls(old)
    client.talk_to(responder)
    assert failure_of(responder) == ("protocol_version", "ours")
    assert client.error is not None
    assert client.error.reason == "TLSV1_ALERT_PROTOCOL_VERSION"

    old = raw_context(world, server=True)
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    initiator = world.sensor.initiator(check_host=HOST)
    initiator.start(NOW)
    RawTls(old, server=True).talk_to(initiator)
    assert failure_of(initiator) == ("peer_refused_protocol_version", "theirs")


@pytest.mark.parametrize("alpn", [None, "h2"])
def test_a_peer_that_speaks_something_else_inside_tls(world: World, alpn: str | None) -> None:
    responder = world.manager.responder()
    responder.start(NOW)
    RawTls(raw_context(world, alpn=alpn)).talk_to(responder)
    assert failure_of(responder) == ("not_rapini", "ours")

    initiator = world.sensor.initiator(check_host=HOST)
    initiator.start(NOW)
    RawTls(raw_context(world, server=True, alpn=alpn), server=True).talk_to(initiator)
    assert failure_of(initiator) == ("not_rapini", "ours")


def test_a_client_with_ciphers_of_its_own(world: World) -> None:
    initiator, responder = world.pair()
    hello = initiator.data_to_send()
    assert b"\x13\x02\x13\x03\x13\x01" in hello
    responder.receive(hello.replace(b"\x13\x02\x13\x03\x13\x01", b"\x13\xf2\x13\xf3\x13\xf1"), NOW)
    initiator.receive(responder.data_to_send(), NOW)
    assert failure_of(responder) == ("no_shared_cipher", "ours")
    assert failure_of(initiator) == ("peer_refused_cipher", "theirs")


@pytest.mark.parametrize("words", [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-OpenSSH_9\r\n", b"\x80\x2e\x01", b"RAPINI9\n"])
@pytest.mark.parametrize("step", [1, 100])
def test_a_peer_that_does_not_speak_tls(world: World, words: bytes, step: int) -> None:
    for channel in world.pair():
        channel.data_to_send()
        for i in range(0, len(words), step):
            channel.receive(words[i : i + step], NOW)
        assert failure_of(channel) == ("not_tls", "ours")
        assert channel.data_to_send() == b"", "whoever speaks no TLS understands no alert"


@pytest.mark.parametrize("step", [1, 100])
def test_a_plain_peer_dials_a_tls_endpoint(world: World, step: int) -> None:
    plain = PlainChannel(is_initiator=True, handshake_timeout_s=10)
    plain.start(NOW)
    responder = world.manager.responder()
    responder.start(NOW)
    opening = plain.data_to_send()
    assert opening == OPENING
    for i in range(0, len(opening), step):
        responder.receive(opening[i : i + step], NOW)
    assert failure_of(responder) == ("peer_is_plain", "ours")
    plain.receive(responder.data_to_send(), NOW)
    assert failure_of(plain) == ("peer_speaks_tls", "ours")


def test_a_tls_peer_dials_a_plain_endpoint(world: World) -> None:
    initiator = world.sensor.initiator(check_host=HOST)
    initiator.start(NOW)
    plain = PlainChannel(is_initiator=False, handshake_timeout_s=10)
    plain.start(NOW)
    plain.receive(initiator.data_to_send(), NOW)
    assert failure_of(plain) == ("peer_speaks_tls", "ours")
    initiator.transport_ended(NOW)
    assert failure_of(initiator) == ("closed_in_handshake", "theirs")


def test_an_alert_as_the_first_word_is_heard(world: World) -> None:
    initiator, _ = world.pair()
    initiator.receive(b"\x15\x03\x03\x00\x02\x02\x31", NOW)
    assert failure_of(initiator) == ("peer_refused_access", "theirs")


# --- too much ---


def _endless_hello() -> bytes:
    """The start of a ClientHello of 128 KiB in valid records: OpenSSL alone would wait for all of it."""
    message = b"\x01\x01\xff\xff" + bytes(MAX_HANDSHAKE_BYTES)
    bodies = [message[i : i + 8192] for i in range(0, len(message), 8192)]
    return b"".join(b"\x16\x03\x01" + len(body).to_bytes(2, "big") + body for body in bodies)


@pytest.mark.parametrize("step", [997, 8192, 10**6])
def test_a_handshake_without_end_is_cut_at_the_limit(world: World, step: int) -> None:
    responder = world.manager.responder()
    responder.start(NOW)
    stream = _endless_hello()
    assert len(stream) > MAX_HANDSHAKE_BYTES
    responder.receive(stream[:MAX_HANDSHAKE_BYTES], NOW)
    assert responder.outcomes() == [], "the limit itself may be reached"
    responder.receive(stream[MAX_HANDSHAKE_BYTES:][:1], NOW)
    assert failure_of(responder) == ("handshake_too_large", "ours")

    responder = world.manager.responder()
    responder.start(NOW)
    for i in range(0, len(stream), step):
        responder.receive(stream[i : i + step], NOW)
    assert failure_of(responder) == ("handshake_too_large", "ours")


# --- the old failures (requirements.md, finding 3) ---


def test_a_restarted_clients_hello_in_the_old_channel_ends_that_channel(world: World) -> None:
    _, responder = world.joined()
    restarted = world.sensor.initiator(check_host=HOST)
    restarted.start(NOW)
    responder.receive(restarted.data_to_send(), NOW)
    assert failure_of(responder) == ("unexpected_record", "ours")
    restarted.receive(responder.data_to_send(), NOW)
    assert restarted.is_closed, "it is told at once, and dials again"


def test_a_lost_record_ends_the_channel_before_anything_later_is_delivered(world: World) -> None:
    initiator, responder = world.joined()
    initiator.send(b"first")
    responder.receive(initiator.data_to_send(), NOW)
    initiator.send(b"lost")
    initiator.data_to_send()
    initiator.send(b"third")
    responder.receive(initiator.data_to_send(), NOW)
    received, failed = responder.outcomes()
    assert received.data == b"first"  # type: ignore[union-attr]
    assert isinstance(failed, ChannelFailed)
    assert (failed.code, failed.side) == ("record_damaged", Side.OURS)
    initiator.receive(responder.data_to_send(), NOW)
    assert failure_of(initiator) == ("peer_refused_damaged", "theirs")


def test_a_repeated_record_ends_the_channel(world: World) -> None:
    initiator, responder = world.joined()
    initiator.send(b"once")
    record = initiator.data_to_send()
    responder.receive(record + record, NOW)
    received, failed = responder.outcomes()
    assert received.data == b"once"  # type: ignore[union-attr]
    assert isinstance(failed, ChannelFailed)
    assert failed.code == "record_damaged"


# --- the table ---


def test_every_code_in_the_tables_has_its_sentence() -> None:
    used = {*reasons.REASONS.values(), *reasons.ALERTS.values(), *reasons.VERIFY_CODES.values()}
    assert used <= reasons.SENTENCES.keys()
    assert all(code.startswith("peer_refused") for code in reasons.ALERTS.values())
    assert not any(code.startswith("peer_refused") for code in reasons.REASONS.values())


def test_what_is_not_in_the_table_keeps_its_symbol_in_the_detail() -> None:
    error = ssl.SSLError(1, "text that nobody reads")
    error.reason = "SOMETHING_NEW"
    assert failure_from_openssl(error).code == "tls_failed"
    assert "SOMETHING_NEW" in failure_from_openssl(error).detail
    error.reason = "TLSV1_ALERT_SOMETHING_NEW"
    assert failure_from_openssl(error).code == "peer_refused"
    assert failure_from_openssl(OSError(5, "text")).code == "tls_failed"
