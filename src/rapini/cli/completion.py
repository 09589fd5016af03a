"""`rapini completion`: the script that teaches a shell our commands and options."""

from __future__ import annotations

from typing import Final

import click
from click.shell_completion import get_completion_class

from rapini.cli.root import root

__all__ = ["completion"]

_HELP: Final = """Print the completion script for SHELL.

\b
Examples:
  rapini completion bash > ~/.local/share/bash-completion/completions/rapini
  rapini completion zsh > "${fpath[1]}/_rapini"
  rapini completion fish > ~/.config/fish/completions/rapini.fish
"""


@click.command(help=_HELP)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script for a shell."""
    maker = get_completion_class(shell)
    if maker is None:
        raise click.UsageError(f"click knows no completion for {shell}")
    print(maker(root, {}, "rapini", "_RAPINI_COMPLETE").source())
