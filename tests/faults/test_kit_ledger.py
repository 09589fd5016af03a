"""The account can fail: each kind of fault, planted in a ledger that was right, is found, and named for what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.kit import ledger
from tests.faults.kit.ledger import Account, Delivery, order_faults

PUBLISHER = (
    ledger.life_line("p", 1)
    + ledger.intended_line(1, 0, 10)
    + ledger.accepted_line(1, 10)
    + ledger.snapshot_line(1, acknowledged=7, counted={"peer_lost": 2, "unrouted": 1}, is_final=True)
)
TAKEN = [0, 1, 2, 4, 5, 7, 9]
"""3, 6 and 8 are missing, and three are counted."""


def _taken(numbers: list[int], life: int = 1) -> str:
    return "".join(ledger.taken_line("p", life, number, "p", 1) for number in numbers)


def _status(state: str, epoch: int) -> str:
    return ledger.status_line("p", state, epoch, "")


UP1, LOST1, UP2, LOST2 = _status("up", 1), _status("lost", 1), _status("resumed", 2), _status("lost", 2)


def _account(tmp_path: Path, publisher: str, receiver: str) -> Account:
    (tmp_path / "p").write_text(publisher)
    (tmp_path / "r").write_text(receiver)
    return Account({"p": tmp_path / "p"}, tmp_path / "r")


def test_counted_losses_balance(tmp_path: Path) -> None:
    account = _account(tmp_path, PUBLISHER, _taken(TAKEN))
    assert account.faults(Delivery.BEST_EFFORT) == []
    assert (account.published, account.received, account.lost) == (10, 7, 3)
    assert account.counted() == {"peer_lost": 2, "unrouted": 1}


@pytest.mark.parametrize(
    ("taken", "fault"),
    [
        ([0, 1, 2, 4, 5, 7], "6 received, 3 counted"),
        ([*TAKEN[:-1], 8, 9], "8 received, 3 counted"),
        ([*TAKEN, 9], "1 twice"),
        ([1, 0, *TAKEN[2:]], "1 out of order"),
        ([*TAKEN, 10], "1 that nobody published"),
    ],
    ids=["one-lost-more", "one-counted-and-yet-there", "repeated", "swapped", "invented"],
)
def test_a_planted_fault_is_found(tmp_path: Path, taken: list[int], fault: str) -> None:
    faults = _account(tmp_path, PUBLISHER, _taken(taken)).faults(Delivery.BEST_EFFORT)
    assert len(faults) == 1
    assert fault in faults[0]
    assert faults[0].startswith("p life 1: ")


def test_an_event_in_doubt_may_have_arrived_and_no_more_than_those(tmp_path: Path) -> None:
    counted = {"peer_lost": 1, "unacknowledged": 2}
    publisher = PUBLISHER + ledger.snapshot_line(1, acknowledged=7, counted=counted, is_final=True)
    for received, is_right in ((6, False), (7, True), (8, True), (9, True), (10, False)):
        assert (_account(tmp_path, publisher, _taken(list(range(received)))).faults(Delivery.BEST_EFFORT) == []) is (
            is_right
        )


def test_a_killed_life_is_held_to_its_last_snapshot(tmp_path: Path) -> None:
    killed = (
        ledger.intended_line(1, 0, 8)
        + ledger.accepted_line(1, 8)
        + ledger.snapshot_line(1, acknowledged=5, counted={"peer_lost": 2}, is_final=False)
        + ledger.intended_line(1, 8, 2)
    )
    for received, fault in ((4, "5 acknowledged, 4 received"), (5, ""), (8, ""), (9, "and yet 9 received")):
        faults = _account(tmp_path, killed, _taken(list(range(received)))).faults(Delivery.BEST_EFFORT)
        assert [fault in told for told in faults] == ([True] if fault else [])


def _gap(count: int, reason: str, delivery: str = "best_effort") -> str:
    return ledger.gap_line("p", 1, delivery, count, reason)


def test_a_gap_must_cover_what_is_missing_exactly(tmp_path: Path) -> None:
    """Of three events that are missing one was owed to nobody."""
    for count, is_right in ((1, False), (2, True), (3, False)):
        receiver = UP1 + _taken(TAKEN) + _gap(count, "lease_expired", "reliable")
        assert (_account(tmp_path, PUBLISHER, receiver).faults(Delivery.RELIABLE) == []) is is_right
    assert _account(tmp_path, PUBLISHER, UP1 + _taken(TAKEN)).faults(Delivery.RELIABLE) != []
    assert _account(tmp_path, PUBLISHER, UP1 + _taken(list(range(1, 10)))).faults(Delivery.RELIABLE) == []
    assert _account(tmp_path, PUBLISHER, UP1 + _taken(list(range(10)))).faults(Delivery.RELIABLE) != []


@pytest.mark.parametrize(
    ("told", "fault"),
    [
        (_gap(2, "peer_lost"), ""),
        (_gap(1, "peer_lost") + _gap(1, "peer_lost"), ""),
        (_gap(1, "peer_lost"), "10 published, 1 to nobody, 7 received, gaps for 1"),
        (_gap(2, "peer_lost") + _gap(1, "queue_full"), "10 published, 1 to nobody, 7 received, gaps for 3"),
        (_gap(1, "peer_lost") + _gap(1, "queue_full"), "{'peer_lost': 2} counted"),
        ("", "gaps for 0"),
    ],
)
def test_what_the_receiver_was_told_is_what_was_counted(tmp_path: Path, told: str, fault: str) -> None:
    account = _account(tmp_path, PUBLISHER, UP1 + _taken(TAKEN) + told)
    assert any(fault in text for text in account.untold()) == bool(fault)
    assert (account.untold() == []) is (not fault)


def test_of_a_killed_life_no_event_may_be_both_received_and_told_of(tmp_path: Path) -> None:
    killed = PUBLISHER.replace("f 1", "c 1")
    for count, is_right in ((0, True), (3, True), (4, False)):
        account = _account(tmp_path, killed, UP1 + _taken(TAKEN) + _gap(count, "peer_lost"))
        assert (account.untold() == []) is is_right


def test_gaps_belong_to_the_life_whose_events_came_in_the_same_incarnation(tmp_path: Path) -> None:
    publisher = PUBLISHER + ledger.life_line("p", 2) + ledger.intended_line(2, 0, 5) + ledger.accepted_line(2, 5)
    restarted, third = _status("restarted", 2), _status("restarted", 3)
    lines = UP1 + _gap(1, "a") + _taken([0]) + LOST1 + restarted + _gap(3, "b") + LOST2 + third + _taken([4], life=2)
    account = _account(tmp_path, publisher, lines + _gap(2, "c") + _gap(9, "d", "durable"))
    assert account.lives["p", 1].gaps == {"a": 1}
    assert account.lives["p", 2].gaps == {"c": 2}
    assert account.stream_gaps == {"p": {"d": 9}}
    assert account.told() == {"a": 1, "b": 3, "c": 2, "d": 9}


def test_what_was_refused_is_not_owed_and_may_come(tmp_path: Path) -> None:
    publisher = PUBLISHER + ledger.refused_line(1, 3, 1, "disk_full") + ledger.refused_line(1, 5, 2, "disk_full")
    account = _account(tmp_path, publisher, "")
    assert account.published == 7
    for taken, lost in ((TAKEN, [8]), ([0, 1, 2, 3, 4, 6, 7, 8, 9], [])):
        account = _account(tmp_path, publisher, _taken(taken))
        assert sorted(account.lives["p", 1].missing) == lost
        assert account.lives["p", 1].refusals == {"disk_full"}


def test_durable_loses_nothing_that_was_accepted_over_all_lives(tmp_path: Path) -> None:
    publisher = (
        ledger.life_line("p", 1)
        + ledger.intended_line(1, 0, 4)
        + ledger.accepted_line(1, 3)  # number 3 was under way at the kill: either is right
        + ledger.life_line("p", 2)
        + ledger.intended_line(2, 0, 2)
        + ledger.accepted_line(2, 2)
    )
    for first, second, is_right in (
        ([0, 1, 2], [0, 1], True),
        ([0, 1, 2, 3], [0, 1], True),
        ([0, 1], [0, 1], False),
        ([0, 1, 2], [1], False),
        ([0, 1, 2, 2], [0, 1], False),
        ([0, 2, 1], [0, 1], False),
    ):
        account = _account(tmp_path, publisher, _taken(first) + _taken(second, life=2))
        assert (account.faults(Delivery.DURABLE) == []) is is_right, (first, second)
    repeated = _account(tmp_path, publisher, _taken([0, 1, 2, 1]) + _taken([0, 1, 1], life=2))
    assert repeated.faults(Delivery.AT_LEAST_ONCE) == []
    assert repeated.duplicated == 2


def test_a_torn_line_was_not_written_and_the_next_life_cuts_it_off(tmp_path: Path) -> None:
    account = _account(tmp_path, PUBLISHER, _taken(TAKEN) + "e p 1 8")
    assert account.received == 7
    path = tmp_path / "r"
    ledger.mend(path)
    assert path.read_text() == _taken(TAKEN)
    ledger.mend(path)
    assert path.read_text() == _taken(TAKEN)
    ledger.mend(tmp_path / "none")


@pytest.mark.parametrize("damaged", ["x 1 2\n", "i 1\n", "e p 1 2 p 1\n"])
def test_a_line_of_another_kind_is_refused(tmp_path: Path, damaged: str) -> None:
    with pytest.raises(ValueError, match="not a publisher's line"):
        _account(tmp_path, PUBLISHER + damaged, "")


def _event(epoch: int) -> str:
    return ledger.taken_line("p", 1, 0, "p", epoch)


@pytest.mark.parametrize(
    ("lines", "fault"),
    [
        ([UP1, _event(1), LOST1, UP2, _event(2), LOST2], ""),
        ([UP1, _status("left", 1), _status("restarted", 2), _event(2)], ""),
        ([UP1, ledger.life_line("r", 2), UP1, _event(1)], ""),
        ([_status("connecting", 0), UP1, _status("handshaking", 0), _event(1)], ""),
        ([_event(1)], "while None was up"),
        ([UP1, _gap(1, "peer_lost"), LOST1], ""),
        ([UP1, LOST1, _gap(1, "peer_lost")], "while None was up"),
        ([UP1, LOST1, _event(1)], "while None was up"),
        ([UP1, LOST1, UP2, _event(1)], "while 2 was up"),
        ([UP1, UP2], "and epoch 1 was not gone"),
        ([UP1, LOST1, UP1], "after epoch 1"),
        ([UP1, LOST1, LOST1], "which was not up"),
        ([UP1, LOST2], "which was not up"),
    ],
)
def test_the_order_of_statuses_and_events(tmp_path: Path, lines: list[str], fault: str) -> None:
    path = tmp_path / "r"
    path.write_text("".join(lines))
    faults = order_faults(path)
    assert [fault in told for told in faults] == ([True] if fault else [])
