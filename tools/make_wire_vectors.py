"""Write tests/data/wire_vectors.json: what the wire protocol's bytes are, made by Rapini's own code from fixed inputs.

For whoever implements the protocol in another language: each vector has a name, a kind, the bytes in hex, and what they
mean as JSON (`docs/wire.md` explains). `tests/docs/test_wire.py` makes them anew, and reads and writes each one by an
implementation of its own. Run it after a change of the protocol, which is a new version of it.

    python tools/make_wire_vectors.py

Numbers and texts are themselves; bytes are ``{"bytes": "hex"}``, maps ``{"map": [[key, value], ...]}``.
"""

from __future__ import annotations

import json
from enum import Enum
from pathlib import Path
from typing import Final, Literal, cast

import msgspec

from rapini.codec import Codec, StringTable, join_runs
from rapini.events import Address, Event, Interval, Network, Port, RawEvent, Record, Time
from rapini.events.delivery import Delivery
from rapini.secure.envelope import EnvelopeGate, Mechanism
from rapini.secure.plain import OPENING
from rapini.session import packets
from rapini.session.messages import (
    PROTOCOL_VERSION,
    Ack,
    Body,
    FrameKind,
    FrameReader,
    Gap,
    Goodbye,
    Greeting,
    Hello,
    Ping,
    Pong,
    Position,
    Ready,
    Reject,
    Request,
    Response,
    Stream,
    Strings,
    Subscribed,
    Subscriptions,
    Welcome,
    encode_frame,
    pack_durable_frame,
    pack_events_frame,
    pack_store_frame,
    split_durable_untrusted,
    split_events_untrusted,
    split_store_untrusted,
)
from rapini.testing import LinkEnd, LinkPair, joined_pair, settle

TARGET: Final = Path(__file__).resolve().parent.parent / "tests" / "data" / "wire_vectors.json"

Vector = dict[str, object]

ALPHA: Final = Greeting("example", "sensor-1", "sensor", bytes(range(16)), 1048576, b"", 0, 0, [])
BETA: Final = Greeting("example", "manager", "", bytes(range(16, 32)), 1048576, bytes(range(16)), 6, 0, [1000, 20])


class Color(Enum):
    """An enumeration, by value on the wire."""

    RED = "red"


class WireInner(Record):
    """A nested record."""

    name: str
    size: int = 7


class WireExample(Event, topic="example/all", name="example.All"):
    """One field of every kind, in the order of the table in `docs/wire.md`."""

    flag: bool
    number: int
    ratio: float
    text: str
    blob: bytes
    ts: Time
    span: Interval
    address: Address
    network: Network
    port: Port
    color: Color
    kind: Literal["a", "b"]
    inner: WireInner
    numbers: list[int]
    names: set[str]
    table: dict[str, int]
    absent: str | None


class WireNote(Event, topic="note/x", name="example.Note"):
    """A small event."""

    number: int
    text: str


EXAMPLE: Final = WireExample(
    flag=True,
    number=-129,
    ratio=1.5,
    text="é",
    blob=b"\x00\xff",
    ts=1700000000.25,
    span=0.125,
    address=Address.of("192.0.2.1"),
    network=Network.of("2001:db8::/32"),
    port=Port(53, "udp"),
    color=Color.RED,
    kind="b",
    inner=WireInner("x"),
    numbers=[1, 70000, 2**63],
    names={"n"},
    table={"k": -1},
    absent=None,
)

BODIES: Final[dict[str, Body]] = {
    "hello": Hello(2, 2, ALPHA),
    "welcome": Welcome(2, 7, BETA),
    "reject": Reject("denied", "not today", 30000),
    "subscriptions": Subscriptions(3, ["conn/", "dns/"]),
    "subscriptions-none": Subscriptions(4, []),
    "subscribed": Subscribed(3),
    "ready": Ready(),
    "ack": Ack([1234567890123, 7]),
    "gap": Gap(1, 1000, 25, "queue_full", {"conn/closed": 20, "dns/": 5}),
    "stream": Stream(bytes(range(32, 48))),
    "position": Position(bytes(range(32, 48)), 1000, True),
    "position-unknown": Position(bytes(range(32, 48)), None, False),
    "ping": Ping(1),
    "pong": Pong(1),
    "goodbye": Goodbye("goodbye", "maintenance"),
    "request": Request(9, 5000, "note/x", True, b"\x91\x94\xacexample.Note\xa6note/x\x01\xc4\x09\x91\x92\x03\xa5three"),
    "response": Response(9, "", "", b""),
    "strings": Strings(0, [("example.Note", "note/x"), ("example.Note", "note/y")]),
    "response-none": Response(10, "no_handler", "nobody serves 'note/y' there", b""),
}


def shown(value: object) -> object:
    """A value as JSON shows it."""
    match value:
        case bytes():
            return {"bytes": value.hex()}
        case list() | tuple():
            return [shown(item) for item in value]
        case dict():
            return {"map": [[shown(key), shown(item)] for key, item in value.items()]}
        case _:
            return value


