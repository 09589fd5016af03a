"""Bounds on what others may make us hold, by name and with units.

A leaf. Defaults that a user may change live in `rapini.defaults`; what stands here is part of the protocol or of our
safety, and a peer that exceeds it is refused.
"""

from __future__ import annotations

from typing import Final

MAX_HANDSHAKE_BYTES: Final = 64 * 1024
"""Bytes that a peer may send before it is authenticated. A TLS 1.3 first flight with a chain of four certificates
takes less than 8 KiB; OpenSSL itself accepts chains up to 100 KiB."""

MAX_CARRIER_BYTES: Final = 160 * 1024
"""Largest transport message (a 0MQ message, or one read of a stream). TLS is a stream, so a larger batch crosses in
several; this is what a stranger may make libzmq allocate at a time (ZMQ_MAXMSGSIZE)."""

MAX_FRAME_BYTES: Final = 16 * 1024 * 1024
"""Largest session frame after authentication: one batch, so also the largest single event."""

MAX_GREETING_FRAME_BYTES: Final = 64 * 1024
"""Largest session frame before both sides have admitted each other."""

MAX_NAME_BYTES: Final = 128
"""Longest node, cluster or role name."""

MAX_TOPIC_BYTES: Final = 255
"""Longest topic or subscription prefix, in UTF-8."""

MAX_SUBSCRIPTIONS: Final = 4096
"""Subscription prefixes that one peer may hold here."""

MAX_BATCH_EVENTS: Final = 131_072
"""Events in one batch; a one-byte event becomes an object of a hundred bytes here, so bytes alone bound too little."""

GAP_CREDIT_BYTES: Final = 128
"""What a gap takes of the receiver's credit: it is small, and must not be free for whoever sends millions."""

MAX_GAP_TOPICS: Final = 256
"""Topics that one gap names; with more, only their number of events is told."""

MAX_CONTROL_FRAMES: Final = 4096
"""Control frames (pings, subscriptions, acknowledgements of nothing new) that a peer may send in a burst. Each costs
us several microseconds of the I/O thread, and most an answer."""

CONTROL_FRAMES_PER_S: Final = 1000
"""How fast that allowance grows back."""

MAX_REQUESTS: Final = 256
"""Unanswered requests that one peer may have under way to another."""

MAX_WAITING_REQUESTS: Final = 1024
"""Requests of all peers that wait here for a thread to serve them; more are answered `overloaded`."""

MAX_UNSENT_BYTES: Final = MAX_FRAME_BYTES + 1024 * 1024
"""What may wait for a peer below its credit: the largest batch, and answers that it does not read."""

MAX_GREETING_LINKS: Final = 4
"""Connections that one proven name may have in its greeting at a time. The half-open limit counts strangers only."""

MAX_REMEMBERED_PEERS: Final = 1024
"""Peers that are gone and of which incarnation, epoch and account are still remembered; the oldest are forgotten."""

MAX_HALF_OPEN: Final = 256
"""Unauthenticated connections that a listener holds at a time; more are shut at once and counted. The oldest is never
pushed out: a flood must not be able to evict an honest peer in its handshake."""

MAX_DETAIL_CHARS: Final = 200
"""Longest text that we keep of a peer's explanation."""
