"""The handshake benchmark runs, resumes what it says it resumes, and prints JSON."""

from __future__ import annotations

import json
import subprocess
import sys


def test_its_figures_are_those_of_resumed_and_full_handshakes() -> None:
    command = [sys.executable, "-m", "rapini.bench.handshake", "--rounds", "3", "--handshakes", "5"]
    report = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, timeout=60).stdout)
    for kind in ("off", "full", "resumed"):
        assert set(report[kind]["cpu_ms"]) == {"initiator", "responder", "both"}
        assert all(figure > 0 for figure in report[kind]["cpu_ms"].values())
    # No certificates travel: bytes do not depend on the machine's load as times do.
    assert report["resumed"]["bytes_sent"]["responder"] < 0.6 * report["full"]["bytes_sent"]["responder"]
    assert report["off"]["bytes_sent"]["responder"] < report["full"]["bytes_sent"]["responder"], "the ticket itself"
