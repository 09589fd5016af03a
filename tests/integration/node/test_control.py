"""The control socket of a running node: who may ask, what is answered, and what a caller cannot do to the node."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from rapini import Node, NodeStatus, SessionStatus, read_status, running_nodes
from rapini.errors import ConfigError, LocalError
from rapini.node import control, control_places
from rapini.node.control import ControlServer
from tests.conftest import missing_component
from tests.integration.node.support import Recorder, eventually
from tests.programs.events import Tick

ASK = b'{"v":1,"ask":"status"}\n'
NOBODY = 65534


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where `auto` puts sockets, short enough for them."""
    with tempfile.TemporaryDirectory(prefix="rapini-control-") as path:
        monkeypatch.setenv("RAPINI_RUNTIME_DIR", path)
        yield Path(path)


def exchange(path: str, said: bytes, timeout_s: float = 10.0) -> dict[str, Any]:
    """Say something to a control socket; returns its answer."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.settimeout(timeout_s)
        caller.connect(path)
        with contextlib.suppress(BrokenPipeError):
            caller.sendall(said)
        answer = b""
        with contextlib.suppress(ConnectionResetError):
            while part := caller.recv(65536):
                answer += part
    decoded = json.loads(answer)
    assert decoded["v"] == 1
    assert isinstance(decoded, dict)
    return decoded


def code_of(answer: dict[str, Any]) -> str:
    assert set(answer) == {"v", "error"}
    code = answer["error"]["code"]
    assert isinstance(code, str)
    return code


# -- what is told -----------------------------------------------------------------------------------------------------


def test_a_node_tells_its_peers_and_what_flowed(folder: Path) -> None:
    with Node("m", control="auto", role="manager") as manager, Node("s", control="auto", role="sensor") as sensor:
        manager.subscribe("tick")
        seen = Recorder(manager)
        url = manager.listen("tcp+plain://127.0.0.1:0")
        sensor.connect(url)
        for number in range(100):
            sensor.publish(Tick(sender="s", number=number))
        assert sensor.flush()
        eventually(lambda: read_status(sensor.control).totals.acknowledged == 100)

        there, here = read_status(manager.control), read_status(sensor.control)
        (peer,) = there.sessions
        assert (peer.name, peer.status, peer.epoch, peer.role, peer.mechanism) == ("s", "up", 1, "sensor", "plain")
        assert (peer.received, peer.missed, peer.is_verified, peer.endpoint) == (100, 0, False, url)
        assert peer.incarnation == here.incarnation
        assert there.listening == [url]
        (peer,) = here.sessions
        assert (peer.sent, peer.acknowledged, peer.in_flight_bytes, peer.queued_bytes) == (100, 100, 0, 0)
        assert (peer.subscriptions, peer.subscriptions_total) == (["tick"], 1)
        (dial,) = here.dials
        assert (dial.endpoint, dial.state, dial.peer, dial.attempts) == (url, "up", "m", 0)
        assert here.totals.published == 100
        assert (here.pid, here.control, here.state) == (os.getpid(), sensor.control, "running")
        manager.close()
        eventually(lambda: read_status(sensor.control).sessions[0].status == "left")
        assert read_status(sensor.control).sessions[0].address, "the last one is kept"
        seen.join()


def test_drops_are_told_by_cause(folder: Path) -> None:
    with Node("s", control="auto", send_queue_bytes=2048, backoff_max_s=60) as sensor:
        with Node("m") as manager:
            manager.subscribe("tick")
            sensor.connect(manager.listen("tcp+plain://127.0.0.1:0"))
            recorder = Recorder(manager)
            recorder.pause()
            for number in range(20_000):
                sensor.publish(Tick(sender="s", number=number))
            eventually(lambda: read_status(sensor.control).totals.dropped.get("queue_full", 0) > 0)
            told = read_status(sensor.control)
            session = told.sessions[0]
            assert session.dropped == told.totals.dropped
            assert session.queued_bytes + session.in_flight_bytes > 0
            recorder.resume()
        recorder.join()


def test_a_failing_dial_is_told_with_its_reason(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with Node("s", control="auto") as sensor:
        sensor.connect(f"tcp+plain://127.0.0.1:{port}", wait_s=0)
        eventually(lambda: read_status(sensor.control).dials[0].failure_code == "refused")
        eventually(lambda: read_status(sensor.control).dials[0].attempts >= 2)


def test_a_failed_node_says_so(folder: Path) -> None:
    with Node("s", control="auto") as sensor:

        def fail(now: float) -> None:
            raise ZeroDivisionError

        with sensor._lock:
            sensor._core.loop.call_at(time.monotonic(), fail)
        eventually(lambda: read_status(sensor.control).state == "failed")
        assert "ZeroDivisionError" in read_status(sensor.control).failure


# -- where the socket is ----------------------------------------------------------------------------------------------


def test_a_node_of_a_library_has_none_unless_asked(folder: Path) -> None:
    for setting in ("", "off"):
        with Node("quiet", control=setting) as node:
            assert node.control == ""
            assert running_nodes() == []
    assert list(folder.iterdir()) == []


def test_the_socket_is_private_and_removed_at_the_end(folder: Path) -> None:
    deep = folder / "own"
    path = deep / "node.sock"
    with Node("n", control=str(path)) as node:
        assert node.control == str(path)
        assert stat.S_IMODE(path.lstat().st_mode) == 0o600
        assert stat.S_IMODE(deep.lstat().st_mode) == 0o700
        assert read_status(path).name == "n"
    assert list(deep.iterdir()) == []


def test_nodes_of_one_name_in_one_process_have_a_socket_each(folder: Path) -> None:
    with Node("twin", control="auto") as one, Node("twin", control="auto") as other:
        assert one.control != other.control
        assert sorted(running_nodes()) == sorted([one.control, other.control])
    assert running_nodes() == []


def test_names_of_any_length_get_a_socket(folder: Path) -> None:
    with Node("n" * 128, cluster="c" * 128, control="auto") as node:
        assert 0 < len(node.control) <= control_places.MAX_PATH_BYTES
        assert read_status(node.control).name == "n" * 128


def killed_node(folder: Path, path: str) -> None:
    """A process with a node that ends without a goodbye."""
    program = f"import os, rapini; n = rapini.Node('dead', control={path!r}); assert n.control; os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", program], timeout=30, check=False)
    assert done.returncode == -signal.SIGKILL


def test_the_socket_of_a_killed_process_is_replaced(folder: Path) -> None:
    path = folder / "node.sock"
    killed_node(folder, str(path))
    assert path.is_socket()
    with pytest.raises(LocalError) as caught:
        read_status(path)
    assert caught.value.code == "not_running"
    with Node("n", control=str(path)):
        assert read_status(path).name == "n"


def test_auto_removes_what_the_killed_left(folder: Path) -> None:
    killed_node(folder, "auto")
    assert len(list(folder.iterdir())) == 1
    assert running_nodes() == []
    with Node("n", control="auto") as node:
        assert list(folder.iterdir()) == [Path(node.control)]


def test_a_live_socket_is_refused(folder: Path) -> None:
    path = folder / "node.sock"
    with Node("first", control=str(path)):
        with pytest.raises(ConfigError) as caught:
            Node("second", control=str(path))
        assert caught.value.code == "control_in_use"
        assert read_status(path).name == "first"


def test_two_that_start_at_once_do_not_take_a_socket_from_each_other(folder: Path) -> None:
    path = folder / "node.sock"
    killed_node(folder, str(path))

    def start(number: int) -> Node | ConfigError:
        try:
            return Node(f"n{number}", control=str(path))
        except ConfigError as error:
            return error

    with ThreadPoolExecutor(8) as pool:
        ends = list(pool.map(start, range(8)))
    nodes = [end for end in ends if isinstance(end, Node)]
    assert len(nodes) == 1
    assert {end.code for end in ends if isinstance(end, ConfigError)} == {"control_in_use"}
    assert read_status(path).name == nodes[0].name
    nodes[0].close()


def test_what_is_no_socket_is_left_alone(folder: Path) -> None:
    path = folder / "notes.txt"
    path.write_text("mine")
    with pytest.raises(ConfigError) as caught:
        Node("n", control=str(path))
    assert caught.value.code == "control_path"
    assert path.read_text() == "mine"


def test_a_socket_put_in_its_place_is_not_removed(folder: Path) -> None:
    path = folder / "node.sock"
    node = Node("n", control=str(path))
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        node.close()
        assert path.is_socket()


@pytest.mark.parametrize("mode", [0o755, 0o701, 0o770, 0o777])
def test_a_folder_that_others_may_enter_is_refused(folder: Path, mode: int) -> None:
    folder.chmod(mode)
    with pytest.raises(ConfigError) as caught:
        Node("n", control=str(folder / "node.sock"))
    assert (caught.value.code, caught.value.where) == ("control_permissions", str(folder))
    folder.chmod(0o700)


def test_a_path_too_long_for_a_socket_is_refused_with_its_bound(folder: Path) -> None:
    path = folder / ("x" * 100)
    with pytest.raises(ConfigError) as caught:
        Node("n", control=str(path))
    assert caught.value.code == "control_path"
    assert str(len(str(path))) in caught.value.detail
    with pytest.raises(ConfigError) as caught:
        read_status(path)
    assert caught.value.code == "control_path"


def test_a_socket_that_auto_cannot_make_is_a_warning(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder.chmod(0o755)
    with caplog.at_level(logging.WARNING, logger="rapini.node"), Node("n", control="auto") as node:
        assert node.control == ""
    folder.chmod(0o700)
    assert "rapini status will not find this node" in caplog.text


# -- who may ask ------------------------------------------------------------------------------------------------------


def as_nobody(program: str, *arguments: str) -> str:
    """Run a program as another user; returns what it printed."""
    if os.geteuid() != 0:
        missing_component("only root can be somebody else")
    # What is needed is imported first: the interpreter's folders may be closed to that user.
    head = f"import os, socket, sys; os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
    done = subprocess.run(
        [sys.executable, "-S", "-c", head + program, *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


CALL: str = """
caller = socket.socket(socket.AF_UNIX)
caller.settimeout(10)
try:
    caller.connect(sys.argv[1])
    print(caller.recv(65536).decode())
