"""Asks the application whether a verified peer may come in, on a thread of its own.

The hook sees who the peer proved to be before a single byte of it reaches the application, and it fails closed: only
`True` admits; an exception, `None`, a truthy something else or no answer in time all deny (pyOpenSSL's CVE-2026-27448
was a callback whose exception let the handshake proceed). A slow hook delays other admissions, nothing else.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable

from rapini.node.status import PeerInfo

__all__ = ["Admission"]

_log = logging.getLogger("rapini.node")

Verdict = Callable[[bool, str], None]


class Admission:
    """Runs the hook, one peer after the other.

    Args:
        hook: The application's; `None` admits every verified peer.
        name: The node's name, for the thread.
    """

    def __init__(self, hook: Callable[[PeerInfo], bool] | None, name: str) -> None:
        self._hook = hook
        self._name = name
        self._waiting: queue.SimpleQueue[tuple[PeerInfo, Verdict] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def ask(self, peer: PeerInfo, verdict: Verdict) -> None:
        """Ask about a peer; `verdict(is_admitted, why_not)` is called at once without a hook, else on its thread."""
        if self._hook is None:
            verdict(True, "")
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name=f"rapini-admission-{self._name}", daemon=True)
            self._thread.start()
        self._waiting.put((peer, verdict))

    def stop(self) -> None:
        """Ask no more."""
        self._waiting.put(None)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            peer, verdict = item
            verdict(*self._judge(peer))

    def _judge(self, peer: PeerInfo) -> tuple[bool, str]:
        if self._hook is None:
            return True, ""
        try:
            answer = self._hook(peer)
        except Exception:  # noqa: BLE001 - whatever the hook raises, the answer is no
            _log.exception("the admission hook failed for %s: denied", peer.name)
            return False, "the admission hook failed"
        if answer is True:
            return True, ""
        return False, "denied by the admission hook"
