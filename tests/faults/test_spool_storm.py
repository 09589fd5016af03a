"""Spools on bad disks: full in the middle of a storm, and files that were cut short or rotted between two lives.

A full disk refuses and loses nothing that was acknowledged; a damaged record costs itself, and is told by a gap.
"""

from __future__ import annotations

import json
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest

from rapini.storage.records import Stored, scan
from rapini.storage.segments import SEGMENT_HEADER_BYTES, SegmentHeader
from tests.faults.kit.disk import SmallDisk, cut_short, flip_bit
from tests.faults.kit.fleet import Fleet, Workload
from tests.faults.kit.ledger import Delivery, order_faults
from tests.faults.kit.namespaces import Network
from tests.faults.kit.nemesis import Fault, Nemesis, Step, Victim
from tests.integration.node.support import Keys, eventually

MANAGER: Final = "manager"
LOGGER: Final = "logger"
SENSOR: Final = "sensor-1"
OTHER: Final = "sensor-2"
DISK: Final = "disk of sensor-1"
RATE: Final = 200
UP_AGAIN_S: Final = 10.0


class DiskVictim:
    """A disk, for the nemesis: frozen, it is full."""

    def __init__(self, disk: SmallDisk) -> None:
        self.freeze = disk.fill
        self.thaw = disk.relieve

    def kill(self) -> None:
        """Not in the plan."""
        raise NotImplementedError

    restart = kill


def _step(at_s: float, length_s: float, fault: Fault, target: str | tuple[str, str]) -> Step:
    return Step(at_s=at_s, length_s=length_s, fault=fault, target=target)


PLAN: Final = [
    _step(1.0, 1.5, Fault.FREEZE, DISK),
    _step(1.5, 3.0, Fault.CUT, (SENSOR, MANAGER)),
    _step(3.5, 3.0, Fault.FREEZE, DISK),
    _step(4.2, 0.5, Fault.KILL, SENSOR),  # it finds its disk full when it starts anew
    _step(5.0, 0.3, Fault.KILL, MANAGER),
    _step(5.5, 1.0, Fault.LOSS, (OTHER, MANAGER)),
]


@pytest.mark.timeout(90)
def test_a_full_disk_in_a_storm_refuses_and_loses_nothing_that_was_on_it(keys: Keys, tmp_path: Path) -> None:
    folder = tmp_path / "disk"
    folder.mkdir()
    with (
        SmallDisk(folder, 4 << 20) as disk,
        Network([MANAGER, SENSOR, OTHER], seed=8) as network,
        ExitStack() as stack,
    ):
        workload = Workload(
            delivery="durable",
            scheme="tcp+tls",
            receivers={MANAGER: "sqlite"},
            sensors=(SENSOR, OTHER),
            rate=RATE,
            disks={SENSOR: disk},
        )
        fleet = Fleet(workload, keys, tmp_path, stack, network)
        eventually(fleet.is_up, 10, "everybody up before the storm")
        victims: dict[str, Victim] = {**fleet.programs, DISK: DiskVictim(disk)}
        nemesis = Nemesis(PLAN, victims=victims, bridge=network.bridge)
        nemesis.run()
        print(nemesis)
        eventually(fleet.is_up, UP_AGAIN_S, "everybody up after the storm")
        before = fleet.received()
        eventually(
            lambda: all(count > before[pair] for pair, count in fleet.received().items()), 5, "events from everybody"
        )
        eventually(lambda: _is_accepted(fleet.ledgers[SENSOR]), 3, "events on the disk that has room again")
        fleet.settle()
        fleet.leave()
    account = fleet.account(MANAGER)
    print(json.dumps(account.summary()))
    assert account.faults(Delivery.DURABLE) == []
    assert (account.lost, account.duplicated, account.told()) == (0, 0, {})
    assert order_faults(fleet.ledger_of(MANAGER)) == []
    lives = [life for life in account.lives.values() if life.origin == SENSOR]
    assert [life.refusals for life in lives] == [{"disk_full"}] * 2
    first_s = len(lives[0].refused) / RATE  # twice full, until it was killed
    assert 1.5 < first_s < 1.5 + 0.7 + 2.0, "it went on late when there was room"
    assert max(lives[1].refused) < lives[1].accepted - 1, "it did not go on when there was room"
    assert not any(life.refused for life in account.lives.values() if life.origin == OTHER), "a disk of its own"


def _is_accepted(path: Path) -> bool:
    """Whether what a publisher published last was accepted, and not refused."""
    *whole, _torn = path.read_text(encoding="utf-8").split("\n")
    kinds = "".join(line[0] for line in whole if line[0] in "ixa").removesuffix("i").removesuffix("ix")
    return kinds.endswith("ia")


# -- damage -------------------------------------------------------------------------------------------------------


def _records(path: Path) -> list[Stored]:
    """The good records of a segment, read without its spool."""
    data = path.read_bytes()
    header = SegmentHeader.decode(data)
    assert header is not None
    found = list(scan(lambda at, size: data[at : at + size], header.marker, SEGMENT_HEADER_BYTES, len(data)))
    assert all(isinstance(item, Stored) for item in found), "it is damaged already"
    return [item for item in found if isinstance(item, Stored)]


def _numbers(records: list[Stored]) -> set[int]:
    return {number for record in records for number in range(record.sequence, record.sequence + record.count)}


