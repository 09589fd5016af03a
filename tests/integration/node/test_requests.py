"""Requests between real nodes over TLS: each is answered, or fails with a reason, and nothing waits for ever."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from rapini import AsyncNode, Event, Node, Origin, PeerState, limits
from rapini.errors import LocalError, RequestError
from rapini.testing.authority import ThrowawayAuthority
from tests.integration.node.support import QUICK, SCHEMES, Recorder, eventually
from tests.programs.events import Question, Tick

SOON_S = 2.0


@dataclass
class Group:
    """A manager that listens, and workers that dialled it; the keys carry the roles."""

    manager: Node
    workers: dict[str, Node]


class Roles:
    """Key files of one authority, with roles."""

    def __init__(self, folder: Path) -> None:
        self._authority = ThrowawayAuthority(folder)
        self._issued: dict[tuple[str, str], dict[str, Any]] = {}

    def of(self, name: str, role: str = "") -> dict[str, Any]:
        if (name, role) not in self._issued:
            files = self._authority.issue(name, role=role or None)
            paths = {"certificate": files.certificate_path, "key": files.key_path, "trust": files.trust_path}
            self._issued[name, role] = {option: str(path) for option, path in paths.items()}
        return self._issued[name, role]


@pytest.fixture(scope="module")
def roles(tmp_path_factory: pytest.TempPathFactory) -> Roles:
    return Roles(tmp_path_factory.mktemp("roles"))


@contextmanager
def group(roles: Roles, *names: str, scheme: str = "tcp+tls", **options: Any) -> Iterator[Group]:
    """A manager and workers, all up."""
    with ExitStack() as stack:
        manager = stack.enter_context(Node("manager", **roles.of("manager"), **QUICK))
        url = manager.listen(f"{scheme}://127.0.0.1:0")
        workers = {}
        for name in names:
            workers[name] = stack.enter_context(Node(name, **roles.of(name, "worker"), **QUICK, **options))
            workers[name].connect(url)
        manager.ready(roles={"worker": len(names)})
        yield Group(manager, workers)


def double(event: Event, origin: Origin) -> Event:
    """A handler."""
    assert isinstance(event, Question)
    return Question(sender=origin.peer, number=2 * event.number)


def code_of(error: pytest.ExceptionInfo[RequestError]) -> tuple[str, str]:
    return error.value.code, error.value.peer


# -- the course of things ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
def test_a_question_is_answered_both_ways(roles: Roles, scheme: str) -> None:
    with group(roles, "w1", scheme=scheme) as g:
        g.workers["w1"].serve("question/", double)
        g.manager.serve("", lambda event, origin: None)
        assert g.manager.request(Question("m", 21), to="w1") == Question("manager", 42)
        assert g.workers["w1"].request(Question("w", 1), to="manager") is None
        counters = g.manager.counters()
        assert (counters.requests, counters.served) == ({"ok": 1}, {"ok": 1})


def test_the_longest_prefix_answers(roles: Roles) -> None:
    with group(roles, "w1") as g:
        worker = g.workers["w1"]
        worker.serve("", lambda event, origin: Question("rest", 0))
        worker.serve("question/deep", lambda event, origin: Question("deep", 0))
        worker.serve("question/", lambda event, origin: Question("shallow", 0))
        topics = ("question/deep/x", "question/x", "other")
        answers = [g.manager.request(Question("m", 1), to="w1", topic=topic) for topic in topics]
        assert [answer.sender for answer in answers if isinstance(answer, Question)] == ["deep", "shallow", "rest"]


def test_a_role_takes_turns(roles: Roles) -> None:
    with group(roles, "w1", "w2", "w3") as g:
        for name, worker in g.workers.items():
            worker.serve("", lambda event, origin, name=name: Question(name, 0))  # type: ignore[misc]
        answers = [g.manager.request(Question("m", 1), role="worker") for _ in range(6)]
        assert [a.sender for a in answers if isinstance(a, Question)] == ["w1", "w2", "w3"] * 2


def test_a_key_stays_with_its_peer_when_others_go(roles: Roles) -> None:
    with group(roles, "w1", "w2", "w3") as g:
        for name, worker in g.workers.items():
            worker.serve("", lambda event, origin, name=name: Question(name, 0))  # type: ignore[misc]

        def owners() -> dict[int, str]:
            got = {key: g.manager.request(Question("m", 1), role="worker", key=f"host-{key}") for key in range(40)}
            return {key: answer.sender for key, answer in got.items() if isinstance(answer, Question)}

        before = owners()
        assert owners() == before
        assert set(before.values()) == {"w1", "w2", "w3"}
        g.workers["w2"].close()
        eventually(lambda: len(g.manager.peers()) == 2)
        after = owners()
        assert set(after.values()) == {"w1", "w3"}
        assert all(after[key] == owner for key, owner in before.items() if owner != "w2")


def test_all_are_asked_at_once_and_each_answers_for_itself(roles: Roles) -> None:
    with group(roles, "w1", "w2", "w3") as g:
        g.workers["w1"].serve("", double)
        g.workers["w2"].serve("", lambda event, origin: 1 // 0)  # type: ignore[arg-type,return-value]
        answers = g.manager.request_all(Question("m", 4))
        assert answers["w1"] == Question("manager", 8)
        failures = {name: answer.code for name, answer in answers.items() if isinstance(answer, RequestError)}
        assert failures == {"w2": "handler_failed", "w3": "no_handler"}
        assert g.manager.request_all(Question("m", 4), role="nobody") == {}


def test_a_handler_may_ask_in_its_turn(roles: Roles) -> None:
    with group(roles, "w1", "w2") as g:
        g.workers["w2"].serve("", double)
        g.manager.serve("", lambda event, origin: g.manager.request(event, to="w2"))
        assert g.workers["w1"].request(Question("w", 5), to="manager") == Question("manager", 10)


def test_many_at_a_time(roles: Roles) -> None:
    """More than the bound on one link: the asker waits for answers before it asks more."""
    with group(roles, "w1") as g:
        g.workers["w1"].serve("", double)
        wrong: list[int] = []

        def ask(base: int) -> None:
            answers = {n: g.manager.request(Question("m", n), to="w1") for n in range(base, base + 100)}
            wrong.extend(n for n, answer in answers.items() if answer != Question("manager", 2 * n))

        threads = [threading.Thread(target=ask, args=(base,)) for base in range(0, 800, 100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
            assert not thread.is_alive()
        assert wrong == []
        assert g.manager.counters().requests == {"ok": 800}


def test_large_questions_and_answers(roles: Roles) -> None:
    with group(roles, "w1", window_bytes=64 * 1024) as g:
        g.workers["w1"].serve("", lambda event, origin: event)
        for size in (0, 70_000, 3 << 20):
            question = Question("m", size, pad=bytes(size))
            assert g.manager.request(question, to="w1") == question


# -- events for one ---------------------------------------------------------------------------------------------------


def test_an_event_for_one_arrives_though_it_did_not_subscribe(roles: Roles) -> None:
    with group(roles, "w1", "w2") as g:
        recorders = {name: Recorder(worker) for name, worker in g.workers.items()}
        assert g.manager.send(Tick("m", 1), to="w1") == "w1"
        assert {g.manager.send(Tick("m", number), role="worker") for number in (2, 3)} == {"w1", "w2"}
        assert g.manager.send_all(Tick("m", 4)) == {"w1": None, "w2": None}
        # The sender hears that an event was taken a moment before the consumer has it in its list.
        eventually(lambda: recorders["w1"].ticks("m") == [1, 2, 4])
        eventually(lambda: recorders["w2"].ticks("m") == [3, 4])
        _, (_, origin) = recorders["w1"].wait(lambda item: isinstance(item, tuple))
        assert (origin.peer, origin.node, origin.topic, origin.hops) == ("manager", "manager", "tick/main", 0)


def test_an_event_for_one_goes_to_the_callback_on_its_topic(roles: Roles) -> None:
    with group(roles, "w1") as g:
        got: list[Event] = []
        g.workers["w1"].subscribe("tick/", callback=lambda event, origin: got.append(event))
        g.manager.send(Tick("m", 1), to="w1")
        eventually(lambda: got == [Tick("m", 1)])


def test_what_is_not_taken_in_time_is_not_delivered_later(roles: Roles) -> None:
    with group(roles, "w1") as g:
        recorder = Recorder(g.workers["w1"])
        recorder.wait_status(PeerState.UP, "manager")
        recorder.pause()
        assert g.manager.send(Tick("m", 1), to="w1")  # in the hand of the one who pauses
        with pytest.raises(RequestError) as error:
            g.manager.send(Tick("m", 2), to="w1", timeout_s=0.3)
        assert code_of(error) == ("deadline", "w1")
        eventually(lambda: g.workers["w1"].counters().served == {"ok": 1, "deadline": 1})
        recorder.resume()
        g.manager.send(Tick("m", 3), to="w1")
        assert recorder.ticks("m") == [1, 3]


def test_an_event_for_one_that_does_not_fit_is_refused(roles: Roles) -> None:
    """Both nodes live in one process, so the types agree; the bytes are made not to."""
    with group(roles, "w1") as g:
        recorder = Recorder(g.workers["w1"])
        session = g.manager._core.peers.sessions["w1"]
        payload = b"\x91\x94\xa4Tick\xa9tick/main\x01\xc4\x03\x91\x91\xc3"
        with g.manager._lock:
            asked = g.manager._core.peers.asker.ask(session, "tick/main", payload, 5.0, wants_reply=False)
        assert asked is not None
        with pytest.raises(RequestError) as error:
            asked.wait()
        assert code_of(error) == ("bad_event", "w1")
        assert recorder.ticks() == []
        assert sum(g.workers["w1"].counters().bad_events.values()) == 1


# -- what goes wrong --------------------------------------------------------------------------------------------------


def test_nobody_to_ask_says_why(roles: Roles) -> None:
    with group(roles, "w1") as g:
        for whom in ({"to": "ghost"}, {"role": "sensor"}, {"role": "sensor", "key": "k"}):
            with pytest.raises(RequestError) as error:
                g.manager.request(Question("m", 1), **whom)  # type: ignore[arg-type]
            assert error.value.code == "no_peer"
        g.workers["w1"].close()
        eventually(lambda: not g.manager.peers())
        with pytest.raises(RequestError) as error:
            g.manager.request(Question("m", 1), to="w1")
        assert error.value.code == "no_peer"
        assert "w1 left" in str(error.value)


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        ({}, "whom"),
        ({"to": "w1", "role": "worker"}, "whom"),
        ({"to": "w1", "key": "k"}, "whom"),
        ({"to": "w1", "timeout_s": 0}, "bad_timeout"),
        ({"to": "w1", "timeout_s": float("nan")}, "bad_timeout"),
    ],
)
def test_a_wrong_call_is_told_at_once(roles: Roles, arguments: dict[str, Any], code: str) -> None:
    with Node("lonely", **roles.of("lonely")) as node, pytest.raises(LocalError) as error:
        node.request(Question("m", 1), **arguments)
    assert error.value.code == code


def test_nobody_serves_it(roles: Roles) -> None:
    with group(roles, "w1") as g:
        with pytest.raises(RequestError) as error:
            g.manager.request(Question("m", 1), to="w1")
        assert code_of(error) == ("no_handler", "w1")


def test_a_handler_that_fails_costs_its_request_alone(roles: Roles) -> None:
    with group(roles, "w1", handler_threads=1) as g:

        def handler(event: Event, origin: Origin) -> Event:
            if isinstance(event, Question) and event.number:
                raise SystemExit("secret detail")
            return event

        g.workers["w1"].serve("", handler)
        with pytest.raises(RequestError) as error:
            g.manager.request(Question("m", 1), to="w1")
        assert code_of(error) == ("handler_failed", "w1")
        assert "secret" not in str(error.value)
        assert g.manager.request(Question("m", 0), to="w1") == Question("m", 0)


def test_an_answer_that_cannot_be_sent_is_told(roles: Roles) -> None:
    with group(roles, "w1") as g:
        g.workers["w1"].serve("large", lambda event, origin: Question("w", 0, pad=bytes(9 << 20)))
        g.workers["w1"].serve("nothing", lambda event, origin: "not an event")  # type: ignore[arg-type,return-value]
        for topic, code in (("large", "too_large"), ("nothing", "handler_failed")):
            with pytest.raises(RequestError) as error:
                g.manager.request(Question("m", 1), to="w1", topic=topic)
            assert code_of(error) == (code, "w1")
        with pytest.raises(RequestError) as error:
            g.manager.request(Question("m", 1, pad=bytes(9 << 20)), to="w1")
        assert error.value.code == "too_large"


def test_a_slow_handler_meets_the_deadline_and_its_answer_is_dropped(roles: Roles) -> None:
    with group(roles, "w1") as g:
        release = threading.Event()
        g.workers["w1"].serve("slow", lambda event, origin: event if release.wait(10) else None)
        g.workers["w1"].serve("", double)
        began = time.monotonic()
        with pytest.raises(RequestError) as error:
            g.manager.request(Question("m", 1), to="w1", topic="slow", timeout_s=0.3)
        assert code_of(error) == ("deadline", "w1")
        assert 0.3 <= time.monotonic() - began < 0.3 + SOON_S
        assert g.manager.request(Question("m", 1), to="w1") == Question("manager", 2)  # others are served meanwhile
        release.set()
        assert g.manager.request(Question("m", 2), to="w1") == Question("manager", 4)
        assert len(g.manager.peers()) == 1
        eventually(lambda: g.workers["w1"].counters().served.get("ok", 0) == 2)


def test_a_request_whose_time_is_over_before_its_turn_is_not_begun(roles: Roles) -> None:
    with group(roles, "w1", handler_threads=1) as g:
        release, begun = threading.Event(), []

        def handler(event: Event, origin: Origin) -> Event:
            begun.append(event)
            release.wait(10)
            return event

        g.workers["w1"].serve("", handler)
        first = threading.Thread(target=lambda: g.manager.request(Question("m", 1), to="w1"))
        first.start()
        eventually(lambda: len(begun) == 1)
        with pytest.raises(RequestError):
            g.manager.request(Question("m", 2), to="w1", timeout_s=0.2)
        eventually(lambda: g.workers["w1"].counters().served == {"deadline": 1})
        release.set()
        first.join(10)
        g.manager.request(Question("m", 3), to="w1")
        assert begun == [Question("m", 1), Question("m", 3)]


def test_a_peer_that_asks_much_delays_another_by_one_request(roles: Roles) -> None:
    with ExitStack() as stack:
        server = stack.enter_context(Node("server", **roles.of("server"), handler_threads=1))
        url = server.listen("tcp+tls://127.0.0.1:0")
        nodes = [stack.enter_context(Node(name, **roles.of(name, "worker"))) for name in ("w1", "w2")]
        for node in nodes:
            node.connect(url)
        order: list[str] = []

        def handler(event: Event, origin: Origin) -> None:
            order.append(origin.peer)
            time.sleep(0.02)

        server.serve("", handler)
        greedy = [
            threading.Thread(target=lambda: nodes[0].request(Question("g", 0), to="server", timeout_s=20))
            for _ in range(20)
        ]
        for thread in greedy:
            thread.start()
        eventually(lambda: len(order) >= 2)
        nodes[1].request(Question("m", 0), to="server")
        assert order.index("w2") < 8
        for thread in greedy:
            thread.join(10)


def test_more_than_the_bound_is_refused_here_and_the_link_lives(roles: Roles) -> None:
    with group(roles, "w1", handler_threads=1) as g:
        release = threading.Event()
        g.workers["w1"].serve("", lambda event, origin: event if release.wait(20) else None)
        asker = g.manager
        started = [
            asker.start(Question("m", n), "w1", None, None, 20.0, None, wants_reply=True)
            for n in range(limits.MAX_REQUESTS)
        ]
        with pytest.raises(RequestError) as error:
            asker.request(Question("m", 0), to="w1")
        assert code_of(error) == ("overloaded", "w1")
        release.set()
        assert Counter(each.wait() is not None for each in started) == {True: limits.MAX_REQUESTS}
        assert asker.request(Question("m", 0), to="w1") == Question("m", 0)


def test_a_role_passes_over_the_peer_that_can_take_no_more(roles: Roles) -> None:
    with group(roles, "w1", "w2") as g:
        release = threading.Event()
        g.workers["w1"].serve("", lambda event, origin: event if release.wait(20) else None)
        g.workers["w2"].serve("", double)
        for number in range(limits.MAX_REQUESTS):
            g.manager.start(Question("m", number), "w1", None, None, 20.0, None, wants_reply=True)
        for _ in range(4):
            assert g.manager.request(Question("m", 3), role="worker") == Question("manager", 6)
        release.set()


def test_a_peer_killed_in_the_middle_ends_its_requests_at_once(roles: Roles, tmp_path: Path) -> None:
    options = roles.of("child", "worker")
    script = tmp_path / "child.py"
    script.write_text(
        "import sys, time\n"
        "from rapini import Node\n"
        "from tests.programs.events import Question\n"
        "node = Node('child', certificate=sys.argv[2], key=sys.argv[3], trust=sys.argv[4])\n"
        "node.serve('', lambda event, origin: print('asked', flush=True) or time.sleep(60))\n"
        "node.connect(sys.argv[1])\n"
        "time.sleep(60)\n"
    )
    with Node("manager", **roles.of("manager"), **QUICK) as manager:
        url = manager.listen("tcp+tls://127.0.0.1:0")
        command = [sys.executable, str(script), url, options["certificate"], options["key"], options["trust"]]
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=_environment())
        try:
            manager.ready(names=("child",))
            asked = manager.start(Question("m", 1), "child", None, None, 50.0, None, wants_reply=True)
            assert child.stdout is not None
            assert child.stdout.readline() == b"asked\n"
            began = time.monotonic()
            child.kill()
            with pytest.raises(RequestError) as error:
                asked.wait()
            assert code_of(error) == ("peer_lost", "child")
            assert "may have acted" in str(error.value)
            assert time.monotonic() - began < SOON_S
        finally:
            child.kill()
            child.wait(10)
            assert child.stdout is not None
            child.stdout.close()
        assert manager.counters().requests == {"peer_lost": 1}


def _environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ":".join(path for path in sys.path if path)}


def test_a_peer_that_leaves_in_the_middle_says_so(roles: Roles) -> None:
    with group(roles, "w1") as g:
        begun = threading.Event()
        forever = threading.Event()

        def handler(event: Event, origin: Origin) -> None:
            begun.set()
            forever.wait(10)

        g.workers["w1"].serve("", handler)
        asked = g.manager.start(Question("m", 1), "w1", None, None, 30.0, None, wants_reply=True)
        begun.wait(10)
        g.workers["w1"].close(drain_timeout_s=0.2)
        with pytest.raises(RequestError) as error:
            asked.wait()
        assert code_of(error) == ("peer_left", "w1")
        forever.set()


def test_a_running_handler_is_waited_for_at_the_end(roles: Roles) -> None:
    with group(roles, "w1") as g:
        begun = threading.Event()

        def handler(event: Event, origin: Origin) -> Event:
            begun.set()
            time.sleep(0.3)
            return event

        g.workers["w1"].serve("", handler)
        asked = g.manager.start(Question("m", 1), "w1", None, None, 30.0, None, wants_reply=True)
        begun.wait(10)
        g.workers["w1"].close()
        assert asked.wait() == Question("m", 1)


def test_closing_ones_own_node_ends_what_it_asked(roles: Roles) -> None:
    with group(roles, "w1") as g:
        forever = threading.Event()
        g.workers["w1"].serve("", lambda event, origin: event if forever.wait(10) else None)
        asked = g.manager.start(Question("m", 1), "w1", None, None, 30.0, None, wants_reply=True)
        g.manager.close(drain_timeout_s=0.2)
        with pytest.raises((LocalError, RequestError)) as error:
            asked.wait()
        assert error.value.code in ("closed", "peer_left")
        with pytest.raises(LocalError):
            g.manager.request(Question("m", 1), to="w1")
        forever.set()


# -- over asyncio -----------------------------------------------------------------------------------------------------


def test_the_asyncio_face(roles: Roles) -> None:
    async def main() -> None:
        async with (
            AsyncNode("manager", **roles.of("manager")) as manager,
            AsyncNode("w1", **roles.of("w1", "worker")) as worker,
        ):
            release = threading.Event()
            worker.serve("question/", double)
            worker.serve("slow", lambda event, origin: event if release.wait(20) else None)
            await worker.connect(manager.listen("tcp+tls://127.0.0.1:0"))
            await manager.ready(roles={"worker": 1}, names=("w1",))
            assert await manager.request(Question("m", 2), to="w1") == Question("manager", 4)
            answers = await asyncio.gather(*(manager.request(Question("m", n), role="worker") for n in range(100)))
            assert answers == [Question("manager", 2 * n) for n in range(100)]
            assert await manager.request_all(Question("m", 2)) == {"w1": Question("manager", 4)}

            events = aiter(worker.events())
            sent, (event, _) = await asyncio.gather(manager.send(Tick("m", 1), to="w1"), anext(events))
            assert (sent, event) == ("w1", Tick("m", 1))

            with pytest.raises(RequestError) as error:
                await manager.request(Question("m", 1), to="ghost")
            assert error.value.code == "no_peer"

            cancelled = asyncio.create_task(manager.request(Question("m", 1), to="w1", topic="slow"))
            await asyncio.sleep(0.1)
            cancelled.cancel()
            with pytest.raises(asyncio.CancelledError):
                await cancelled
            assert manager.counters().requests["cancelled"] == 1
            release.set()
            await asyncio.to_thread(eventually, lambda: manager.counters().late_answers == 1)
            assert await manager.request(Question("m", 2), to="w1") == Question("manager", 4)

    asyncio.run(asyncio.wait_for(main(), 60))
