"""Coverage-guided fuzzing of everything that reads network bytes: a corpus of valid messages, mutated by libFuzzer.

Long runs are for `make soak` (`RAPINI_FUZZ_S` seconds a target, 60 by default); the targets themselves run here for a
moment, so that they stay true. Hypothesis does the rest in the unit tests.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import require_component

ROOT = Path(__file__).resolve().parents[2]
TARGETS = ("frames", "batch", "envelope", "certificate", "packet", "store", "link")
_OF_KIND = {"frame": "frames", "stream": "frames", "batch": "batch", "envelope": "envelope", "packet": "packet"}


def corpus(folder: Path, target: str) -> None:
    """The wire vectors that such a target reads, as its first inputs."""
    vectors = json.loads((ROOT / "tests" / "data" / "wire_vectors.json").read_text("utf-8"))
    if isinstance(vectors, dict):
        (vectors,) = [value for value in vectors.values() if isinstance(value, list)]
    for number, vector in enumerate(vectors):
        data = bytes.fromhex(vector["hex"])
        if _OF_KIND.get(vector["kind"]) == target:
            (folder / f"seed-{number}").write_bytes(data)
        if vector["kind"] == "frame" and target == "link":
            (folder / f"seed-{number}").write_bytes(b"\0" + data)
    (folder / "seed-empty").write_bytes(b"\0")


def fuzz(target: str, folder: Path, *options: str, timeout_s: float) -> None:
    require_component("python:atheris")
    corpus(folder, target)
    command = [sys.executable, "-m", "tests.programs.fuzz", target, *options, "-max_len=4096", "-rss_limit_mb=2048"]
    command += [f"-artifact_prefix={folder}/", "-verbosity=0", str(folder)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False)
    assert ended.returncode == 0, f"{target}:\n{ended.stdout[-3000:]}\n{ended.stderr[-6000:]}"


@pytest.mark.parametrize("target", TARGETS)
def test_a_target_runs_and_finds_nothing_in_a_moment(target: str, tmp_path: Path) -> None:
    fuzz(target, tmp_path, "-runs=3000", timeout_s=55)


@pytest.mark.soak
@pytest.mark.timeout(3700)
@pytest.mark.parametrize("target", TARGETS)
def test_hostile_bytes_raise_a_decode_error_and_nothing_else(target: str, tmp_path: Path) -> None:
    seconds = int(os.environ.get("RAPINI_FUZZ_S", "60"))
    fuzz(target, tmp_path, f"-max_total_time={seconds}", timeout_s=seconds + 60)
