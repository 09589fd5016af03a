"""A throwaway certificate authority for tests: right certificates by default, wrong ones on demand.

Ships to users, who test programs with it; Rapini's own tests do too. Keys are born in the test's folder and die with
it: none is ever checked in (it would expire, and somebody would trust it).

    authority = ThrowawayAuthority(tmp_path)
    files = authority.issue("sensor-1", role="sensor")
    material = TlsMaterial.load(files.certificate_path, files.key_path, files.trust_path)

A second authority, to be refused by the first one's nodes, is a second `ThrowawayAuthority`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

from rapini.secure.authority import IssuedFiles, write_issued
from rapini.secure.certificates import BACKDATED, LeafForm, Usage, make_authority, make_leaf
from rapini.secure.identity import identity_uri, role_uri

__all__ = ["LOOPBACK", "IssuedFiles", "ThrowawayAuthority", "Usage"]

LOOPBACK = ("localhost", "127.0.0.1", "::1")
"""The hosts that a certificate names by default."""


class ThrowawayAuthority:
    """An authority for one test.

    Args:
        directory: An empty folder, such as pytest's `tmp_path`; each issued node gets a folder of its own in it.
        cluster: The cluster's name.
        not_before: First moment of the authority's own validity; by default five minutes ago.
        not_after: Last moment; by default in a day.
        is_ca: False: an authority whose certificate forbids it to issue.
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        cluster: str = "test",
        *,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        is_ca: bool = True,
    ) -> None:
        self.directory = Path(directory)
        self.cluster = cluster
        now = datetime.now(UTC)
        self._begins = not_before or now - BACKDATED
        self._ends = not_after or now + timedelta(days=1)
        self._issuer = make_authority(
            f"Throwaway authority of {cluster}", not_before=self._begins, not_after=self._ends, is_ca=is_ca
        )

    @property
    def trust_pem(self) -> bytes:
        """The trust anchor, PEM."""
        return self._issuer.certificate_pem()

    def issue(
        self,
        node: str,
        *,
        role: str | None = None,
        hosts: Sequence[str] = LOOPBACK,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
        uris: Sequence[str] | None = None,
        usages: Sequence[Usage] = (Usage.CLIENT, Usage.SERVER),
        cluster: str | None = None,
        trust: ThrowawayAuthority | None = None,
    ) -> IssuedFiles:
        """Issue a certificate and write it, its key and the trust anchor to a folder of their own.

        Args:
            node: The node's name.
            role: Its role.
            hosts: What it may be dialled as; ``()`` for none.
            not_before: First moment of validity; by default the authority's.
            not_after: Last moment; by default the authority's.
            uris: In place of the right subjectAltName URIs, for example ``[]`` for no identity at all.
            usages: Extended key usages; ``()`` for none (which permits all).
            cluster: In place of the authority's cluster, to be refused.
            trust: Whom this node trusts, if not its own authority.
        """
        if uris is None:
            named = cluster or self.cluster
            uris = [identity_uri(named, node)] + ([role_uri(named, role)] if role is not None else [])
        form = LeafForm(
            common_name=node,
            uris=uris,
            hosts=hosts,
            not_before=not_before or self._begins,
            not_after=not_after or self._ends,
            usages=usages,
        )
        issued = make_leaf(self._issuer, form)
        # Numbered, so that one test may issue the same node twice.
        number = sum(1 for _ in self.directory.glob("*/")) + 1
        trust_pem = (trust or self).trust_pem
        return write_issued(self.directory / f"{number}-{node}", node, issued, trust_pem)
