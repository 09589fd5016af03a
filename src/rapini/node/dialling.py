"""Attempts to reach endpoints: look the name up, try each address, wait, try again.

The part of `core` that dials; `dials` has what is known of one endpoint. Under the node's lock.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod

from rapini.errors import TransportError
from rapini.node.dials import Dial, DialState
from rapini.node.environment import Environment
from rapini.node.links import LinkRecord
from rapini.node.loop import Loop
from rapini.node.peers import Peers
from rapini.node.settings import NodeSettings
from rapini.node.status import PeerState, PeerStatus
from rapini.session.redial import Backoff, Reconnect, Redial
from rapini.transport import (
    Endpoint,
    Transport,
)
from rapini.transport.resolver import Resolved, ResolveFailed, Resolver

__all__ = ["Dialling"]

_log = logging.getLogger("rapini.node")


class Dialling(ABC):
    """What `Core` inherits; see there."""

    settings: NodeSettings
    environment: Environment
    loop: Loop
    lock: threading.RLock
    peers: Peers
    is_closing: bool
    _resolver: Resolver

    @abstractmethod
    def contain(self, record: LinkRecord, error: Exception, now: float) -> None:
        """An unexpected exception came of one connection."""

    @abstractmethod
    def service(self, record: LinkRecord, now: float) -> None:
        """Act on what a link reports."""

    @abstractmethod
    def transport(self, endpoint: Endpoint) -> Transport:
        """The node's transport of this kind."""

    def _dial_broken(self, dial: Dial, error: Exception, now: float) -> None:
        dial.addresses = []
        self._dial_failed(dial, "internal_error", f"a fault in this program: {type(error).__name__}", now)

    def dial(self, endpoint: Endpoint) -> Dial:
        """Begin to dial an endpoint."""
        settings = self.settings
        backoff = Backoff(
            first_s=settings.backoff_first_s, max_s=settings.backoff_max_s, rejected_s=settings.backoff_rejected_s
        )
        redial = Redial(backoff=backoff, policy=Reconnect(settings.reconnect), random=self.environment.random)
        dial = Dial(endpoint, redial)
        self.peers.dials.append(dial)
        self.loop.wake()
        return dial

    def forget_dial(self, dial: Dial) -> None:
        """Dial it no more, and end what has come of it so far."""
        if dial in self.peers.dials:
            self.peers.dials.remove(dial)
        dial.give_up()
        now = self.environment.clock()
        for record in [record for record in self.peers.records.values() if record.dial is dial]:
            try:
                record.link.abandon("forgotten", "nobody waits for it any more")
            except Exception as error:  # noqa: BLE001 - see `contain`
                self.contain(record, error, now)
            self.service(record, now)

    def _run_dials(self, now: float) -> None:
        if self.is_closing:
            return
        for dial in self.peers.dials:
            if dial.state is DialState.WAITING and dial.due_at is not None and dial.due_at <= now:
                self._attempt(dial)

    def _attempt(self, dial: Dial) -> None:
        dial.state = DialState.RESOLVING
        dial.due_at = None
        code, detail = dial.failure or ("", "")
        if dial.redial.attempts == 0 or code != dial.reported:
            dial.reported = code
            self._report_dial(dial, PeerState.CONNECTING, code, detail)

        def resolved(outcome: Resolved | ResolveFailed) -> None:
            with self.lock:
                try:
                    self._on_resolved(dial, outcome)
                except Exception as error:  # noqa: BLE001 - see `contain`
                    _log.error("%s: internal_error: this attempt has failed", dial.endpoint, exc_info=error)
                    self._dial_broken(dial, error, self.environment.clock())

        self._resolver.submit(dial.endpoint.host, dial.endpoint.port, resolved)

    def _on_resolved(self, dial: Dial, outcome: Resolved | ResolveFailed) -> None:
        if dial.state is not DialState.RESOLVING or self.is_closing:
            return
        now = self.environment.clock()
        if isinstance(outcome, ResolveFailed):
            self._dial_failed(dial, outcome.code, outcome.detail, now)
            return
        dial.addresses = list(outcome.addresses)
        self._dial_next_address(dial, now)

    def _dial_next_address(self, dial: Dial, now: float) -> None:
        try:
            connection = self.transport(dial.endpoint).dial(dial.endpoint, dial.addresses.pop(0))
        except TransportError as exc:
            self._dial_failed(dial, exc.code, str(exc), now)
            return
        connection.user = dial
        dial.state = DialState.CONNECTING
        self.loop.wake()

    def _dial_failed(self, dial: Dial, code: str, detail: str, now: float) -> None:
        if dial.addresses and not self.is_closing:
            self._dial_next_address(dial, now)  # a name with several addresses: the next one at once
            return
        dial.ended(now, code, detail, None, was_rejected=False)
        if dial.due_at is not None:
            self.loop.wake_before(dial.due_at)
        self.loop.changed.notify_all()

    def _report_dial(self, dial: Dial, state: PeerState, code: str = "", detail: str = "") -> None:
        status = PeerStatus(
            state=state,
            peer=dial.peer,
            code=code,
            detail=detail,
            endpoint=str(dial.endpoint),
            time=self.environment.wall(),
        )
        self.peers.reports.status(status)
