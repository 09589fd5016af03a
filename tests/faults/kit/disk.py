"""Bad disks: one that is small and can be filled while a process works on it, and files that are cut short or damaged.

A `SmallDisk` is a tmpfs in a mount namespace of its own, so that nothing else on the machine sees it and it is gone
when the test is. The namespace is held by a process that does nothing else: children enter it one after the other, so
the disk's content outlives their SIGKILLs as a real disk's does.
"""

from __future__ import annotations

import errno
import os
import random
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from tests.conftest import missing_component, require_component

__all__ = ["SmallDisk", "cut_short", "flip_bit"]

_BALLAST: Final = ".ballast"
_ENTER: Final = 'cd "$0" && exec "$@"'
_HOLD: Final = 'mount -t tmpfs -o "size=$1,mode=0700" tmpfs "$0" && echo ready && exec cat'


class SmallDisk:
    """A tmpfs of so many bytes at a folder, for the processes started by `command` alone. A context manager.

    Args:
        folder: An existing folder; inside, the disk lies over it.
        size_bytes: Its size, rounded up to whole pages by the kernel.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        if os.geteuid() != 0:
            missing_component("mounting a tmpfs needs root")
        for program in ("unshare", "nsenter", "mount"):
            require_component(program, hint="Debian packages util-linux and mount")
        self.folder = folder.resolve()
        self._holder = subprocess.Popen(
            ["unshare", "--mount", "sh", "-c", _HOLD, str(self.folder), str(size_bytes)],
            stdin=subprocess.PIPE,  # `cat` ends when we do
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            self.remove()
            raise OSError("the tmpfs was not mounted; see the message above")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.remove()

    @property
    def outside(self) -> Path:
        """The disk's root as the test's own process reaches it: to look at files, or to damage them."""
        return Path(f"/proc/{self._holder.pid}/root{self.folder}")

    def command(self, *command: str) -> list[str]:
        """A command as it is started with this disk; it keeps the working directory, and its process id is its own.

        To combine it with a network namespace, put that one outside: `host.command(*disk.command(...))`.
        """
        enter = ["nsenter", f"--mount=/proc/{self._holder.pid}/ns/mnt"]
        return [*enter, "sh", "-c", _ENTER, str(Path.cwd()), *command]

    def free_bytes(self) -> int:
        """What is free on it."""
        told = os.statvfs(self.outside)
        return told.f_bavail * told.f_frsize

    def fill(self, keep_bytes: int = 0) -> int:
        """Fill it but for so many bytes; returns how many were taken away. Whoever writes now gets `ENOSPC`."""
        taken = 0
        with (self.outside / _BALLAST).open("ab", buffering=0) as ballast:
            while (left := self.free_bytes() - keep_bytes) > 0:
                try:
                    taken += ballast.write(bytes(min(left, 1 << 20))) or 0
                except OSError as exc:
                    if exc.errno != errno.ENOSPC:
                        raise
                    break
        return taken

    def relieve(self) -> None:
        """Give back what `fill` took."""
        (self.outside / _BALLAST).unlink(missing_ok=True)

    def remove(self) -> None:
        """Let it go; it is gone when the last process on it has ended."""
        self._holder.kill()
        self._holder.wait(10)
        for stream in (self._holder.stdin, self._holder.stdout):
            if stream is not None:
                stream.close()


def cut_short(path: Path, seed: int, *, first: int = 0) -> int:
    """Truncate a file as a power cut in the middle of a write does.

    Args:
        path: The file.
        seed: Chooses the new size.
        first: The least that stays.

    Returns:
        The new size in bytes, less than before.
    """
    size = path.stat().st_size
    if size <= first:
        raise ValueError(f"{path.name} has {size} bytes: nothing to cut off after {first}")
    kept = random.Random(f"cut {seed}").randrange(first, size)
    os.truncate(path, kept)
    return kept


def flip_bit(path: Path, seed: int, *, first: int = 0, after: int | None = None) -> tuple[int, int]:
    """Flip one bit of a file in place, as a bad disk or bad memory does.

    Args:
        path: The file.
        seed: Chooses the bit.
        first: First byte that may be hit.
        after: First byte after those that may be hit; the file's size by default.

    Returns:
        The byte's offset, and the number of the bit in it from 0.
    """
    size = path.stat().st_size
    end = size if after is None else min(after, size)
    if end <= first:
        raise ValueError(f"{path.name} has no byte from {first} to {end}")
    chance = random.Random(f"flip {seed}")
    offset, bit = chance.randrange(first, end), chance.randrange(8)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1 << bit]))
    return offset, bit