def raw(data: bytes | memoryview) -> object:
    """MessagePack, decoded without types."""
    return shown(msgspec.msgpack.decode(data))


def vector(kind: str, name: str, data: bytes, value: object) -> Vector:
    """One vector."""
    return {"name": f"{kind}/{name}", "kind": kind, "hex": data.hex(), "value": value}


def envelopes() -> list[Vector]:
    """0MQ messages: both ends of a channel's beginning, and a refusal."""
    channel = bytes.fromhex("0123456789abcdef")
    made = []
    for mechanism in Mechanism:
        dialler, listener = EnvelopeGate.initiator(mechanism, channel), EnvelopeGate.responder(mechanism)
        opened = dialler.seal(b"first")
        listener.judge_untrusted(opened)
        for kind, data in (("open", opened), ("data", dialler.seal(b"second")), ("data-back", listener.seal(b"third"))):
            value = {"version": 1, "kind": data[2], "mechanism": int(mechanism), "channel": channel.hex()}
            value["payload"] = data[12:].hex()
            made.append(vector("envelope", f"{mechanism.name.lower()}-{kind}", data, value))
    refused = EnvelopeGate.responder(Mechanism.TLS).refusal(EnvelopeGate.initiator(Mechanism.PLAIN, channel).seal(b""))
    value = {"version": 1, "kind": 3, "mechanism": 1, "channel": channel.hex(), "payload": ""}
    return [*made, vector("envelope", "refused", refused, value)]


def frame_value(kind: FrameKind, body: bytes | memoryview) -> object:
    """What a frame says."""
    if kind is FrameKind.EVENTS:
        header, batch = split_events_untrusted(memoryview(body))
        return {
            "kind": 7,
            "class": int(header.delivery),
            "first": header.first_sequence,
            "count": header.count,
            "batch": batch_value(bytes(batch)),
        }
    if kind is FrameKind.DURABLE:
        durable, batch = split_durable_untrusted(memoryview(body))
        return {
            "kind": 15,
            "after": durable.after,
            "first": durable.first_sequence,
            "count": durable.count,
            "batch": batch_value(bytes(batch)) if durable.count else [],
        }
    if kind is FrameKind.STORE:
        store, message = split_store_untrusted(memoryview(body))
        return {"kind": 18, "store": store, "message": message.hex()}
    return {"kind": int(kind), "body": raw(body)}


def batch_value(batch: bytes) -> object:
    """What a batch holds: runs of name, topic, count, events, and what else there is."""
    runs = cast(list[tuple[str, str, int, bytes, *tuple[object, ...]]], msgspec.msgpack.decode(batch))
    return [[name, topic, count, raw(events), *map(shown, rest)] for name, topic, count, events, *rest in runs]


def frames() -> list[Vector]:
    """One frame of each kind."""
    made = [
        vector("frame", name, data := encode_frame(body), frame_value(FrameKind(data[4]), data[5:]))
        for name, body in BODIES.items()
    ]
    batch = notes_batch()
    events = pack_events_frame(0, 1000, 3, batch)
    others = {
        "events": events,
        "durable": pack_durable_frame(164, 300, 3, batch),
        "durable-step": pack_durable_frame(164, 300, 0, b""),
        "store": pack_store_frame("hosts", bytes.fromhex("910a")),
    }
    return made + [
        vector("frame", name, data, frame_value(FrameKind(data[4]), memoryview(data)[5:]))
        for name, data in others.items()
    ]


def notes_batch() -> bytes:
    """Two runs: two events of one topic, one of another."""
    codec = Codec()
    first, _ = codec.encode_run("note/x", [WireNote(1, "one"), WireNote(2, "two")], 500)
    second, _ = codec.encode_run("note/y", [WireNote(3, "three")], 502)
    return join_runs(first + second)


def numbered_batch() -> bytes:
    """The same two runs, by the numbers of the table in `frame/strings`."""
    codec = Codec(StringTable())
    first, _ = codec.encode_run("note/x", [WireNote(1, "one"), WireNote(2, "two")], 500)
    second, _ = codec.encode_run("note/y", [WireNote(3, "three")], 502)
    return join_runs(first + second)


def relayed_batch() -> bytes:
    """The first run of the same, as a second relay sends it on."""
    codec = Codec()
    run = codec.split_batch_untrusted(notes_batch())[0][0]
    return join_runs(
        [codec.forward_run(msgspec.structs.replace(run, origin="sensor-1", stream=bytes(range(16)), hops=2))]
    )


def batches() -> list[Vector]:
    """Batches: every kind of field, several runs, raw bytes, more runs than one byte can count."""
    codec = Codec()
    every, _ = codec.encode_run("example/all", [EXAMPLE])
    raws, _ = codec.encode_run("raw/1", [RawEvent(b"{}", "application/json")])
    one, _ = codec.encode_run("note/x", [WireNote(1, "")])
    made = {
        "every-field": join_runs(every),
        "two-topics": notes_batch(),
        "numbered": numbered_batch(),
        "relayed": relayed_batch(),
        "raw-event": join_runs(raws),
        "empty": join_runs([]),
        "sixteen-runs": join_runs(one * 16),
    }
    return [vector("batch", name, data, batch_value(data)) for name, data in made.items()]


