"""The resolver: numeric addresses at once, names on a thread, and an end to waiting."""

from __future__ import annotations

import queue
import socket
import threading
import time

import pytest

from rapini.transport import resolver as resolver_module
from rapini.transport.resolver import Resolved, ResolveFailed, Resolver, numeric_address


@pytest.mark.parametrize(("host", "expected"), [("127.0.0.1", ("127.0.0.1", 9)), ("::1", ("::1", 9, 0, 0))])
def test_a_numeric_address_needs_no_thread(host: str, expected: tuple[object, ...]) -> None:
    answers: list[Resolved | ResolveFailed] = []
    Resolver().submit(host, 9, answers.append)
    assert answers == [Resolved(host=host, port=9, addresses=(expected,))]
    assert numeric_address("localhost", 9) is None


def test_a_name_is_looked_up_on_another_thread() -> None:
    answers: queue.Queue[tuple[Resolved | ResolveFailed, str]] = queue.Queue()
    Resolver().submit("localhost", 9, lambda answer: answers.put((answer, threading.current_thread().name)))
    answer, thread = answers.get(timeout=10)
    assert isinstance(answer, Resolved)
    assert {address[0] for address in answer.addresses} <= {"127.0.0.1", "::1"}
    assert thread == "rapini-resolver"


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a" * 64 + ".invalid", "x..y"])
def test_a_name_that_does_not_exist_fails_with_a_reason(host: str) -> None:
    answers: queue.Queue[Resolved | ResolveFailed] = queue.Queue()
    Resolver(timeout_s=20).submit(host, 9, answers.put)
    answer = answers.get(timeout=30)
    assert isinstance(answer, ResolveFailed)
    assert answer.code == "cannot_resolve"
    assert host in answer.detail


def test_a_slow_look_up_fails_at_its_deadline_and_answers_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The one thing that cannot be had for real here is a name server that does not answer."""
    release = threading.Event()
    real = socket.getaddrinfo

    def slow(host: str, *args: object, **kwargs: int) -> object:
        if kwargs.get("flags"):  # the numeric attempt
            return real(host, *args, **kwargs)  # type: ignore[arg-type]
        release.wait(10)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("192.0.2.1", 9))]

    monkeypatch.setattr(socket, "getaddrinfo", slow)
    answers: queue.Queue[Resolved | ResolveFailed] = queue.Queue()
    resolver = Resolver(timeout_s=0.1)
    start = time.monotonic()
    resolver.submit("slow.invalid", 9, answers.put)
    answer = answers.get(timeout=5)
    assert time.monotonic() - start < 2.0
    assert isinstance(answer, ResolveFailed)
    for _ in range(resolver_module.MAX_LOOKUPS - 1):
        resolver.submit("slow.invalid", 9, lambda _: None)
    resolver.submit("slow.invalid", 9, answers.put)  # one too many fails at once, on this thread
    assert "without an answer" in getattr(answers.get_nowait(), "detail", "")
    release.set()
    time.sleep(0.2)
    assert answers.empty()


def test_nothing_is_called_after_close() -> None:
    answers: queue.Queue[Resolved | ResolveFailed] = queue.Queue()
    resolver = Resolver()
    resolver.close()
    resolver.submit("localhost", 9, answers.put)
    with pytest.raises(queue.Empty):
        answers.get(timeout=0.3)
