"""`rapini status` beside real programs: JSON, text, the live table on a terminal, and every way to find nobody."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import select
import signal
import struct
import subprocess
import tempfile
import termios
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import pytest

from rapini import Node, NodeStatus, read_status, running_nodes
from rapini.data import demo_capture
from rapini.errors import RapiniError
from tests.integration.cli.harness import COMMAND, DEADLINE_S, Running, background, make_keys, rapini


@pytest.fixture(autouse=True)
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test's nodes have their sockets, and `rapini status` looks for them."""
    with tempfile.TemporaryDirectory(prefix="rapini-status-") as path:
        monkeypatch.setenv("RAPINI_RUNTIME_DIR", path)
        yield Path(path)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with keys for a manager and a sensor."""
    where = tmp_path_factory.mktemp("keys")
    make_keys(where, "manager", "sensor")
    return where


def await_node(name: str, is_enough: Callable[[NodeStatus], bool] = lambda status: True) -> NodeStatus:
    """Wait until a node runs, and is as it should be."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        for path in running_nodes():
            with contextlib.suppress(RapiniError):
                status = read_status(path)
                if status.name == name and is_enough(status):
                    return status
        assert time.monotonic() < deadline, f"{name} not in time"
        time.sleep(0.05)


@contextlib.contextmanager
def manager_and_sensor(keys: Path) -> Iterator[tuple[Running, Running]]:
    """Two programs that exchange events until the end of the block."""
    both = ("--keys", "keys", "--quiet")
    with background("manager", "--listen", "zmq+tls://127.0.0.1:0", *both, cwd=keys) as manager:
        (url,) = await_node("manager", lambda status: bool(status.listening)).listening
        with (
            demo_capture() as capture,
            background(
                "sensor", "--connect", url, "--read", capture, "--rate", "300", "--loop", *both, cwd=keys
            ) as sensor,
        ):
            await_node("manager", lambda status: status.totals.received > 0)
            yield manager, sensor