def fields() -> list[Vector]:
    """Each field of the example event by itself."""
    values = msgspec.structs.asdict(EXAMPLE)
    made = []
    for name, value in values.items():
        data = msgspec.msgpack.encode(value)
        made.append(vector("field", name, data, raw(data)))
    return made


def stream_value(data: bytes) -> object:
    """A plain channel's stream: the opening, then frames."""
    reader = FrameReader(1 << 24)
    spoken = [frame_value(kind, bytes(body)) for kind, body in reader.frames_untrusted(data[len(OPENING) :])]
    return {"opening": data[: len(OPENING)].hex(), "frames": spoken}


def streams() -> list[Vector]:
    """A whole session over plain: up, three events, acknowledged, left."""
    pair = Played()
    return [
        vector("stream", name, data, stream_value(data))
        for name, data in (("initiator", pair.said(pair.initiator)), ("responder", pair.said(pair.responder)))
    ]


def packet_value(data: bytes) -> object:
    """What a packet holds; ranges as first and last number."""
    packet = packets.decode_packet_untrusted(data)
    return {"number": packet.number, "chunks": [chunk_value(chunk) for chunk in packet.chunks]}


def chunk_value(chunk: packets.Chunk) -> object:
    """What a chunk says."""
    match chunk:
        case packets.AckChunk(ranges=ranges, delay_us=delay_us, limit=limit):
            return {"kind": 1, "ranges": [[first, end - 1] for first, end in ranges], "delay": delay_us, "limit": limit}
        case packets.StreamChunk(offset=offset, data=data):
            return {"kind": 2, "offset": offset, "data": data.hex()}
        case packets.FragmentChunk():
            value = {name: getattr(chunk, name) for name in ("number", "after", "total", "offset")}
            return {"kind": 3, **value, "data": chunk.data.hex()}
        case packets.EndChunk(offset=offset):
            return {"kind": 4, "offset": offset}
        case packets.PingChunk():
            return {"kind": 5}


def packet_vectors() -> list[Vector]:
    """Packets of datagram channels: every chunk alone and together, the largest numbers."""
    top, pong = packets.MAX_NUMBER - 1, encode_frame(Pong(1))
    chunks = {
        "everything": (
            7,
            packets.encode_ack([(90, 100), (10, 20), (0, 3)], delay_us=1500, limit=1 << 20)
            + packets.encode_stream(1000, b"bytes")
            + packets.encode_fragment(number=3, after=1005, total=9, offset=4, data=b"piece")
            + packets.encode_end(1005)
            + packets.encode_ping(),
        ),
        "ack": (0, packets.encode_ack([(0, 1)], delay_us=20_000, limit=1 << 20)),
        "ack-most-ranges": (
            1,
            packets.encode_ack([(2 * n, 2 * n + 1) for n in range(31, -1, -1)], delay_us=0, limit=0),
        ),
        "ack-largest": (top, packets.encode_ack([(top, top + 1)], delay_us=2**32 - 1, limit=top)),
        "stream": (2, packets.encode_stream(0, pong)),
        "message": (3, packets.encode_fragment(number=0, after=8, total=len(pong), offset=0, data=pong)),
        "end": (4, packets.encode_end(top)),
        "ping": (5, packets.encode_ping()),
    }
    made = []
    for name, (number, body) in chunks.items():
        data = packets.encode_head(number) + body
        made.append(vector("packet", name, data, packet_value(data)))
    return made


class Played:
    """A session between the two example nodes, played to its end."""

    def __init__(self) -> None:
        beta = msgspec.structs.replace(BETA, known_incarnation=b"", known_epoch=0, received=[])
        pair: LinkPair = settle(joined_pair(cluster="example", greetings=(ALPHA, beta), subscriptions=((), ("note/",))))
        self.initiator, self.responder = pair.ends
        now = pair.clock.now
        self.initiator.link.send_events(Delivery.BEST_EFFORT, 0, 3, notes_batch(), now)
        settle(pair)
        self.responder.link.acknowledge([3, 0], now)
        self.responder.link.ping(now)
        settle(pair)
        self.initiator.link.leave("goodbye", "", now)
        settle(pair)

    @staticmethod
    def said(end: LinkEnd) -> bytes:
        """All that one end gave out."""
        return b"".join(end.sent)


def vectors() -> list[Vector]:
    """All vectors."""
    opening = vector("opening", "plain", OPENING, {"opening": OPENING.hex()})
    return [*envelopes(), opening, *frames(), *batches(), *fields(), *streams(), *packet_vectors()]


def text() -> str:
    """The file as it should be."""
    head = {"about": "made by tools/make_wire_vectors.py; docs/wire.md explains", "protocol": PROTOCOL_VERSION}
    lines = [json.dumps(each, ensure_ascii=True) for each in vectors()]
    return json.dumps(head)[:-1] + ', "vectors": [\n' + ",\n".join(lines) + "\n]}\n"


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text(), encoding="utf-8")
    print(f"{TARGET.name}: {len(vectors())} vectors")
