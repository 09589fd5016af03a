"""The demo as one sees it: a live view on a terminal, plain lines on a pipe.

Where it sits: `story` tells a `View` what happens; a view decides nothing. The steps scroll by as text that stays; on a
terminal the links stand below them, redrawn twice a second.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final, Protocol, TextIO

from rich.console import Console, Group
from rich.live import Live
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from rapini.apps.demo.cast import Link

__all__ = ["LiveView", "PlainView", "View", "make_view"]

_STATE_TEXT: Final = {"restarted": "up, new", "resumed": "up, back"}
_STATE_STYLE: Final = {
    "up": "green",
    "restarted": "bold green",
    "resumed": "bold green",
    "lost": "bold red",
    "rejected": "bold red",
    "left": "dim",
    "starting": "dim",
}
_BARS: Final = " ▁▂▃▄▅▆▇█"
_LINE_EVERY_S: Final = 2.0


class View(Protocol):
    """What the story needs of a view."""

    def title(self, text: str) -> None:
        """What this is."""

    def step(self, number: int, of: int, text: str) -> None:
        """A step begins."""

    def done(self, text: str, seconds: float | None = None) -> None:
        """Something happened as it should; `seconds` after its cause."""

    def failed(self, text: str) -> None:
        """Something did not."""

    def links(self, links: Sequence[Link]) -> None:
        """The links at this moment; called about twice a second."""

    def text(self, text: str = "", *, is_dim: bool = False) -> None:
        """A line of text."""

    def close(self) -> None:
        """The end of what moves; `text` still works."""


def make_view(stream: TextIO) -> View:
    """The view that fits a stream."""
    return LiveView(stream) if stream.isatty() else PlainView(stream)


def _state(link: Link) -> str:
    text = _STATE_TEXT.get(link.state, link.state)
    return f"{text} ({link.code})" if link.code and link.state == "lost" else text


class PlainView:
    """Lines of text, with the links in one line every two seconds.

    Args:
        stream: Where they go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._began = time.monotonic()
        self._due = 0.0

    def title(self, text: str) -> None:
        """What this is."""
        self._write(text)

    def step(self, number: int, of: int, text: str) -> None:
        """A step begins."""
        self._write(f"[{number}/{of}] {text}")

    def done(self, text: str, seconds: float | None = None) -> None:
        """Something happened as it should."""
        self._write(f"  ok   {text}" + (f"  [{seconds:.2f} s]" if seconds is not None else ""))

    def failed(self, text: str) -> None:
        """Something did not."""
        self._write(f"  FAIL {text}")

    def links(self, links: Sequence[Link]) -> None:
        """The links, not too often."""
        now = time.monotonic()
        if now >= self._due:
            self._due = now + _LINE_EVERY_S
            parts = ", ".join(f"{link.name} {_state(link)} {link.rate:.0f}/s" for link in links)
            self._write(f"  {now - self._began:4.0f} s {parts}")

    def text(self, text: str = "", *, is_dim: bool = False) -> None:
        """A line of text."""
        self._write(text)

    def close(self) -> None:
        """Nothing moves here."""

    def _write(self, line: str) -> None:
        print(line, file=self._stream, flush=True)


class LiveView:
    """Steps that scroll by above a table of the links.

    Args:
        stream: A terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = Console(file=stream, highlight=False)
        self._began = time.monotonic()
        self._live = Live(console=self._console, auto_refresh=False, transient=True)
        self._live.start()

    def title(self, text: str) -> None:
        """What this is."""
        self._console.print(Text(text, style="bold"))

    def step(self, number: int, of: int, text: str) -> None:
        """A step begins."""
        self._console.print(Text.assemble((f" {number}/{of} ", "black on cyan"), " ", (text, "bold")))

    def done(self, text: str, seconds: float | None = None) -> None:
        """Something happened as it should."""
        after = (f"  {seconds:.2f} s", "cyan") if seconds is not None else ""
        self._console.print(Text.assemble(("  ✔ ", "green"), text, after))

    def failed(self, text: str) -> None:
        """Something did not."""
        self._console.print(Text.assemble(("  ✘ ", "bold red"), (text, "red")))

    def links(self, links: Sequence[Link]) -> None:
        """Redraw the table."""
        top = max((rate for link in links for rate in link.rates), default=0.0)
        table = Table.grid(padding=(0, 2))
        for justify in ("left", "left", "left", "right", "right"):
            table.add_column(justify=justify, no_wrap=True)
        table.add_row(*(Text(head, style="dim") for head in ("link", "state", "", "events/s", "received")))
        for link in links:
            bars = "".join(_BARS[round(rate / top * (len(_BARS) - 1))] if top else " " for rate in link.rates)
            table.add_row(
                link.name,
                Text(_STATE_TEXT.get(link.state, link.state), style=_STATE_STYLE.get(link.state, "")),
                Text(bars, style="cyan"),
                f"{link.rate:,.0f}",
                f"{link.received:,}",
            )
        clock = f"zmq+tls on loopback, {time.monotonic() - self._began:.0f} s"
        self._live.update(Group(Rule(clock, style="dim"), table), refresh=True)

    def text(self, text: str = "", *, is_dim: bool = False) -> None:
        """A line of text, cut at the terminal's edge."""
        self._console.print(Text(text, style="dim" if is_dim else ""), no_wrap=True, overflow="ellipsis")

    def close(self) -> None:
        """Take the table away and leave the terminal as it was."""
        self._live.stop()
