"""The frame of the command line: help, completion, statuses, one line for every failure."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from pathlib import Path

import click
import pytest

import rapini as library
from rapini import errors
from rapini.cli import failures
from rapini.cli.commands import COMMANDS
from rapini.cli.failures import Status
from tests.conftest import require_component
from tests.integration.cli.harness import COMMAND, rapini


def test_version_is_the_packages(tmp_path: Path) -> None:
    assert rapini("--version", cwd=tmp_path).out == f"rapini {library.__version__}\n"


def test_help_names_every_command_and_imports_none(tmp_path: Path) -> None:
    """Start-up stays quick because a command costs nothing until it is invoked."""
    program = (
        "import sys; from rapini.cli import main; status = main(['--help'])\n"
        "extra = [m for m in sys.modules if m.startswith(('rapini.apps', 'rapini.bench', 'rich', 'dpkt'))\n"
        "         or m.rpartition('.')[0] == 'rapini.cli']\n"
        "print('imported', *extra); sys.exit(status)"
    )
    done = rapini("-c", program, cwd=tmp_path, command=[sys.executable])
    assert done.status == 0
    for name in COMMANDS:
        assert f"\n  {name} " in done.out
    imported = set(done.out.splitlines()[-1].split()[1:])
    assert imported == {f"rapini.cli.{name}" for name in ("root", "commands", "diagnostics", "failures")}


@pytest.mark.parametrize("command", ["ca", "publish", "tail", "status", "completion"])
def test_every_commands_help_has_an_example(command: str, tmp_path: Path) -> None:
    done = rapini(command, "--help", cwd=tmp_path)
    assert done.status == 0
    assert f"\n    rapini {command} " in done.out


def test_without_arguments_the_help_and_status_2(tmp_path: Path) -> None:
    done = rapini(cwd=tmp_path)
    assert (done.status, done.out) == (2, "")
    assert "Commands:" in done.err


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["tial"], "did you mean tail?"),
        (["frobnicate"], "no such command 'frobnicate'"),
        (["ca", "isue"], "did you mean 'issue'?"),
        (["tail", "--conect", "x"], "'--connect'"),
        (["tail", "--count", "many"], "'many' is not a valid integer range"),
        (["tail"], "--connect URL"),
        (["publish", "1"], "--topic is missing"),
        (["publish", "-t", "x", "1"], "nobody to send to"),
        (["publish", "-t", "x", "--count", "3", "--connect", "zmq+plain://127.0.0.1:1"], "--count repeats"),
        (["completion", "tcsh"], "tcsh"),
        (["ca", "issue", "keys"], "missing argument 'NODE'"),
    ],
)
def test_a_usage_error_is_one_line_and_status_2(arguments: list[str], says: str, tmp_path: Path) -> None:
    done = rapini(*arguments, cwd=tmp_path)
    assert done.status == 2
    assert done.err.count("\n") == 1
    assert done.errors
    assert says in done.err
    assert "--help'" in done.err


@pytest.mark.parametrize("missing", ["click", "rich"])
def test_without_the_programs_packages_one_line_says_how_to_get_them(missing: str, tmp_path: Path) -> None:
    program = (
        f"import sys; sys.modules[{missing!r}] = None\nfrom rapini.cli import main; sys.exit(main(['bench', 'link']))"
    )
    done = rapini("-c", program, cwd=tmp_path, command=[sys.executable])
    assert (done.status, done.out) == (2, "")
    assert done.err == f"rapini: error: {missing} is not installed; run: pip install 'rapini[programs]'\n"


def test_the_library_does_without_them(tmp_path: Path) -> None:
    program = "import sys; sys.modules.update(click=None, rich=None, dpkt=None); import rapini; rapini.Node"
    assert rapini("-c", program, cwd=tmp_path, command=[sys.executable]).status == 0


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_prints_a_script(shell: str, tmp_path: Path) -> None:
    done = rapini("completion", shell, cwd=tmp_path)
    assert (done.status, done.err) == (0, "")
    assert "_RAPINI_COMPLETE" in done.out


@pytest.mark.parametrize(
    ("words", "completions"),
    [("rapini ta", {"tail"}), ("rapini ca is", {"issue"}), ("rapini tail --conn", {"--connect"})],
)
def test_bash_completes_commands_and_options(words: str, completions: set[str], tmp_path: Path) -> None:
    """The script that we print, sourced by a real bash, asking the real command."""
    require_component("bash")
    script = rapini("completion", "bash", cwd=tmp_path).out
    runner = tmp_path / "rapini"
    runner.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m rapini "$@"\n')
    runner.chmod(0o755)
    count = len(words.split()) - 1
    program = f"{script}\nCOMP_WORDS=({words}); COMP_CWORD={count}; _rapini_completion rapini; echo ${{COMPREPLY[@]}}"
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", program], env=environment, capture_output=True, text=True, timeout=30, check=True
    )
    assert set(done.stdout.split()) == completions


def test_a_traceback_only_with_vv(tmp_path: Path) -> None:
    arguments = ["tail", "--config", "none.toml"]
    assert rapini(*arguments, cwd=tmp_path).err.count("\n") == 1
    done = subprocess.run(
        [*COMMAND, "-vv", *arguments], cwd=tmp_path, capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 2
    assert "Traceback" in done.stderr
    assert done.stderr.rstrip().splitlines()[-1].startswith("rapini: error: none.toml: ")


STATUSES = [
    (errors.ConfigError("x", "x"), 2),
    (errors.LocalError("x", "x"), 2),
    (errors.EventError("x", "x"), 2),
    (errors.TransportError("address_in_use", "x"), 2),
    (errors.CaptureError("not_a_capture", "x", path="f"), 2),
    (errors.CaptureError("truncated", "x", path="f", packet=3), 1),
    (errors.CaptureError("damaged", "x", path="f", packet=3), 1),
    (errors.LogError("exists", "x"), 2),
    (errors.LogError("full", "x"), 1),
    (errors.StoreError("spool_in_use", "x"), 2),
    (errors.StoreError("disk_full", "x"), 1),
    (errors.RequestError("no_peer", "x"), 1),
    (errors.HandshakeError("x", "x"), 3),
    (errors.AuthenticationError("x", "x"), 3),
    (errors.RejectedError("x", "x"), 3),
    (errors.ProtocolError("x", "x"), 3),
    (errors.LimitError("x", "x"), 3),
    (errors.PeerTimeoutError("x", "x"), 4),
    (errors.PeerError("x", "x"), 1),
    (errors.DecodeError("x", "x"), 1),
    (KeyboardInterrupt(), 130),
    (click.Abort(), 130),
    (BrokenPipeError(), 0),
    (FileNotFoundError(2, "No such file or directory", "f"), 2),
    (RuntimeError("a bug"), 70),
]


@pytest.mark.parametrize(("error", "status"), STATUSES, ids=lambda value: type(value).__name__)
def test_every_error_has_its_status_and_at_most_one_line(
    error: BaseException, status: int, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(failures, "_abandon_stdout", lambda: None)  # pytest still needs its stdout
    assert failures.report(error) == status
    assert capfd.readouterr().err.count("\n") <= 1


def test_no_error_class_is_forgotten() -> None:
    listed = {type(error) for error, _ in STATUSES}
    ours = {getattr(errors, name) for name in errors.__all__} - {errors.RapiniError}
    assert ours <= listed


def test_an_error_of_no_known_class_is_not_taken_for_success() -> None:
    assert failures.status_of(errors.RapiniError("x", "x")) == Status.LOST


def test_what_a_peer_says_cannot_move_the_cursor(capfd: pytest.CaptureFixture[str]) -> None:
    failures.report(errors.RejectedError("denied", "go away\x1b[2J\r\n\u202etxt", peer="p\x07"))
    text = capfd.readouterr().err
    assert text == "rapini: error: p\\x07: go away\\x1b[2J\\r\\n\\u202etxt\n"
    assert logging.getLogger("rapini").level != logging.DEBUG
