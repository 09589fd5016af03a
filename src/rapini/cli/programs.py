"""`rapini sensor`, `rapini logger` and `rapini manager`: what was said on the command line or in the file, as options.

A flag overrides the file, whose table `[node]` is every program's and whose tables `[sensor]`, `[logger]` and
`[manager]` are theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Final, Literal, TypeVar

import click
import msgspec

from rapini.apps.ledger import Ledger
from rapini.apps.lifeline import die_with
from rapini.apps.programs.logger import LoggerOptions, run_logger
from rapini.apps.programs.manager import ManagerOptions, run_manager
from rapini.apps.programs.report import Reporter
from rapini.apps.programs.sensor import SensorOptions, run_sensor
from rapini.apps.programs.starting import NodePlan
from rapini.apps.programs.stopping import Stop
from rapini.apps.sensor import DEFAULT_LOCAL_NETS
from rapini.cli import diagnostics
from rapini.cli.nodes import NodeOptions, node_arguments, node_options
from rapini.errors import ConfigError
from rapini.logs import LogFormat
from rapini.node import load_table

__all__ = ["logger", "manager", "sensor"]

CommandT = TypeVar("CommandT", bound=Callable[..., Any])
TableT = TypeVar("TableT", bound=msgspec.Struct)
_NotNegative = Annotated[float, msgspec.Meta(ge=0)]


class SensorTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[sensor]`."""

    read: list[str] = []
    rate: _NotNegative = 0.0
    speed: _NotNegative = 0.0
    loop: bool = False
    wait_for: list[str] = []
    wait_timeout_s: _NotNegative = 30.0
    local_nets: list[str] = msgspec.field(default_factory=lambda: list(DEFAULT_LOCAL_NETS))


class LoggerTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[logger]`."""

    log_dir: str = ""
    log_format: Literal["tsv", "json"] = "tsv"
    force: bool = False


class ManagerTable(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The table `[manager]`."""

    interval_s: _NotNegative = 10.0
    top: Annotated[int, msgspec.Meta(ge=1, le=100)] = 3


def _program_options(command: CommandT) -> CommandT:
    """Options of all three, the hidden ones being those by which `run` and `demo` hold their children."""
    decorated: Any = command
    for option in (
        click.option("--overflow", type=click.Choice(("drop_newest", "block")), hidden=True),
        click.option("--ledger", type=click.Path(), hidden=True),
        click.option("--parent", type=int, hidden=True),
        click.option("--json", "as_json", is_flag=True, help="Report as JSON lines on standard output."),
        click.option("-q", "--quiet", is_flag=True, help="Report only what went wrong."),
    ):
        decorated = option(decorated)
    return decorated  # type: ignore[no-any-return]


def _start(
    run: Callable[..., int],
    node: NodeOptions,
    options: object,
    *,
    parent: int | None,
    ledger: str | None,
    as_json: bool,
    quiet: bool,
    overflow: str | None,
) -> int:
    if parent is not None:
        die_with(parent)
    changes = {} if overflow is None else {"overflow": overflow}
    arguments = node_arguments(node, **changes)
    plan = NodePlan(name=arguments["name"], settings=arguments["config"])
    reporter = Reporter(as_json=as_json, is_quiet=quiet)
    diagnostics.hide_rejections()  # the reporter tells them
    with Stop() as stop, Ledger(ledger) as book:
        return run(plan, options, reporter=reporter, ledger=book, stop=stop)


def _table(node: NodeOptions, name: str, kind: type[TableT], flags: dict[str, Any]) -> TableT:
    table = kind() if node.config is None else load_table(node.config, name, kind)
    # A flag not given is None, False or empty; a 0 was said.
    said = {option: value for option, value in flags.items() if value is not None and value is not False}
    return msgspec.structs.replace(table, **said)


_SENSOR_HELP: Final = """Read captures; publish connections (conn/closed) and DNS exchanges (dns/exchange).

Begins when a peer is up, and ends when the captures are read and everything was delivered.

\b
Examples:
  rapini sensor --read today.pcap --keys keys --connect zmq+tls://logger.example:9751
  rapini sensor --read demo.pcap --rate 1000 --loop --wait-for logger --config sensor.toml
"""

_LOGGER_HELP: Final = """Write connections and DNS exchanges that arrive to conn.log and dns.log, as Zeek would.

\b
Example:
  rapini logger --log-dir logs --keys keys --listen zmq+tls://0.0.0.0:9751
"""

_MANAGER_HELP: Final = """Watch everything that others publish: who is there, and what happens.

\b
Example:
  rapini manager --keys keys --listen zmq+tls://0.0.0.0:9750
"""


@click.command(help=_SENSOR_HELP)
@click.option(
    "--read", metavar="FILE", multiple=True, type=click.Path(), help="A pcap or pcapng file. May be repeated."
)
@click.option("--rate", type=click.FloatRange(0, min_open=True), help="Packets a second.  [default: no limit]")
@click.option("--speed", type=click.FloatRange(0, min_open=True), help="Multiple of the capture's own pace.")
@click.option("--loop", is_flag=True, help="Begin again at the end, with times that go on.")
@click.option("--wait-for", metavar="NAME", multiple=True, help="Read nothing before this peer is up.  [default: any]")
@click.option("--wait-timeout", "wait_timeout_s", type=click.FloatRange(0), help="Seconds for that; 0 begins at once.")
@click.option("--local-net", "local_nets", metavar="NET", multiple=True, help="A network that counts as local.")
@_program_options
@node_options("sensor")
def sensor(node: NodeOptions, **flags: Any) -> int:
    """Read captures; publish connections (conn/closed) and DNS exchanges (dns/exchange)."""
    program = {name: flags.pop(name) for name in ("overflow", "ledger", "parent", "as_json", "quiet")}
    for name in ("read", "wait_for", "local_nets"):
        flags[name] = list(flags[name]) or None
    table = _table(node, "sensor", SensorTable, flags)
    if not table.read:
        raise ConfigError("no_input", "nothing to read", remedy="give --read FILE")
    if table.rate and table.speed:
        raise ConfigError("bad_option", "rate and speed exclude each other", remedy="give one of them")
    options = SensorOptions(
        captures=tuple(table.read),
        rate=table.rate,
        speed=table.speed,
        is_loop=table.loop,
        wait_for=tuple(table.wait_for),
        wait_timeout_s=table.wait_timeout_s,
        local_nets=tuple(table.local_nets),
    )
    return _start(run_sensor, node, options, **program)


@click.command(help=_LOGGER_HELP)
@click.option("--log-dir", metavar="DIR", type=click.Path(), help="Where conn.log and dns.log go; made if need be.")
@click.option("--log-format", type=click.Choice(("tsv", "json")), help="Zeek's TSV or JSON lines.  [default: tsv]")
@click.option("--force", is_flag=True, help="Replace logs that are there.")
@_program_options
@node_options("logger")
def logger(node: NodeOptions, **flags: Any) -> int:
    """Write connections and DNS exchanges that arrive to conn.log and dns.log, as Zeek would."""
    program = {name: flags.pop(name) for name in ("overflow", "ledger", "parent", "as_json", "quiet")}
    table = _table(node, "logger", LoggerTable, flags)
    if not table.log_dir:
        raise ConfigError("no_log_dir", "no folder for the logs", remedy="give --log-dir DIR")
    options = LoggerOptions(directory=Path(table.log_dir), format=LogFormat(table.log_format), is_forced=table.force)
    return _start(run_logger, node, options, **program)


@click.command(help=_MANAGER_HELP)
@click.option("--interval", "interval_s", type=click.FloatRange(0), help="Seconds between summaries.  [default: 10]")
@click.option("--top", type=click.IntRange(1, 100), help="Hosts, services and names in a summary.  [default: 3]")
@_program_options
@node_options("manager")
def manager(node: NodeOptions, **flags: Any) -> int:
    """Watch everything that others publish: who is there, and what happens."""
    program = {name: flags.pop(name) for name in ("overflow", "ledger", "parent", "as_json", "quiet")}
    table = _table(node, "manager", ManagerTable, flags)
    return _start(run_manager, node, ManagerOptions(interval_s=table.interval_s, top=table.top), **program)
