"""Where control sockets are put and looked for, by environment and user."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rapini.node import control_places
from rapini.node.control_places import MAX_PATH_BYTES, auto_folder, auto_path, search_folders


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAPINI_RUNTIME_DIR", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def as_user(uid: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def test_what_was_chosen_comes_first_and_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("RAPINI_RUNTIME_DIR", "/chosen")
    assert auto_folder() == Path("/chosen")
    assert search_folders() == [Path("/chosen")]


def test_the_users_runtime_directory_if_it_is_the_users(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert auto_folder() == tmp_path / "rapini"
    as_user(os.geteuid() + 4321, monkeypatch)  # as sudo may leave the variable behind
    assert auto_folder() == Path(f"/tmp/rapini-{os.geteuid()}")


def test_without_one_it_depends_on_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(0, monkeypatch)
    assert auto_folder() == Path("/run/rapini")
    as_user(54321, monkeypatch)
    assert auto_folder() == Path("/tmp/rapini-54321")


def test_a_folder_of_somebody_else_is_not_looked_into(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "rapini").mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    assert tmp_path / "rapini" in search_folders()
    as_user(os.geteuid() + 4321, monkeypatch)
    assert tmp_path / "rapini" not in search_folders()


def test_root_looks_into_the_folders_of_users_and_into_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    as_user(0, monkeypatch)
    monkeypatch.setattr(control_places, "_is_ours", lambda folder, uid: str(folder).endswith(f"-{uid}"))
    monkeypatch.setattr(
        Path, "glob", lambda self, pattern: [self / "rapini-1000", self / "rapini-test-x", self / "rapini-01000x"]
    )
    assert search_folders() == [Path("/tmp/rapini-0"), Path("/run/rapini"), Path("/tmp/rapini-1000")]


@pytest.mark.parametrize("folder", ["/run/rapini", "/tmp/" + "d" * 50])
@pytest.mark.parametrize("size", [1, 30, 64, 128])
def test_every_name_fits_and_names_stay_apart(folder: str, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAPINI_RUNTIME_DIR", folder)
    paths = [auto_path("c" * size, "n" * size, 1), auto_path("d" * size, "n" * size, 1), auto_path("c", "n" * size, 2)]
    assert len(set(paths)) == 3
    for path in paths:
        assert path.parent == Path(folder)
        assert len(str(path)) + len(".new") <= MAX_PATH_BYTES
        assert f"-{os.getpid()}" in path.name
