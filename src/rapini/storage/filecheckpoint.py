"""A receiver's positions beside the file that it appends its output to, moving together: exactly once.

On `files`. `<file>.positions` says how long the output was at the last commit, and the positions of that moment. A
commit writes the output, fsyncs it, and then replaces that file whole; so the positions never promise output that is
not there. Opening cuts the output back to the length that they know, so there is never output that the positions do not
know of, and what is delivered again can be written again.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Final, Self
from zlib import crc32

import msgspec

from rapini.errors import ConfigError, LocalError, StoreError
from rapini.storage.files import REAL, FileSystem, read_file, replace_file, store_error, write_all

__all__ = ["FileCheckpoint"]

_MAX_BYTES: Final = 16 * 1024 * 1024
_FLUSH_BYTES: Final = 1024 * 1024


class _Committed(msgspec.Struct, kw_only=True):
    length: int = 0
    positions: dict[str, int] = {}
    """By the stream id in hex."""


class FileCheckpoint:
    """An output file with positions. Thread: one at a time.

    A failed write or fsync ends it: nothing is known of the output's tail then. Open it again, which cuts the output
    back to the last commit, and have the events since then delivered again.

    Args:
        path: The output. It is made, or it was made by this class: a file without positions is refused.
        files: The file system.

    Raises:
        ConfigError: `not_a_checkpoint`: the output exists and has no positions.
        StoreError: `checkpoint_in_use`; `damaged`: the positions are not readable, or the output is shorter than they
            say; `disk_full`, `unreadable`.
    """

    def __init__(self, path: Path, *, files: FileSystem = REAL) -> None:
        self._files = files
        self._path = path
        self._positions_path = path.with_name(path.name + ".positions")
        self._committed = _Committed()
        self._written = 0  # bytes of output given to the operating system
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._failed = False
        self.discarded_bytes = 0
        """Output that was cut off because it had not been committed."""
        self._handle: int | None = None
        try:
            self._open()
        except OSError as error:
            raise store_error(error, "unreadable", "opening the output", path) from error
        finally:
            if self._failed:
                self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def length(self) -> int:
        """Bytes of output, committed or not."""
        return self._written + self._pending_bytes

    def positions(self) -> dict[bytes, int]:
        """Stream id → the first sequence number that is still to come, as last committed."""
        return {bytes.fromhex(stream): position for stream, position in self._committed.positions.items()}

    def write(self, data: bytes) -> None:
        """Append output. It counts from the next `commit` on.

        Raises:
            LocalError: `failed` or `closed`.
            StoreError: `disk_full`, `write_failed`; this checkpoint is at its end then.
        """
        self._usable()
        self._pending.append(data)
        self._pending_bytes += len(data)
        if self._pending_bytes >= _FLUSH_BYTES:
            self._flush()

    def commit(self, positions: Mapping[bytes, int]) -> None:
        """Make the output so far and these positions durable together; positions of other streams stay. None goes back.

        Raises:
            LocalError: `failed` or `closed`.
            StoreError: `disk_full`, `write_failed`, `sync_failed`; this checkpoint is at its end then.
        """
        handle = self._usable()
        if self.length > self._committed.length:
            self._flush()
            try:
                self._files.sync(handle)
            except OSError as error:
                self._failed = True
                raise store_error(error, "sync_failed", "syncing the output", self._path) from error
        merged = dict(self._committed.positions)
        for stream, position in positions.items():
            merged[stream.hex()] = max(position, merged.get(stream.hex(), 0))
        committed = _Committed(length=self._written, positions=merged)
        try:
            self._save(committed)
        except OSError as error:
            self._failed = True
            raise store_error(error, "write_failed", "saving the positions", self._positions_path) from error
        self._committed = committed

    def close(self) -> None:
        """Let go of the output; what was not committed is discarded when it is opened again."""
        self._release()

    def _usable(self) -> int:
        if self._handle is None:
            raise LocalError("closed", "the checkpoint is closed")
        if self._failed:
            raise LocalError("failed", "the checkpoint failed: close it and open it again")
        return self._handle

    def _release(self) -> None:
        if self._handle is not None:
            handle, self._handle = self._handle, None
            self._files.close(handle)

    def _flush(self) -> None:
        handle = self._usable()
        data = b"".join(self._pending)
        self._pending.clear()
        self._pending_bytes = 0
        try:
            write_all(self._files, handle, self._written, data)
        except OSError as error:
            self._failed = True
            raise store_error(error, "write_failed", "writing the output", self._path) from error
        self._written += len(data)

    def _save(self, committed: _Committed) -> None:
        text = msgspec.json.encode(committed)
        replace_file(self._files, self._positions_path, b"%08x\n%b" % (crc32(text), text))
        self._files.sync_folder(self._path.parent)

    def _open(self) -> None:
        self._failed = True  # until the end
        self._handle, is_new = self._lock()
        known = read_file(self._files, self._positions_path, _MAX_BYTES)
        size = self._files.size(self._handle)
        if known is None:
            if size:
                text, remedy = "this file has no positions beside it", "name a file to be made"
                raise ConfigError("not_a_checkpoint", text, where=str(self._path), remedy=remedy)
            self._save(self._committed)
        else:
            self._committed = self._decode(known)
        if is_new:
            self._files.sync_folder(self._path.parent)
        length = self._committed.length
        if size < length:
            text = f"the output has {size} bytes, and {length} were committed"
            raise StoreError(
                "damaged", text, path=str(self._path), remedy="restore it, or move it and its positions away"
            )
        if size > length:
            self._files.truncate(self._handle, length)
            self._files.sync(self._handle)
            self.discarded_bytes = size - length
        self._written = length
        self._failed = False

    def _lock(self) -> tuple[int, bool]:
        self._files.make_folder(self._path.parent)
        try:
            handle, is_new = self._files.create(self._path), True
        except FileExistsError:
            handle, is_new = self._files.open(self._path), False
        try:
            self._files.lock(handle)
        except BlockingIOError as error:
            self._files.close(handle)
            raise StoreError("checkpoint_in_use", "another process writes this output", path=str(self._path)) from error
        return handle, is_new

    def _decode(self, data: bytes) -> _Committed:
        check, _, text = data.partition(b"\n")
        try:
            if check == b"%08x" % crc32(text):
                return msgspec.json.decode(text, type=_Committed)
        except (msgspec.DecodeError, UnicodeDecodeError):
            pass
        remedy = "move it and the output away; without it nobody knows how much of the output counts"
        raise StoreError("damaged", "the positions are not readable", path=str(self._positions_path), remedy=remedy)
