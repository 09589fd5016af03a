"""The data that ships inside the package: the capture that `rapini demo` and the benchmarks replay.

A leaf: imports nothing of ours. `README.md` beside this file says what the capture holds;
`tools/record_capture.py` in the source tree recorded it.

Source: Python's `importlib.resources`, which finds the file in a source tree, a wheel, and a zip archive
alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import as_file, files
from pathlib import Path

__all__ = ["demo_capture"]


@contextmanager
def demo_capture() -> Iterator[Path]:
    """Yields the path of the shipped capture, an Ethernet pcap with microsecond times.

    The path holds inside the `with` block only: from a zip archive it is a temporary copy. Any thread.

    Raises:
        FileNotFoundError: the installed package lacks its capture.
    """
    with as_file(files(__name__) / "demo.pcap") as path:
        if not path.is_file():
            raise FileNotFoundError(f"{path}: the shipped capture is missing; install rapini again")
        yield path
