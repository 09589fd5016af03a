"""`rapini demo` as one call: makes the stage, has the story told, and clears everything away but the logs.

Where it sits: between the command and `story`.
"""

from __future__ import annotations

import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from rapini.apps.demo.cast import Cast
from rapini.apps.demo.story import DemoError, Interrupted, Story
from rapini.apps.demo.summary import DemoReport, first_lines
from rapini.apps.demo.view import View
from rapini.apps.processes import Family
from rapini.apps.programs.stopping import Stop
from rapini.data import demo_capture
from rapini.errors import LogError

__all__ = ["DemoError", "play", "show"]

PACKETS_PER_S: Final = 4000.0
"""Of each sensor: some 800 events a second."""


def play(view: View, stop: Stop, *, log_dir: str | None, seconds: float) -> DemoReport | None:
    """Play the demo; `None` if it was interrupted. Nothing that it started is alive when it returns or raises.

    Args:
        view: Who watches.
        stop: Ends it early.
        log_dir: Where the logs go, a folder that is empty or not there; by default a new one among the temporary files.
        seconds: How long it should take, about.

    Raises:
        DemoError: `step_failed`: a step did not happen; the text says which.
        LogError: `exists` or `unwritable`.
    """
    logs = _log_folder(log_dir)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rapini-demo-")))
        capture = stack.enter_context(demo_capture())
        family = stack.enter_context(Family(folder, stop))
        cast = Cast(family, folder / "keys", capture, PACKETS_PER_S, logs)
        story = Story(cast, view, stop, logs, seconds)
        try:
            return story.tell()
        except Interrupted:
            story.abandon()
            view.text(f"stopped, nothing is left running; the logs so far are in {logs}")
            return None


def _log_folder(log_dir: str | None) -> Path:
    if log_dir is None:
        return Path(tempfile.mkdtemp(prefix="rapini-demo-logs-"))
    folder = Path(log_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise LogError("exists", f"{folder} is there and not an empty folder", remedy="choose another --log-dir")
    return folder.absolute()


def show(report: DemoReport, view: View) -> None:
    """Tell the summary, where the logs are, and how they begin."""
    account = report.account
    view.text()
    view.text(
        f"{account.published:,} events published = {account.logged:,} logged + {account.total_lost:,} lost"
        + ("" if account.is_balanced else ", which does not add up")
    )
    for node, causes in account.lost.items():
        for cause, count in causes.items():
            view.text(f"  lost at {node}: {count:,} {_CAUSES.get(cause, cause)}")
    view.text(
        f"{report.channels_opened} handshakes, {report.peers_lost} losses noticed, "
        f"{report.peers_returned} returns, {report.seconds:.1f} s"
    )
    view.text()
    view.text(f"The logs are in {report.log_dir}:")
    for path, rows in sorted(account.rows.items()):
        view.text(f"{path}.log, {rows:,} rows:")
        for line in first_lines(report.log_dir / f"{path}.log"):
            view.text("  " + line.replace("\t", "  "), is_dim=True)


_CAUSES: Final = {
    "process_killed": "in the killed process's hands (process_killed)",
    "peer_lost": "while the logger could not be reached (peer_lost)",
    "lost_in_transit": "on a connection that was cut (lost_in_transit)",
    "unacknowledged": "sent and never acknowledged (unacknowledged)",
}
