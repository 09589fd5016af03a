"""What a master and its clones say and report, case by case."""

from __future__ import annotations

import pytest

from rapini import limits
from rapini.stores import Cause, CloneStore, MasterStore, WriteResult, answer_unknown_untrusted, make_operation
from rapini.stores.messages import Follow, Following, Write, Writes, encode
from rapini.stores.outcomes import (
    EntryChanged,
    MasterFound,
    MasterLost,
    ProtocolViolation,
    SecondMaster,
    Synced,
    SyncFailed,
    WriteDone,
)
from tests.unit.stores.pair import join, kinds, make_clone, make_master, part, talk, to_clone, to_master
from tests.unit.stores.world import small_chunks, table_of


def done(clone: CloneStore) -> list[tuple[int, str, object]]:
    return [
        (outcome.number, outcome.result.code, outcome.result.value)
        for outcome in clone.outcomes()
        if isinstance(outcome, WriteDone)
    ]


def put(key: str, value: object = 1) -> object:
    return make_operation(Cause.PUT, key, value)


def joined(**options: int) -> tuple[MasterStore, CloneStore]:
    master, clone = make_master(**options), make_clone()  # type: ignore[arg-type]
    master.put("a", 1, 0.0)
    join(master, clone)
    talk(master, clone)
    clone.outcomes()
    return master, clone


# -- synchronising ---------------------------------------------------------------------------------------------------


def test_a_new_clone_gets_a_snapshot_and_then_deltas() -> None:
    master, clone = make_master(), make_clone()
    master.put("a", 1, 0.0)
    join(master, clone)
    assert clone.is_stale
    assert clone.stale_since == 0.0
    assert not clone.is_settled_with("m")
    assert talk(master, clone) == ["Follow", "Offer", "Following", "Chunk"]
    assert clone.outcomes() == [
        EntryChanged("a", False, True, 1, Cause.SYNC, "", b"\x01"),
        MasterFound(peer="m"),
        Synced(peer="m", version=1, was_snapshot=True, changes=1),
    ]
    assert not clone.is_stale
    assert clone.is_settled_with("m")
    master.put("b", 2, 0.0)
    assert talk(master, clone) == ["Deltas"]
    assert clone.outcomes() == [EntryChanged("b", False, True, 2, Cause.PUT, "", b"\x02")]
    assert master.followers == ["c"]


def test_a_clone_that_lags_gets_what_it_lacks() -> None:
    master, clone = joined()
    part(master, clone, now=7.0)
    assert clone.outcomes() == [MasterLost(peer="m")]
    assert clone.get("a") == 1
    assert clone.stale_since == 7.0
    master.put("b", 2, 8.0)
    master.put("c", 3, 8.0)
    join(master, clone)
    assert talk(master, clone) == ["Follow", "Offer", "Following", "Deltas"]
    assert kinds(clone.outcomes()) == ["EntryChanged", "EntryChanged", "MasterFound", "Synced"]
    assert table_of(clone) == {"a": 1, "b": 2, "c": 3}


def test_a_clone_that_lacks_nothing_is_in_sync_at_once() -> None:
    master, clone = joined()
    part(master, clone)
    join(master, clone)
    assert talk(master, clone) == ["Follow", "Offer", "Following"]
    assert not clone.is_stale
    assert kinds(clone.outcomes()) == ["MasterLost", "MasterFound", "Synced"]


def test_a_clone_that_lags_too_far_gets_a_snapshot_and_hears_of_the_difference_only() -> None:
    master, clone = joined(log_changes=3)
    part(master, clone)
    clone.outcomes()
    for number in range(4):
        master.put("b", number, 0.0)
        master.flush()
    join(master, clone)
    assert talk(master, clone) == ["Follow", "Offer", "Following", "Chunk"]
    assert clone.outcomes() == [
        EntryChanged("b", False, True, 5, Cause.SYNC, "", b"\x03"),
        MasterFound(peer="m"),
        Synced(peer="m", version=5, was_snapshot=True, changes=1),
    ]


def test_a_slow_clone_costs_the_master_a_number_and_gets_a_snapshot_in_the_end() -> None:
    master, clone = joined(log_changes=3)
    for number in range(100):  # the clone's link takes nothing
        master.put("b", number, 0.0)
        master.flush()
    assert master.log.kept_bytes < 100
    assert talk(master, clone) == ["Following", "Chunk"]
    assert clone.version == master.version
    assert kinds(clone.outcomes()) == ["EntryChanged", "Synced"]


