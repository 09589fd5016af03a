"""The `rapini` command: argument parsing and presentation, nothing else.

The top layer. Everything a command does, it does with the public API. `main` here is the entry point and imports
nothing at first, because what the commands need beside the library (click, rich, dpkt) is an optional extra: a program
that only imports `rapini` does without.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: Arguments after the program's name; by default those of the process.

    Returns:
        The exit status, see `rapini.cli.failures.Status`.
    """
    try:
        from rapini.cli.root import run
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in ("click", "rich"):
            raise
        print(f"rapini: error: {missing} is not installed; run: pip install 'rapini[programs]'", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return run(argv)
