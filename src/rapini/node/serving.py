"""The threads that serve requests: few, started as needed, fair between peers.

A handler may take its time, so it never runs on the I/O thread. Peers take turns: one that asks much and slowly delays
another by a request at a time, not by all of its own.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable

from rapini import limits
from rapini.threads import Thread

__all__ = ["Servants"]

_log = logging.getLogger("rapini.node")

Job = Callable[[], None]


class _Servant(Thread):
    """Does one job after the other."""

    def __init__(self, name: str, take: Callable[[], Job | None]) -> None:
        super().__init__(name)
        self._take = take

    def run(self) -> None:
        """Work until there will be nothing more."""
        while (job := self._take()) is not None:
            self.beat()
            try:
                job()
            except Exception:  # noqa: BLE001 - a job answers whatever its handler does: this fault is ours, and costs one
                _log.exception("serving a request failed")


class Servants:
    """A bounded pool of threads with a queue for each peer. Every method may be called from any thread.

    Args:
        name: The node's name, for the threads.
        size: How many threads at most.
    """

    def __init__(self, name: str, size: int) -> None:
        self._name = name
        self._size = size
        self._changed = threading.Condition()
        self._jobs: OrderedDict[str, deque[Job]] = OrderedDict()
        """By peer; whose turn it is stands first. No queue in it is empty."""
        self._waiting = self._idle = 0
        self._threads: list[_Servant] = []
        self._is_closed = False

    def put(self, peer: str, job: Job) -> bool:
        """Do a job when it is this peer's turn; false if too many wait already, or the pool is closed."""
        with self._changed:
            if self._is_closed or self._waiting >= limits.MAX_WAITING_REQUESTS:
                return False
            self._jobs.setdefault(peer, deque()).append(job)
            self._waiting += 1
            if self._idle < self._waiting and len(self._threads) < self._size:
                servant = _Servant(f"serve-{self._name}-{len(self._threads)}", self._take)
                self._threads.append(servant)
                servant.start()
            self._changed.notify()
            return True

    def _take(self) -> Job | None:
        with self._changed:
            self._idle += 1
            while not self._jobs and not self._is_closed:
                self._changed.wait()
            self._idle -= 1
            if not self._jobs:
                return None
            peer, jobs = self._jobs.popitem(last=False)
            self._waiting -= 1
            job = jobs.popleft()
            if jobs:
                self._jobs[peer] = jobs  # at the end: the others come first
            return job

    def close(self, timeout_s: float) -> bool:
        """Take no more; wait until what was put is done, and say whether it is.

        A handler that hangs is left behind on its daemon thread.
        """
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
            threads = list(self._threads)
        deadline = time.monotonic() + timeout_s
        return all(thread.wait_stop(deadline - time.monotonic()) for thread in threads)