def test_a_snapshot_is_shown_when_it_is_complete_and_not_before() -> None:
    master, clone = make_master(), make_clone()
    for number in range(50):
        master.put(f"k{number}", number, 0.0)
    join(master, clone)
    to_master(clone, master)
    with small_chunks():
        for _ in range(5):
            data = master.next_chunk("c")
            assert data is not None
            clone.receive("m", data, 0.0)
        assert len(clone) == 0
        master.put("later", 1, 0.0)
        names = talk(master, clone)
    assert names[-2:] == ["Chunk", "Deltas"]
    assert len(clone) == 51


def test_chunks_are_bounded() -> None:
    master, clone = make_master(), make_clone()
    for number in range(40):
        master.put(f"k{number}" + "x" * 4000, b"v" * (limits.MAX_STORE_VALUE_BYTES - number * 5000 - 8), 0.0)
    master.flush()
    join(master, clone)
    to_master(clone, master)
    sizes = []
    while (data := master.next_chunk("c")) is not None:
        sizes.append(len(data))
        clone.receive("m", data, 0.0)
    assert max(sizes) <= limits.MAX_STORE_MESSAGE_BYTES
    assert len(sizes) > 20
    assert table_of(clone) == table_of(master)
    for number in range(40):
        master.put(f"k{number}" + "x" * 4000, b"w" * (limits.MAX_STORE_VALUE_BYTES - number * 5000 - 8), 0.0)
    assert set(talk(master, clone)) == {"Deltas"}
    assert table_of(clone) == table_of(master)


def test_a_turn_is_one_message_and_is_encoded_once_for_all_clones() -> None:
    master = make_master()
    clones = [make_clone(number) for number in range(1, 11)]
    for number, clone in enumerate(clones):
        join(master, clone, f"c{number}")
        talk(master, clone, f"c{number}")
    for number in range(100):
        master.put(f"k{number}", number, 0.0)
    messages = [master.next_chunk(f"c{number}") for number in range(10)]
    assert master.log.encodings == 100
    assert len({id(message) for message in messages}) == 1
    assert [master.next_chunk(f"c{number}") for number in range(10)] == [None] * 10
    for clone, message in zip(clones, messages, strict=True):
        assert message is not None
        clone.receive("m", message, 0.0)
        assert clone.version == 100


def test_a_restarted_master_with_nothing_gives_a_snapshot_of_nothing() -> None:
    master, clone = joined()
    part(master, clone)
    master = make_master(run=b"s" * 16)
    master.put("b", 2, 0.0)  # the same version as before, and other data
    join(master, clone)
    assert talk(master, clone) == ["Follow", "Offer", "Following", "Chunk"]
    assert table_of(clone) == {"b": 2}


def test_expiry_is_decided_by_the_master_and_travels_as_a_delta() -> None:
    master, clone = joined()
    master.put("short", 1, 0.0, expires_in_s=5.0)
    talk(master, clone)
    clone.outcomes()
    assert clone.next_timer() is None
    assert clone.get("short") == 1
    assert master.next_timer() == 5.0
    master.handle_timer(5.0)
    assert talk(master, clone) == ["Deltas"]
    assert clone.outcomes() == [EntryChanged("short", True, False, 3, Cause.EXPIRE, "", None)]


# -- who has it ------------------------------------------------------------------------------------------------------


def test_a_peer_without_the_store_says_so_and_offers_it_later() -> None:
    clone = make_clone()
    clone.link_up("m", 0.0)
    follow = clone.next_chunk("m")
    assert follow is not None
    answer = answer_unknown_untrusted(follow)
    assert answer is not None
    clone.receive("m", answer, 0.0)
    assert clone.is_settled_with("m")
    assert clone.outcomes() == []
    master = make_master()
    master.link_up("c", 0.0)
    assert to_clone(master, clone) != []
    assert talk(master, clone) == ["Follow", "Following", "Chunk"]
    assert not clone.is_stale


def test_nothing_else_about_an_unknown_store_is_answered() -> None:
    assert answer_unknown_untrusted(encode(Writes(1, []))) is None
    assert answer_unknown_untrusted(b"garbage") is None


def test_a_second_master_is_reported_and_takes_over_when_the_first_is_gone() -> None:
    first, second, clone = make_master(), make_master(run=b"2" * 16), make_clone()
    first.put("a", 1, 0.0)
    second.put("b", 1, 0.0)
    join(first, clone)
    talk(first, clone)
    second.link_up("c", 0.0)
    clone.link_up("n", 0.0)
    clone.outcomes()

    def talk_to_second() -> None:
        for _ in range(5):
            while (data := clone.next_chunk("n")) is not None:
                second.receive("c", data, 0.0)
            while (data := second.next_chunk("c")) is not None:
                clone.receive("n", data, 0.0)

    talk_to_second()
    assert clone.outcomes() == [SecondMaster(peer="n")]
    assert clone.is_settled_with("n")
    assert second.followers == []
    assert table_of(clone) == {"a": 1}
    clone.link_lost("m", 0.0)
    talk_to_second()
    assert table_of(clone) == {"b": 1}
    assert not clone.is_stale