except PermissionError:
    print("not permitted")
"""


def test_another_user_does_not_reach_the_socket(folder: Path) -> None:
    with Node("n", control="auto") as node:
        assert as_nobody(CALL, node.control) == "not permitted"


def test_another_user_who_reaches_it_is_refused_all_the_same(folder: Path) -> None:
    """The kernel says who called: somebody who widened the permissions has not opened the node to everybody."""
    with Node("n", control="auto") as node:
        folder.chmod(0o755)
        Path(node.control).chmod(0o666)
        answer = json.loads(as_nobody(CALL, node.control))
        assert code_of(answer) == "denied"
        assert read_status(node.control).name == "n"
        folder.chmod(0o700)


def test_root_may_ask_a_users_node_and_the_user_not_another_users(folder: Path) -> None:
    if os.geteuid() != 0:
        missing_component("only root can be somebody else")
    theirs = folder / "theirs"
    theirs.mkdir(mode=0o700)
    os.chown(theirs, NOBODY, NOBODY)
    folder.chmod(0o711)
    # The interpreter's folders may be closed to that user, so the packages are imported before the change of user.
    program = (
        "import os, sys, rapini, rapini.node; rapini.Node; from rapini.node import control_places\n"
        f"os.setgroups([]); os.setgid({NOBODY}); os.setuid({NOBODY})\n"
        f"node = rapini.Node('theirs', control={str(theirs / 'n.sock')!r}); print('up', flush=True); sys.stdin.read()"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        assert read_status(theirs / "n.sock").name == "theirs"
    finally:
        child.communicate(b"", timeout=30)
    assert child.returncode == 0
    folder.chmod(0o700)


# -- what a caller cannot do ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "code"),
    [
        (b"\n", "bad_request"),
        (b"hello\n", "bad_request"),
        (b"\x00\xff\xfe\n", "bad_request"),
        (b"[]\n", "bad_request"),
        (b"{}\n", "bad_request"),
        (b"[" * 900 + b"\n", "bad_request"),
        (b'{"v":1}\n', "bad_request"),
        (b'{"v":1,"ask":"keys"}\n', "bad_request"),
        (b'{"v":1,"ask":["status"]}\n', "bad_request"),
        (b'{"v":2,"ask":"status"}\n', "bad_version"),
        (b'{"v":true,"ask":"status"}\n', "bad_version"),
        (b'{"v":"1","ask":"status"}\n', "bad_version"),
        (b"x" * 100_000, "bad_request"),
    ],
    ids=lambda each: repr(each)[:30],
)
def test_garbage_is_answered_with_a_code(folder: Path, said: bytes, code: str) -> None:
    with Node("n", control="auto") as node:
        assert code_of(exchange(node.control, said)) == code
        assert read_status(node.control).name == "n"


def test_a_question_may_come_in_pieces(folder: Path) -> None:
    with Node("n", control="auto") as node, socket.socket(socket.AF_UNIX) as caller:
        caller.connect(node.control)
        for at in range(len(ASK)):
            caller.sendall(ASK[at : at + 1])
            time.sleep(0.002)
        assert json.loads(caller.makefile().readline())["status"]["name"] == "n"


def test_a_hundred_callers_at_once_are_all_answered(folder: Path) -> None:
    with Node("n", control="auto") as node, ThreadPoolExecutor(100) as pool:
        gate = threading.Barrier(100)

        def ask(_: int) -> NodeStatus:
            gate.wait(20)
            return read_status(node.control, timeout_s=20)

        assert {status.name for status in pool.map(ask, range(100))} == {"n"}


def test_the_silent_are_shown_out_and_hold_up_nobody(folder: Path) -> None:
    """More callers than there are places, who say nothing or half of it."""
    with Node("n", control="auto") as node, contextlib.ExitStack() as stack:
        callers = []
        for number in range(control.MAX_CLIENTS + 8):
            caller = stack.enter_context(socket.socket(socket.AF_UNIX))
            caller.connect(node.control)
            caller.sendall(ASK[: -1 if number % 2 else 0])
            callers.append(caller)
        began = time.monotonic()
        assert read_status(node.control, timeout_s=10).name == "n"
        assert time.monotonic() - began < 5 * control.CROWDED_TIMEOUT_S
        for caller in callers:
            assert select.select([caller], [], [], control.CLIENT_TIMEOUT_S + 5)[0], "the server has let it go"
            assert caller.recv(1) == b""


@contextlib.contextmanager
def serving(folder: Path, take: Callable[[], NodeStatus]) -> Iterator[str]:
    """A server without a node."""
    path = folder / "server.sock"
    server = ControlServer("n", path, control_places.bind_socket(path, is_shared=False), take)
    server.start()
    yield str(path)
    server.close()
    assert not path.exists()
    assert server.failure is None


def large_status() -> NodeStatus:
    """More than a socket's buffers hold."""
    session = SessionStatus(name="p" * 128, status="up", since_s=1.0, subscriptions=["s" * 255] * 16)
    return NodeStatus(
        name="n",
        cluster="c",
        role="",
        pid=1,
        incarnation="",
        version="",
        state="running",
        time=0.0,
        uptime_s=0.0,
        sessions=[session] * 1000,
    )


