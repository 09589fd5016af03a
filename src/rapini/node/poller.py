"""The selector of a node's loop: the standard library's, with a shorter way back from the wait.

While events are few, each costs a whole turn on a processor that has done something else meanwhile, where every line of
Python takes three to four times as long as in a loop. What `selectors.EpollSelector` does between the kernel's answer
and ours, and again before the next wait, is a tenth of what we add to the delay of an event.

Where there is no epoll, `make_poller` gives the standard library's choice.
"""

from __future__ import annotations

import os
import select
import selectors
import sys
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from _typeshed import FileDescriptorLike

__all__ = ["make_poller"]

_MAX_READY: Final = 64
"""Of one wait. What else is ready is reported by the next: the kernel goes round."""


def make_poller() -> selectors.BaseSelector:
    """The best selector that this system has."""
    return EpollPoller() if sys.platform == "linux" else selectors.DefaultSelector()


if sys.platform == "linux":

    class EpollPoller(selectors.EpollSelector):
        """An `EpollSelector` whose `select` does less in Python. Thread: one waits, any registers, as with its base."""

        def __init__(self) -> None:
            super().__init__()
            self._keys: dict[int, selectors.SelectorKey] = {}
            # A second descriptor of the same epoll: the base keeps its own to itself.
            self._epoll = select.epoll.fromfd(os.dup(self.fileno()))

        def register(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
            """See `selectors.BaseSelector.register`."""
            key = self._keys[self._number(fileobj)] = super().register(fileobj, events, data)
            return key

        def unregister(self, fileobj: FileDescriptorLike) -> selectors.SelectorKey:
            """See `selectors.BaseSelector.unregister`."""
            key = super().unregister(fileobj)
            del self._keys[key.fd]
            return key

        def modify(self, fileobj: FileDescriptorLike, events: int, data: Any = None) -> selectors.SelectorKey:
            """See `selectors.BaseSelector.modify`."""
            key = super().modify(fileobj, events, data)
            self._keys[key.fd] = key
            return key

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """See `selectors.BaseSelector.select`; `timeout` in seconds, rounded up to milliseconds."""
            keys = self._keys
            ready: list[tuple[selectors.SelectorKey, int]] = []
            for fd, event in self._epoll.poll(timeout, _MAX_READY):
                key = keys.get(fd)
                if key is not None:
                    ready.append((key, selectors.EVENT_READ if event == select.EPOLLIN else _mask(event) & key.events))
            return ready

        def close(self) -> None:
            """See `selectors.BaseSelector.close`."""
            self._epoll.close()
            super().close()

        @staticmethod
        def _number(fileobj: FileDescriptorLike) -> int:
            return fileobj if isinstance(fileobj, int) else fileobj.fileno()

    def _mask(event: int) -> int:
        """Errors and hang-ups make a descriptor ready for everything, as `selectors` has it."""
        reading = selectors.EVENT_READ if event & ~select.EPOLLOUT else 0
        return reading | (selectors.EVENT_WRITE if event & ~select.EPOLLIN else 0)
