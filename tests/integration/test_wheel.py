"""An installed wheel is enough: the demo's capture and the benchmarks are inside it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built and unpacked: a folder that stands in front of the checkout on the path."""
    folder = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = folder.glob("rapini-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "site")
    return folder / "site"


def rapini(installed: Path, *arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run the installed package, away from the checkout."""
    return subprocess.run(
        [sys.executable, "-m", "rapini", *arguments],
        cwd=cwd,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=False,
        capture_output=True,
        text=True,
        timeout=50,
    )


def test_the_package_that_runs_is_the_installed_one(installed: Path, tmp_path: Path) -> None:
    code = "import rapini.data; print(rapini.__file__); print(rapini.data.demo_capture)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=True,
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.stdout.startswith(str(installed))


def test_the_shipped_capture_becomes_logs(installed: Path, tmp_path: Path) -> None:
    capture = installed / "rapini" / "data" / "demo.pcap"
    done = rapini(installed, "run", str(capture), "--log-dir", "logs", "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["published"] == facts["logged"] > 700
    assert {path.name for path in (tmp_path / "logs").iterdir()} == {"conn.log", "dns.log"}


def test_the_benchmark_runs(installed: Path, tmp_path: Path) -> None:
    """It measures and adds up; whether the promises are kept on a busy machine is not asked here."""
    options = ("--only", "throughput", "--only", "capture", "--rounds", "1", "--seconds", "0.3", "--packets", "8000")
    done = rapini(installed, "bench", "link", *options, "--json", cwd=tmp_path)
    assert done.returncode in (0, 1), done.stderr
    result = json.loads(done.stdout)
    assert set(result["throughput"]["variants"]) >= {"zmq+tls", "zmq+plain", "tcp+tls", "raw pyzmq CURVE"}
    assert all(row["lost_events"] == 0 for row in result["throughput"]["variants"].values())
    assert result["capture"]["run_packets_per_s"] > 0
    assert {row["name"] for row in result["criteria"]} == {"S1", "S2", "S3", "S7"}
