"""The account of every event, and the ledgers it is made of: what a killed process counted is still there."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rapini.apps.account import Incarnation, add_up
from rapini.apps.ledger import MAX_SLOTS, OVERFLOWED, Ledger, read_ledger
from rapini.errors import ConfigError

_COUNT_AND_DIE = """
import os, signal, sys
from rapini.apps.ledger import Ledger
ledger = Ledger(sys.argv[1])
slot = ledger.slot("published")
for count in range(1, 12346):
    ledger.values[slot] = count
ledger.set("dropped/logger/peer_lost", 7)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_counters_survive_sigkill_to_the_last_one(tmp_path: Path) -> None:
    path = tmp_path / "ledger"
    ended = subprocess.run([sys.executable, "-c", _COUNT_AND_DIE, str(path)], check=False, timeout=20)
    assert ended.returncode == -signal.SIGKILL
    assert read_ledger(path) == {"published": 12345, "dropped/logger/peer_lost": 7}


def test_a_ledger_that_is_not_there_has_no_counters(tmp_path: Path) -> None:
    assert read_ledger(tmp_path / "nowhere") == {}


def test_a_full_ledger_counts_what_finds_no_room(tmp_path: Path) -> None:
    with Ledger(tmp_path / "ledger") as ledger:
        for number in range(MAX_SLOTS + 50):
            ledger.add(f"counter/{number}")
        ledger.add("x" * 500, 3)
        assert ledger.snapshot()[OVERFLOWED] == 51 + 3
    counters = read_ledger(tmp_path / "ledger")
    assert len(counters) == MAX_SLOTS
    assert sum(counters.values()) == MAX_SLOTS + 50 + 3


def test_a_ledger_that_cannot_be_made_says_where(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        Ledger(tmp_path / "no folder" / "ledger")
    assert caught.value.code == "ledger"
    assert "no folder" in str(caught.value)


def _sensor(*, was_killed: bool = False, **counters: int) -> Incarnation:
    named = {name.replace("__", "/"): count for name, count in counters.items()}
    return Incarnation(node="s", counters=named, was_killed=was_killed)


def _logger(counters: dict[str, int], *, was_killed: bool = False) -> Incarnation:
    return Incarnation(node="l", counters=counters, was_killed=was_killed)


def test_all_counted_causes_stand_under_their_own_names() -> None:
    sensor = _sensor(published=100, epoch__l__1=1, epoch__l__2=1, dropped__l__peer_lost=5, unrouted=3, not_encodable=2)
    logger = _logger({"taken/s/1": 50, "taken/s/2": 40, "logged/conn": 60, "logged/dns": 29, "logloss/dns/failed": 1})
    account = add_up([sensor], logger)
    assert account.lost == {"s": {"peer_lost": 5, "unrouted": 3, "not_encodable": 2}, "l": {"log_failed": 1}}
    assert account.is_balanced
    assert (account.published, account.received, account.logged, account.total_lost) == (100, 90, 89, 11)


def test_what_a_killed_sensor_had_in_hand_is_lost_to_the_kill_and_the_next_incarnation_is_its_own_account() -> None:
    killed = _sensor(was_killed=True, published=100, epoch__l__1=1, dropped__l__peer_lost=4)
    second = _sensor(published=10, epoch__l__2=1)
    account = add_up([killed, second], _logger({"taken/s/1": 90, "taken/s/2": 10, "logged/conn": 100}))
    assert account.lost == {"s": {"peer_lost": 4, "process_killed": 6}}
    assert account.is_balanced


@pytest.mark.parametrize("taken", [89, 91])
def test_a_difference_that_nobody_counted_is_never_hidden(taken: int) -> None:
    account = add_up([_sensor(published=90, epoch__l__1=1)], _logger({"taken/s/1": taken, "logged/conn": taken}))
    assert account.lost == {"s": {"unaccounted": 90 - taken}}
    assert account.published == account.logged + account.total_lost
    assert not account.is_balanced


def test_events_of_a_channel_that_nobody_knows_are_a_difference() -> None:
    account = add_up([_sensor(published=5, epoch__l__1=1)], _logger({"taken/s/1": 5, "taken/s/9": 2, "logged/conn": 7}))
    assert account.lost == {"s": {"unaccounted": -2}}
    assert not account.is_balanced


def test_rows_that_are_missing_in_the_logs_are_a_difference() -> None:
    account = add_up([_sensor(published=5, epoch__l__1=1)], _logger({"taken/s/1": 5, "logged/conn": 4}))
    assert account.lost == {"l": {"unaccounted": 1}}
    assert not account.is_balanced


def test_a_killed_logger_has_lost_all_that_is_not_known_to_be_logged() -> None:
    sensor = _sensor(published=50, epoch__l__1=1, dropped__l__unacknowledged=9)
    account = add_up([sensor], _logger({"taken/s/1": 45, "logged/conn": 40}, was_killed=True))
    assert account.lost == {"l": {"process_killed": 10}}
    assert account.is_balanced
