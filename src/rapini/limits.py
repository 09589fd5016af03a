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

MAX_STRINGS: Final = 4096
"""Pairs of a type name and a topic that one publisher's table has; others stand in each run."""

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

MAX_STORE_MESSAGE_BYTES: Final = 256 * 1024
"""Largest message between the replicas of a store: a chunk of a snapshot, a batch of deltas, writes or replies."""

MAX_STORE_KEY_BYTES: Final = 4096
"""Longest key of a store's entry, as it is counted (text in UTF-8; 9 bytes for an int)."""

MAX_STORE_VALUE_BYTES: Final = 224 * 1024
"""Largest encoded value of a store's entry: with its key it fits one message."""

MAX_STORE_NESTING: Final = 32
"""Deepest nesting of lists and dicts in a store's value."""

MAX_STORE_VALUE_ITEMS: Final = 65_536
"""Elements in one store value, at all depths together: an element of one byte becomes an object of up to 64."""

MAX_PENDING_WRITES: Final = 16_384
"""Writes of one clone that its master has not answered, or whose answers the clone has not confirmed."""

MAX_WRITERS_PER_PEER: Final = 4
"""Incarnations of one peer whose writes a master remembers, to recognise a repetition."""

MAX_WRITERS: Final = 4096
"""The same for all peers together."""

MAX_STORE_FOLLOWS: Final = 8
"""How often a clone may begin to follow on one link in a burst; one more a second after that. Each costs the master a
snapshot."""

MAX_STORE_ANSWERS: Final = 64
"""Short answers of a store that may wait for a peer that does not read them."""

MAX_STORE_RUNS: Final = 64
"""Starts of a master that its stored data remembers: a clone that followed an older one gets a snapshot."""

MAX_STORE_EXPIRY_S: Final = 10 * 365 * 86_400.0
"""Longest expiry of an entry, in seconds."""

# Retransmission inside datagram channels (`docs/wire.md`, section 11): all of it after the mechanism's handshake.

MAX_PACKET_BYTES: Final = 16 * 1024
"""Largest packet: what one DTLS record may hold (RFC 6347 section 4.1)."""

MIN_PACKET_BYTES: Final = 512
"""A path or a mechanism that leaves less than this for a packet is of no use."""

MAX_PACKET_CHUNKS: Final = 64
"""Chunks in one packet."""

MAX_ACK_RANGES: Final = 32
"""Ranges in one acknowledgement; older packets are forgotten, and taken for duplicates if they turn up."""

STREAM_WINDOW_BYTES: Final = 1024 * 1024
"""How far the reliable stream may be sent beyond what has been delivered, so also what a hole can make us hold."""

MAX_STREAM_SEGMENTS: Final = 1024
"""Pieces of the reliable stream that may wait behind holes."""

MAX_UNRELIABLE_BYTES: Final = 256 * 1024
"""Largest message that crosses unreliably. A larger one would hardly ever arrive whole, and goes by the stream."""

MAX_HELD_MESSAGES: Final = 256
"""Unreliable messages that wait for fragments, or for the reliable bytes before them."""

HELD_MESSAGE_BYTES: Final = 1024 * 1024
"""Bytes of those messages, with `FRAGMENT_COST_BYTES` for each of their fragments."""

FRAGMENT_COST_BYTES: Final = 64
"""What holding a fragment costs beside its bytes."""

MAX_PACKETS_IN_FLIGHT: Final = 2048
"""Packets under way unacknowledged; an acknowledgement costs its reader at most that many steps."""

MAX_FLIGHT_BYTES: Final = 4 * 1024 * 1024
"""Largest congestion window."""

MAX_STREAM_BACKLOG_BYTES: Final = MAX_UNSENT_BYTES + 8 * 1024 * 1024
"""Reliable bytes that the other side has not acknowledged. The session's credit keeps an honest one far below."""
