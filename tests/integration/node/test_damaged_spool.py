"""A node whose spool was damaged while it was away: it says so, and owes what is left to whoever it may be owed to."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest

from rapini import Node, PublishOutcome
from tests.integration.node.support import Keys, eventually, running
from tests.integration.node.test_delivery import gaps, numbers
from tests.programs.events import KeptTick

COUNT = 20


def _filled(keys: Keys, folder: Path, **more: Any) -> dict[str, Any]:
    """The options of a node whose spool has some events, each in a record of its own."""
    options: dict[str, Any] = {**keys.of("sender"), "spool": str(folder), **more}
    with Node("sender", **options, durable_subscribers={"receiver": ["kept/"]}) as sender:
        for number in range(COUNT):
            event = KeptTick(sender="sender", number=number, pad=bytes(100))
            assert sender.publish_durable(event) is PublishOutcome.ON_DISK
    return options


def test_a_damaged_record_is_logged_with_file_and_offset_and_told_by_a_gap(
    keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = _filled(keys, tmp_path / "spool")
    (segment,) = (tmp_path / "spool").glob("*.segment")
    data = bytearray(segment.read_bytes())
    first = data.find(bytes(100))
    data[first] ^= 1
    segment.write_bytes(data)
    with (
        caplog.at_level(logging.ERROR, "rapini.node"),
        running(Node("sender", **options)) as (sender, _),
        running(Node("receiver", **keys.of("receiver"))) as (receiver, seen),
    ):
        receiver.subscribe("kept/")
        receiver.connect(sender.listen("tcp+tls://127.0.0.1:0"))
        eventually(lambda: numbers(seen, KeptTick) == list(range(1, COUNT)))
        (gap,) = gaps(seen)
        assert (gap.first, gap.last, gap.delivery, gap.reason) == (0, 0, "durable", "damaged")
    lines = [line for line in caplog.messages if "damaged at offset" in line]
    assert len(lines) == 1
    assert lines[0].startswith(f"{segment}: damaged at offset ")
    assert lines[0].endswith(": 1 events from number 0 on lost")


@pytest.mark.parametrize("is_configured", [True, False])
def test_who_is_owed_what_can_be_lost_and_then_everything_is_owed(
    keys: Keys, tmp_path: Path, caplog: pytest.LogCaptureFixture, is_configured: bool
) -> None:
    options = _filled(keys, tmp_path / "spool", durable_lease_s=1.0)
    for name in ("state.a", "state.b"):
        (tmp_path / "spool" / name).write_bytes(b"rot")
    if is_configured:
        options["durable_subscribers"] = {"receiver": ["kept/"]}
    with (
        caplog.at_level(logging.ERROR, "rapini.node"),
        running(Node("sender", **options)) as (sender, _),
        running(Node("receiver", **keys.of("receiver"))) as (receiver, seen),
    ):
        durable = sender._core.durable
        assert durable is not None
        assert durable.spool.consumers_lost
        receiver.subscribe("kept/")
        receiver.connect(sender.listen("tcp+tls://127.0.0.1:0"))
        eventually(lambda: numbers(seen, KeptTick) == list(range(COUNT)))
        assert sum("has lost who is owed what" in line for line in caplog.messages) == 1
        eventually(lambda: not durable.spool.consumers_lost, 5, "the lease of whoever did not return")
