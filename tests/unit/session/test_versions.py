"""Nodes of other protocol versions: they part with a clear reason, by recordings of what each version says.

`tests/data/golden/` keeps the wire vectors of every version there was; they are never made anew.
"""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from rapini.secure.channel import Side
from rapini.session.link import CloseKind, LinkState
from rapini.session.messages import PROTOCOL_VERSION, FrameKind, Hello, Reject, decode_body_untrusted, encode_frame
from rapini.testing import greeting_of
from tests.unit.session.parts import scripted

GOLDEN = Path(__file__).resolve().parents[2] / "data" / "golden"


def recorded(version: int, name: str) -> bytes:
    vectors = json.loads((GOLDEN / f"wire_v{version}.json").read_text("utf-8"))
    if isinstance(vectors, dict):
        (vectors,) = [value for value in vectors.values() if isinstance(value, list)]
    return bytes.fromhex(next(vector["hex"] for vector in vectors if vector["name"] == name))


@pytest.mark.parametrize("version", range(1, PROTOCOL_VERSION))
def test_an_older_initiator_is_told_that_the_version_is_the_reason(version: int) -> None:
    script = scripted(LinkState.GREETING, is_initiator=False)
    script.link.receive(recorded(version, "frame/hello"), script.now)
    end = script.closed()
    assert (end.kind, end.code, end.side) == (CloseKind.REJECTED, "version", Side.OURS)
    (said,) = script.says()
    assert isinstance(said, Reject)
    assert said.code == "version"
    assert f"{version} to {version}" in said.detail
    # And it can read that: the frame's form has not changed since.
    body = decode_body_untrusted(FrameKind.REJECT, memoryview(recorded(version, "frame/reject"))[5:])
    assert isinstance(body, Reject)


@pytest.mark.parametrize("version", range(1, PROTOCOL_VERSION))
def test_an_older_responder_that_answers_is_left_with_that_reason(version: int) -> None:
    script = scripted(LinkState.GREETING, is_initiator=True)
    script.link.receive(recorded(version, "frame/welcome"), script.now)
    assert script.closed().code == "version"


class GreetingOfVersion1(msgspec.Struct, array_like=True):
    """As version 1 had it: it reads our Hello this far, to find that it does not speak our version."""

    cluster: str
    node: str
    role: str
    incarnation: bytes
    window_bytes: int
    known_incarnation: bytes
    known_epoch: int
    received_events: int


class HelloOfVersion1(msgspec.Struct, array_like=True):
    version_min: int
    version_max: int
    greeting: GreetingOfVersion1


def test_version_1_understands_that_we_are_newer() -> None:
    frame = encode_frame(Hello(PROTOCOL_VERSION, PROTOCOL_VERSION, greeting_of("alpha", received=(5, 7))))
    hello = msgspec.msgpack.decode(frame[5:], type=HelloOfVersion1)
    assert (hello.version_min, hello.version_max, hello.greeting.node) == (2, 2, "alpha")