def test_who_asks_and_does_not_read_holds_up_nobody(folder: Path) -> None:
    status = large_status()
    with serving(folder, lambda: status) as path, contextlib.ExitStack() as stack:
        callers = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(control.MAX_CLIENTS + 8)]
        for caller in callers:
            caller.connect(path)
            caller.sendall(ASK)
        began = time.monotonic()
        assert len(read_status(path, timeout_s=10).sessions) == 1000
        assert time.monotonic() - began < 5 * control.CROWDED_TIMEOUT_S
        time.sleep(control.CLIENT_TIMEOUT_S + 1)
        received = 0
        while part := callers[0].recv(1 << 20):
            received += len(part)
        assert 0 < received < 1_000_000, "the answer was cut off"


def test_many_questions_cost_the_node_ten_looks_a_second(folder: Path) -> None:
    looks = 0

    def take() -> NodeStatus:
        nonlocal looks
        looks += 1
        return msgspec.structs.replace(large_status(), sessions=[])

    with serving(folder, take) as path:
        began = time.monotonic()
        for _ in range(500):
            read_status(path)
        assert looks <= 2 + (time.monotonic() - began) / control.ANSWER_AGE_S


def test_a_fault_of_ours_is_told_and_logged_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    def take() -> NodeStatus:
        raise ZeroDivisionError

    with serving(folder, take) as path, caplog.at_level(logging.ERROR, logger="rapini.node"):
        for _ in range(3):
            assert code_of(exchange(path, ASK)) == "internal_error"
            time.sleep(1.5 * control.ANSWER_AGE_S)
    assert caplog.text.count("the node's status cannot be told") == 1


