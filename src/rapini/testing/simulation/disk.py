"""A disk in memory that keeps what it promised and no more: for whatever stores something and must survive.

What POSIX promises is little. Written bytes are in the page cache: a killed process leaves them there, a power cut
takes them, unless `fsync` of that file came back before. A power cut leaves of each write since then all, nothing or a
part, in any order, and a file that grew may have zeros where data never arrived. A name (created, renamed, unlinked) is
certain once its folder was synced; before that a power cut may take the latest of them back, in order.

    disk = SimDisk(random)
    with disk.open("/spool/1", create=True) as file: ...
    disk.cut_at = 17            # the 17th change from now never returns: `PowerCut`, perhaps half done
    disk.power_cut()            # what a machine finds when it is on again

Paths are absolute and plain; folders come into being with their files. Source: fsync(2), rename(2), and T. S. Pillai et
al., "All File Systems Are Not Created Equal" (OSDI 2014), whose table of what may be lost this takes the worst row of.
"""

from __future__ import annotations

import errno
import posixpath
from random import Random
from types import TracebackType
from typing import Protocol, Self

__all__ = ["File", "FileSystem", "PowerCut", "SimDisk", "SimFile"]


class PowerCut(BaseException):
    """The power is gone in the middle of a call: it never returns. No `Exception`, so that nothing contains it."""


class File(Protocol):
    """An open file. Writes append; reads go anywhere."""

    def write(self, data: bytes) -> int:
        """Append; returns how many bytes were taken, all of them."""

    def read_at(self, offset: int, size: int) -> bytes:
        """Read without moving anything; shorter at the end."""

    def fsync(self) -> None:
        """Come back when everything written so far survives a power cut."""

    def truncate(self, size: int) -> None:
        """Cut the file to this size, or let it grow with zeros."""

    def size(self) -> int:
        """Its length in bytes."""

    def close(self) -> None:
        """Be done with it; promises nothing about the disk."""


class FileSystem(Protocol):
    """What a store needs of the operating system; `SimDisk` and a thin layer over `os` both have it."""

    def open(self, path: str, *, create: bool = False) -> File:
        """Open for reading and appending.

        Raises:
            FileNotFoundError: It is not there, and was not to be created.
        """

    def rename(self, source: str, target: str) -> None:
        """Give a file another name, replacing what had it."""

    def unlink(self, path: str) -> None:
        """Take a name away."""

    def listdir(self, folder: str) -> list[str]:
        """Names in a folder, sorted; empty if there is no such folder."""

    def sync_folder(self, folder: str) -> None:
        """Come back when the names in it survive a power cut."""


class _Inode:
    """A file's bytes: those that are safe, those in the page cache, and what changed between the two."""

    def __init__(self, safe: bytes = b"") -> None:
        self.safe = safe
        self.cached = bytearray(safe)
        self.changes: list[tuple[int, bytes] | int] = []
        """Writes as (offset, bytes), truncations as a size, since the last sync."""

    def after_power_cut(self, random: Random) -> bytes:
        """What the disk may hold: each change arrived, or did not, or in part."""
        data = bytearray(self.safe)
        for change in self.changes:
            if isinstance(change, int):
                if random.random() < 0.5:
                    _resize(data, change)
                continue
            offset, written = change
            kept = random.choice((0, len(written), random.randint(0, len(written))))
            grows = kept < len(written) and random.random() < 0.25  # the length arrived and the data did not
            if kept or grows:
                end = offset + (len(written) if grows else kept)
                _resize(data, max(len(data), end))
                data[offset : offset + kept] = written[:kept]
        return bytes(data)


class SimFile:
    """An open file of a `SimDisk`; see `File`."""

    def __init__(self, disk: SimDisk, inode: _Inode) -> None:
        self._disk = disk
        self._inode = inode
        self._is_open = True
        self._life = disk.lives

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def write(self, data: bytes) -> int:
        """See `File.write`."""
        self._check()
        offset = len(self._inode.cached)
        allowed = self._disk.take_room(len(data))
        part = self._disk.count_change(len(data))
        taken = bytes(data[:allowed] if part is None else data[: min(part, allowed)])
        if taken:
            self._inode.cached += taken
            self._inode.changes.append((offset, taken))
        if part is not None:
            raise PowerCut
        if allowed < len(data):
            raise OSError(errno.ENOSPC, "no space left on the simulated disk")
        return len(data)

    def read_at(self, offset: int, size: int) -> bytes:
        """See `File.read_at`."""
        self._check()
        return bytes(self._inode.cached[offset : offset + size])

    def fsync(self) -> None:
        """See `File.fsync`."""
        self._check()
        if self._disk.count_change(0) is not None:
            raise PowerCut
        self._disk.syncs += 1
        self._inode.safe = bytes(self._inode.cached)
        self._inode.changes.clear()

    def truncate(self, size: int) -> None:
        """See `File.truncate`."""
        self._check()
        if self._disk.count_change(0) is not None:
            raise PowerCut
        _resize(self._inode.cached, size)
        self._inode.changes.append(size)

    def size(self) -> int:
        """See `File.size`."""
        self._check()
        return len(self._inode.cached)

    def close(self) -> None:
        """See `File.close`."""
        self._is_open = False

    def _check(self) -> None:
        if not self._is_open or self._life != self._disk.lives:
            raise OSError(errno.EBADF, "the file is closed")


