"""Logs on disk: made when needed, never over another, drained at the end, and every event is in a file or counted.

The faults are real ones: a full tmpfs, a file size limit, a folder that goes away, a pipe that nobody reads.
"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any, Final

import pytest

from rapini.errors import LocalError, LogError
from rapini.events import Event
from rapini.logs import LogFailure, LogFormat, LogManager, LogReport, LogSchema, LossCause, TsvWriter
from rapini.threads import Overflow, ThreadState
from tests.conftest import missing_component


class Note(Event, topic="test/note", name="test.logs.Note"):
    number: int
    text: str = "some text"


class Other(Event, topic="test/other", name="test.logs.Other"):
    number: int


NOTES: Final = LogSchema.for_event(Note, path="note")
OTHERS: Final = LogSchema.for_event(Other, path="other")


def _open(directory: Path, **options: Any) -> LogManager:
    logs = LogManager(directory, **options)
    logs.add_stream(Note, NOTES)
    logs.add_stream(Other, OTHERS)
    return logs


def _numbers(file: Path) -> list[int]:
    return [int(line.split("\t")[0]) for line in file.read_text().splitlines() if not line.startswith("#")]


def _adds_up(report: LogReport) -> bool:
    return report.offered == report.written + report.lost and all(
        log.offered == log.written + log.lost for log in report.logs
    )


def _hang(directory: Path) -> None:
    """A log that nobody reads: the writer hangs in `open`."""
    os.mkfifo(directory / "note.log")


def test_an_ordered_close_writes_everything_that_was_logged(tmp_path: Path) -> None:
    logs = _open(tmp_path)
    for first in range(0, 50_000, 500):
        assert logs.log([Note(n) for n in range(first, first + 500)]) == 500
    report = logs.close(deadline_s=30)
    assert report.is_complete
    assert (report.offered, report.written, report.lost) == (50_000, 50_000, 0)
    assert _numbers(tmp_path / "note.log") == list(range(50_000))
    lines = (tmp_path / "note.log").read_text().splitlines()
    assert lines[0] == "#separator \\x09"
    assert lines[-1].startswith("#close\t")
    assert report.logs[0].written_bytes == (tmp_path / "note.log").stat().st_size
    assert logs.close(deadline_s=1) is report


def test_a_file_is_made_by_its_first_record_or_at_once(tmp_path: Path) -> None:
    with _open(tmp_path / "lazy") as logs:
        logs.log([Other(1)])
    assert [file.name for file in (tmp_path / "lazy").iterdir()] == ["other.log"]
    with _open(tmp_path / "eager", eager=True):
        pass
    assert sorted(file.name for file in (tmp_path / "eager").iterdir()) == ["note.log", "other.log"]
    assert "#close" in (tmp_path / "eager" / "note.log").read_text()


def test_files_get_the_permissions_that_umask_leaves(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        with _open(tmp_path) as logs:
            logs.log([Note(1)])
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "note.log").stat().st_mode) == 0o640


def test_json_has_no_header_and_no_footer(tmp_path: Path) -> None:
    with _open(tmp_path, format=LogFormat.JSON) as logs:
        logs.log([Note(1), Note(2, "é")])
    lines = (tmp_path / "note.log").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == [
        {"number": 1, "text": "some text"},
        {"number": 2, "text": "é"},
    ]


def test_an_existing_log_is_not_overwritten_unless_forced(tmp_path: Path) -> None:
    (tmp_path / "note.log").write_text("precious\n")
    with pytest.raises(LogError) as raised:
        _open(tmp_path)
    assert raised.value.code == "exists"
    with _open(tmp_path, force=True) as logs:
        logs.log([Note(1)])
    assert _numbers(tmp_path / "note.log") == [1]


def test_a_log_that_appears_in_between_is_not_overwritten_either(tmp_path: Path) -> None:
    told: list[LogFailure] = []
    logs = _open(tmp_path, on_failure=told.append)
    (tmp_path / "note.log").write_text("precious\n")
    logs.log([Note(1), Note(2), Other(3)])
    report = logs.close(deadline_s=20)
    assert (tmp_path / "note.log").read_text() == "precious\n"
    assert [failure.code for failure in told] == ["exists"]
    assert [failure.code for failure in report.failures] == ["exists"]
    assert report.logs[0].dropped == {LossCause.FAILED: 2}
    assert report.logs[0].state is ThreadState.FAILED
    assert (report.logs[1].written, report.logs[1].lost) == (1, 0)
    assert _adds_up(report)


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LogError) as raised:
        LogManager(tmp_path / "file" / "logs")
    assert raised.value.code == "unwritable"


def test_a_folder_that_goes_away_is_reported_and_counted(tmp_path: Path) -> None:
    logs = _open(tmp_path / "logs")
    (tmp_path / "logs").rmdir()
    logs.log([Note(1)])
    report = logs.close(deadline_s=20)
    assert [failure.code for failure in report.failures] == ["unwritable"]
    assert (report.lost, _adds_up(report)) == (1, True)


_FULL_DISK: Final = """
import json, sys
from pathlib import Path
from tests.unit.logs.test_writing import Note, Other, NOTES, OTHERS, _numbers
from rapini.logs import LogManager
full, roomy = Path(sys.argv[1]), Path(sys.argv[2])
logs, elsewhere = LogManager(full), LogManager(roomy)
logs.add_stream(Note, NOTES)
elsewhere.add_stream(Other, OTHERS)
for first in range(0, 20_000, 100):
    logs.log([Note(n, "x" * (n % 50)) for n in range(first, first + 100)])
    elsewhere.log([Other(first)])
