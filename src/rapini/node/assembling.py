"""What a node is made of: its settings from all their sources, its durable stream."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from rapini.errors import (
    ConfigError,
)
from rapini.node.durable import DurableStream
from rapini.node.settings import NodeSettings, load_table

__all__ = ["durable_stream", "merged_settings"]


def durable_stream(
    settings: NodeSettings,
) -> Callable[[threading.RLock, Callable[[], None]], DurableStream] | None:
    """How to make the node's durable stream, if it has a spool."""
    if not settings.spool:
        return None
    return lambda lock, on_synced: DurableStream(
        Path(settings.spool),
        max_bytes=settings.spool_bytes,
        fsync=settings.spool_fsync,
        drops_oldest=settings.durable_overflow == "drop_oldest",
        subscribers=settings.durable_subscribers,
        lease_s=settings.durable_lease_s,
        lock=lock,
        on_synced=on_synced,
    )


def merged_settings(config: str | NodeSettings | None, keys: str | None, options: dict[str, Any]) -> NodeSettings:
    """The settings of a file or an object, with the keys and the options given beside them."""
    if isinstance(config, NodeSettings):
        settings = config
    else:
        settings = load_table(config, "node", NodeSettings) if config is not None else NodeSettings()
    if keys is not None:
        options["keys"] = keys
    known = NodeSettings.__struct_fields__
    for option in options:
        if option not in known:
            raise ConfigError("bad_option", f"unknown option {option}", remedy=f"known options are {', '.join(known)}")
    try:
        merged = msgspec.convert({**msgspec.structs.asdict(settings), **options}, NodeSettings)
    except msgspec.ValidationError as exc:
        raise ConfigError("bad_option", str(exc).replace(" - at `$.", " in `"), remedy="change its value") from None
    return merged.checked()
