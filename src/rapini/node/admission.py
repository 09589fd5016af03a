"""Asks the application whether a verified peer may come in, on threads of its own.

The hook sees who the peer proved to be before a single byte of it reaches the application, and it fails closed: only
`True` admits; an exception, `None`, a truthy something else or no answer in time all deny (pyOpenSSL's CVE-2026-27448
was a callback whose exception let the handshake proceed). A slow answer delays that peer alone, as long as no more than
`MAX_THREADS` are slow at a time; the others wait their turn.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Final

from rapini.node.status import PeerInfo

__all__ = ["Admission"]

_log = logging.getLogger("rapini.node")

MAX_THREADS: Final = 8
"""Hooks that run at a time; started as needed."""

Verdict = Callable[[bool, str], None]
StillWanted = Callable[[], bool]


class Admission:
    """Runs the hook, for several peers at a time if it is slow.

    Args:
        hook: The application's; `None` admits every verified peer.
        name: The node's name, for the threads.
    """

    def __init__(self, hook: Callable[[PeerInfo], bool] | None, name: str) -> None:
        self._hook = hook
        self._name = name
        self._waiting: queue.SimpleQueue[tuple[PeerInfo, Verdict, StillWanted] | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._threads = 0
        self._unanswered = 0

    def ask(self, peer: PeerInfo, verdict: Verdict, is_wanted: StillWanted = lambda: True) -> None:
        """Ask about a peer; `verdict(is_admitted, why_not)` is called at once without a hook, else on a thread.

        Nobody is asked once `is_wanted` says no: a peer that comes and goes must not make the others wait.
        """
        if self._hook is None:
            verdict(True, "")
            return
        with self._lock:
            self._unanswered += 1
            is_short = self._threads < min(self._unanswered, MAX_THREADS)
            self._threads += is_short
        self._waiting.put((peer, verdict, is_wanted))
        if is_short:
            threading.Thread(target=self._run, name=f"rapini-admission-{self._name}", daemon=True).start()

    def stop(self) -> None:
        """Ask no more. A hook that is running is left to end; its answer comes too late to matter."""
        for _ in range(MAX_THREADS):
            self._waiting.put(None)

    def _run(self) -> None:
        while (item := self._waiting.get()) is not None:
            peer, verdict, is_wanted = item
            answer = self._judge(peer) if is_wanted() else (False, "it is gone")
            with self._lock:
                self._unanswered -= 1
            verdict(*answer)

    def _judge(self, peer: PeerInfo) -> tuple[bool, str]:
        if self._hook is None:
            return True, ""
        try:
            answer = self._hook(peer)
        except BaseException:  # noqa: BLE001 - whatever the hook raises, SystemExit included, the answer is no
            _log.exception("the admission hook failed for %s: denied", peer.name)
            return False, "the admission hook failed"
        if answer is True:
            return True, ""
        return False, "denied by the admission hook"
