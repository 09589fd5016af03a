"""What opening a spool finds: its state, its segments, and where its stream ends after however it was left.

On `state`, `segments` and `reading`; `Spool.open` is its caller. Everything found is made durable before it is
believed: after a SIGKILL the kernel shows bytes that no disk has yet, so the newest segment and the folder are synced
    first.
"""

from __future__ import annotations

import os
from pathlib import Path

from rapini.errors import ConfigError, StoreError
from rapini.storage.files import FileSystem, store_error
from rapini.storage.reading import Damage, Damages, Missing, reading, walk
from rapini.storage.records import MARKER_BYTES
from rapini.storage.segments import SEGMENT_HEADER_BYTES, Segment, SegmentHeader, SegmentIndex
from rapini.storage.state import FORMAT, STATE_NAMES, State, load_state, save_state

__all__ = ["Found", "find_spool"]

_LOCK = "lock"
_STREAM_ID_BYTES = 16


class Found:
    """A spool's parts, its folder locked by `lock`."""

    def __init__(self, lock: int, index: SegmentIndex, state: State, damages: Damages) -> None:
        self.lock = lock
        self.index = index
        self.state = state
        """With `next_sequence` as it is now."""
        self.damages = damages
        self.torn_bytes = 0


def find_spool(files: FileSystem, folder: Path, entropy: bytes | None) -> Found:
    """Lock a folder and find the spool in it, or make one. See `Spool.open`."""
    lock: int | None = None
    try:
        lock = _lock(files, folder)
        index = SegmentIndex.of_folder(files, folder)
        damages = Damages()
        state = _state(files, folder, index, damages, entropy)
        found = Found(lock, index, state, damages)
        _finish_trim(files, folder, found)
        _check_headers(files, found)
        before = state.next_sequence
        _find_end(files, folder, found)
        if state.next_sequence > before:
            _remember_end(files, folder, state)
        lock = None
    except OSError as error:
        raise store_error(error, "unreadable", "opening the spool", folder) from error
    finally:
        if lock is not None:
            files.close(lock)
    return found


def _lock(files: FileSystem, folder: Path) -> int:
    files.make_folder(folder)
    names = set(files.names(folder)) - {_LOCK, *(f"{name}.new" for name in STATE_NAMES)}
    if names and not any(name in STATE_NAMES or name.endswith(".segment") for name in names):
        text, remedy = f"there is something else in the folder ({min(names)})", "name an empty one, or one to be made"
        raise ConfigError("not_a_spool", text, where=str(folder), remedy=remedy)
    try:
        handle = files.create(folder / _LOCK)
    except FileExistsError:
        handle = files.open(folder / _LOCK)
    try:
        files.lock(handle)
    except BlockingIOError as error:
        files.close(handle)
        text, remedy = "another node has this spool open", "give each node a folder of its own"
        raise StoreError("spool_in_use", text, path=str(folder), remedy=remedy) from error
    except OSError:
        files.close(handle)
        raise
    return handle


def _state(files: FileSystem, folder: Path, index: SegmentIndex, damages: Damages, entropy: bytes | None) -> State:
    state, damaged = load_state(files, folder)
    for path, size in damaged:
        damages.add(Damage(file=path, offset=0, size=size, first_sequence=0, count=0))
    if state is not None and state.format != FORMAT:
        text = f"the spool has format {state.format}, and this program knows {FORMAT}"
        raise StoreError("format_unknown", text, path=str(folder), remedy="open it with the program that made it")
    if state is None:
        if damaged or index:
            state = _state_from_headers(files, folder, index)
        else:
            random = os.urandom(_STREAM_ID_BYTES + MARKER_BYTES) if entropy is None else entropy
            state = State(stream_id=random[:_STREAM_ID_BYTES], marker=random[_STREAM_ID_BYTES:][:MARKER_BYTES])
        save_state(files, folder, state)
    elif damaged or not {*STATE_NAMES} <= {*files.names(folder)}:
        save_state(files, folder, state)
    return state


