"""Defaults on one page: everything a user may tune, with units.

A leaf. Each can be set in `[node]` of the configuration file or as an argument of `Node`.
"""

from __future__ import annotations

from typing import Final

HEARTBEAT_INTERVAL_S: Final = 1.0
"""Something is sent at least this often on every channel."""

HEARTBEAT_TIMEOUT_S: Final = 3.0
"""A peer silent for this long is lost."""

HANDSHAKE_TIMEOUT_S: Final = 10.0
"""From the connection to `Ready` on both sides."""

PROBE_TIMEOUT_S: Final = 1.0
"""How long a peer's old channel may take to answer when a newcomer claims its name."""

CONNECT_TIMEOUT_S: Final = 5.0
"""For the transport's connection alone."""

BACKOFF_FIRST_S: Final = 0.1
"""First pause before dialling again; doubled each time, jittered, up to `BACKOFF_MAX_S`."""

BACKOFF_MAX_S: Final = 5.0
"""Longest pause between attempts."""

BACKOFF_REJECTED_S: Final = 30.0
"""Pause after a rejection that another try soon will not mend (`duplicate_name`, `denied`)."""

DRAIN_TIMEOUT_S: Final = 5.0
"""How long `close()` waits for what was published to be taken by the peers."""

DURABLE_LEASE_S: Final = 7 * 86_400.0
"""How long an absent subscriber is owed durable events, in seconds of the publisher's running."""

SPILL_BYTES: Final = 256 * 1024 * 1024
"""Bound on reliable events that wait on disk, for all peers together."""

SPOOL_BYTES: Final = 1024 * 1024 * 1024
"""Bound on a node's durable events on disk."""

LEASE_S: Final = 60.0
"""How long what a lost peer is owed is kept for it."""

STALL_TIMEOUT_S: Final = 30.0
"""A connected peer whose queue is full and that takes nothing for this long is disconnected."""

MAX_BATCH_EVENTS: Final = 512
"""Events after which a batch is sent at once (`measurements.md`: 128 to 512 is the best range)."""

MAX_BATCH_DELAY_S: Final = 0.002
"""Longest time an event waits for company under load; 0 when idle."""

SEND_QUEUE_BYTES: Final = 8 * 1024 * 1024
"""Encoded events waiting for one peer, sent but unacknowledged ones included."""

WINDOW_BYTES: Final = 4 * 1024 * 1024
"""Credit: unacknowledged bytes that one peer may have under way to us. At a million events/s, 1 MiB lasts for 10 ms, of
which a busy publisher's I/O thread may wait 5 for the interpreter before it sees an acknowledgement."""

STORE_MAX_ENTRIES: Final = 1_000_000
"""Entries in one store."""

STORE_MAX_BYTES: Final = 256 * 1024 * 1024
"""Encoded keys and values in one store."""

STORE_LOG_BYTES: Final = 16 * 1024 * 1024
"""Encoded deltas that a master keeps for clones that lag or return; beyond it they get a snapshot."""

STORE_LOG_CHANGES: Final = 262_144
"""The same as a number of changes."""

STORE_WRITE_TIMEOUT_S: Final = 10.0
"""How long a clone's write may take, the time without its master included."""

UNACKNOWLEDGED_TIMEOUT_S: Final = 10.0
"""A datagram channel on which packets are under way and none is acknowledged for this long has failed."""

LINGER_S: Final = 3.0
"""How long an ended datagram channel goes on to deliver its last words."""

HANDLER_THREADS: Final = 4
"""Requests that are served at a time."""

HOP_LIMIT: Final = 8
"""How many relays an event may pass before it is dropped."""
