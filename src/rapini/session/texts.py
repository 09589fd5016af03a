"""A peer's words, as we may show, count and compare them. Sans-IO."""

from __future__ import annotations

import re
from typing import Final

from rapini import limits

__all__ = ["printable", "reason"]

_IS_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,39}", re.ASCII)


def printable(text: str) -> str:
    """Bounded, and without control characters."""
    return "".join(char if char.isprintable() else "?" for char in text[: limits.MAX_DETAIL_CHARS])


def reason(code: str) -> str:
    """The code that a peer gave, if it can be one: it becomes a key of counters, which must not be free text."""
    return code if _IS_CODE.fullmatch(code) else "unknown_reason"
