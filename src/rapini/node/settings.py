"""A node's settings: arguments of `Node`, or one TOML file, checked before anything starts.

The file's table is `[node]`; its options are the fields of `NodeSettings`. Unknown options, wrong types and syntax
errors name the file, the line, the option and the remedy. Other tables belong to the programs (`[sensor]`, …).
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec

from rapini import defaults, limits
from rapini.errors import ConfigError
from rapini.events import is_topic
from rapini.events.delivery import DeliveryName

__all__ = ["NodeSettings", "load_table", "load_toml"]

_Seconds = Annotated[float, msgspec.Meta(gt=0, le=86_400)]
_Bytes = Annotated[int, msgspec.Meta(ge=1024, le=2**40)]


class NodeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a node may be told; every field is an option of the table `[node]`."""

    name: str = ""
    """The node's name, for programs that take it from here; `Node` is told it."""
    cluster: str = "rapini"
    """The cluster's name where no certificate says it (`plain`)."""
    role: str = ""
    """The role where no certificate says it (`plain`)."""
    keys: str = ""
    """Folder with `<name>.crt`, `<name>.key` and `ca.crt`, as `rapini ca issue` writes it."""
    certificate: str = ""
    """The certificate's file, where it is not in `keys`."""
    key: str = ""
    """The private key's file, where it is not in `keys`."""
    trust: str = ""
    """The trust anchors' file, where it is not in `keys`."""
    listen: list[str] = []
    """Endpoints to listen on."""
    connect: list[str] = []
    """Endpoints to dial."""
    denied: list[str] = []
    """Peers to refuse though their certificate is good: names of nodes, or SHA-256 fingerprints of certificates."""
    resume_tls: bool = True
    """Let a connection continue from a TLS ticket of the one before: less CPU time, and the same checks."""
    insecure: bool = False
    """Allow `plain` endpoints beyond this machine."""
    debug: bool = False
    """Development mode: check the type of every field of every event at `publish`."""
    control: str = ""
    """The socket on which `rapini status` asks this node: a path, `auto` (a path of its own, where `rapini status`
    looks for it) or `off`. Empty, it is off for programs that use the library, `auto` for the commands of `rapini`."""
    reconnect: Literal["auto", "manual", "never"] = "auto"
    """What to do when a dialled connection ends."""
    delivery: dict[str, DeliveryName] = {}
    """Delivery classes by topic prefix, the longest one first; they win over what an event's class says."""
    priority: dict[str, Annotated[int, msgspec.Meta(ge=-100, le=100)]] = {}
    """Ranks by topic prefix, 0 where none is given: when a queue is full, the lowest are dropped first."""
    overflow: Literal["drop_newest", "drop_oldest", "block", "disconnect"] = "drop_newest"
    """What happens to best-effort events when a peer's queue is full."""
    reliable_overflow: Literal["block", "drop_newest", "drop_oldest", "spill", "disconnect"] = "block"
    """What happens to reliable events when a peer's queue is full."""
    send_queue_bytes: _Bytes = defaults.SEND_QUEUE_BYTES
    """Bound on what is kept for one peer, for each delivery class."""
    spill: str = ""
    """Folder for reliable events that memory has no room for, with `reliable_overflow = "spill"`; made if needed."""
    spill_bytes: _Bytes = defaults.SPILL_BYTES
    """Bound on what is spilled, for all peers together; beyond it the newest are dropped."""
    max_age_s: Annotated[float, msgspec.Meta(ge=0)] = 0.0
    """Events that have waited for longer are dropped instead of being sent; 0 for never."""
    handler_threads: Annotated[int, msgspec.Meta(ge=1, le=64)] = defaults.HANDLER_THREADS
    """Requests that are served at a time, on threads that are started as needed."""
    relay: list[str] = []
    """Topic prefixes of events that are forwarded to the other peers that subscribed to them."""
    relays: list[str] = []
    """Names of the peers that may bring us events of others; with none, every peer that is let in may."""
    hop_limit: Annotated[int, msgspec.Meta(ge=1, le=64)] = defaults.HOP_LIMIT
    """How many relays, ourselves included, an event may have passed when we forward it."""
    spool: str = ""
    """Folder for the durable events that this node publishes; made if it is not there."""
    spool_bytes: Annotated[int, msgspec.Meta(ge=65_536, le=2**50)] = defaults.SPOOL_BYTES
    """Bound on what is kept there."""
    spool_fsync: Literal["group", "never"] = "group"
    """Whether durable events are on disk (fsync) before they are sent, or only in the operating system's hands: then
    they survive a killed process and not a power cut."""
    durable_overflow: Literal["drop_oldest", "block"] = "drop_oldest"
    """What happens when the spool is full of events that absent subscribers are owed."""
    durable_lease_s: Annotated[float, msgspec.Meta(gt=0)] = defaults.DURABLE_LEASE_S
    """How long an absent subscriber is owed durable events, counted while this node runs."""
    durable_subscribers: dict[str, list[str]] = {}
    """Who is owed durable events from the start, by node name and topic prefixes; others from their first
    subscription."""
    keeps_durable: bool = True
    """Whether this node, as a subscriber, is to be owed the durable events that it misses while it is away."""
    lease_s: _Seconds = defaults.LEASE_S
    """How long what a lost peer is owed is kept for it; after that it is released."""
    stall_timeout_s: _Seconds = defaults.STALL_TIMEOUT_S
    """A connected peer whose queue is full and that takes nothing for this long is disconnected (`stalled`)."""
    window_bytes: _Bytes = defaults.WINDOW_BYTES
    max_batch_events: Annotated[int, msgspec.Meta(ge=1, le=65_536)] = defaults.MAX_BATCH_EVENTS
    max_batch_delay_s: Annotated[float, msgspec.Meta(ge=0, le=1)] = defaults.MAX_BATCH_DELAY_S
    heartbeat_interval_s: _Seconds = defaults.HEARTBEAT_INTERVAL_S
    heartbeat_timeout_s: _Seconds = defaults.HEARTBEAT_TIMEOUT_S
    handshake_timeout_s: _Seconds = defaults.HANDSHAKE_TIMEOUT_S
    probe_timeout_s: _Seconds = defaults.PROBE_TIMEOUT_S
    connect_timeout_s: _Seconds = defaults.CONNECT_TIMEOUT_S
    backoff_first_s: _Seconds = defaults.BACKOFF_FIRST_S
    backoff_max_s: _Seconds = defaults.BACKOFF_MAX_S
    backoff_rejected_s: _Seconds = defaults.BACKOFF_REJECTED_S
    drain_timeout_s: _Seconds = defaults.DRAIN_TIMEOUT_S

    def checked(self) -> NodeSettings:
        """The same, if its options fit together.

        Raises:
            ConfigError: `bad_option`.
        """
        if self.heartbeat_timeout_s < 2 * self.heartbeat_interval_s:
            raise ConfigError(
                "bad_option",
                f"heartbeat_timeout_s ({self.heartbeat_timeout_s:g}) is less than two heartbeats "
                f"of {self.heartbeat_interval_s:g} s",
                remedy="raise heartbeat_timeout_s, or lower heartbeat_interval_s",
            )
        if (self.reliable_overflow == "spill") is not bool(self.spill):
            raise ConfigError(
                "bad_option",
                'reliable_overflow = "spill" and a folder to spill to go together',
                remedy='give both, as in spill = "/var/spool/rapini-spill"',
            )
        for prefix in self.relay:
            if prefix and not is_topic(prefix):
                detail = f"relay: no topic begins with {prefix[:40]!r}"
                raise ConfigError("bad_option", detail, remedy="use prefixes such as 'conn/', or '' for all")
        if len(self.relay) > limits.MAX_SUBSCRIPTIONS // 4:
            raise ConfigError("bad_option", f"relay: {len(self.relay)} prefixes", remedy="use shorter ones")
        return self


