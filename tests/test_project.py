"""What must hold for the project as a whole, whatever is in it: one property a test."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Final

import pytest

from tests.conftest import missing_component

ROOT: Final = Path(__file__).resolve().parent.parent
LOCKS: Final = sorted(ROOT.glob("requirements*.lock"))
MODULES: Final = sorted((ROOT / "src" / "rapini").rglob("*.py"))
LONGEST_MODULE: Final = 500  # lines, style.md

# Written in pieces, so that this file does not match itself.
MACHINE_PATH: Final = re.compile(r"(?<![\w.:/~-])/(?:" + "|".join(["ro" + "ot", "ho" + "me", "wo" + "rk"]) + r")/\w")
PRIVATE_KEY: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE " + r"KEY-----\\?n?\s*[A-Za-z0-9+/]{40}")


def relative(path: Path) -> str:
    """A path as a test's name shows it."""
    return str(path.relative_to(ROOT))


def tracked_files() -> list[Path]:
    """Every file that git keeps; outside a repository (a source archive) there is nothing to ask."""
    if not (ROOT / ".git").exists():
        missing_component("a git repository: an unpacked archive does not say which files are the project's")
    # CI may own the tree as another user than the one that runs the tests.
    command = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=30)
    return [path for name in listed.stdout.decode().split("\0") if name and (path := ROOT / name).is_file()]


def tracked_texts() -> list[tuple[Path, str]]:
    """The tracked files that are text, with their text."""
    raw = [(path, path.read_bytes()) for path in tracked_files()]
    return [(path, data.decode("utf-8", "replace")) for path, data in raw if b"\0" not in data]


def test_there_are_locks_and_modules_to_look_at() -> None:
    assert [path.name for path in LOCKS] == [
        "requirements-build.lock",
        "requirements-dev.lock",
        "requirements.lock",
    ]
    assert ROOT / "src" / "rapini" / "errors.py" in MODULES


@pytest.mark.parametrize("lock", LOCKS, ids=relative)
def test_a_lock_names_no_index_and_hashes_every_package(lock: Path) -> None:
    lines = [line for line in lock.read_text("utf-8").splitlines() if line and not line.lstrip().startswith("#")]
    options = [line for line in lines if "--" in line and not re.fullmatch(r" +--hash=sha256:[0-9a-f]{64}( \\)?", line)]
    assert options == []
    assert "://" not in lock.read_text("utf-8")
    pins = [i for i, line in enumerate(lines) if not line[0].isspace()]
    assert pins
    assert all("==" in lines[i] and "--hash=" in "".join(lines[i + 1 : i + 2]) for i in pins)


def test_the_makefile_leaves_the_choice_of_an_index_to_pip() -> None:
    text = (ROOT / "Makefile").read_text("utf-8")
    assert not re.search(r"--(extra-)?index-url|--find-links|://", text)


def test_the_library_depends_on_three_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = {re.split(r"[<>=!~ ;\[]", line)[0] for line in project["dependencies"]}
    assert names == {"pyzmq", "msgspec", "cryptography"}


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_a_module_says_what_it_is_for(module: Path) -> None:
    assert (ast.get_docstring(ast.parse(module.read_text("utf-8"))) or "").strip()


@pytest.mark.parametrize("module", MODULES, ids=relative)
def test_a_module_can_be_read_in_one_sitting(module: Path) -> None:
    assert len(module.read_text("utf-8").splitlines()) < LONGEST_MODULE


def test_no_file_names_a_place_on_somebodys_machine() -> None:
    found = [
        f"{relative(path)}:{number}: {line.strip()}"
        for path, text in tracked_texts()
        for number, line in enumerate(text.splitlines(), 1)
        if MACHINE_PATH.search(line)
    ]
    assert found == []


def test_no_file_holds_a_private_key() -> None:
    assert [relative(path) for path, text in tracked_texts() if PRIVATE_KEY.search(text)] == []


def test_the_two_searches_find_what_they_are_for() -> None:
    place, key = "/ho" + "me/ann/x", "-----BEGIN EC PRIVATE " + "KEY-----\n" + "A" * 64
    assert MACHINE_PATH.search(f'path = "{place}"')
    assert not MACHINE_PATH.search("https://host.example/work/x and ../work/x")
    assert PRIVATE_KEY.search(key)


def test_nothing_imports_what_it_may_not() -> None:
    linter = Path(sys.executable).with_name("lint-imports")
    command = [str(linter), "--no-logo", "--no-cache"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert " 0 broken" in result.stdout


def test_the_version_is_the_same_everywhere() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["version"]
    assert importlib.import_module("rapini").__version__ == stated
    assert metadata.version("rapini") == stated
    assert f"\n## [{stated}]" in (ROOT / "CHANGELOG.md").read_text("utf-8")


def test_every_public_name_can_be_imported() -> None:
    package = importlib.import_module("rapini")
    names = list(getattr(package, "__all__", []))
    assert names, "rapini.__all__ names the public API"
    assert len(names) == len(set(names))
    assert [name for name in names if not hasattr(package, name)] == []


def test_the_package_says_it_is_typed() -> None:
    assert (ROOT / "src" / "rapini" / "py.typed").is_file()
