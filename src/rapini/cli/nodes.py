"""The options that every node-like command has, and what becomes of them: the arguments of `rapini.Node`.

    @click.command()
    @node_options("tail")
    def tail(node: NodeOptions) -> int:
        with Stopping() as stopping, Node(**node_arguments(node)) as running:
            ...

A flag overrides the same option of the file's table `[node]`; `--listen` and `--connect` replace the file's lists.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

import click
import msgspec

from rapini.cli import diagnostics
from rapini.node import NodeSettings, load_table

__all__ = ["NodeOptions", "node_arguments", "node_options", "node_settings"]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])

_SCHEMES: Final = "zmq+tls://, tcp+tls://, zmq+plain:// or tcp+plain://"


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeOptions:
    """What the operator said about the node."""

    name: str | None
    default_name: str
    config: str | None
    keys: str | None
    listen: tuple[str, ...]
    connect: tuple[str, ...]
    insecure: bool
    debug: bool


def node_options(default_name: str) -> Callable[[CommandT], CommandT]:
    """Decorate a command with the node options; it is called with ``node=NodeOptions(...)`` in their place.

    Args:
        default_name: The node's name where none is given.
    """
    options = (
        click.option(
            "--name",
            metavar="NAME",
            help=f"The node's name, as in its certificate.  [default: {default_name}; without keys, with a number]",
        ),
        click.option("--config", metavar="FILE", type=click.Path(), help="TOML file; its table [node] is used."),
        click.option(
            "--keys",
            metavar="DIR",
            type=click.Path(),
            help="Folder with NAME.crt, NAME.key and ca.crt (see rapini ca).",
        ),
        click.option("--listen", metavar="URL", multiple=True, help=f"Accept peers here: {_SCHEMES}. May be repeated."),
        click.option("--connect", metavar="URL", multiple=True, help="Dial this peer. May be repeated."),
        click.option("--insecure", is_flag=True, help="Allow plain endpoints beyond this machine."),
        click.option("--debug", is_flag=True, help="Check the type of every field of every event published."),
        click.option(
            "-v",
            "--verbose",
            count=True,
            expose_value=False,
            callback=_set_verbosity,
            help="More diagnostics on stderr; -vv for everything.",
        ),
    )

    def decorate(command: CommandT) -> CommandT:
        @functools.wraps(command)
        def with_node(**values: Any) -> Any:
            fields = {field: values.pop(field) for field in _FIELDS}
            return command(node=NodeOptions(default_name=default_name, **fields), **values)

        decorated: Any = with_node
        for option in reversed(options):
            decorated = option(decorated)
        return decorated  # type: ignore[no-any-return]

    return decorate


_FIELDS: Final = tuple(field for field in NodeOptions.__slots__ if field != "default_name")


def _set_verbosity(_ctx: click.Context, _parameter: click.Parameter, value: int) -> None:
    if value:
        diagnostics.set_up(value)


def node_settings(options: NodeOptions) -> NodeSettings:
    """The file's settings with the flags on top.

    Raises:
        ConfigError: The file cannot be read, or an option in it is wrong.
    """
    settings = NodeSettings() if options.config is None else load_table(options.config, "node", NodeSettings)
    changes: dict[str, Any] = {} if settings.control else {"control": "auto"}
    if options.keys is not None:
        changes["keys"] = options.keys
    if options.listen:
        changes["listen"] = list(options.listen)
    if options.connect:
        changes["connect"] = list(options.connect)
    if options.insecure:
        changes["insecure"] = True
    if options.debug:
        changes["debug"] = True
    return msgspec.structs.replace(settings, **changes)


def node_arguments(options: NodeOptions, **changes: Any) -> dict[str, Any]:
    """Keyword arguments for `rapini.Node`: the name, and settings as `config`.

    Args:
        options: What the operator said.
        changes: Options of `NodeSettings` that the command decides itself.

    Raises:
        ConfigError: As `node_settings`.
    """
    settings = msgspec.structs.replace(node_settings(options), **changes)
    return {"name": _name(options, settings), "config": settings}


def _name(options: NodeOptions, settings: NodeSettings) -> str:
    if options.name is not None:
        return options.name
    if settings.name:
        return settings.name
    if settings.keys or settings.certificate:
        return options.default_name  # the certificate's name, or the error says which file was looked for
    return f"{options.default_name}-{os.getpid()}"  # two of them may run at once
