"""The few file operations that storage is built on, as a seam.

The lowest part of `storage`. `REAL` does them on the operating system. `rapini.testing.CrashableDisk` does them in
memory and can tell what would be left after a power cut, which is why the operations are so few and so plain: a write
is somewhere on the disk only after `sync` of its file, and a name is only after `sync_folder` of its folder.

All operations raise `OSError`, as the ones of the `os` module do.
"""

from __future__ import annotations

import errno
import fcntl
import os
from pathlib import Path
from typing import Final, Protocol

from rapini.errors import StoreError

__all__ = ["REAL", "FileSystem", "RealFiles", "read_file", "replace_file", "store_error", "write_all"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})


class FileSystem(Protocol):
    """What storage needs of a file system. Handles are numbers, as file descriptors are. Thread: any."""

    def make_folder(self, path: Path) -> None:
        """Make a folder, and those above it, where they are missing; return when they are on the disk."""

    def names(self, folder: Path) -> list[str]:
        """The names in a folder, in no particular order."""

    def create(self, path: Path) -> int:
        """Make a new file and open it for reading and writing; `FileExistsError` if there is one."""

    def open(self, path: Path) -> int:
        """Open a file for reading and writing."""

    def close(self, handle: int) -> None:
        """Give a handle back, with the lock it may hold."""

    def lock(self, handle: int) -> None:
        """Lock the file for this handle, until it is closed; `BlockingIOError` if another one has it."""

    def size(self, handle: int) -> int:
        """The file's length in bytes."""

    def read(self, handle: int, offset: int, length: int) -> bytes:
        """Up to `length` bytes; fewer at the end of the file."""

    def write(self, handle: int, offset: int, data: bytes) -> int:
        """Write some of `data`, at least one byte; return how many."""

    def truncate(self, handle: int, size: int) -> None:
        """Cut the file to `size` bytes."""

    def sync(self, handle: int) -> None:
        """Return when the file's contents and length are on the disk."""

    def rename(self, old: Path, new: Path) -> None:
        """Give a file another name, replacing what had it."""

    def remove(self, path: Path) -> None:
        """Remove a file's name."""

    def sync_folder(self, folder: Path) -> None:
        """Return when the folder's names are on the disk."""


class RealFiles:
    """The operating system's files. Thread: any."""

    def make_folder(self, path: Path) -> None:
        """Make a folder for this user alone: events may be nobody else's business."""
        if path.is_dir():
            return
        self.make_folder(path.parent)
        path.mkdir(mode=0o700, exist_ok=True)
        self.sync_folder(path.parent)

    def names(self, folder: Path) -> list[str]:
        """The names in a folder."""
        return os.listdir(folder)  # noqa: PTH208 - names, not paths

    def create(self, path: Path) -> int:
        """Make a new file."""
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)

    def open(self, path: Path) -> int:
        """Open a file."""
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)

    def close(self, handle: int) -> None:
        """Give a handle back."""
        os.close(handle)

    def lock(self, handle: int) -> None:
        """Lock with flock(2): it belongs to the handle, so a second opener in this process is refused as well."""
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)

    def size(self, handle: int) -> int:
        """The file's length."""
        return os.fstat(handle).st_size

    def read(self, handle: int, offset: int, length: int) -> bytes:
        """Read at a place."""
        return os.pread(handle, length, offset)

    def write(self, handle: int, offset: int, data: bytes) -> int:
        """Write at a place."""
        return os.pwrite(handle, data, offset)

    def truncate(self, handle: int, size: int) -> None:
        """Cut the file."""
        os.ftruncate(handle, size)

    def sync(self, handle: int) -> None:
        """fdatasync(2): contents and length, not the times, which would cost a second write to the journal."""
        os.fdatasync(handle)

    def rename(self, old: Path, new: Path) -> None:
        """Rename, atomically."""
        old.replace(new)

    def remove(self, path: Path) -> None:
        """Remove a name."""
        path.unlink()

    def sync_folder(self, folder: Path) -> None:
        """Fsync the folder."""
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


REAL: Final = RealFiles()


def store_error(error: OSError, code: str, doing: str, path: Path) -> StoreError:
    """The `StoreError` for an `OSError`; `disk_full` whatever `code` is when that is why."""
    if error.errno in _FULL:
        text, remedy = f"no space left on the disk while {doing}", "free some space there"
        return StoreError("disk_full", text, path=str(path), remedy=remedy)
    return StoreError(code, f"{doing} failed: {error.strerror or error}", path=str(path))


def write_all(files: FileSystem, handle: int, offset: int, data: bytes) -> None:
    """Write all of `data`, however many calls it takes."""
    written = files.write(handle, offset, data)
    while written < len(data):
        more = files.write(handle, offset + written, data[written:])
        if more <= 0:
            raise OSError(errno.EIO, "the write made no progress")
        written += more


def read_file(files: FileSystem, path: Path, max_bytes: int) -> bytes | None:
    """A whole small file, or `None` if there is none.

    Raises:
        OSError: It cannot be read, or has more than `max_bytes`.
    """
    try:
        handle = files.open(path)
    except FileNotFoundError:
        return None
    try:
        size = files.size(handle)
        if size > max_bytes:
            raise OSError(errno.EFBIG, f"larger than {max_bytes} bytes")
        return files.read(handle, 0, size)
    finally:
        files.close(handle)


def replace_file(files: FileSystem, path: Path, data: bytes) -> None:
    """Replace a whole small file so that, whenever the power fails, either the old or the new one is there.

    It is the new one for certain after a `sync_folder`, which is left to the caller.

    A new file each time: after a failed fsync nothing can be said of the old one's pages, and a new one has none.
    """
    new = path.with_name(path.name + ".new")
    try:
        files.remove(new)  # what an earlier attempt left
    except FileNotFoundError:
        pass
    handle = files.create(new)
    try:
        write_all(files, handle, 0, data)
        files.sync(handle)
    except OSError:
        try:
            files.remove(new)
        except OSError:
            pass
        raise
    finally:
        files.close(handle)
    files.rename(new, path)
