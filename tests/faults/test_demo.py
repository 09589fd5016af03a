"""`rapini demo` whole: its account adds up, and whoever ends it early leaves nobody behind.

The story itself is the test of killed and frozen processes: it fails (status 1) unless each loss is noticed, each
return is recognised for what it is, and events flow again.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.integration.apps.helpers import (
    are_gone,
    descendants,
    finish,
    rapini,
    running,
    temporary,
    tsv_rows,
    wait_until,
)


@pytest.mark.timeout(90)
def test_the_demos_json_adds_up(tmp_path: Path) -> None:
    logs = tmp_path / "logs"
    ended = rapini("demo", "--json", "--seconds", "14", "--log-dir", logs, timeout_s=80)
    assert ended.status == 0, ended.stderr
    report = json.loads(ended.stdout)  # one object and nothing else
    lost = sum(count for causes in report["lost"].values() for count in causes.values())
    assert report["published"] == report["logged"] + lost
    assert report["received"] == report["logged"]
    assert "unaccounted" not in {cause for causes in report["lost"].values() for cause in causes}
    assert all(count > 0 for causes in report["lost"].values() for count in causes.values())
    assert report["published"] > 1000
    assert lost < report["published"] / 10
    assert {name: len(tsv_rows(logs / f"{name}.log")) for name in ("conn", "dns")} == report["rows"]
    # Four links, then two for the restarted sensor, two for the restarted manager, two for the frozen sensor.
    assert report["channels_opened"] == 10
    # Each kill is noticed at two ends; the freeze at two, and by the sensor itself of two when it wakes.
    assert report["peers_lost"] >= 6
    assert report["peers_returned"] >= 6
    assert report["seconds"] < 60
    frozen = [step["seconds"] for step in report["steps"] if "is silent" in step["what"]]
    assert len(frozen) == 2
    assert all(2.0 <= seconds <= 4.0 for seconds in frozen)  # promised: 3.5 on a machine that is not overloaded
    for link in report["links"].values():
        assert link["received"] > 0
        assert link["state"] == "left"


def _demo_is_flowing(process: subprocess.Popen[str]) -> Callable[[], bool]:
    stdout = process.stdout
    assert stdout is not None
    os.set_blocking(stdout.fileno(), False)
    seen: list[str] = []

    def is_flowing() -> bool:
        try:
            seen.append(os.read(stdout.fileno(), 65536).decode())
        except BlockingIOError:
            pass
        return "the first events of both sensors" in "".join(seen)

    return is_flowing


def _sensor(family: list[psutil.Process]) -> psutil.Process:
    return next(process for process in family if "sensor" in process.cmdline())


@pytest.mark.parametrize("frozen", [False, True])
def test_ctrl_c_leaves_no_orphan(frozen: bool, tmp_path: Path) -> None:
    """Not even one that is stopped, and would hear nothing."""
    with running("demo", "--log-dir", tmp_path / "logs", start_new_session=True) as process:
        assert wait_until(_demo_is_flowing(process), 20)
        family = descendants(process.pid)
        assert len(family) == 4
        if frozen:
            _sensor(family).suspend()
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), True)
        ended = finish(process)
    assert ended.status == 130
    assert are_gone(family)
    logs = list((tmp_path / "logs").glob("*.log"))  # which of the two there is by now is up to the capture
    assert logs
    assert all(tsv_rows(log) for log in logs)  # closed in order


def test_a_killed_demo_leaves_no_orphan_not_even_a_frozen_one(tmp_path: Path) -> None:
    with running("demo", "--log-dir", tmp_path / "logs", env=temporary(tmp_path)) as process:
        assert wait_until(_demo_is_flowing(process), 20)
        family = descendants(process.pid)
        assert len(family) == 4
        _sensor(family).suspend()
        process.kill()
        assert are_gone(family)


def test_a_step_that_does_not_happen_is_named_and_ends_it(tmp_path: Path) -> None:
    """Somebody else kills the logger: no step of the story does."""
    with running("demo", "--log-dir", tmp_path / "logs") as process:
        assert wait_until(_demo_is_flowing(process), 20)
        family = descendants(process.pid)
        next(child for child in family if "logger" in child.cmdline()).kill()
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), True)
        ended = finish(process)
    assert ended.status == 1
    assert "logger ended by itself" in ended.stderr
    assert are_gone(family)


def test_a_folder_with_something_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("")
    ended = rapini("demo", "--log-dir", tmp_path)
    assert ended.status == 2
    assert "not an empty folder" in ended.stderr
