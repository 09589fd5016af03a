"""What a secured link costs: events per second, delay, fan-out and memory, beside raw pyzmq in the same run.

Every variant is two processes on loopback. Rounds are interleaved (each round runs every variant once), so that a
machine whose speed drifts treats all alike; the figures are medians, the ratios are of the medians.
"""

from __future__ import annotations

import json
import os
import platform
import ssl  # noqa: F401 - see versions()
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rapini import Authority, __version__

__all__ = ["SECTIONS", "Result", "measure"]

SECTIONS = ("throughput", "latency", "fanout", "memory", "capture")

RAPINI = ("zmq+tls", "zmq+plain", "tcp+tls", "tcp+plain")
BASELINES = {"raw pyzmq": "plain", "raw pyzmq CURVE": "curve"}

Result = dict[str, Any]
Progress = Callable[[str], None]
