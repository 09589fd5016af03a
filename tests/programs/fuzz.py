"""Coverage-guided fuzzing of one decoder of network bytes, by atheris (libFuzzer).

Run by `tests/security/test_fuzzing.py`, as ``python -m tests.programs.fuzz TARGET [libFuzzer's options] CORPUS``. The
stated invariant of every target: hostile bytes raise `DecodeError` (or become what the decoder says) and nothing else,
and what was decoded encodes again.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

import atheris

with atheris.instrument_imports(include=["rapini"]):
    from rapini.codec import Codec
    from rapini.errors import DecodeError
    from rapini.secure.envelope import EnvelopeGate, Mechanism
    from rapini.secure.identity import parse_identity_untrusted
    from rapini.session import packets
    from rapini.session.messages import (
        FrameKind,
        FrameReader,
        decode_body_untrusted,
        split_durable_untrusted,
        split_events_untrusted,
        split_store_untrusted,
    )
    from rapini.session.states import LinkState
    from rapini.stores.messages import (
        answer_unknown_untrusted,
        decode_from_clone_untrusted,
        decode_from_master_untrusted,
    )
    from tests.unit.session.parts import scripted

_STRINGS: Final = [("Tick", "tick/main"), ("rapini.RawEvent", "raw")]


def frames(data: bytes) -> None:
    """A channel's plaintext."""
    for kind, body in FrameReader(1 << 16).frames_untrusted(data):
        if kind is FrameKind.EVENTS:
            split_events_untrusted(body)
        elif kind is FrameKind.DURABLE:
            split_durable_untrusted(body)
        elif kind is FrameKind.STORE:
            split_store_untrusted(body)
        else:
            decode_body_untrusted(kind, body)


def batch(data: bytes) -> None:
    """A batch of events."""
    codec = Codec()
    for run in codec.decode_batch_untrusted(data, _STRINGS):
        if run.events and run.topic:
            codec.encode_run(run.topic, run.events)
    for transit in codec.split_batch_untrusted(data, _STRINGS)[0]:
        codec.forward_run(transit)


def envelope(data: bytes) -> None:
    """A 0MQ message of a stranger's."""
    EnvelopeGate.responder(Mechanism.TLS).judge_untrusted(data)


def certificate(data: bytes) -> None:
    """A peer's certificate, as TLS hands it over."""
    parse_identity_untrusted(data)


def packet(data: bytes) -> None:
    """A packet of a datagram channel."""
    packets.decode_packet_untrusted(data)


def store(data: bytes) -> None:
    """A message of a store, from either side, and for one that we do not have."""
    for decode in (decode_from_clone_untrusted, decode_from_master_untrusted, answer_unknown_untrusted):
        with suppress(DecodeError):
            decode(data)


def link(data: bytes) -> None:
    """Whatever a peer says once it is up: the machine ends the link, or goes on; it never raises."""
    script = scripted(LinkState.UP, is_initiator=bool(data[:1] and data[0] & 1))
    script.link.receive(data[1:], script.now)
    script.link.outcomes()
    script.link.data_to_send()


TARGETS: Final[dict[str, Callable[[bytes], None]]] = {
    each.__name__: each for each in (frames, batch, envelope, certificate, packet, store, link)
}


def main() -> None:
    """Fuzz one target until libFuzzer's options say that it is enough."""
    target = TARGETS[sys.argv.pop(1)]

    def once(data: bytes) -> None:
        with suppress(DecodeError):
            target(data)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
