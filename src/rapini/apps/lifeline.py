"""A child that ends with its parent, even when the parent is killed with SIGKILL.

Where it sits: the programs that `rapini run` and `rapini demo` start call `die_with(parent)` first thing.

Theory: Linux sends a process the signal it asked for with `prctl(PR_SET_PDEATHSIG)` when the thread that started it
ends. It has to be SIGKILL: anything milder waits for ever in a child that is stopped, as the demo's frozen sensor is. A
parent that died before the call is noticed by its number. Source: prctl(2).
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from typing import Final

__all__ = ["die_with"]

_PR_SET_PDEATHSIG: Final = 1


def die_with(parent: int) -> None:
    """Arrange that this process is killed when the process `parent`, which started it, ends.

    Exits at once (status 1) if the parent is gone already. Does nothing on systems without `prctl`.

    Thread: the main thread.
    """
    if sys.platform == "linux":
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0) != 0:
            raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if os.getppid() != parent:
        sys.exit(1)
