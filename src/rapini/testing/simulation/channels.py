"""Channels of the simulation: plain, or plain with a name that counts as proven.

TLS would cost most of a run's time and its keys are not a seed's to choose, so what TLS gives a session, a verified
name, comes from a certificate in clear text here: `AttestedChannel` is a `PlainChannel` whose opening is followed by
who each side is. The initiator's is answered, so the responder knows first; with TLS it is the other way round, and
sessions must stand both. Nobody in a simulation lies.

Being clear text, what crosses can be judged: nothing ordinary is sent before both sides have said `Ready`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rapini.node.channels import ChannelFactory
from rapini.node.settings import NodeSettings
from rapini.secure.channel import Buffer, Channel, DataReceived, HandshakeCompleted, Outcome
from rapini.secure.identity import PeerIdentity
from rapini.secure.plain import PlainChannel
from rapini.session.messages import FrameKind
from rapini.testing.simulation.violation import Violation
from rapini.transport import Endpoint

__all__ = ["AttestedChannel", "SimChannels", "WatchedChannel"]

_NAME_BYTES: Final = 16
_KIND_AT: Final = 4
_READY: Final = int(FrameKind.READY)
_ORDINARY: Final = frozenset(map(int, (FrameKind.EVENTS, FrameKind.GAP, FrameKind.DURABLE)))


class WatchedChannel(PlainChannel):
    """A plain channel that sees to it that nothing ordinary crosses before both sides are `Ready`."""

    def __init__(self, *, is_initiator: bool, handshake_timeout_s: float) -> None:
        super().__init__(is_initiator=is_initiator, handshake_timeout_s=handshake_timeout_s)
        self._is_ready_said = self._is_ready_heard = False
        self._uncut = b""

    def send(self, plaintext: Buffer) -> None:
        """Queue a frame."""
        kind = plaintext[_KIND_AT]
        if kind in _ORDINARY and not (self._is_ready_said and self._is_ready_heard):
            raise Violation("nothing ordinary before both Ready", f"a frame of kind {FrameKind(kind).name} is sent")
        if kind == _READY:
            self._is_ready_said = True
        super().send(plaintext)

    def outcomes(self) -> list[Outcome]:
        """Take what happened since the last call, in order."""
        happened = self.heard()
        if not self._is_ready_heard:
            for outcome in happened:
                if isinstance(outcome, DataReceived):
                    self._look_for_ready(outcome.data)
        return happened

    def heard(self) -> list[Outcome]:
        """What the channel has for its link."""
        return super().outcomes()

    def _look_for_ready(self, data: bytes) -> None:
        self._uncut += data
        while len(self._uncut) > _KIND_AT:
            end = _KIND_AT + int.from_bytes(self._uncut[:_KIND_AT], "big")
            if len(self._uncut) < end:
                return
            kind, self._uncut = self._uncut[_KIND_AT], self._uncut[end:]
            if kind == _READY:
                self._is_ready_heard = True
                self._uncut = b""
                return
            if kind in _ORDINARY:
                raise Violation("nothing ordinary before both Ready", f"{FrameKind(kind).name} came before Ready")


class AttestedChannel(WatchedChannel):
    """A plain channel on which each side first says who it is, and is believed.

    Args:
        node: Our name.
        cluster: Ours, and the peer's.
        is_initiator: Whether we dialled.
        handshake_timeout_s: As `PlainChannel`.
    """

    mechanism = "plain"

    def __init__(self, node: str, cluster: str, *, is_initiator: bool, handshake_timeout_s: float) -> None:
        super().__init__(is_initiator=is_initiator, handshake_timeout_s=handshake_timeout_s)
        self._node = node
        self._cluster = cluster
        self._heard = b""
        self._is_known = False
        self._has_said = False
        self._opened: HandshakeCompleted | None = None

    @property
    def is_established(self) -> bool:
        """Whether `send` is allowed now."""
        return self._is_known and super().is_established

    def heard(self) -> list[Outcome]:
        """What the channel has for its link."""
        happened = super().heard()
        if self._is_known:
            return happened
        told: list[Outcome] = []
        for outcome in happened:
            told += self._judge(outcome)
        return told

    def receive(self, data: Buffer, now: float) -> None:
        """Feed what arrived from the peer."""
        super().receive(data, now)
        if super().is_established and not self._has_said:
            self._has_said = True
            self._pending.append(self._node.encode().ljust(_NAME_BYTES, b"\0"))

    def _judge(self, outcome: Outcome) -> list[Outcome]:
        if isinstance(outcome, HandshakeCompleted):
            self._opened = outcome
            return []
        if self._is_known or not isinstance(outcome, DataReceived):
            return [outcome]
        self._heard += outcome.data
        if len(self._heard) < _NAME_BYTES:
            return []
        node, rest = self._heard[:_NAME_BYTES].rstrip(b"\0").decode(), self._heard[_NAME_BYTES:]
        self._is_known = True
        identity = PeerIdentity(
            cluster=self._cluster,
            node=node,
            role=None,
            fingerprint_sha256="",
            not_after=None,
            mechanism="attested",
        )
        told: list[Outcome] = [HandshakeCompleted(identity=identity, cipher="none", version="attested 1")]
        if rest:
            told.append(DataReceived(data=rest))
        return told


class SimChannels(ChannelFactory):
    """Makes the channels of one simulated node.

    Args:
        name: The node's.
        settings: Its settings.
        entropy: Random bytes.
        is_attested: Whether names count as proven.
    """

    def __init__(
        self, name: str, settings: NodeSettings, entropy: Callable[[int], bytes], *, is_attested: bool
    ) -> None:
        super().__init__(name, settings, entropy)
        self._name = name
        self._is_attested = is_attested

    def initiator(self, endpoint: Endpoint) -> Channel:
        """A channel for a connection that we made."""
        return self._make(endpoint, is_initiator=True)

    def responder(self, endpoint: Endpoint) -> Channel:
        """A channel for a connection that was made to us."""
        return self._make(endpoint, is_initiator=False)

    def _make(self, endpoint: Endpoint, *, is_initiator: bool) -> Channel:
        if not self._is_attested:
            return WatchedChannel(is_initiator=is_initiator, handshake_timeout_s=self._timeout_s)
        return AttestedChannel(self._name, self.cluster, is_initiator=is_initiator, handshake_timeout_s=self._timeout_s)
