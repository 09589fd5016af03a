"""Where reliable events wait on disk when memory has no room for them: bounded, and gone with the process.

A `rapini.session.flow.Spill` for all peers of a node. What is spilled is owed within the life of this process alone, so
nothing is synced, and the files have no name: the operating system removes them with the process, however it ends.
They are used in order, nearly: each file is given back when the last of what was written to it was taken.
"""

from __future__ import annotations

import errno
import logging
import os
import tempfile
from pathlib import Path
from typing import IO, Final

from rapini.errors import StoreError

__all__ = ["SpillFiles"]

_log = logging.getLogger("rapini.storage")

_FILE_BYTES: Final = 16 * 1024 * 1024


class _File:
    """One file without a name."""

    __slots__ = ("live", "size", "stream")

    def __init__(self, folder: Path) -> None:
        self.stream: IO[bytes] = tempfile.TemporaryFile(  # noqa: SIM115 - it lives as long as this object
            dir=folder, prefix="rapini-spill-", buffering=0
        )
        self.size = 0
        self.live = 0
        """Pieces in it that were not discarded."""


class SpillFiles:
    """Pieces of bytes on disk. Thread: the owner's.

    Args:
        folder: On the disk to use; made if it is not there.
        max_bytes: Bound on what is kept, all peers together. Files are given back whole, so the disk may hold up to
            two files' size (32 MiB) more.

    Raises:
        StoreError: `unreadable`: no file can be made there.
    """

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self.kept_bytes = 0
        self.is_failing = False
        """Whether the last write failed; another is tried with the next piece."""
        self._folder = folder
        self._pieces: dict[int, tuple[_File, int, int]] = {}
        self._next_token = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = _File(folder)
        except OSError as error:
            detail = f"events cannot be spilled here: {error.strerror}"
            remedy = "give a folder that can be written"
            raise StoreError("unreadable", detail, path=str(folder), remedy=remedy) from error

    def has_room(self, size: int) -> bool:
        """Whether so many bytes would be taken."""
        return self.kept_bytes + size <= self.max_bytes

    def put(self, data: bytes) -> int | None:
        """Keep some bytes; returns what `get` and `discard` want, or `None` if the disk did not take them."""
        try:
            if self._file.size >= _FILE_BYTES:
                self._begin()
            file, offset = self._file, self._file.size
            written = os.pwrite(file.stream.fileno(), data, offset)
            if written != len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            if not self.is_failing:
                _log.error("%s: events cannot be spilled: %s", self._folder, error)
            self.is_failing = True
            return None
        self.is_failing = False
        file.size += len(data)
        file.live += 1
        token = self._next_token
        self._next_token += 1
        self._pieces[token] = (file, offset, len(data))
        self.kept_bytes += len(data)
        return token

    def _begin(self) -> None:
        file, self._file = self._file, _File(self._folder)
        if not file.live:
            file.stream.close()

    def get(self, token: int) -> bytes:
        """Read a piece back.

        Raises:
            StoreError: `unreadable`: the disk does not give it back.
        """
        file, offset, size = self._pieces[token]
        try:
            data = os.pread(file.stream.fileno(), size, offset)
        except OSError as error:
            raise StoreError("unreadable", f"what was spilled: {error.strerror}", path=str(self._folder)) from error
        if len(data) != size:
            raise StoreError("unreadable", f"{len(data)} of {size} bytes that were spilled", path=str(self._folder))
        return data

    def discard(self, token: int) -> None:
        """A piece is not needed any more."""
        file, _, size = self._pieces.pop(token)
        self.kept_bytes -= size
        file.live -= 1
        if file.live:
            return
        if file is not self._file:
            file.stream.close()
        elif file.size:
            os.ftruncate(file.stream.fileno(), 0)
            file.size = 0

    def close(self) -> None:
        """Let go of everything."""
        for file in {id(file): file for file, _, _ in self._pieces.values()}.values():
            file.stream.close()
        self._file.stream.close()
        self._pieces.clear()
        self.kept_bytes = 0
