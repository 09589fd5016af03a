"""Requests of one link: each is answered once or fails once, and neither side is made to hold more than it granted."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini import limits
from rapini.session.asking import Asking, Heard
from rapini.session.link import CloseKind, LinkState
from rapini.session.messages import Reject, Request, Response, encode_frame
from rapini.session.outcomes import AnswerReceived, LinkClosed, RequestExpired, RequestReceived
from tests.unit.session.parts import NOW, scripted

WINDOW = 1000


def asking(peer_window: int = WINDOW, own_window: int = WINDOW) -> Asking:
    return Asking(peer_window_bytes=peer_window, own_window_bytes=own_window)


def ask(machine: Asking, payload: bytes = b"p", deadline: float = NOW + 5) -> int:
    number = machine.ask("t", payload, deadline, wants_reply=True)
    assert number is not None
    return number


def asked(number: int = 0, payload: bytes = b"p", expires_ms: int = 5000) -> Request:
    return Request(number, expires_ms, "t", True, payload)


def test_a_request_and_its_answer() -> None:
    ours, theirs = asking(), asking()
    number = ask(ours)
    frame = ours.next_frame(NOW + 2)
    assert frame == Request(number, 3000, "t", True, b"p")  # what remains when it is sent
    assert isinstance(frame, Request)
    assert theirs.received(frame, NOW + 2) == ""
    assert theirs.is_open(number)
    assert theirs.answer(number, "", "", b"a")
    assert not theirs.is_open(number)
    response = theirs.next_frame(NOW + 2)
    assert response == Response(number, "", "", b"a")
    assert ours.heard(number) is Heard.ANSWER
    assert ours.heard(number) is Heard.UNASKED  # the second of two
    assert (ours.handle_timer(NOW + 100), ours.next_timer()) == ([], float("inf"))


def test_what_was_never_asked_or_never_sent_cannot_be_answered() -> None:
    ours = asking()
    assert ours.heard(0) is Heard.UNASKED
    assert ours.heard(ask(ours)) is Heard.UNASKED


def test_a_deadline_fails_the_request_and_its_answer_is_late() -> None:
    ours = asking()
    number = ask(ours)
    assert ours.next_frame(NOW)
    assert ours.next_timer() == NOW + 5
    assert ours.handle_timer(NOW + 4.9) == []
    assert ours.handle_timer(NOW + 5) == [number]
    assert ours.handle_timer(NOW + 6) == []
    assert ours.heard(number) is Heard.LATE
    assert ours.heard(number) is Heard.UNASKED
    assert ours.late == 1


def test_a_request_that_was_not_sent_by_its_deadline_is_not_sent() -> None:
    ours = asking()
    number = ask(ours)
    assert ours.handle_timer(NOW + 5) == [number]
    assert ours.next_frame(NOW + 5) is None


def test_a_cancelled_request_is_not_sent_or_its_answer_is_dropped() -> None:
    ours = asking()
    ours.cancel(ask(ours))
    assert ours.next_frame(NOW) is None
    number = ask(ours)
    assert ours.next_frame(NOW)
    ours.cancel(number)
    assert ours.handle_timer(NOW + 100) == []
    assert ours.heard(number) is Heard.LATE


def test_the_asked_side_answers_by_itself_when_the_time_is_over() -> None:
    theirs = asking()
    assert theirs.received(asked(expires_ms=1500), NOW) == ""
    assert theirs.next_timer() == NOW + 1.5
    theirs.handle_timer(NOW + 1.5)
    assert not theirs.answer(0, "", "", b"too late")
    response = theirs.next_frame(NOW + 1.5)
    assert isinstance(response, Response)
    assert (response.id, response.code, response.payload) == (0, "deadline", b"")
    assert theirs.next_frame(NOW + 2) is None


def test_a_pause_of_our_own_is_given_to_the_peers_requests() -> None:
    theirs = asking()
    theirs.received(asked(expires_ms=1000), NOW)
    theirs.forgive(60)
    theirs.handle_timer(NOW + 60)
    assert theirs.is_open(0)


def test_as_many_as_the_bound_and_no_more() -> None:
    ours, theirs = asking(), asking()
    for _ in range(limits.MAX_REQUESTS):
        ask(ours, b"")
    assert ours.ask("t", b"", NOW + 5, wants_reply=False) is None
    while isinstance(frame := ours.next_frame(NOW), Request):
        assert theirs.received(frame, NOW) == ""
    assert "unanswered requests" in theirs.received(asked(10_000), NOW)


def test_expired_requests_count_until_they_are_answered() -> None:
    """Else the peer, which still holds them, would find its bound broken."""
    ours = asking()
    for _ in range(limits.MAX_REQUESTS):
        ask(ours, b"")
        assert ours.next_frame(NOW)
    assert len(ours.handle_timer(NOW + 5)) == limits.MAX_REQUESTS
    assert not ours.has_room(0)
    assert ours.heard(7) is Heard.LATE
    assert ours.has_room(0)


def test_payload_is_bounded_by_the_window_but_for_a_single_one() -> None:
    ours, theirs = asking(), asking()
    number = ask(ours, bytes(5 * WINDOW))
    assert not ours.has_room(1)
    assert theirs.received(asked(number, bytes(5 * WINDOW)), NOW) == ""
    assert theirs.received(asked(1, b"x"), NOW) == "requests beyond its credit"


def test_a_number_may_not_be_used_twice_at_a_time() -> None:
    theirs = asking()
    assert theirs.received(asked(), NOW) == ""
    assert "unanswered" in theirs.received(asked(), NOW)
    theirs.answer(0, "")
    assert "unanswered" in theirs.received(asked(), NOW)  # it has not gone out yet
    assert theirs.next_frame(NOW)
    assert theirs.received(asked(), NOW) == ""


def test_answers_that_are_not_read_are_not_kept() -> None:
    theirs = asking()
    for number in range(3):
        theirs.received(asked(number), NOW)
        theirs.answer(number, "", "", bytes(WINDOW))
    codes = [frame.code for _ in range(3) if isinstance(frame := theirs.next_frame(NOW), Response)]
    assert codes == ["", "overloaded", "overloaded"]


def test_the_end_fails_what_is_awaited_and_nothing_else() -> None:
    ours = asking()
    answered, cancelled, sent, queued = (ask(ours) for _ in range(4))
    for _ in range(3):
        ours.next_frame(NOW)
    ours.heard(answered)
    ours.cancel(cancelled)
    assert ours.end() == [sent, queued]
    assert (ours.end(), ours.next_frame(NOW), ours.next_timer()) == ([], None, float("inf"))


# -- against a model --------------------------------------------------------------------------------------------------


@dataclass
class Wire:
    """Two machines with a wire between them, and what an observer remembers."""

    now: float = NOW
    ours: Asking = field(default_factory=asking)
    theirs: Asking = field(default_factory=asking)
    requests: list[Request] = field(default_factory=list)
    responses: list[Response] = field(default_factory=list)
    waiting: dict[int, float] = field(default_factory=dict)
    ended: dict[int, str] = field(default_factory=dict)
    open: set[int] = field(default_factory=set)

    def ask(self, size: int, patience: int) -> None:
        number = self.ours.ask("t", bytes(size), self.now + patience, wants_reply=True)
        if number is not None:
            assert number not in self.waiting
            assert number not in self.ended
            self.waiting[number] = self.now + patience

    def send(self) -> None:
        frame = self.ours.next_frame(self.now)
        if isinstance(frame, Request):
            self.requests.append(frame)

    def arrive(self) -> None:
        if self.requests:
            request = self.requests.pop(0)
            assert self.theirs.received(request, self.now) == "", "an honest asker never breaks the bound"
            self.open.add(request.id)

    def answer(self, index: int) -> None:
        if self.open:
            number = sorted(self.open)[index % len(self.open)]
            self.open.discard(number)
            self.theirs.answer(number, "", "", b"a")

    def answers_go(self) -> None:
        frame = self.theirs.next_frame(self.now)
        if isinstance(frame, Response):
            self.open.discard(frame.id)
            self.responses.append(frame)

    def answers_arrive(self) -> None:
        if self.responses:
            response = self.responses.pop(0)
            heard = self.ours.heard(response.id)
            assert heard is (Heard.ANSWER if response.id in self.waiting else Heard.LATE)
            if response.id in self.waiting:
                self._end(response.id, "answered")

    def cancel(self, index: int) -> None:
        if self.waiting:
            number = sorted(self.waiting)[index % len(self.waiting)]
            self.ours.cancel(number)
            self._end(number, "cancelled")

    def time(self, seconds: int) -> None:
        self.now += seconds
        due = {number for number, deadline in self.waiting.items() if deadline <= self.now}
        assert set(self.ours.handle_timer(self.now)) == due
        self.theirs.handle_timer(self.now)
        for number in due:
            self._end(number, "deadline")

    def _end(self, number: int, how: str) -> None:
        assert number not in self.ended, "a request ends once"
        del self.waiting[number]
        self.ended[number] = how


STEPS = st.one_of(
    st.tuples(st.just("ask"), st.integers(0, 600), st.integers(1, 20)),
    st.tuples(st.sampled_from(["send", "arrive", "answers_go", "answers_arrive"])),
    st.tuples(st.sampled_from(["answer", "cancel"]), st.integers(0, 10)),
    st.tuples(st.just("time"), st.integers(0, 9)),
)


@given(st.lists(STEPS, max_size=120))
def test_every_request_ends_once_and_everything_is_free_again(steps: list[tuple[object, ...]]) -> None:
    wire = Wire()
    for step in steps:
        getattr(wire, str(step[0]))(*step[1:])
    wire.time(100)
    assert not wire.waiting
    for _ in range(len(steps) + 1):
        wire.send()
        wire.arrive()
        wire.time(100)
        wire.answers_go()
        wire.answers_arrive()
    assert wire.ours.has_room(WINDOW)
    assert wire.theirs.received(asked(10_000, bytes(2 * WINDOW)), wire.now) == ""
    assert (wire.ours.next_frame(wire.now), wire.ours.end()) == (None, [])


# -- on a link --------------------------------------------------------------------------------------------------------


def test_a_link_asks_and_is_asked() -> None:
    script = scripted(LinkState.UP, is_initiator=True)
    number = script.link.ask("t", b"q", script.now + 2, wants_reply=True)
    assert script.link.send_asked(script.now)
    assert not script.link.send_asked(script.now)
    assert number == 0
    assert script.says() == [Request(0, 2000, "t", True, b"q")]
    assert script.hears(encode_frame(Response(0, "", "", b"a"))) == [
        AnswerReceived(id=0, code="", detail="", payload=b"a")
    ]
    assert script.hears(encode_frame(asked(9, b"q"))) == [
        RequestReceived(id=9, topic="t", wants_reply=True, payload=b"q")
    ]
    assert script.link.answer(9, "no_handler", "nobody")
    assert script.link.send_asked(script.now)
    assert script.says() == [Response(9, "no_handler", "nobody")]


def test_a_links_timer_ends_requests() -> None:
    script = scripted(LinkState.UP, is_initiator=False)
    script.link.ask("t", b"q", NOW + 0.5, wants_reply=True)
    script.hears(encode_frame(asked(3, expires_ms=500)))
    script.link.send_asked(script.now)
    assert script.link.next_timer() == NOW + 0.5
    assert script.at(0.5) == [RequestExpired(id=0)]
    script.says()
    assert script.link.send_asked(script.now)
    assert script.says() == [Response(3, "deadline", "not answered in time")]


def test_a_late_answer_is_dropped_and_a_second_one_is_a_breach() -> None:
    script = scripted(LinkState.UP, is_initiator=True)
    script.link.ask("t", b"q", NOW + 0.5, wants_reply=True)
    script.link.send_asked(script.now)
    script.at(0.5)
    assert script.hears(encode_frame(Response(0, ""))) == []
    assert script.link.asking.late == 1
    (end,) = script.hears(encode_frame(Response(0, "")))
    assert isinstance(end, LinkClosed)
    assert (end.code, end.kind) == ("protocol_error", CloseKind.LOST)


def test_codes_and_details_of_a_peer_are_made_harmless() -> None:
    script = scripted(LinkState.UP, is_initiator=True)
    script.link.ask("t", b"q", NOW + 5, wants_reply=True)
    script.link.send_asked(script.now)
    (answer,) = script.hears(encode_frame(Response(0, "Not A Code", "\x1b[2J" + "x" * 1000)))
    assert isinstance(answer, AnswerReceived)
    assert answer.code == "unknown_reason"
    assert answer.detail.isprintable()
    assert len(answer.detail) == limits.MAX_DETAIL_CHARS


@pytest.mark.parametrize(
    "breach",
    [
        encode_frame(asked(1)) * 2,
        encode_frame(Response(0, "")),
        encode_frame(Request(1, 1000, "", True, b"")),
        encode_frame(Request(1, 1000, "a\nb", True, b"")),
        b"".join(encode_frame(asked(n, b"")) for n in range(limits.MAX_REQUESTS + 1)),
        encode_frame(asked(1)) + encode_frame(asked(2, bytes(1 << 20))),
    ],
    ids=["twice", "unasked", "no topic", "bad topic", "too many", "too much"],
)
def test_a_breach_ends_the_link(breach: bytes) -> None:
    script = scripted(LinkState.UP, is_initiator=True)
    end = script.hears(breach)[-1]
    assert isinstance(end, LinkClosed)
    assert (end.code, end.kind) == ("protocol_error", CloseKind.LOST)
    said = script.says()[-1]
    assert isinstance(said, Reject)


def test_requests_are_no_flood_of_control_frames() -> None:
    """They have a bound of their own, and an honest peer makes thousands in a second."""
    script = scripted(LinkState.UP, is_initiator=True)
    for number in range(2 * limits.MAX_CONTROL_FRAMES):
        assert script.hears(encode_frame(asked(number, b"q")))
        script.link.answer(number, "")
        assert script.link.send_asked(script.now)
        script.link.data_to_send()
    assert script.link.is_up
