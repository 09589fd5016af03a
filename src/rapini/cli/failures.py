"""What went wrong, as one line for the operator and one exit status: the only place that decides either.

    rapini: error: keys/sensor.key: others than its owner may access this private key (mode 0644); chmod 600 ...

Nobody sees a traceback unless they asked for one with `-vv`. Text that came from a peer is escaped before it reaches a
terminal.
"""

from __future__ import annotations

import enum
import logging
import os
import re
import sys
import traceback
from typing import Final

import click

from rapini.errors import (
    CaptureError,
    ConfigError,
    EventError,
    HandshakeError,
    LimitError,
    LocalError,
    LogError,
    PeerTimeoutError,
    ProtocolError,
    RapiniError,
    RejectedError,
    StoreError,
    TransportError,
)

__all__ = ["OutputClosedError", "Status", "fail", "printable", "report", "status_of", "warn"]

_EXTRAS: Final = ("click", "dpkt", "rich")
_LOST_IN_CAPTURE: Final = ("truncated", "damaged")
_LOG_SETUP: Final = ("exists", "unwritable", "bad_schema")
_STORE_SETUP: Final = ("spool_in_use", "checkpoint_in_use", "format_unknown")


class Status(enum.IntEnum):
    """Exit statuses, the same for every command."""

    OK = 0
    LOST = 1
    """Something was lost or damaged; what could be done was done."""
    USAGE = 2
    """Usage, configuration or unreadable input: nothing to try again before something is changed."""
    REFUSED = 3
    """No secured channel or no session: the peer refused us, or we refused it."""
    NOT_UP = 4
    """Nobody there, or not in time."""
    INTERNAL = 70
    """A fault in Rapini (EX_SOFTWARE of sysexits.h)."""
    INTERRUPTED = 130
    """Ctrl-C."""
    TERMINATED = 143
    """SIGTERM, for commands that were not done; daemons end with 0."""


class OutputClosedError(Exception):
    """Whoever read our output has had enough (`| head`): no fault of anybody's."""


def printable(text: str) -> str:
    """One line that is safe on a terminal: control characters and other unprintables as escapes."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def warn(text: str) -> None:
    """Say something on stderr, marked as ours."""
    _to_stderr(f"rapini: {text}")


def fail(text: str) -> None:
    """Say on stderr what is wrong, without ending."""
    _to_stderr(f"rapini: error: {text}")


def _to_stderr(line: str) -> None:
    try:
        print(printable(line), file=sys.stderr, flush=True)
    except (OSError, ValueError):
        pass  # nobody can be told


def status_of(error: RapiniError) -> Status:
    """The exit status that an error of ours ends a command with."""
    match error:
        case CaptureError(code=code):
            return Status.LOST if code in _LOST_IN_CAPTURE else Status.USAGE
        case LogError(code=code):
            return Status.USAGE if code in _LOG_SETUP else Status.LOST
        case StoreError(code=code):
            return Status.USAGE if code in _STORE_SETUP else Status.LOST
        case ConfigError() | EventError() | LocalError() | TransportError():
            return Status.USAGE
        case HandshakeError() | RejectedError() | ProtocolError() | LimitError():
            return Status.REFUSED
        case PeerTimeoutError():
            return Status.NOT_UP
        case _:
            return Status.LOST


def report(error: BaseException) -> Status:
    """Say what ended the command, in one line, and return its exit status."""
    match error:
        case OutputClosedError() | BrokenPipeError():
            _abandon_stdout()
            return Status.OK
        case KeyboardInterrupt() | click.Abort():
            return Status.INTERRUPTED
        case click.exceptions.NoArgsIsHelpError():
            print(error.format_message(), file=sys.stderr)
            return Status.USAGE
        case click.UsageError():
            fail(_usage(error))
            return Status.USAGE
        case click.ClickException():
            fail(error.format_message())
            return Status.USAGE
        case _:
            pass
    if logging.getLogger("rapini").isEnabledFor(logging.DEBUG):
        traceback.print_exception(error)
    match error:
        case RapiniError():
            fail(str(error))
            return status_of(error)
        case ModuleNotFoundError(name=str(name)) if name.partition(".")[0] in _EXTRAS:
            fail(f"{name.partition('.')[0]} is not installed; run: pip install 'rapini[programs]'")
            return Status.USAGE
        case OSError():
            where = f"{error.filename}: " if error.filename else ""
            remedy = "; check the path" if isinstance(error, (FileNotFoundError, NotADirectoryError)) else ""
            fail(f"{where}{error.strerror or error}{remedy}")
            return Status.USAGE
        case _:
            remedy = "this is a fault in Rapini: please report it, with what -vv shows"
            fail(f"{type(error).__name__}: {error}; {remedy}")
            return Status.INTERNAL


def _usage(error: click.UsageError) -> str:
    """Click's message as one line in our form: ``tail: no such option '--conect'; did you mean ...``."""
    message = " ".join(error.format_message().split()).rstrip(".")
    path = error.ctx.command_path if error.ctx is not None else "rapini"
    command = path.partition(" ")[2]
    if message[:1].isupper() and not message[:2].isupper():
        message = message[0].lower() + message[1:]
    message = re.sub(r"\. \(?Did you mean ([^)]*?)\)?$", r"; did you mean \1", message)
    place = f"{command}: " if command else ""
    return f"{place}{message}; see '{path} --help'"


def _abandon_stdout() -> None:
    """Make the interpreter's last flush harmless."""
    try:
        devnull = os.open(os.devnull, os.O_WRONLY)
        os.dup2(devnull, sys.stdout.fileno())
        os.close(devnull)
    except (OSError, ValueError):
        pass
