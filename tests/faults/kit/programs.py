"""Child processes that the nemesis may kill: the same program, started anew as its next life."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Self

from tests.programs.child import Child

__all__ = ["Restartable"]


class Restartable:
    """A child in its present life; satisfies `tests.faults.kit.nemesis.Victim`.

    Args:
        start: Starts it; told which life it is, from 1.
    """

    def __init__(self, start: Callable[[int], Child]) -> None:
        self._start = start
        self.life = 1
        self.child = start(1)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.child.end()

    def kill(self) -> None:
        """SIGKILL it, and wait until the kernel has closed its files and sockets."""
        self.child.end()

    def restart(self) -> None:
        """Start its next life."""
        self.life += 1
        self.child = self._start(self.life)

    def freeze(self) -> float:
        """SIGSTOP it; returns when (monotonic)."""
        return self.child.freeze()

    def thaw(self) -> None:
        """SIGCONT it."""
        self.child.thaw()
