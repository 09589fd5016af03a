"""The roster: one rule after the other, then two rosters against each other in every order of things."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rapini.session.messages import Epoch, Incarnation
from rapini.session.roster import Admit, Claim, Decision, Drop, LinkId, Probe, Refuse, Relation, Roster
from rapini.testing.links import incarnation_of

OURS, FIRST, SECOND, THIRD = incarnation_of("middle"), *(incarnation_of("peer", run) for run in range(3))


def roster(name: str = "middle") -> Roster:
    return Roster(name=name, incarnation=OURS, probe_timeout_s=1.0, duplicate_retry_s=30.0)


def claim(
    link: int,
    incarnation: Incarnation = FIRST,
    *,
    name: str = "peer",
    known_epoch: int = 0,
    is_ours: bool = False,
    is_verified: bool = True,
) -> Claim:
    return Claim(
        link=LinkId(link),
        name=name,
        incarnation=incarnation,
        known_epoch=Epoch(known_epoch),
        is_ours=is_ours,
        is_verified=is_verified,
    )


def brief(decisions: list[Decision]) -> list[tuple[object, ...]]:
    """Decisions as short lines."""
    lines: list[tuple[object, ...]] = []
    for decision in decisions:
        match decision:
            case Admit(link=link, epoch=epoch, relation=relation):
                lines.append(("admit", link, epoch, relation.value))
            case Refuse(link=link, code=code) | Drop(link=link, code=code):
                lines.append((type(decision).__name__.lower(), link, code))
            case Probe(link=link):
                lines.append(("probe", link))
    return lines


# -- nobody holds the channel -----------------------------------------------------------------------------------------


def test_a_name_is_first_then_back_then_restarted_and_its_epochs_count_on() -> None:
    peers = roster()
    assert brief(peers.judge(claim(1), 0.0)) == [("admit", 1, 1, "first")]
    peers.link_closed(LinkId(1))
    assert brief(peers.judge(claim(2), 0.0)) == [("admit", 2, 2, "back")]
    peers.link_closed(LinkId(2))
    assert brief(peers.judge(claim(3, SECOND), 0.0)) == [("admit", 3, 3, "restarted")]
    assert peers.has_link("peer")


def test_an_epoch_is_later_than_either_side_remembers() -> None:
    peers = roster()
    assert brief(peers.judge(claim(1, known_epoch=41), 0.0)) == [("admit", 1, 42, "first")]
    peers.link_closed(LinkId(1))
    assert brief(peers.judge(claim(2, known_epoch=7), 0.0)) == [("admit", 2, 43, "back")]


def test_an_initiator_takes_the_epoch_that_the_responder_chose() -> None:
    assert brief(roster().judge(claim(1, known_epoch=8, is_ours=True), 0.0)) == [("admit", 1, 9, "first")]


def test_a_forgotten_peer_is_seen_for_the_first_time_and_a_connected_one_is_not_forgotten() -> None:
    peers = roster()
    peers.judge(claim(1), 0.0)
    peers.forget("peer")
    assert peers.has_link("peer")
    peers.link_closed(LinkId(1))
    peers.forget("peer")
    assert brief(peers.judge(claim(2), 0.0)) == [("admit", 2, 1, "first")]


# -- ourselves --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("incarnation", "code"), [(OURS, "self_connection"), (FIRST, "duplicate_name")])
def test_our_own_name_is_refused(incarnation: Incarnation, code: str) -> None:
    (refusal,) = roster().judge(claim(1, incarnation, name="middle"), 0.0)
    assert isinstance(refusal, Refuse)
    assert (refusal.code, refusal.retry_after_s) == (code, 30.0)


# -- the same incarnation ---------------------------------------------------------------------------------------------


def test_a_new_connection_of_the_same_peer_replaces_its_old_one() -> None:
    peers = roster()
    peers.judge(claim(1), 0.0)
    assert brief(peers.judge(claim(2), 0.0)) == [("drop", 1, "superseded"), ("admit", 2, 2, "back")]
    assert peers.link_closed(LinkId(1)) == []
    assert peers.has_link("peer")


def test_we_do_not_greet_a_peer_twice() -> None:
    peers = roster()
    assert peers.open_outgoing(LinkId(1), "peer") is None
    second = peers.open_outgoing(LinkId(2), "peer")
    assert second is not None
    assert second.code == "duplicate_connection"
    peers.judge(claim(1, is_ours=True), 0.0)
    assert peers.open_outgoing(LinkId(3), "peer") is not None
    peers.link_closed(LinkId(1))
    assert peers.open_outgoing(LinkId(4), "peer") is None


def test_a_greeting_that_came_to_nothing_leaves_the_way_open() -> None:
    peers = roster()
    peers.open_outgoing(LinkId(1), "peer")
    assert peers.link_closed(LinkId(1)) == []
    assert peers.open_outgoing(LinkId(2), "peer") is None


def test_a_second_way_to_a_peer_that_did_not_show_its_name_is_a_duplicate() -> None:
    peers = roster()
    peers.judge(claim(1, is_ours=True), 0.0)
    assert brief(peers.judge(claim(2, is_ours=True), 0.0)) == [("refuse", 2, "duplicate_connection")]


def test_no_epoch_is_used_twice_for_a_peer() -> None:
    """A responder that does not know us counts from 1; what we greeted it with was not what we know of it."""
    peers = roster("aaa")
    peers.judge(claim(1, is_ours=True, known_epoch=4), 0.0)
    peers.link_closed(LinkId(1))
    assert brief(peers.judge(claim(2, is_ours=True, known_epoch=3), 0.0)) == [("refuse", 2, "introduce")]
    assert [line[:2] for line in brief(peers.judge(claim(3, is_ours=True, known_epoch=5), 0.0))] == [("admit", 3)]


def test_the_channel_that_the_smaller_name_started_stays() -> None:
    for name, ours_stays in (("aaa", True), ("zzz", False)):
        for first_is_ours in (True, False):
            peers = roster(name)
            peers.judge(claim(1, is_ours=first_is_ours), 0.0)
            lines = brief(peers.judge(claim(2, is_ours=not first_is_ours, known_epoch=1), 0.0))
            if first_is_ours is ours_stays:
                assert lines == [("refuse", 2, "duplicate_connection")]
            else:
                assert [line[:2] for line in lines] == [("drop", 1), ("admit", 2)]


def test_the_smaller_name_refuses_the_others_channel_once_its_own_greeting_is_under_way() -> None:
    smaller, larger = roster("aaa"), roster("zzz")
    for peers in (smaller, larger):
        peers.open_outgoing(LinkId(1), "peer")
    assert brief(smaller.judge(claim(2), 0.0)) == [("refuse", 2, "duplicate_connection")]
    assert brief(larger.judge(claim(2), 0.0)) == [("drop", 1, "duplicate_connection"), ("admit", 2, 1, "first")]


# -- another incarnation ----------------------------------------------------------------------------------------------


def contended() -> Roster:
    peers = roster()
    peers.judge(claim(1), 0.0)
    assert brief(peers.judge(claim(2, SECOND), 10.0)) == [("probe", 1)]
    assert peers.next_timer() == 11.0
    return peers


def test_a_live_name_is_probed_and_its_answer_refuses_the_newcomer() -> None:
    peers = contended()
    assert peers.handle_timer(10.99) == []
    (refusal,) = peers.probe_answered(LinkId(1))
    assert isinstance(refusal, Refuse)
    assert (refusal.link, refusal.code, refusal.retry_after_s) == (2, "duplicate_name", 30.0)
    assert peers.next_timer() is None
    assert peers.handle_timer(100.0) == []
    assert peers.probe_answered(LinkId(1)) == []


def test_a_probe_without_an_answer_lets_the_newcomer_take_over() -> None:
    peers = contended()
    assert brief(peers.handle_timer(11.0)) == [("drop", 1, "superseded"), ("admit", 2, 2, "restarted")]
    assert peers.next_timer() is None
    assert peers.link_closed(LinkId(1)) == []
    assert peers.probe_answered(LinkId(1)) == []


def test_an_old_channel_that_ends_during_the_probe_lets_the_newcomer_take_over_at_once() -> None:
    peers = contended()
    assert brief(peers.link_closed(LinkId(1))) == [("admit", 2, 2, "restarted")]
    assert peers.next_timer() is None


def test_a_newcomer_that_gives_up_during_the_probe_changes_nothing() -> None:
    peers = contended()
    assert peers.link_closed(LinkId(2)) == []
    assert peers.next_timer() is None
    assert peers.handle_timer(100.0) == []
    assert peers.probe_answered(LinkId(1)) == []
    assert peers.has_link("peer")


def test_a_third_newcomer_is_told_to_come_back_after_the_probe() -> None:
    peers = contended()
    (refusal,) = peers.judge(claim(3, THIRD), 10.5)
    assert isinstance(refusal, Refuse)
    assert (refusal.link, refusal.code, refusal.retry_after_s) == (3, "duplicate_name", 1.0)
    assert peers.next_timer() == 11.0


@pytest.mark.parametrize("is_ours", [True, False])
def test_a_new_connection_of_the_one_who_was_there_refuses_the_newcomer(is_ours: bool) -> None:
    """It was forgotten before: neither admitted nor refused, it hung until its greeting timed out."""
    peers = roster("aaa")
    peers.judge(claim(1), 0.0)
    peers.judge(claim(2, SECOND), 10.0)
    lines = brief(peers.judge(claim(3, is_ours=is_ours, known_epoch=1), 10.5))
    assert [line[:2] for line in lines] == [("refuse", 2), ("drop", 1), ("admit", 3)]
    assert peers.next_timer() is None


def test_probes_of_several_names_run_beside_each_other() -> None:
    peers = roster()
    for number, name in enumerate("bcd"):
        peers.judge(claim(number, name=name), 0.0)
        peers.judge(claim(10 + number, SECOND, name=name), float(number))
    assert peers.next_timer() == 1.0
    assert [line[1] for line in brief(peers.handle_timer(2.0))] == [0, 10, 1, 11]
    assert peers.next_timer() == 3.0


# -- both ends --------------------------------------------------------------------------------------------------------


class Ends:
    """Two nodes, each dials the other over TLS once: their rosters, and what is under way between them, in order.

    A link is (initiator's name); the lines of each direction of each link are delivered in order, links among
    each other in any order.
    """

    NAMES = ("aaa", "zzz")

    def __init__(self, known: int = 0) -> None:
        self.rosters = {
            name: Roster(name=name, incarnation=incarnation_of(name), probe_timeout_s=1.0) for name in self.NAMES
        }
        self.links = {name: LinkId(number) for number, name in enumerate(self.NAMES, 1)}
        self.lines: dict[tuple[str, str], list[tuple[str, int]]] = {}
        self.ended: dict[str, set[str]] = {name: set() for name in self.NAMES}
        self.admitted: dict[str, list[tuple[str, int]]] = {name: [] for name in self.NAMES}
        for name in self.NAMES:
            self.lines[name, name] = [("opened", 0)]  # what the initiator itself learns first
        self.known = known

    def other(self, name: str) -> str:
        return self.NAMES[self.NAMES[0] == name]

    def steps(self) -> list[tuple[str, str]]:
        """(link, receiver) of what may happen next."""
        return [key for key, lines in self.lines.items() if lines]

    def step(self, key: tuple[str, str]) -> None:
        link, receiver = key
        line, epoch = self.lines[key].pop(0)
        if link in self.ended[receiver]:
            return
        match line:
            case "opened":
                self.open(link)
            case "hello":
                self.judge(link, receiver, self.known, is_ours=False)
            case "welcome":
                self.judge(link, receiver, epoch - 1, is_ours=True)
            case _:
                self.end(link, receiver)

    def open(self, name: str) -> None:
        refusal = self.rosters[name].open_outgoing(self.links[name], self.other(name))
        if refusal is not None:
            self.close(name, name)
        else:
            self.say(name, self.other(name), "hello")

    def say(self, link: str, to: str, line: str, epoch: int = 0) -> None:
        self.lines.setdefault((link, to), []).append((line, epoch))

    def judge(self, link: str, at: str, known_epoch: int, *, is_ours: bool) -> None:
        peer = self.other(at)
        decisions = self.rosters[at].judge(
            Claim(
                link=self.links[link],
                name=peer,
                incarnation=incarnation_of(peer),
                known_epoch=Epoch(known_epoch),
                is_ours=is_ours,
                is_verified=True,
            ),
            0.0,
        )
        for decision in decisions:
            self.carry_out(decision, at)

    def carry_out(self, decision: Decision, at: str) -> None:
        link = next(name for name, number in self.links.items() if number == decision.link)
        match decision:
            case Admit(epoch=epoch):
                self.admitted[at].append((link, epoch))
                if link != at:
                    self.say(link, link, "welcome", epoch)
            case Refuse() | Drop():
                self.close(link, at)
            case Probe():
                raise AssertionError("nobody restarted")

    def close(self, link: str, at: str) -> None:
        self.say(link, self.other(at), "closed")
        self.end(link, at)

    def end(self, link: str, at: str) -> None:
        if link not in self.ended[at]:
            self.ended[at].add(link)
            for decision in self.rosters[at].link_closed(self.links[link]):
                self.carry_out(decision, at)

    def held(self) -> dict[str, str | None]:
        """Which link each end has kept."""
        numbers = {number: name for name, number in self.links.items()}
        held: dict[str, str | None] = {}
        for name in self.NAMES:
            peer = self.rosters[name].peers.get(self.other(name))
            held[name] = None if peer is None or peer.link is None else numbers[peer.link]
        return held


def all_orders(prefix: tuple[int, ...] = ()) -> Iterator[Ends]:
    """Every order in which the steps of two dials can happen, played out."""
    ends = Ends()
    for choice in prefix:
        ends.step(ends.steps()[choice])
    steps = ends.steps()
    if not steps:
        yield ends
    for choice in range(len(steps)):
        yield from all_orders((*prefix, choice))


def test_when_both_dial_both_keep_the_same_one_channel_in_every_order() -> None:
    kept = []
    for ends in all_orders():
        held = ends.held()
        assert held["aaa"] == held["zzz"] is not None, ends.admitted
        kept.append(held["aaa"])
        for name in Ends.NAMES:
            epochs = [epoch for _, epoch in ends.admitted[name]]
            assert epochs == sorted(set(epochs)), "epochs increase"
            assert epochs[-1] == ends.admitted[ends.other(name)][-1][1], "both speak of the same epoch"
    assert len(kept) > 20
    assert set(kept) == {"aaa", "zzz"}, "the larger name's channel stays where it alone was first"


# -- any number of links, in any order --------------------------------------------------------------------------------


class RosterKeepsItsWord(RuleBasedStateMachine):
    """Whatever peers, links and time do: one link a name, every claim is answered once, epochs strictly increase."""

    @initialize(name=st.sampled_from(["a", "z"]))
    def begin(self, name: str) -> None:
        self.roster = roster(name)
        self.now = 0.0
        self.numbers = itertools.count(1)
        self.waiting: dict[int, Claim] = {}
        self.open: dict[int, str] = {}
        self.epochs: dict[str, int] = {}
        self.probed: set[int] = set()

    def carry_out(self, decisions: list[Decision]) -> None:
        for decision in decisions:
            match decision:
                case Admit(link=link, epoch=epoch):
                    who = self.waiting.pop(link)
                    assert who.name not in self.open.values(), "the old link is dropped first"
                    assert epoch > self.epochs.get(who.name, 0) or who.is_ours
                    self.epochs[who.name] = max(epoch, self.epochs.get(who.name, 0))
                    self.open[link] = who.name
                case Refuse(link=link):
                    del self.waiting[link]
                    self.close(link)
                case Drop(link=link):
                    del self.open[link]
                    self.close(link)
                case Probe(link=link):
                    assert link in self.open
                    self.probed.add(link)

    def close(self, link: int) -> None:
        self.carry_out(self.roster.link_closed(LinkId(link)))

    @rule(name=st.sampled_from(["m", "n"]), run=st.integers(0, 2), is_ours=st.booleans(), newer=st.integers(0, 3))
    def greet(self, name: str, run: int, is_ours: bool, newer: int) -> None:
        link = next(self.numbers)
        known = self.epochs.get(name, 0) + newer if is_ours else newer
        who = claim(link, incarnation_of(name, run), name=name, known_epoch=known, is_ours=is_ours)
        self.waiting[link] = who
        self.carry_out(self.roster.judge(who, self.now))

    @precondition(lambda self: self.open or self.waiting)
    @rule(data=st.data())
    def lose(self, data: st.DataObject) -> None:
        link = data.draw(st.sampled_from(sorted([*self.open, *self.waiting])))
        self.open.pop(link, None)
        self.waiting.pop(link, None)
        self.close(link)

    @precondition(lambda self: self.probed)
    @rule()
    def answer(self) -> None:
        self.carry_out(self.roster.probe_answered(LinkId(self.probed.pop())))

    @rule(seconds=st.sampled_from([0.4, 1.0]))
    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.carry_out(self.roster.handle_timer(self.now))

    @invariant()
    def one_link_a_name(self) -> None:
        held = {peer.link: name for name, peer in self.roster.peers.items() if peer.link is not None}
        assert held == {LinkId(link): name for link, name in self.open.items()}

    @invariant()
    def who_waits_is_waited_for(self) -> None:
        """Whoever has no answer yet is a contender whose probe runs out in time."""
        contenders = {peer.contender.link for peer in self.roster.peers.values() if peer.contender is not None}
        assert contenders == set(self.waiting)
        timer = self.roster.next_timer()
        assert (timer is None) is (not contenders)
        assert timer is None or timer <= self.now + 1.0


TestRosterKeepsItsWord = RosterKeepsItsWord.TestCase


@given(st.floats(0, 10))
def test_the_timer_is_never_late(seconds: float) -> None:
    peers = contended()
    decisions = peers.handle_timer(10.0 + seconds)
    assert bool(decisions) is (10.0 + seconds >= 11.0)
    assert Relation.RESTARTED in [d.relation for d in decisions if isinstance(d, Admit)] or not decisions