class Screen:
    """`rapini status` on a terminal of its own."""

    def __init__(self, *arguments: str, rows: int = 24, columns: int = 80) -> None:
        self._terminal, end = pty.openpty()
        fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))
        environment = {**os.environ, "TERM": "xterm-256color"}
        environment = {name: value for name, value in environment.items() if name not in ("COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [*COMMAND, "status", *arguments],
            stdin=end,
            stdout=end,
            stderr=end,
            env=environment,
            start_new_session=True,
        )
        os.close(end)
        self.text = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait(DEADLINE_S)
        os.close(self._terminal)

    def read(self, timeout_s: float) -> bool:
        """Take what it has written; false at its end."""
        if select.select([self._terminal], [], [], timeout_s)[0]:
            try:
                part = os.read(self._terminal, 65536)
            except OSError:  # EIO: nobody has the other end any more
                return False
            self.text += part.decode("utf-8", "replace")
        return True

    def await_text(self, pattern: str) -> str:
        """Wait until it shows something; returns the match. What came before it is forgotten."""
        deadline = time.monotonic() + DEADLINE_S
        while not (match := re.search(pattern, without_colours(self.text))):
            assert time.monotonic() < deadline, f"{pattern!r} not in time: {self.text!r}"
            assert self.read(0.1) or re.search(pattern, without_colours(self.text)), f"ended: {self.text!r}"
        self.text = without_colours(self.text)[match.end() :]
        return match[0]

    def finish(self) -> int:
        """Read to its end; returns its exit status."""
        while self.read(DEADLINE_S):
            pass
        assert "Traceback" not in self.text, self.text
        return self.process.wait(DEADLINE_S)


def without_colours(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


# -- once -------------------------------------------------------------------------------------------------------------


def told(*arguments: str, cwd: Path) -> Any:
    done = rapini("status", *arguments, "--json", cwd=cwd)
    assert (done.status, done.err) == (0, "")
    return json.loads(done.out)


def test_json_tells_both_ends_of_a_session(keys: Path) -> None:
    with manager_and_sensor(keys) as (manager, sensor):
        here, there = told("manager", cwd=keys), told("sensor", cwd=keys)
        assert (here["name"], here["pid"], here["state"]) == ("manager", manager.process.pid, "running")
        assert (there["name"], there["pid"], there["cluster"]) == ("sensor", sensor.process.pid, "rapini")
        (session,) = here["sessions"]
        assert (session["name"], session["status"], session["epoch"]) == ("sensor", "up", 1)
        assert (session["mechanism"], session["is_verified"]) == ("tls", True)
        assert session["incarnation"] == there["incarnation"] != here["incarnation"]
        assert session["received"] > 0
        (session,) = there["sessions"]
        assert session["sent"] >= session["acknowledged"] > 0
        assert (session["subscriptions"], session["dropped"], session["missed"]) == ([""], {}, 0)
        (dial,) = there["dials"]
        assert (dial["state"], dial["peer"], [dial["endpoint"]]) == ("up", "manager", here["listening"])
        assert (here["gaps"], here["stores"]) == ([], [])
        (flow,) = session["flows"]
        assert (flow["class"], flow["numbered"], flow["sent"]) == ("best_effort", session["sent"], session["sent"])

        both = told(cwd=keys)
        assert [status["name"] for status in both] == ["manager", "sensor"]
        assert told(here["control"], cwd=keys)["pid"] == here["pid"]
        for path in (keys / "keys").glob("*.key"):
            assert path.read_text().splitlines()[1] not in json.dumps(both)


def test_a_pipe_gets_plain_text_once(keys: Path) -> None:
    with manager_and_sensor(keys):
        done = rapini("status", "manager", cwd=keys)
        assert (done.status, done.err) == (0, "")
        assert "\x1b" not in done.out
        assert re.search(r"^manager  cluster rapini, pid \d+, up \d+s", done.out)
        assert re.search(r"^sensor +up +\d+s +1 +[\d,]+ +0 +0 +0 +", done.out, re.MULTILINE)
        assert max(map(len, done.out.splitlines())) <= 80

        done = rapini("status", cwd=keys)
        assert (done.status, done.err) == (0, "")
        assert re.search(r"^manager +\d+ +\d+s +1/1 ", done.out, re.MULTILINE)
        assert re.search(r"^sensor +\d+ +\d+s +1/1 ", done.out, re.MULTILINE)


def test_the_commands_can_be_told_to_have_no_socket(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "quiet.toml").write_text('[node]\ncontrol = "off"\n')
    plain = ("--listen", "tcp+plain://127.0.0.1:0")
    with (
        background("tail", *plain, "--config", "quiet.toml", cwd=tmp_path) as quiet,
        background("tail", *plain, "--name", "heard", cwd=tmp_path) as heard,
    ):
        assert quiet.url
        assert heard.url
        assert told(cwd=tmp_path)["name"] == "heard"
        assert len(list(folder.iterdir())) == 1
        for running in (quiet, heard):
            running.signal(signal.SIGINT)
            assert running.finish().status == 130
        assert list(folder.iterdir()) == []


# -- nobody -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", [(), ("--json",), ("--once",)])
def test_nobody_runs(tmp_path: Path, options: tuple[str, ...]) -> None:
    done = rapini("status", *options, cwd=tmp_path)
    assert (done.status, done.out, len(done.errors), done.err.count("\n")) == (1, "", 1, 1)


def test_the_one_that_was_named_does_not_run(tmp_path: Path) -> None:
    with Node("other", control="auto"):
        done = rapini("status", "wanted", cwd=tmp_path)
    assert (done.status, done.out) == (1, "")
    assert done.errors == ["rapini: error: no node 'wanted' is running; running: other"]


def test_a_killed_nodes_socket_is_nobody(tmp_path: Path, folder: Path) -> None:
    with background("tail", "--listen", "tcp+plain://127.0.0.1:0", "--name", "gone", cwd=tmp_path) as running:
        assert running.url
        running.signal(signal.SIGKILL)
        running.process.wait(DEADLINE_S)
    (path,) = folder.iterdir()
    assert rapini("status", cwd=tmp_path).status == 1
    done = rapini("status", path, cwd=tmp_path)
    assert (done.status, done.errors) == (1, [f"rapini: error: {path}: no node is running there"])


def test_a_frozen_node_is_named(tmp_path: Path) -> None:
    with background("tail", "--listen", "tcp+plain://127.0.0.1:0", "--name", "ice", cwd=tmp_path) as running:
        assert running.url
        running.signal(signal.SIGSTOP)
        with Node("lively", control="auto"):
            done = rapini("status", "--once", cwd=tmp_path)
            assert done.status == 1
            assert "lively" in done.out, "the others are shown all the same"
            assert len(done.errors) == 1
        done = rapini("status", "ice", cwd=tmp_path)
        assert (done.status, done.out) == (1, "")
        assert re.search(r"rapini-ice-\d+\.sock: no answer within 2 s", done.err)


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--interval", "0"], 2),
        (["a", "b"], 2),
        (["--nonsense"], 2),
        (["/" + "x" * 200], 2),
        (["./absent.sock"], 1),
        (["./file"], 1),
    ],
    ids=lambda each: str(each)[:20],
)
def test_bad_usage_is_one_line(arguments: list[str], status: int, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no socket")
    done = rapini("status", *arguments, cwd=tmp_path)
    assert (done.status, done.out, len(done.errors), done.err.count("\n")) == (status, "", 1, 1)


def test_what_is_no_node_is_said_in_one_line(tmp_path: Path, folder: Path) -> None:
    """Control characters of whoever answers do not reach the terminal."""
    import socket
    import threading

    path = folder / "strange.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(b'{"v":1,"error":{"code":"busy","detail":"\\u001b[2J gone"}}\n')

        thread = threading.Thread(target=serve)
        thread.start()
        done = rapini("status", path, cwd=tmp_path)
        thread.join(DEADLINE_S)
    assert done.status == 1
    assert done.errors == [f"rapini: error: {path}: \\x1b[2J gone"]


# -- live -------------------------------------------------------------------------------------------------------------


def test_the_live_table_shows_a_peer_being_killed_and_the_node_ending(keys: Path) -> None:
    with manager_and_sensor(keys) as (manager, sensor), Screen("manager", "--interval", "0.2") as screen:
        screen.await_text(r"sensor +up +\d+s +1 ")
        screen.await_text(r"[1-9][\d,]* received \([1-9]\d*/s\)")
        sensor.signal(signal.SIGKILL)
        screen.await_text(r"0 up of 1; so far 1 lost")
        screen.await_text(r"sensor +lost +\d+s +1 ")
        manager.signal(signal.SIGKILL)
        screen.await_text(r"rapini: error: node manager has ended")
        assert screen.finish() == 1


def test_a_frozen_node_is_said_to_be_silent_and_shown_again(tmp_path: Path) -> None:
    with background("tail", "--listen", "tcp+plain://127.0.0.1:0", "--name", "ice", cwd=tmp_path) as running:
        assert running.url
        with Screen("--interval", "0.2") as screen:
            screen.await_text(r"no peers yet")
            running.signal(signal.SIGSTOP)
            screen.await_text(r"no answer for \d+ s; this is how it was")
            running.signal(signal.SIGCONT)
            screen.await_text(r"no peers yet\r\x1b\[2K")  # its last line, with no note below


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_the_live_table_and_gives_the_cursor_back(number: signal.Signals, status: int) -> None:
    with Node("n", control="auto"), Screen() as screen:
        screen.await_text("no peers yet")
        screen.process.send_signal(number)
        assert screen.finish() == status
        assert screen.text.rstrip().endswith("\x1b[?25h"), "the cursor is back"


def test_several_nodes_are_listed_live(tmp_path: Path) -> None:
    with Node("one", control="auto"), Screen("--interval", "0.2") as screen:
        screen.await_text("no peers yet")
    with Node("one", control="auto") as one, Node("two", control="auto") as two, Screen("--interval", "0.2") as screen:
        screen.await_text(r"one +\d+ +\d+s +0/0 [^\n]*\n[^\n]*two +\d+ +\d+s +0/0")
        two.connect(one.listen("tcp+plain://127.0.0.1:0"))
        screen.await_text(r"one +\d+ +\d+s +1/1 [^\n]*\n[^\n]*two +\d+ +\d+s +1/1")


def test_once_on_a_terminal_is_one_table(tmp_path: Path) -> None:
    with Node("n", control="auto"), Screen("--once") as screen:
        assert screen.finish() == 0
        assert without_colours(screen.text).count("no peers yet") == 1


def test_a_low_terminal_says_how_much_it_does_not_show() -> None:
    with Node("n", control="auto"), Screen(rows=5) as screen:
        screen.await_text(r"… \d+ more lines; rapini status --once shows all")


# -- completion -------------------------------------------------------------------------------------------------------


def test_names_of_running_nodes_are_completed(tmp_path: Path) -> None:
    with Node("manager", control="auto"), Node("mirror", control="auto"), Node("other", control="auto"):
        done = subprocess.run(
            COMMAND,
            cwd=tmp_path,
            env={**os.environ, "_RAPINI_COMPLETE": "bash_complete", "COMP_WORDS": "rapini status m", "COMP_CWORD": "2"},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
    assert [line.partition(",")[2] for line in done.stdout.splitlines()] == ["manager", "mirror"]
