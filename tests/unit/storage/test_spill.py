"""Spilled events: bounded, in anonymous files, given back in any order."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.errors import StoreError
from rapini.session.flow import Batch, SendFlow
from rapini.storage import SpillFiles, spill


def open_files() -> int:
    """How many of them this process has."""
    return len(list(Path("/proc/self/fd").iterdir()))


def test_what_is_put_comes_back_until_it_is_discarded(tmp_path: Path) -> None:
    files = SpillFiles(tmp_path / "spill", max_bytes=100)
    first, second = files.put(b"a" * 60), files.put(b"b" * 40)
    assert first is not None
    assert second is not None
    assert (files.kept_bytes, files.has_room(0), files.has_room(1)) == (100, True, False)
    assert (files.get(second), files.get(first)) == (b"b" * 40, b"a" * 60)
    files.discard(first)
    assert files.has_room(60)
    assert not any((tmp_path / "spill").iterdir()), "files without a name, gone with the process"
    files.close()


@given(st.lists(st.tuples(st.integers(1, 30), st.none() | st.integers(0, 39)), min_size=1, max_size=40))
def test_files_are_given_back_whatever_the_order(steps: list[tuple[int, int | None]]) -> None:
    """Many small files: none is left open when everything was discarded."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(spill, "_FILE_BYTES", 50)
        before = open_files()
        files = SpillFiles(Path("/tmp"), max_bytes=10_000)
        kept: dict[int, bytes] = {}
        for number, (size, victim) in enumerate(steps):
            piece = bytes([number]) * size
            token = files.put(piece)
            assert token is not None
            kept[token] = piece
            if victim is not None:
                token = sorted(kept)[victim % len(kept)]
                assert files.get(token) == kept.pop(token)
                files.discard(token)
        assert files.kept_bytes == sum(map(len, kept.values()))
        for token, piece in kept.items():
            assert files.get(token) == piece
            files.discard(token)
        assert open_files() == before + 1
        files.close()
        assert open_files() == before


def test_a_folder_that_cannot_be_used_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError) as caught:
        SpillFiles(tmp_path / "file" / "spill", max_bytes=100)
    assert caught.value.code == "unreadable"


def test_a_disk_that_takes_nothing_drops_the_newest_and_loses_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = SpillFiles(tmp_path, max_bytes=1000)
    flow = SendFlow(10, is_reliable=True, overflow="spill", spill=files)
    assert flow.put(Batch(b"a" * 10, 1, {"t": 1}))
    assert flow.put(Batch(b"b" * 10, 1, {"t": 1}))

    def full(*arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as broken:
        broken.setattr(os, "pwrite", full)
        assert not flow.put(Batch(b"c" * 10, 1, {"t": 1}))
    assert files.is_failing
    assert flow.put(Batch(b"d" * 10, 1, {"t": 1}))
    sent = [flow.take()[1] for _ in range(4)]
    assert [item.data for item in sent if isinstance(item, Batch)] == [b"a" * 10, b"b" * 10, b"d" * 10]
    files.close()
