"""How many packets per second `rapini run` handles, beside a bare parsing loop over the same file.

The bare loop is what one writes first: dpkt's reader and `dpkt.ethernet.Ethernet` for each packet, nothing kept. The
capture is the shipped one repeated with its time moved on, so that connections are new each time.
"""

from __future__ import annotations

import json
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rapini.data import demo_capture
from rapini.errors import RapiniError

__all__ = ["measure_capture", "write_long_capture"]

_BARE_LOOP: Final = """
import sys, time, dpkt
started = time.perf_counter()
count = 0
with open(sys.argv[1], "rb") as file:
    for stamp, frame in dpkt.pcap.Reader(file):
        dpkt.ethernet.Ethernet(frame)
        count += 1
print(count, time.perf_counter() - started)
"""
_GLOBAL_BYTES: Final = 24
_RECORD: Final = struct.Struct("<IIII")


def write_long_capture(path: Path, packets: int) -> int:
    """Repeat the shipped capture until there are `packets`; returns how many there are."""
    with demo_capture() as source:
        data = source.read_bytes()
    records: list[tuple[int, int, int, int, bytes]] = []
    at = _GLOBAL_BYTES
    while at < len(data):
        seconds, micros, kept, full = _RECORD.unpack_from(data, at)
        at += _RECORD.size
        records.append((seconds, micros, kept, full, data[at : at + kept]))
        at += kept
    span_s = records[-1][0] - records[0][0] + 600  # longer than every time-out, so that no flow runs on
    written = 0
    with path.open("wb") as file:
        file.write(data[:_GLOBAL_BYTES])
        for repetition in range(-(-packets // len(records))):
            for seconds, micros, kept, full, frame in records:
                file.write(_RECORD.pack(seconds + repetition * span_s, micros, kept, full) + frame)
            written += len(records)
    return written


def _bare(capture: Path) -> tuple[float, float]:
    command = [sys.executable, "-c", _BARE_LOOP, str(capture)]
    count, seconds = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return int(count), float(seconds)


def _rapini_run(capture: Path, log_dir: Path) -> dict[str, Any]:
    command = [sys.executable, "-m", "rapini", "run", str(capture), "--log-dir", str(log_dir), "--json"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise RapiniError("bench_failed", f"rapini run ended with status {done.returncode}: {done.stderr[-300:]}")
    facts: dict[str, Any] = json.loads(done.stdout)
    return facts


def measure_capture(rounds: int, packets: int, progress: Callable[[str], None]) -> dict[str, Any]:
    """Interleave the bare loop and `rapini run`, over the same packets."""
    with tempfile.TemporaryDirectory(prefix="rapini-bench-") as folder:
        capture = Path(folder) / "long.pcap"
        count = write_long_capture(capture, packets)
        bare, ours, whole = [], [], []
        for number in range(1, rounds + 1):
            progress(f"capture: round {number} of {rounds}: bare loop")
            packets_read, seconds = _bare(capture)
            bare.append(packets_read / seconds)
            progress(f"capture: round {number} of {rounds}: rapini run")
            started = time.perf_counter()
            facts = _rapini_run(capture, Path(folder) / f"logs-{number}")
            whole.append(count / (time.perf_counter() - started))
            ours.append(facts["packets"] / facts["seconds"])
    ratios = [a / b for a, b in zip(ours, bare, strict=True)]
    return {
        "packets": count,
        "bare_packets_per_s": statistics.median(bare),
        "run_packets_per_s": statistics.median(ours),
        "run_packets_per_s_with_start_and_end": statistics.median(whole),
        "ratio": {"median": statistics.median(ratios), "min": min(ratios), "max": max(ratios)},
    }