def _state_from_headers(files: FileSystem, folder: Path, index: SegmentIndex) -> State:
    """Both copies are lost: the segments know whose they are, and nobody knows who is owed what."""
    for segment in reversed(index.all()):
        header = _header_of(files, segment)
        if header is not None:
            oldest = index.oldest.first
            return State(stream_id=header.stream_id, marker=header.marker, oldest=oldest, consumers_lost=True)
    text = "the spool's state is lost, both copies, and no segment says which stream this was"
    raise StoreError("damaged", text, path=str(folder), remedy="move the folder away; a new stream begins then")


def _header_of(files: FileSystem, segment: Segment) -> SegmentHeader | None:
    handle = files.open(segment.path)
    try:
        return SegmentHeader.decode(reading(files, handle)(0, SEGMENT_HEADER_BYTES))
    finally:
        files.close(handle)


def _finish_trim(files: FileSystem, folder: Path, found: Found) -> None:
    """Remove what the state says was to be removed: a crash came in between. Then make all names durable."""
    for segment in found.index.all():
        if segment.first < found.state.oldest:
            files.remove(segment.path)
            found.index.discard(segment)
    files.sync_folder(folder)


def _check_headers(files: FileSystem, found: Found) -> None:
    for segment in found.index.all():
        if segment is found.index.newest:
            continue  # it may have been in the making when the power went: `_find_end` knows
        empty = segment.first == found.index.end_of(segment)
        if _header_of(files, segment) is None and not (empty and segment.size < SEGMENT_HEADER_BYTES):
            _report_header(found, segment)


def _report_header(found: Found, segment: Segment) -> None:
    found.damages.add(
        Damage(file=segment.path, offset=0, size=SEGMENT_HEADER_BYTES, first_sequence=segment.first, count=0)
    )


def _remember_end(files: FileSystem, folder: Path, state: State) -> None:
    """What was found good is known to be durable: were it missing at the next opening, it would be damage."""
    try:
        save_state(files, folder, state)
    except OSError as error:
        if store_error(error, "", "", folder).code != "disk_full":  # a full disk must not keep anybody from trimming
            raise


def _find_end(files: FileSystem, folder: Path, found: Found) -> None:
    """Read the newest segment to its last good record, and cut off what is torn after it."""
    if not found.index:
        return
    segment, known = found.index.newest, found.state.next_sequence
    handle = files.open(segment.path)
    try:
        files.sync(handle)
        end, sequence = min(SEGMENT_HEADER_BYTES, segment.size), segment.first
        read = reading(files, handle)
        walked = walk(read, found.state.marker, segment, offset=SEGMENT_HEADER_BYTES, expected=sequence, end=None)
        for item in walked:
            if isinstance(item, Missing):
                found.damages.add(
                    Damage(
                        file=segment.path,
                        offset=item.offset,
                        size=item.size,
                        first_sequence=item.sequence,
                        count=item.count,
                    )
                )
            else:
                end, sequence = item.end, item.sequence + item.count
        if max(known, sequence) > segment.first and _header_of(files, segment) is None:
            _report_header(found, segment)  # the header was durable no later than what follows it
        torn = segment.size - end
        if known > sequence:  # it had been durable: kept for whoever wants to look
            found.damages.add(
                Damage(file=segment.path, offset=end, size=torn, first_sequence=sequence, count=known - sequence)
            )
        elif sequence > segment.first and torn:
            files.truncate(handle, end)
            files.sync(handle)
            found.index.grow(segment, -torn)
            found.torn_bytes = torn
    finally:
        files.close(handle)
    found.state.next_sequence = max(known, sequence)
    if found.state.next_sequence == segment.first:
        # It was being made and has nothing. What is before it was durable before it was made.
        found.torn_bytes = segment.size
        found.index.discard(segment)
        files.remove(segment.path)
        files.sync_folder(folder)