class SimDisk:
    """One machine's disk. See `FileSystem`.

    Args:
        random: Chance, for what a power cut leaves.
        capacity: Bytes that fit, over all files.
    """

    def __init__(self, random: Random, *, capacity: int = 1 << 40) -> None:
        self.capacity = capacity
        self.cut_at: int | None = None
        """The power is cut at so many changes (writes, syncs, renames, …) from now."""
        self.changes = 0
        """Changes so far."""
        self.syncs = 0
        self.lives = 0
        """Power cuts and kills so far: files that were open before are not any more."""
        self._random = random
        self._names: dict[str, _Inode] = {}
        self._safe_names: dict[str, _Inode] = {}
        self._pending: list[list[tuple[str, _Inode | None]]] = []
        """Names given and taken since their folder was synced, in order; what is atomic, together."""

    # -- the file system -----------------------------------------------------------------------------------------

    def open(self, path: str, *, create: bool = False) -> SimFile:
        """See `FileSystem.open`."""
        inode = self._names.get(path)
        if inode is None:
            if not create:
                raise FileNotFoundError(errno.ENOENT, "no such file on the simulated disk", path)
            self._count()
            inode = _Inode()
            self._give([(path, inode)])
        return SimFile(self, inode)

    def rename(self, source: str, target: str) -> None:
        """See `FileSystem.rename`: atomic, also in a power cut."""
        inode = self._find(source)
        self._count()
        self._give([(target, inode), (source, None)])

    def unlink(self, path: str) -> None:
        """See `FileSystem.unlink`."""
        self._find(path)
        self._count()
        self._give([(path, None)])

    def listdir(self, folder: str) -> list[str]:
        """See `FileSystem.listdir`."""
        return sorted(posixpath.basename(path) for path in self._names if posixpath.dirname(path) == folder)

    def sync_folder(self, folder: str) -> None:
        """See `FileSystem.sync_folder`."""
        self._count()
        kept: list[list[tuple[str, _Inode | None]]] = []
        for names in self._pending:
            if any(posixpath.dirname(path) == folder for path, _ in names):
                _set_all(self._safe_names, names)
            else:
                kept.append(names)
        self._pending = kept

    # -- faults --------------------------------------------------------------------------------------------------

    def kill(self) -> None:
        """The process is killed: its files are closed, and nothing is lost."""
        self.lives += 1

    def power_cut(self) -> None:
        """The machine loses power and is on again: what remains is what was synced, and chance."""
        self.kill()
        self.cut_at = None
        kept = self._random.randint(0, len(self._pending))
        for names in self._pending[:kept]:
            _set_all(self._safe_names, names)
        self._pending.clear()
        survivors: dict[_Inode, _Inode] = {}
        for inode in self._safe_names.values():
            if inode not in survivors:
                survivors[inode] = _Inode(inode.after_power_cut(self._random))
        self._names = {path: survivors[inode] for path, inode in self._safe_names.items()}
        self._safe_names = dict(self._names)

    def flip_bit(self, path: str, bit: int) -> None:
        """The disk rots: one bit of a file is another one."""
        inode = self._find(path)
        data = bytearray(inode.cached)
        data[bit // 8] ^= 1 << bit % 8
        inode.cached[:] = data
        inode.safe = bytes(data)
        inode.changes.clear()

    def used(self) -> int:
        """Bytes in all files."""
        return sum(len(inode.cached) for inode in set(self._names.values()))

    # -- for files -----------------------------------------------------------------------------------------------

    def take_room(self, size: int) -> int:
        """How many bytes of a write fit."""
        return size if self.used() + size <= self.capacity else max(0, self.capacity - self.used())

    def count_change(self, size: int) -> int | None:
        """Count a change; if the power is cut in it, how many of its bytes are still taken, else `None`."""
        self.changes += 1
        if self.cut_at is None:
            return None
        self.cut_at -= 1
        return self._random.randint(0, size) if self.cut_at <= 0 else None

    # -- inside --------------------------------------------------------------------------------------------------

    def _count(self) -> None:
        if self.count_change(0) is not None:
            raise PowerCut

    def _find(self, path: str) -> _Inode:
        inode = self._names.get(path)
        if inode is None:
            raise FileNotFoundError(errno.ENOENT, "no such file on the simulated disk", path)
        return inode

    def _give(self, names: list[tuple[str, _Inode | None]]) -> None:
        _set_all(self._names, names)
        self._pending.append(names)


def _set_all(held: dict[str, _Inode], names: list[tuple[str, _Inode | None]]) -> None:
    for path, inode in names:
        if inode is None:
            held.pop(path, None)
        else:
            held[path] = inode


def _resize(data: bytearray, size: int) -> None:
    if size < len(data):
        del data[size:]
    else:
        data.extend(bytes(size - len(data)))
