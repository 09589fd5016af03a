"""Two channels joined in memory, and the certificates for it: what the tests of `rapini.secure` share."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rapini.secure.channel import Channel, ChannelFailed, DataReceived, HandshakeCompleted, Outcome
from rapini.secure.material import TlsMaterial
from rapini.secure.tls import TlsChannel
from rapini.testing.authority import IssuedFiles, ThrowawayAuthority

NOW = 1000.0
HOST = "127.0.0.1"


def load(files: IssuedFiles) -> TlsMaterial:
    return TlsMaterial.load(files.certificate_path, files.key_path, files.trust_path)


@dataclass
class World:
    """Authorities and two good nodes, made once for all tests."""

    directory: Path
    authority: ThrowawayAuthority = field(init=False)
    other: ThrowawayAuthority = field(init=False)
    sensor: TlsMaterial = field(init=False)
    manager: TlsMaterial = field(init=False)

    def __post_init__(self) -> None:
        self.authority = ThrowawayAuthority(self.directory / "authority")
        self.other = ThrowawayAuthority(self.directory / "other")
        self.sensor = load(self.authority.issue("sensor-1", role="sensor"))
        self.manager = load(self.authority.issue("manager"))

    def pair(self) -> tuple[TlsChannel, TlsChannel]:
        """An initiator and a responder, started."""
        return started(self.sensor.initiator(check_host=HOST), self.manager.responder())

    def joined(self) -> tuple[TlsChannel, TlsChannel]:
        """The same, with the handshake behind them and its outcomes taken."""
        initiator, responder = self.pair()
        settle(initiator, responder)
        for channel in (initiator, responder):
            (outcome,) = channel.outcomes()
            assert isinstance(outcome, HandshakeCompleted)
        return initiator, responder


def started(initiator: TlsChannel, responder: TlsChannel) -> tuple[TlsChannel, TlsChannel]:
    initiator.start(NOW)
    responder.start(NOW)
    return initiator, responder


def whole(data: bytes) -> list[bytes]:
    return [data]


def settle(a: Channel, b: Channel, cut: Callable[[bytes], Sequence[bytes]] = whole) -> None:
    """Carry bytes both ways until nobody has anything to say; `cut` says in which pieces."""
    for _ in range(100):
        from_a, from_b = a.data_to_send(), b.data_to_send()
        if not from_a and not from_b:
            return
        for piece in cut(from_a):
            b.receive(piece, NOW)
        for piece in cut(from_b):
            a.receive(piece, NOW)
    raise AssertionError("they never stop talking")


def data_of(outcomes: list[Outcome]) -> bytes:
    return b"".join(outcome.data for outcome in outcomes if isinstance(outcome, DataReceived))


def failure_of(channel: Channel) -> tuple[str, str]:
    """Code and side of the failure that must be the last outcome, after which the channel must be inert."""
    outcomes = channel.outcomes()
    assert outcomes, "nothing happened"
    last = outcomes[-1]
    assert isinstance(last, ChannelFailed), outcomes
    assert last.detail
    assert "\n" not in last.detail
    assert channel.is_closed
    assert not channel.is_established
    assert channel.next_timer() is None
    return last.code, last.side.value


class RawTls:
    """A peer that is not ours: the standard library's TLS over memory BIOs, with any context."""

    def __init__(self, context: ssl.SSLContext, *, server: bool = False) -> None:
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_side=server)
        self._is_done = False
        self.error: ssl.SSLError | None = None
        if not server:
            self.receive(b"")

    def receive(self, data: bytes) -> None:
        if data:
            self._incoming.write(data)
        try:
            if not self._is_done:
                self._tls.do_handshake()
                self._is_done = True
            self._tls.read()
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            self.error = error

    def data_to_send(self) -> bytes:
        return self._outgoing.read()

    def talk_to(self, channel: TlsChannel) -> None:
        for _ in range(20):
            ours, theirs = self.data_to_send(), channel.data_to_send()
            if not ours and not theirs:
                return
            if ours:
                channel.receive(ours, NOW)
            if theirs and self.error is None:
                self.receive(theirs)


def raw_context(
    world: World, *, server: bool = False, certificate: bool = True, alpn: str | None = "rapini/1"
) -> ssl.SSLContext:
    """A context that is right but for what the arguments take away."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server else ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    if alpn is not None:
        context.set_alpn_protocols([alpn])
    if certificate:
        files = world.authority.issue("stranger")
        context.load_cert_chain(files.certificate_path, files.key_path)
    return context
