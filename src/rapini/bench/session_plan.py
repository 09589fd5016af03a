"""What `rapini bench session` is to measure, and for how long."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from rapini.bench.rounds import Progress

__all__ = ["SCHEMES", "SECTIONS", "Plan"]

SECTIONS: Final = ("reliable", "durable", "reconnect", "clone", "store", "idle")
SCHEMES: Final = ("zmq+tls", "tcp+tls")


def _silent(what: str) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how often to measure."""

    rounds: int = 3
    """Interleaved rounds, at least 3 for figures to quote. Reconnects and idle peers have one."""
    seconds: float = 3.0
    """Of each run that publishes."""
    reconnects: int = 1000
    """Cuts, for each variant of `reconnect`."""
    entries: int = 100_000
    """In the stores."""
    peers: int = 200
    """That are idle."""
    idle_seconds: float = 10.0
    """For how long their cost is measured."""
    sections: tuple[str, ...] = SECTIONS
    """Which of `SECTIONS`."""
    spool: Path = field(default_factory=Path.cwd)
    """A folder on the disk for durable events; what is made in it is removed."""
    progress: Progress = _silent
    """Told what is being measured."""