report, other = logs.close(20), elsewhere.close(20)
numbers = _numbers(full / "note.log")
print(json.dumps({
    "code": [failure.code for failure in report.failures],
    "detail": report.failures[0].detail,
    "written": report.written,
    "dropped": {cause.value: n for cause, n in report.logs[0].dropped.items()},
    "in_order": numbers == list(range(len(numbers))),
    "in_file": len(numbers),
    "whole": (full / "note.log").read_bytes().endswith(b"\\n"),
    "bytes_agree": (full / "note.log").stat().st_size == report.logs[0].written_bytes,
    "other": other.is_complete and other.written,
}))
"""


def _check_full_disk(result: subprocess.CompletedProcess[str], said: str) -> None:
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["code"] == ["disk_full"]
    assert said in found["detail"]
    assert 0 < found["written"] == found["in_file"] < 20_000
    assert found["dropped"] == {"failed": 20_000 - found["written"]}
    assert found["in_order"]
    assert found["whole"]
    assert found["bytes_agree"]
    assert found["other"] == 200
    assert "Traceback" not in result.stderr


def test_on_a_full_disk_the_loss_is_counted_to_the_record(tmp_path: Path) -> None:
    """In a mount namespace of its own, on a tmpfs of 64 KiB."""
    full, roomy = tmp_path / "full", tmp_path / "roomy"
    full.mkdir()
    mount = 'mount -t tmpfs -o size=64k none "$0" || exit 77; exec "$@"'
    program = ["sh", "-c", mount, str(full), sys.executable, "-c", _FULL_DISK, str(full), str(roomy)]
    command = ["unshare", "--user", "--map-root-user", "--mount", *program]
    result = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    if result.returncode == 77 or "unshare" in result.stderr:
        missing_component(f"no mount namespace here: {result.stderr.strip()}")
    _check_full_disk(result, "No space left on device")


def test_at_a_file_size_limit_the_loss_is_counted_to_the_record(tmp_path: Path) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000))\n"
    (tmp_path / "full").mkdir()
    program = [sys.executable, "-c", limit + _FULL_DISK, str(tmp_path / "full"), str(tmp_path / "roomy")]
    result = subprocess.run(program, capture_output=True, text=True, timeout=50, check=False)
    _check_full_disk(result, "File too large")


def test_a_device_without_room_fails_at_the_header(tmp_path: Path) -> None:
    (tmp_path / "note.log").symlink_to("/dev/full")
    logs = LogManager(tmp_path, force=True)
    logs.add_stream(Note, NOTES)
    logs.log([Note(n) for n in range(10)])
    report = logs.close(deadline_s=20)
    assert [failure.code for failure in report.failures] == ["disk_full"]
    assert (report.written, report.logs[0].dropped) == (0, {LossCause.FAILED: 10})


def test_a_hung_writer_delays_neither_the_others_nor_the_exit(tmp_path: Path) -> None:
    _hang(tmp_path)
    logs = _open(tmp_path, force=True)
    logs.log([Note(n) for n in range(5000)])
    began = time.monotonic()
    for n in range(200):
        logs.log([Other(n)])
    assert not logs.flush(0.2)  # the hung one is not on disk
    assert logs.statistics()["other"].written == 200
    report = logs.close(deadline_s=0.5)
    assert time.monotonic() - began < 5
    assert report.hung == ("log:note",)
    assert report.logs[0].dropped == {LossCause.HUNG: 5000}
    assert _numbers(tmp_path / "other.log") == list(range(200))
    assert _adds_up(report)
    # The hung thread is let go; it must not touch the file that it finally gets.
    with (tmp_path / "note.log").open("rb", buffering=0) as reader:
        for thread in logs.threads.threads:
            assert thread.wait_stop(10)
        assert b"some text" not in (reader.read() or b"")


def test_a_hung_log_under_block_costs_its_producer_the_timeout_only(tmp_path: Path) -> None:
    _hang(tmp_path)
    logs = LogManager(tmp_path, force=True, queue_bytes=50_000, block_timeout_s=0.1)
    logs.add_stream(Note, NOTES)
    accepted = sum(logs.log([Note(n) for n in range(1000)]) for _ in range(4))
    report = logs.close(deadline_s=0.2)
    assert accepted < 4000
    assert report.logs[0].dropped == {LossCause.OVERFLOW: 4000 - accepted, LossCause.HUNG: accepted}
    with (tmp_path / "note.log").open("rb", buffering=0):
        assert logs.threads.threads[0].wait_stop(10)


@pytest.mark.parametrize("overflow", [Overflow.DROP_NEWEST, Overflow.DROP_OLDEST])
def test_a_producer_ten_times_as_fast_stays_under_the_bound_and_the_loss_is_exact(
    tmp_path: Path, overflow: Overflow
) -> None:
    """The reader of a pipe sets the pace; nothing in the writer is replaced."""
    _hang(tmp_path)
    lines: list[bytes] = []

    def read_slowly() -> None:
        with (tmp_path / "note.log").open("rb", buffering=0) as reader:
            while chunk := reader.read(8192):
                lines.append(chunk)
                if len(lines) < 40:
                    time.sleep(0.01)

    slow = threading.Thread(target=read_slowly, daemon=True)
    slow.start()
    bound = 400_000
    logs = LogManager(tmp_path, force=True, queue_bytes=bound, overflow=overflow)
    logs.add_stream(Note, NOTES)
    for first in range(0, 60_000, 100):
        logs.log([Note(n, "y" * 200) for n in range(first, first + 100)])
        assert logs.statistics()["note"].high_water_bytes <= bound
    report = logs.close(deadline_s=30)
    slow.join(10)
    numbers = [int(line.split(b"\t")[0]) for line in b"".join(lines).splitlines() if not line.startswith(b"#")]
    assert report.logs[0].dropped == {LossCause.OVERFLOW: 60_000 - report.written}
    assert 0 < report.written < 60_000
    assert len(numbers) == report.written
    assert numbers == sorted(set(numbers))
    assert (numbers[-1] == 59_999) or overflow is Overflow.DROP_NEWEST


def test_flush_puts_on_disk_what_was_logged_before_it(tmp_path: Path) -> None:
    logs = _open(tmp_path)
    logs.log([Note(n) for n in range(10_000)])
    assert logs.flush(20)
    assert _numbers(tmp_path / "note.log") == list(range(10_000))
    logs.close(deadline_s=10)


def test_order_is_kept_for_each_thread_and_each_log(tmp_path: Path) -> None:
    logs = _open(tmp_path)

    def produce(me: int) -> None:
        for first in range(me * 100_000, me * 100_000 + 3000, 3):
            logs.log([Note(first), Other(first), Note(first + 1), Note(first + 2)])

    threads = [threading.Thread(target=produce, args=(me,)) for me in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert logs.close(deadline_s=30).is_complete
    numbers = _numbers(tmp_path / "note.log")
    for me in range(3):
        mine = [n for n in numbers if n // 100_000 == me]
        assert mine == list(range(me * 100_000, me * 100_000 + 3000))


def test_events_without_a_log_and_unrenderable_ones_are_counted(tmp_path: Path) -> None:
    wrong: Any = "three"
    logs = LogManager(tmp_path)
    logs.add_stream(Note, NOTES)
    assert logs.log([Note(1), Other(2), Note(wrong), Other(3), Note(4)]) == 3
    assert logs.unrouted == {"Other": 2}
    report = logs.close(deadline_s=20)
    assert report.logs[0].dropped == {LossCause.UNRENDERABLE: 1}
    assert (report.written, report.lost, report.offered) == (2, 3, 5)
    assert not report.is_complete
    assert _numbers(tmp_path / "note.log") == [1, 4]


def test_what_comes_after_the_close_is_counted_as_such(tmp_path: Path) -> None:
    logs = _open(tmp_path)
    logs.log([Note(1)])
    logs.close(deadline_s=20)
    assert logs.log([Note(2), Note(3)]) == 0
    assert logs.statistics()["note"].dropped == {LossCause.CLOSED: 2}
    with pytest.raises(LocalError) as raised:
        logs.add_stream(Note, NOTES)
    assert raised.value.code == "closed"


def test_a_type_and_a_name_have_one_log(tmp_path: Path) -> None:
    with _open(tmp_path) as logs:
        for event_type, path in ((Note, "again"), (type(Event), "note")):
            with pytest.raises(LocalError) as raised:
                logs.add_stream(event_type, LogSchema.for_event(Note, path=path))  # type: ignore[arg-type]
            assert raised.value.code == "duplicate_stream"


def test_a_raising_callback_hides_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def raising(failure: LogFailure) -> None:
        raise ZeroDivisionError

    writer = TsvWriter(NOTES, tmp_path / "missing" / "note.log", on_failure=raising)
    writer.start()
    writer.write([Note(1)])
    writer.signal_stop()
    assert writer.wait_stop(10)
    assert writer.log_statistics().dropped == {LossCause.FAILED: 1}
    assert writer.log_failure is not None
    assert "log_failure_callback_raised" in caplog.text


def test_a_file_closed_by_a_hook_is_followed_by_a_fresh_one(tmp_path: Path) -> None:
    """All that a rotation needs: here a flush rotates."""

    class Rotating(TsvWriter):
        rotations = 0

        def on_flush(self) -> None:
            super().on_flush()
            file = self.file
            if file is not None and file.exists():
                self.close_file()
                self.rotations += 1
                file.rename(file.with_suffix(f".{self.rotations}.log"))

    writer = Rotating(NOTES, tmp_path / "note.log")
    writer.start()
    for n in range(3):
        writer.write([Note(n)])
        assert writer.flush(10)
    writer.signal_stop()
    assert writer.wait_stop(10)
    assert writer.failure is None
    assert [_numbers(tmp_path / f"note.{n}.log") for n in (1, 2, 3)] == [[0], [1], [2]]
    assert "#close" in (tmp_path / "note.1.log").read_text()
    assert not (tmp_path / "note.log").exists()
