"""Finds the marked code blocks of a page, so that a test can do what the page tells its reader to do.

A block is marked by a comment on the line before it, which a reader of the page does not see:

    <!-- test: run -->                  a shell block: each line is run; one that ends in & runs on beside the rest
    <!-- test: file NAME -->            saved under this name
    <!-- test: output -->               what the block before printed, exactly
    <!-- test: skip; REASON -->         not done here, for this reason
"""

from __future__ import annotations

import re
from dataclasses import dataclass

_BLOCK = re.compile(
    r"^(?:<!-- test: (?P<mark>[^\n]*?) -->\n)?^```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """One code block."""

    kind: str
    """`run`, `file`, `output`, `skip`, or an empty string where nobody marked it."""
    argument: str
    text: str
    line: int


def blocks(page: str) -> list[Block]:
    """The blocks of a page, in order."""
    found = []
    for match in _BLOCK.finditer(page):
        kind, _, argument = (match["mark"] or "").partition(" ")
        line = page.count("\n", 0, match.start()) + 1
        found.append(Block(kind=kind.rstrip(";"), argument=argument, text=match["text"], line=line))
    return found
