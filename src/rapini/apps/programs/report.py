"""What a program tells while it runs: peers' statuses at once, counters now and then, for people or for programs.

Where it sits: between the programs' loops and their standard streams. As JSON, one object a line on standard output,
each with a `kind` and a `time` (seconds since the epoch, UTC); as text, lines on standard error.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Final, TextIO

from rapini import PeerState, PeerStatus

__all__ = ["Reporter", "printable", "status_fields", "status_text"]

Field = str | int | float | bool | None | list[str] | dict[str, int]

_MARKS: Final = {
    PeerState.UP: "+",
    PeerState.RESUMED: "+",
    PeerState.RESTARTED: "+",
    PeerState.LOST: "-",
    PeerState.LEFT: "-",
    PeerState.REJECTED: "!",
}
"""States worth a line of text; the steps on the way there are not."""


def status_fields(status: PeerStatus) -> dict[str, Field]:
    """A peer's status as a flat object."""
    return {
        "state": status.state.value,
        "peer": status.peer,
        "code": status.code,
        "detail": status.detail,
        "side": status.side.value if status.side is not None else None,
        "endpoint": status.endpoint,
        "address": status.address,
        "epoch": status.epoch,
        "at": status.time,
    }


def status_text(status: PeerStatus) -> str:
    """A peer's status as a line."""
    clock = time.strftime("%H:%M:%S", time.localtime(status.time))
    where = f" at {status.address}" if status.address and status.is_up else ""
    return f"{clock} {_MARKS.get(status.state, '.')} {status}{where}"


def printable(text: str) -> str:
    """One line that is safe on a terminal: peers' words and names out of packets may hold anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


class Reporter:
    """Writes lines. Thread: any, a line is one write.

    Args:
        as_json: Whether to write JSON to standard output instead of text to standard error.
        is_quiet: Whether text is limited to what went wrong.
    """

    def __init__(self, *, as_json: bool = False, is_quiet: bool = False) -> None:
        self.as_json = as_json
        self._is_quiet = is_quiet
        self._stream: TextIO | None = sys.stdout if as_json else sys.stderr

    def status(self, status: PeerStatus) -> None:
        """A peer came, went or was refused."""
        if self.as_json:
            self._json("status", status_fields(status))
        elif status.state in _MARKS and (not self._is_quiet or status.state is PeerState.REJECTED):
            self._write(printable(status_text(status)))

    def say(self, kind: str, text: str, **fields: Field) -> None:
        """Something happened: `kind` and `fields` for programs, `text` for people (none if empty)."""
        if self.as_json:
            self._json(kind, {"text": text, **fields} if text else fields)
        elif text and not self._is_quiet:
            self._write(printable(text))

    def counters(self, counters: dict[str, int]) -> None:
        """The counters at this moment; for programs alone."""
        if self.as_json:
            self._json("counters", {"counters": counters})

    def _json(self, kind: str, fields: dict[str, Field]) -> None:
        self._write(json.dumps({"kind": kind, "time": time.time(), **fields}))

    def _write(self, line: str) -> None:
        if self._stream is None:
            return
        try:
            self._stream.write(line + "\n")
            self._stream.flush()
        except BrokenPipeError:
            self._stream = None  # nobody reads any more; the work goes on