def test_a_table_that_does_not_fit_is_not_followed() -> None:
    master, clone = make_master(), make_clone(max_entries=2)
    for number in range(2):
        master.put(f"k{number}", number, 0.0)
    join(master, clone)
    talk(master, clone)
    master.put("one more", 1, 0.0)
    clone.outcomes()
    talk(master, clone)
    outcomes = clone.outcomes()
    assert kinds(outcomes) == ["SyncFailed", "MasterLost"]
    assert isinstance(outcomes[0], SyncFailed)
    assert outcomes[0].code == "store_full"
    assert table_of(clone) == {"k0": 0, "k1": 1}
    assert clone.is_stale
    assert clone.is_settled_with("m")
    assert master.followers == []
    part(master, clone)
    join(master, clone)
    talk(master, clone)
    assert "SyncFailed" in kinds(clone.outcomes())


# -- a clone's writes ------------------------------------------------------------------------------------------------


def test_a_write_returns_its_result_and_the_clone_reads_it() -> None:
    master, clone = joined()
    number = clone.write(make_operation(Cause.INCREMENT, "a", 4), 0.0)
    assert talk(master, clone) == ["Writes", "Replies", "Deltas"]
    assert clone.outcomes() == [
        EntryChanged("a", True, True, 2, Cause.INCREMENT, "c", b"\x05"),
        WriteDone(number, WriteResult("ok", 2, 5)),
    ]


def test_writes_of_one_turn_share_a_message() -> None:
    master, clone = joined()
    for number in range(100):
        clone.write(make_operation(Cause.PUT, f"k{number}", 1), 0.0)
    assert talk(master, clone) == ["Writes", "Replies", "Deltas"]
    assert len(done(clone)) == 100


@pytest.mark.parametrize(
    ("operation", "code"),
    [
        (make_operation(Cause.PUT_UNIQUE, "a", 1), "exists"),
        (make_operation(Cause.ADD, "a", 1), "wrong_type"),
        (make_operation(Cause.DELETE, "absent"), "absent"),
    ],
)
def test_a_refused_write_says_why(operation: object, code: str) -> None:
    master, clone = joined()
    clone.write(operation, 0.0)  # type: ignore[arg-type]
    talk(master, clone)
    assert [found for _, found, _ in done(clone)] == [code]
    assert master.version == 1


def _raises(peer: str) -> bool:
    raise RuntimeError("no policy")


@pytest.mark.parametrize("may_write", [lambda peer: False, lambda peer: "yes", lambda peer: None, _raises])
def test_who_may_write_fails_closed(may_write: object) -> None:
    master, clone = make_master(may_write=may_write), make_clone()  # type: ignore[arg-type]
    join(master, clone)
    talk(master, clone)
    clone.write(make_operation(Cause.PUT, "k", 1), 0.0)
    talk(master, clone)
    assert [code for _, code, _ in done(clone)] == ["not_authorised"]
    assert len(master) == 0


def test_a_write_without_a_master_waits_for_one() -> None:
    master, clone = make_master(), make_clone()
    clone.write(make_operation(Cause.PUT, "k", 1), 0.0, timeout_s=5.0)
    assert clone.next_timer() == 5.0
    join(master, clone)
    talk(master, clone)
    assert [code for _, code, _ in done(clone)] == ["ok"]
    assert clone.next_timer() is None


def test_a_write_without_a_master_ends_at_its_deadline() -> None:
    clone = make_clone()
    clone.write(make_operation(Cause.PUT, "k", 1), 0.0, timeout_s=5.0)
    clone.handle_timer(4.9)
    assert done(clone) == []
    clone.handle_timer(5.0)
    assert done(clone) == [(1, "master_away", None)]


def test_a_write_that_was_not_sent_in_time_certainly_did_not_happen() -> None:
    master, clone = joined()
    clone.write(make_operation(Cause.PUT, "k", 1), 0.0, timeout_s=5.0)
    clone.handle_timer(5.0)
    assert done(clone) == [(1, "deadline", None)]
    assert talk(master, clone) == []


def test_a_write_that_was_sent_and_not_answered_in_time_is_in_doubt() -> None:
    master, clone = joined()
    clone.write(make_operation(Cause.PUT, "k", 1), 0.0, timeout_s=5.0)
    to_master(clone, master)
    clone.handle_timer(5.0)
    assert done(clone) == [(1, "in_doubt", None)]
    talk(master, clone)
    assert done(clone) == []
    assert clone.get("k") == 1