SettingsT = TypeVar("SettingsT", bound=msgspec.Struct)


def load_toml(path: str | Path) -> tuple[dict[str, Any], str]:
    """Read a TOML file; returns its tables and its text (to find lines for errors).

    Raises:
        ConfigError: `file_not_found`, `file_unreadable` or `bad_toml`, with file and line.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError("file_not_found", "no such file", where=str(path), remedy="give its path") from None
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError("file_unreadable", f"cannot be read: {exc}", where=str(path)) from None
    try:
        return tomllib.loads(text), text
    except tomllib.TOMLDecodeError as exc:
        match = re.search(r"\(at line (\d+), column \d+\)", str(exc))
        line = match[1] if match else str(text.count("\n") + 1)
        detail = re.sub(r" \(at .*\)$", "", str(exc))
        raise ConfigError(
            "bad_toml",
            f"not TOML: {detail}",
            where=f"{path}:{line}",
            remedy='options are written like listen = ["zmq+tls://0.0.0.0:9750"]',
        ) from None


def load_table(path: str | Path, table: str, kind: type[SettingsT]) -> SettingsT:
    """Read one table of a TOML file into its settings class; an absent table means all defaults.

    Raises:
        ConfigError: as `load_toml`, and `bad_option` with file, line, option and remedy.
    """
    tables, text = load_toml(path)
    try:
        return msgspec.convert(tables.get(table, {}), kind)
    except msgspec.ValidationError as exc:
        detail, _, place = str(exc).partition(" - at `$")
        option = place.rstrip("`").lstrip(".")
        unknown = re.search(r"unknown field `(.+?)`", detail)
        if unknown:
            option = unknown[1]
            detail = "unknown option"
        known = ", ".join(field.encode_name for field in msgspec.structs.fields(kind))
        remedy = f"known options are {known}" if unknown else f"change the value of {option or table}"
        raise ConfigError(
            "bad_option",
            detail[:1].lower() + detail[1:],
            where=f"{path}:{_line_of(text, table, option)} [{table}] {option}".rstrip(),
            remedy=remedy,
        ) from None


def _line_of(text: str, table: str, option: str) -> int:
    """The line of an option in its table (1 if it cannot be found)."""
    name = re.split(r"[.\[]", option)[0]
    inside, table_line = False, 1
    for number, line in enumerate(text.splitlines(), 1):
        stripped = line.strip()
        if stripped.startswith("["):
            inside = stripped.split("#")[0].strip() == f"[{table}]"
            table_line = number if inside else table_line
        elif inside and name and re.match(rf"[\"']?{re.escape(name)}[\"']?\s*[=.]", stripped):
            return number
    return table_line
