"""Makes a channel for each new connection, by the mechanism that its endpoint names. No fallback, ever.

A mechanism is fixed by both ends' configuration; a peer that speaks another fails with a code. `plain` has no secrecy
and no identity, so it is allowed on loopback, or when the operator said `insecure`.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Callable, Iterable
from pathlib import Path

from rapini.errors import ConfigError
from rapini.node.settings import NodeSettings
from rapini.secure.channel import Channel
from rapini.secure.envelope import EnvelopeGate, Mechanism
from rapini.secure.identity import PeerIdentity, check_name, is_denied
from rapini.secure.material import TlsMaterial
from rapini.secure.plain import PlainChannel
from rapini.transport import Endpoint

__all__ = ["ChannelFactory"]


class ChannelFactory:
    """Our own identity, and channels made with it.

    Args:
        name: The node's name; a certificate must be for it.
        settings: Where the keys are, whether `plain` is allowed.
        entropy: So many random bytes, for channel ids.

    Raises:
        ConfigError: A key file is not usable, or is for somebody else.
    """

    def __init__(self, name: str, settings: NodeSettings, entropy: Callable[[int], bytes] = os.urandom) -> None:
        check_name(name, what="node")
        self.cluster = settings.cluster
        self.role = settings.role
        self._name = name
        self._settings = settings
        self._entropy = entropy
        self._timeout_s = settings.handshake_timeout_s
        self._material = _load(name, settings, settings.denied)
        if self._material is not None:
            self.cluster = self._material.identity.cluster
            self.role = self._material.identity.role or ""

    def load_anew(self, denied: Iterable[str]) -> TlsMaterial:
        """Read the key files again; `replace` puts the result into force. Thread: any.

        Args:
            denied: The deny list, as in the setting.

        Raises:
            ConfigError: As the constructor, and `no_keys`; or `wrong_cluster`: nothing has changed then.
        """
        material = _load(self._name, self._settings, denied)
        if material is None:
            raise ConfigError("no_keys", "this node has no key files", remedy="make it with keys=FOLDER")
        if material.identity.cluster != self.cluster:
            detail = f"the certificate is of cluster {material.identity.cluster!r}, this node is of {self.cluster!r}"
            raise ConfigError("wrong_cluster", detail, remedy="use the right one, or make a new node")
        return material

    def replace(self, material: TlsMaterial) -> None:
        """Make all further channels with other material. Tickets of the old are gone, ours and those we issued."""
        if self._material is not None:
            self._material.retire()
        self._material = material
        self.role = material.identity.role or ""

    @property
    def denied(self) -> frozenset[str]:
        """The deny list in force."""
        return frozenset() if self._material is None else self._material.denied

    def denies(self, identity: PeerIdentity | None) -> bool:
        """Whether the deny list in force names this peer."""
        return identity is not None and is_denied(identity, self.denied)

    def check(self, endpoint: Endpoint) -> None:
        """Make sure that this endpoint may be used.

        Raises:
            ConfigError: `no_keys` or `insecure`.
        """
        if endpoint.mechanism == "tls" and self._material is None:
            raise ConfigError(
                "no_keys",
                f"{endpoint} needs a certificate",
                remedy="make keys with 'rapini ca init' and 'rapini ca issue', then give keys=FOLDER",
            )
        if endpoint.mechanism == "plain" and not self._settings.insecure and not _is_loopback(endpoint.host):
            raise ConfigError(
                "insecure",
                f"{endpoint} would cross the network in clear text",
                remedy=f"use {endpoint.transport}+tls://, or set insecure = true if you mean it",
            )

    def initiator(self, endpoint: Endpoint) -> Channel:
        """A channel for a connection that we made."""
        if endpoint.mechanism == "plain" or self._material is None:
            return PlainChannel(is_initiator=True, handshake_timeout_s=self._timeout_s)
        return self._material.initiator(
            check_host=endpoint.host, endpoint=str(endpoint), handshake_timeout_s=self._timeout_s
        )

    def responder(self, endpoint: Endpoint) -> Channel:
        """A channel for a connection that was made to us."""
        if endpoint.mechanism == "plain" or self._material is None:
            return PlainChannel(is_initiator=False, handshake_timeout_s=self._timeout_s)
        return self._material.responder(handshake_timeout_s=self._timeout_s)

    def gate(self, endpoint: Endpoint, *, is_initiator: bool) -> EnvelopeGate:
        """The envelope for a message-based connection."""
        if is_initiator:
            return EnvelopeGate.initiator(Mechanism[endpoint.mechanism.upper()], self._entropy(8))
        return EnvelopeGate.responder(Mechanism[endpoint.mechanism.upper()])


def _load(name: str, settings: NodeSettings, denied: Iterable[str]) -> TlsMaterial | None:
    if not (settings.keys or settings.certificate):
        return None
    folder = Path(settings.keys)
    material = TlsMaterial.load(
        settings.certificate or folder / f"{name}.crt",
        settings.key or folder / f"{name}.key",
        settings.trust or folder / "ca.crt",
        denied=denied,
        resume=settings.resume_tls,
    )
    if material.identity.node != name:
        raise ConfigError(
            "wrong_name",
            f"the certificate is for node {material.identity.node!r}, this node is {name!r}",
            where=str(settings.certificate or folder / f"{name}.crt"),
            remedy=f"run 'rapini ca issue' for {name}, or use the certificate's name",
        )
    return material


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
