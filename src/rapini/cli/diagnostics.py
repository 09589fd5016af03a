"""Our own messages on stderr: `-v` for more, `-vv` for everything. (Logs of events are something else.)

The library logs with the standard `logging`; here a command decides who sees it. Without `-v` that is warnings and
errors, one line each, and no traceback.
"""

from __future__ import annotations

import logging
import sys
from typing import Final

from rapini.cli.failures import printable

__all__ = ["hide_rejections", "set_up"]

_LEVELS: Final = (logging.WARNING, logging.INFO, logging.DEBUG)
_REJECTED: Final = "%s: rejected: %s (%s)"
"""The node's message about a connection that came to nothing; its format is its identifier."""


class _Formatter(logging.Formatter):
    """``rapini: warning: text``; in full, with time, logger and traceback, for `-vv`."""

    def __init__(self, *, in_full: bool) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s [%(threadName)s] %(message)s" if in_full else None)
        self._in_full = in_full

    def format(self, record: logging.LogRecord) -> str:
        """One line, or with `-vv` as many as it takes."""
        if self._in_full:
            return super().format(record)
        text = f"rapini: {record.levelname.lower()}: {record.getMessage()}"
        if record.exc_info and record.exc_info[1] is not None:
            text += f": {type(record.exc_info[1]).__name__}: {record.exc_info[1]}"
        return printable(text)


class _NotRejections(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        return record.msg != _REJECTED


def set_up(verbosity: int) -> None:
    """Send diagnostics to stderr. May be called again; more `-v` win.

    Args:
        verbosity: How many `-v` were given.
    """
    logger = logging.getLogger("rapini")
    level = _LEVELS[min(verbosity, len(_LEVELS) - 1)]
    if logger.handlers and logger.level <= level:
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(in_full=level == logging.DEBUG))
    logger.handlers[:] = [handler]
    logger.setLevel(level)
    logger.propagate = False


def hide_rejections() -> None:
    """For commands that show peers' statuses, or end with the reason, themselves: once is enough."""
    logger = logging.getLogger("rapini.node")
    if not logger.isEnabledFor(logging.INFO):
        logger.addFilter(_NotRejections())