@pytest.mark.parametrize("reaches_master", [True, False])
def test_a_write_whose_link_was_lost_is_sent_again_and_done_once(reaches_master: bool) -> None:
    master, clone = joined()
    clone.write(make_operation(Cause.PUT_UNIQUE, "k", 1), 0.0)
    clone.write(make_operation(Cause.INCREMENT, "n", 1), 0.0)
    if reaches_master:
        to_master(clone, master)
    else:
        assert clone.next_chunk("m") is not None
    part(master, clone)
    join(master, clone)
    talk(master, clone)
    assert done(clone) == [(1, "ok", True), (2, "ok", 1)]
    assert master.get("n", 0.0) == 1


def test_a_reply_that_comes_before_its_delta_is_held_until_the_deadline() -> None:
    master, clone = joined()
    clone.write(make_operation(Cause.PUT, "k", 1), 0.0, timeout_s=5.0)
    to_master(clone, master)
    reply = master.next_chunk("c")
    assert reply is not None
    clone.receive("m", reply, 0.0)
    part(master, clone)
    assert done(clone) == []
    clone.handle_timer(5.0)
    assert [outcome for outcome in clone.outcomes() if isinstance(outcome, WriteDone)] == [
        WriteDone(1, WriteResult("ok", 2), is_visible=False)
    ]


def test_a_forgotten_writer_is_not_done_twice_but_in_doubt() -> None:
    master, clone = joined()
    clone.write(make_operation(Cause.INCREMENT, "n", 1), 0.0)
    to_master(clone, master)
    part(master, clone)
    for number in range(limits.MAX_WRITERS_PER_PEER):  # other incarnations of the same name
        master.link_up("c", 0.0)
        master.receive("c", encode(Follow(bytes([100 + number]) * 16, b"", 0)), 0.0)
    assert len(master.writers) == limits.MAX_WRITERS_PER_PEER
    join(master, clone)
    talk(master, clone)
    assert done(clone) == [(1, "in_doubt", None)]
    assert master.get("n", 0.0) == 1


def test_what_waits_is_bounded_at_the_clone() -> None:
    clone = make_clone()
    for _ in range(limits.MAX_PENDING_WRITES + 1):
        clone.write(make_operation(Cause.PUT, "k", 1), 0.0)
    assert [code for _, code, _ in done(clone)] == ["busy"]


def test_what_waits_is_bounded_at_the_master() -> None:
    master, clone = joined()
    operation = make_operation(Cause.INCREMENT, "n", 1)
    for first in range(1, limits.MAX_PENDING_WRITES + 1001, 1000):
        master.receive("c", encode(Writes(1, [Write(first + n, operation) for n in range(1000)])), 0.0)
    violations = [outcome for outcome in master.outcomes() if isinstance(outcome, ProtocolViolation)]
    assert [violation.code for violation in violations] == ["too_many_writes"]
    assert master.get("n", 0.0) == limits.MAX_PENDING_WRITES
    assert clone.version == 1


def test_replies_that_the_clone_has_are_forgotten() -> None:
    master, clone = joined()
    for number in range(10):
        clone.write(make_operation(Cause.PUT, f"k{number}", 1), 0.0)
        talk(master, clone)
    writer = master.writers.find(("c", b"\x01" * 16))
    assert writer is not None
    assert writer.last == 10
    assert list(writer.replies) == [10]


def test_a_lagging_deltas_sync_may_turn_into_a_snapshot() -> None:
    """Found by the rule machine: the log moved on between `Following` and the deltas that it announced."""
    master, clone = joined(log_changes=3)
    part(master, clone)
    master.put("b", 1, 0.0)
    join(master, clone)
    to_master(clone, master)
    for _ in range(2):  # Offer, Following
        data = master.next_chunk("c")
        assert data is not None
        clone.receive("m", data, 0.0)
    for number in range(10):
        master.put("b", number, 0.0)
        master.flush()
    assert talk(master, clone) == ["Following", "Chunk"]
    assert table_of(clone) == table_of(master)
    assert "ProtocolViolation" not in kinds(clone.outcomes())


def test_a_following_that_does_not_go_on_from_where_we_are_is_refused() -> None:
    master, clone = joined()
    part(master, clone)
    clone.link_up("m", 0.0)
    clone.outcomes()
    clone.receive("m", encode(Following(b"x" * 16, 0, False, 0, True, True)), 0.0)
    violation = next(outcome for outcome in clone.outcomes() if isinstance(outcome, ProtocolViolation))
    assert violation.code == "bad_version"
    assert table_of(clone) == {"a": 1}
