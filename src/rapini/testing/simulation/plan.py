"""What a node is to be in a scenario: plain data, settled before anything runs."""

from __future__ import annotations

from dataclasses import dataclass

from rapini.node.settings import NodeSettings

__all__ = ["NodePlan", "SpoolPlan", "StorePlan"]


@dataclass(frozen=True, slots=True, kw_only=True)
class SpoolPlan:
    """The disk under a node's durable events."""

    max_bytes: int = 1 << 20
    segment_bytes: int = 1 << 14
    sync_after_s: float = 0.005
    """How long after something was appended it is synced, at most, nearly always."""
    late_sync_s: float = 0.3
    """The same, once in a while."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StorePlan:
    """A node's part in the one store that all nodes have."""

    is_master: bool
    survives: bool = False
    """Whether the master's table outlives its process, as one in a file does."""
    write_every_s: float = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class NodePlan:
    """What a node is to be in a scenario."""

    name: str
    settings: NodeSettings
    scheme: str = "tcp+plain"
    is_attested: bool = True
    does_listen: bool = False
    dials: tuple[str, ...] = ()
    """Names of the nodes it dials."""
    prefixes: tuple[str, ...] = ()
    """What it subscribes to."""
    resubscribes_every_s: float = 0.0
    """How often it wants something else for a while; 0 for never."""
    topics: tuple[str, ...] = ()
    """What it publishes on; empty for not at all."""
    burst_every_s: float = 0.3
    burst_events: int = 10
    """At most."""
    filler_bytes: int = 64
    """At most."""
    consume_every_s: float = 0.0
    """Pause between two batches taken from the inbox; 0 for as they come."""
    clock_offset_s: float = 0.0
    """Whole seconds that its monotonic clock is ahead of the world's."""
    spool: SpoolPlan | None = None
    """Where its durable events go."""
    is_checkpointed: bool = False
    """Whether it commits its positions in others' streams with its output."""
    commit_every: int = 5
    """Batches of durable events between two commits."""
    commit_within_s: float = 0.25
    """Longest time between two commits, while there is something to commit."""
    store: StorePlan | None = None
