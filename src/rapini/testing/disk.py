"""A disk in memory that can lose power: what is left is chosen among everything that a real one could have kept.

It is a `rapini.storage.FileSystem`. The rules are the pessimistic reading of POSIX that ALICE uses (Pillai et al., "All
File Systems Are Not Created Equal", OSDI 2014): a write is on the disk only after `sync` of its file, a name only after
`sync_folder`. Until then each may have got there or not, in any order, and a write in part, page by page.

`crash(random)` answers with the disk as it might be found afterwards; the one it is asked of goes on unharmed, so a
test can ask after every single operation (`on_operation`), several times. Faults are planted by number of calls, or by
space (`free_bytes`). A failed `sync` behaves as Linux does: the pages count as clean, are still read, and never reach
the disk.
"""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Final

__all__ = ["CrashableDisk"]

_PAGE_BYTES: Final = 512
"""What a disk writes whole: a sector."""


class _File:
    """Contents as they are read, and as the disk has them, with the changes in between."""

    def __init__(self, durable: bytes = b"") -> None:
        self.seen = bytearray(durable)
        self.durable = bytearray(durable)
        self.unsynced: list[tuple[int, bytes | None]] = []  # (offset, data), or (size, None) for a truncation
        self.lock_holder: int | None = None

    def change(self, offset: int, data: bytes | None) -> None:
        _apply(self.seen, offset, data)
        self.unsynced.append((offset, data))

    def after_crash(self, random: Random, odds: float) -> _File:
        contents = bytearray(self.durable)
        changes = list(self.unsynced)
        if random.random() < 0.5:
            random.shuffle(changes)
        for offset, data in changes:
            if data is None:
                if random.random() < odds:
                    _apply(contents, offset, None)
                continue
            for at in _page_starts(offset, len(data)):
                if random.random() < odds:
                    end = min((at // _PAGE_BYTES + 1) * _PAGE_BYTES, offset + len(data))
                    _apply(contents, at, data[at - offset : end - offset])
        return _File(bytes(contents))


def _page_starts(offset: int, length: int) -> list[int]:
    first = (offset // _PAGE_BYTES + 1) * _PAGE_BYTES
    return [offset, *range(first, offset + length, _PAGE_BYTES)] if length else []


def _apply(contents: bytearray, offset: int, data: bytes | None) -> None:
    if data is None:
        if len(contents) > offset:
            del contents[offset:]
        else:
            contents.extend(bytes(offset - len(contents)))
        return
    if len(contents) < offset:
        contents.extend(bytes(offset - len(contents)))
    contents[offset : offset + len(data)] = data


class CrashableDisk:
    """Files in memory. Folders are there as soon as they are named. Thread: one at a time.

    Args:
        free_bytes: Room for contents; `None` for as much as there is memory.
    """

    def __init__(self, free_bytes: int | None = None) -> None:
        self.free_bytes = free_bytes
        self.on_operation: Callable[[str], None] = lambda _: None
        """Called after every operation that changes something, with its name and its file's."""
        self.fail_sync: Callable[[str], bool] = lambda _: False
        """Whether the `sync` of the file (or folder) with this name is to fail."""
        self.operations = 0
        self._names: dict[Path, _File] = {}
        self._durable_names: dict[Path, _File] = {}
        self._unsynced: list[tuple[Path, Path | None, _File | None]] = []  # (name, former name, file or None)
        self._open: dict[int, tuple[Path, _File]] = {}
        self._next_handle = 1000

    # --- For tests -----------------------------------------------------------------------------------------------

    def crash(self, random: Random, *, odds: float | None = None) -> CrashableDisk:
        """The disk as it might be after the power failed now.

        Args:
            random: Chooses.
            odds: The chance for each unsynced change to have got there; 0 and 1 are the two extremes.
        """
        odds = random.choice((0.0, 0.2, 0.5, 0.8, 1.0)) if odds is None else odds
        names = dict(self._durable_names)
        for name, former, file in self._unsynced:
            if random.random() >= odds:
                continue
            if former is not None:
                names.pop(former, None)
            if file is None:
                names.pop(name, None)
            else:
                names[name] = file
        left = CrashableDisk(self.free_bytes)
        survivors = {id(file): file.after_crash(random, odds) for file in names.values()}
        left._names = {name: survivors[id(file)] for name, file in names.items()}
        left._durable_names = dict(left._names)
        return left

    def kill(self) -> CrashableDisk:
        """The disk as another process finds it when this one is killed: all that was written, synced or not."""
        left = CrashableDisk(self.free_bytes)
        copies: dict[int, _File] = {}
        for file in [*self._names.values(), *self._durable_names.values(), *(f for _, _, f in self._unsynced if f)]:
            copy = copies.setdefault(id(file), _File())
            copy.seen[:], copy.durable[:], copy.unsynced = file.seen, file.durable, list(file.unsynced)
        left._names = {name: copies[id(file)] for name, file in self._names.items()}
        left._durable_names = {name: copies[id(file)] for name, file in self._durable_names.items()}
        left._unsynced = [(new, old, copies[id(file)] if file else None) for new, old, file in self._unsynced]
        return left

    def paths(self) -> list[Path]:
        """All files, sorted."""
        return sorted(self._names)

    def contents(self, path: Path) -> bytes:
        """What a file has."""
        return bytes(self._names[path].seen)

    def replace(self, path: Path, data: bytes) -> None:
        """Change a file behind everybody's back, durably: rot."""
        self._names[path].seen[:] = data
        self._names[path].durable[:] = data
        self._names[path].unsynced.clear()

    # --- FileSystem ----------------------------------------------------------------------------------------------

    def make_folder(self, path: Path) -> None:
        """Folders are there already."""

    def names(self, folder: Path) -> list[str]:
        """The names in a folder."""
        return [path.name for path in self._names if path.parent == folder]

    def create(self, path: Path) -> int:
        """Make a new file."""
        if path in self._names:
            raise FileExistsError(errno.EEXIST, "exists", str(path))
        self._use(0)
        file = _File()
        self._names[path] = file
        self._unsynced.append((path, None, file))
        self._done("create", path)
        return self._handle_of(path, file)

    def open(self, path: Path) -> int:
        """Open a file."""
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "missing", str(path))
        return self._handle_of(path, self._names[path])

    def close(self, handle: int) -> None:
        """Give a handle back, and its lock."""
        _, file = self._open.pop(handle)
        if file.lock_holder == handle:
            file.lock_holder = None

    def lock(self, handle: int) -> None:
        """Lock a file."""
        _, file = self._open[handle]
        if file.lock_holder not in {None, handle}:
            raise BlockingIOError(errno.EWOULDBLOCK, "locked")
        file.lock_holder = handle

    def size(self, handle: int) -> int:
        """The file's length."""
        return len(self._open[handle][1].seen)

    def read(self, handle: int, offset: int, length: int) -> bytes:
        """Read at a place."""
        return bytes(self._open[handle][1].seen[offset : offset + length])

    def write(self, handle: int, offset: int, data: bytes) -> int:
        """Write at a place: in part when there is not enough room for all."""
        path, file = self._open[handle]
        grows = max(offset + len(data) - len(file.seen), 0)
        if self.free_bytes is not None and grows > self.free_bytes:
            data = data[: len(data) - grows + self.free_bytes]
            if not data:
                raise OSError(errno.ENOSPC, "no space left")
            grows = self.free_bytes
        self._use(grows)
        file.change(offset, data)
        self._done("write", path)
        return len(data)

    def truncate(self, handle: int, size: int) -> None:
        """Cut the file."""
        path, file = self._open[handle]
        self._use(size - len(file.seen))
        file.change(size, None)
        self._done("truncate", path)

    def sync(self, handle: int) -> None:
        """Contents and length reach the disk; or fail to, for ever."""
        path, file = self._open[handle]
        if self.fail_sync(path.name):
            file.unsynced.clear()
            raise OSError(errno.EIO, "the disk does not answer")
        for offset, data in file.unsynced:
            _apply(file.durable, offset, data)
        file.unsynced.clear()
        self._done("sync", path)

    def rename(self, old: Path, new: Path) -> None:
        """Rename, atomically."""
        file = self._names.pop(old)
        self._release(self._names.get(new))
        self._names[new] = file
        self._unsynced.append((new, old, file))
        self._done("rename", new)

    def remove(self, path: Path) -> None:
        """Remove a name."""
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "missing", str(path))
        self._release(self._names.pop(path))
        self._unsynced.append((path, None, None))
        self._done("remove", path)

    def sync_folder(self, folder: Path) -> None:
        """The names reach the disk."""
        if self.fail_sync(folder.name):
            raise OSError(errno.EIO, "the disk does not answer")
        for name, former, file in self._unsynced:
            if former is not None:
                self._durable_names.pop(former, None)
            if file is None:
                self._durable_names.pop(name, None)
            else:
                self._durable_names[name] = file
        self._unsynced.clear()
        self._done("sync_folder", folder)

    def _handle_of(self, path: Path, file: _File) -> int:
        self._next_handle += 1
        self._open[self._next_handle] = (path, file)
        return self._next_handle

    def _use(self, size: int) -> None:
        if self.free_bytes is not None:
            self.free_bytes -= size

    def _release(self, file: _File | None) -> None:
        if file is not None:
            self._use(-len(file.seen))

    def _done(self, operation: str, path: Path) -> None:
        self.operations += 1
        self.on_operation(f"{operation} {path.name}")