@pytest.mark.parametrize(("ends", "seed"), [("killed", 1), ("left", 2)])
def test_damaged_files_cost_what_was_hit_and_it_is_told_by_a_gap(
    keys: Keys, tmp_path: Path, ends: str, seed: int
) -> None:
    """The publisher's second life sends what its first has left, but for what was damaged meanwhile.

    All are events of one life and one topic, so that their numbers are the stream's. Of a killed life the newest
    segment is spared: where a file ends that was being written, nobody can tell bytes that are missing from bytes that
    never were.
    """
    workload = Workload(
        delivery="durable",
        scheme="tcp+tls",
        receivers={MANAGER: "file"},
        sensors=(SENSOR,),
        rate=1000,
        pad=300,
        options={"spool_bytes": 1 << 19},  # segments of 128 KiB
    )
    spool = tmp_path / f"{SENSOR}.spool"
    with ExitStack() as stack:
        fleet = Fleet(workload, keys, tmp_path, stack)
        eventually(fleet.is_up, 10, "both up")
        fleet.programs[MANAGER].kill()
        eventually(lambda: len(list(spool.glob("*.segment"))) > 3, 15, "four segments")
        eventually(lambda: max(spool.glob("*.segment")).stat().st_size > 8192, 5, "something in the newest")
        if ends == "left":
            fleet.call(SENSOR, "leave")
        fleet.programs[SENSOR].kill()
        segments = sorted(spool.glob("*.segment"))
        if ends == "killed":  # it may have died in the first write to the newest, or in the middle of a later one
            segments.pop()
        whole = {path: _records(path) for path in segments}
        stored = {path: _numbers(records) for path, records in whole.items()}
        damaged: dict[Path, int] = {}
        lost: set[int] = set()
        flipped, cut = segments[1], segments[2] if ends == "killed" else segments[-1]
        damaged[flipped], _ = flip_bit(flipped, seed, first=SEGMENT_HEADER_BYTES)
        (hit,) = (record for record in whole[flipped] if record.offset <= damaged[flipped] < record.end)
        lost |= _numbers([hit])
        size = cut_short(cut, seed, first=SEGMENT_HEADER_BYTES)
        damaged[cut] = max((record.end for record in whole[cut] if record.end <= size), default=SEGMENT_HEADER_BYTES)
        lost |= _numbers([record for record in whole[cut] if record.end > size])
        for name in (MANAGER, SENSOR):
            fleet.programs[name].restart()
        eventually(fleet.is_up, UP_AGAIN_S, "both up again")
        eventually(lambda: fleet.received()[MANAGER, SENSOR] > 0, 5, "events")
        fleet.settle()
        counters = fleet.call(MANAGER, "counters")
        fleet.leave()
    account = fleet.account(MANAGER)
    print(json.dumps({"damaged": {p.name: at for p, at in damaged.items()}, **account.summary()}))
    life = account.lives[SENSOR, 1]
    assert life.missing == {number for number in lost if number < life.accepted}
    assert _numbers([record for records in whole.values() for record in records]) - lost <= life.received
    assert account.stream_gaps == {SENSOR: {"damaged": len(lost)}} == counters["gaps"]
    assert sum(other.duplicated + other.reordered for other in account.lives.values()) == 0
    assert account.lives[SENSOR, 2].faults(Delivery.DURABLE) == []
    assert len(stored[flipped]) > len(_numbers([hit])), "the whole segment was one record: the test tests nothing"
    errors = fleet.errors(SENSOR)
    record_at = {flipped: hit.offset, cut: damaged[cut]}
    for path, at in record_at.items():
        assert f"{path}: damaged at offset {at}, " in errors


def test_when_both_copies_of_the_state_are_gone_everything_that_is_left_is_sent(keys: Keys, tmp_path: Path) -> None:
    """Who is owed what is in the state alone; without it everybody is owed everything.

    A receiver that knows where it is sorts that out; to one that does not, it comes again.
    """
    receivers = {MANAGER: "sqlite", LOGGER: ""}
    workload = Workload(delivery="durable", scheme="tcp+tls", receivers=receivers, sensors=(SENSOR,), rate=RATE)
    spool = tmp_path / f"{SENSOR}.spool"
    with ExitStack() as stack:
        fleet = Fleet(workload, keys, tmp_path, stack)
        eventually(fleet.is_up, 10, "both up")
        eventually(lambda: min(fleet.received().values()) > 50, 5, "events")
        for name in receivers:
            fleet.programs[name].kill()
        time.sleep(0.3)  # what is published now they have yet to get
        fleet.programs[SENSOR].kill()
        for name in ("state.a", "state.b"):
            flip_bit(spool / name, 3)
        for name in (*receivers, SENSOR):
            fleet.programs[name].restart()
        eventually(fleet.is_up, UP_AGAIN_S, "all up again")
        eventually(lambda: min(fleet.received().values()) > 0, 5, "events")
        fleet.settle()
        fleet.leave()
    account, again = fleet.account(MANAGER), fleet.account(LOGGER)
    assert account.faults(Delivery.DURABLE) == []
    assert (account.lost, account.duplicated, account.told()) == (0, 0, {})
    assert again.faults(Delivery.AT_LEAST_ONCE) == []
    assert again.duplicated > 50, "it was not asked again for what it had: the test tests nothing"
    assert "has lost who is owed what" in fleet.errors(SENSOR)