def test_the_end_of_the_server_is_not_the_nodes(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with Node("s", control="auto") as sensor, Node("m") as manager:
        server = sensor._control
        assert server is not None

        def fail(now: float) -> None:
            raise ZeroDivisionError

        with caplog.at_level(logging.ERROR):
            server._see_out = fail  # type: ignore[method-assign]
            with contextlib.suppress(LocalError):
                read_status(sensor.control)
            eventually(lambda: "the node goes on" in caplog.text)
        assert running_nodes() == []
        assert sensor.connect(manager.listen("tcp+plain://127.0.0.1:0")) == "m"


def test_a_node_whose_lock_is_held_is_busy_and_its_callers_are_told(folder: Path) -> None:
    with Node("n", control="auto") as node:
        with node._lock, pytest.raises(LocalError) as caught:
            read_status(node.control, timeout_s=10)
        assert caught.value.code == "busy"
        eventually(lambda: _answers(node.control))


def _answers(path: str) -> bool:
    try:
        return read_status(path).state == "running"
    except LocalError:
        return False


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (b"", "not_running"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "bad_answer"),
        (b"[]\n", "bad_answer"),
        (b'{"v":1}\n', "bad_answer"),
        (b'{"v":1,"status":{"name":1}}\n', "bad_answer"),
        (b'{"v":1,"error":[1]}\n', "bad_answer"),
        (b'{"v":1,"error":{"code":"busy","detail":"later"}}\n', "busy"),
        (b"[" * 100_000 + b"\n", "bad_answer"),
    ],
    ids=lambda each: repr(each)[:30],
)
def test_whatever_answers_the_reader_is_told_with_a_code(folder: Path, answer: bytes, code: str) -> None:
    path = folder / "strange.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen(1)

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(4096)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        with pytest.raises(LocalError) as caught:
            read_status(path)
        thread.join(10)
    assert caught.value.code == code


def test_who_listens_and_does_not_answer_costs_the_reader_its_deadline(folder: Path) -> None:
    path = folder / "silent.sock"
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))  # the queue is full from now on
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(LocalError) as caught:
                read_status(path, timeout_s=0.3)
            assert caught.value.code == "no_answer"
            assert time.monotonic() - began < 2
