"""The loop's selector: the answers of the standard library's, whatever happens to a descriptor."""

from __future__ import annotations

import contextlib
import selectors
import socket
from collections.abc import Iterator

import pytest

from rapini.node.poller import make_poller

READ, WRITE = selectors.EVENT_READ, selectors.EVENT_WRITE


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@pytest.mark.parametrize("wanted", [READ, WRITE, READ | WRITE])
@pytest.mark.parametrize("state", ["silent", "readable", "ended", "reset"])
def test_it_answers_as_the_standard_selector(
    pair: tuple[socket.socket, socket.socket], wanted: int, state: str
) -> None:
    ours, theirs = pair
    if state == "readable":
        theirs.send(b"x")
    elif state == "ended":
        theirs.shutdown(socket.SHUT_WR)
    elif state == "reset":
        theirs.close()
    with contextlib.closing(make_poller()) as poller, contextlib.closing(selectors.DefaultSelector()) as standard:
        keys = [selector.register(ours, wanted, "data") for selector in (poller, standard)]
        assert keys[0] == keys[1]
        assert poller.select(0) == standard.select(0)
        for selector in (poller, standard):
            selector.modify(ours, READ | WRITE, "other")
        answer = poller.select(0)
        assert answer == standard.select(0)
        assert answer[0][0].data == "other"


def test_what_was_unregistered_is_reported_no_more(pair: tuple[socket.socket, socket.socket]) -> None:
    ours, theirs = pair
    theirs.send(b"x")
    with contextlib.closing(make_poller()) as poller:
        poller.register(ours.fileno(), READ)
        assert [key.fd for key, _ in poller.select(0)] == [ours.fileno()]
        poller.unregister(ours.fileno())
        assert poller.select(0.01) == []
        with pytest.raises(KeyError):
            poller.unregister(ours.fileno())


def test_many_ready_descriptors_are_all_reported_within_a_few_waits() -> None:
    with contextlib.ExitStack() as stack:
        poller = stack.enter_context(contextlib.closing(make_poller()))
        waiting = set()
        for _ in range(200):
            ours, theirs = (stack.enter_context(end) for end in socket.socketpair())
            theirs.send(b"x")
            waiting.add(poller.register(ours, READ, None).fd)
        seen: set[int] = set()
        for _ in range(8):
            seen |= {key.fd for key, _ in poller.select(0)}
        assert seen == waiting
