"""The wire document, its vectors and the code say the same.

`Unpack`, `pack` and the `read_…` and `write_…` functions are an implementation of `docs/wire.md` from that page alone:
`struct`, and a MessagePack written by hand. They use nothing of Rapini's: if they cannot read what the code writes, the
page is wrong, or the code is.
"""

from __future__ import annotations

import ast
import importlib.util
import json
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, Final

import pytest

from rapini import defaults, limits
from rapini.secure.contexts import ALPN
from rapini.secure.envelope import Kind, Mechanism
from rapini.secure.reasons import SENTENCES
from rapini.session.messages import PROTOCOL_VERSION, FrameKind
from rapini.session.packets import PACKET_VERSION
from rapini.session.recovery import MAX_ACK_DELAY_S, MAX_PTO_S

ROOT: Final = Path(__file__).resolve().parent.parent.parent
WIRE: Final = (ROOT / "docs" / "wire.md").read_text("utf-8")
VECTORS: Final[list[dict[str, Any]]] = json.loads((ROOT / "tests" / "data" / "wire_vectors.json").read_text("utf-8"))[
    "vectors"
]
BY_NAME: Final = {vector["name"]: vector for vector in VECTORS}
EACH: Final = pytest.mark.parametrize("vector", VECTORS, ids=list(BY_NAME))


# -- an implementation made from the page alone ------------------------------------------------------------------------


class Unpack:
    """Reads MessagePack; bytes come out as {"bytes": hex}, maps as {"map": pairs}, as in the vectors."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        piece = self.data[self.at : self.at + size]
        assert len(piece) == size, "truncated"
        self.at += size
        return piece

    def number(self, form: str) -> Any:
        return struct.unpack(">" + form, self.take(struct.calcsize(form)))[0]

    def value(self) -> Any:
        head = self.number("B")
        if head <= 0x7F:
            return head
        if head >= 0xE0:
            return head - 0x100
        if head <= 0x8F:
            return self.map(head & 0x0F)
        if head <= 0x9F:
            return [self.value() for _ in range(head & 0x0F)]
        if head <= 0xBF:
            return self.take(head & 0x1F).decode()
        simple = {0xC0: None, 0xC2: False, 0xC3: True}
        if head in simple:
            return simple[head]
        numbers = {0xCA: "f", 0xCB: "d", 0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q"}
        numbers |= {0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q"}
        if head in numbers:
            return self.number(numbers[head])
        sizes = {0xC4: "B", 0xC5: "H", 0xC6: "I", 0xD9: "B", 0xDA: "H", 0xDB: "I"}
        sizes |= {0xDC: "H", 0xDD: "I", 0xDE: "H", 0xDF: "I"}
        size = self.number(sizes[head])
        if head <= 0xC6:
            return {"bytes": self.take(size).hex()}
        if head <= 0xDB:
            return self.take(size).decode()
        return [self.value() for _ in range(size)] if head <= 0xDD else self.map(size)

    def map(self, size: int) -> dict[str, list[list[Any]]]:
        return {"map": [[self.value(), self.value()] for _ in range(size)]}

    def whole(self) -> Any:
        value = self.value()
        assert self.at == len(self.data), "something is left"
        return value


def pack(value: Any) -> bytes:
    """Write MessagePack in its shortest forms; floats always take eight bytes."""
    match value:
        case None:
            return b"\xc0"
        case bool():
            return b"\xc3" if value else b"\xc2"
        case int():
            return pack_int(value)
        case float():
            return struct.pack(">Bd", 0xCB, value)
        case str():
            text = value.encode()
            return pack_size(len(text), (0xA0, 31), {0xD9: "B", 0xDA: "H", 0xDB: "I"}) + text
        case list():
            head = pack_size(len(value), (0x90, 15), {0xDC: "H", 0xDD: "I"})
            return head + b"".join(map(pack, value))
        case {"bytes": str(text)}:
            data = bytes.fromhex(text)
            return pack_size(len(data), (0, -1), {0xC4: "B", 0xC5: "H", 0xC6: "I"}) + data
        case {"map": list(pairs)}:
            head = pack_size(len(pairs), (0x80, 15), {0xDE: "H", 0xDF: "I"})
            return head + b"".join(pack(key) + pack(item) for key, item in pairs)
        case _:
            raise TypeError(value)


def pack_int(value: int) -> bytes:
    if -32 <= value <= 127:
        return struct.pack(">b", value)
    forms = {0xCC: "B", 0xCD: "H", 0xCE: "I", 0xCF: "Q"} if value >= 0 else {0xD0: "b", 0xD1: "h", 0xD2: "i", 0xD3: "q"}
    for head, form in forms.items():
        bits = 8 * struct.calcsize(form)
        low, high = (0, 2**bits - 1) if value >= 0 else (-(2 ** (bits - 1)), 0)
        if low <= value <= high:
            return struct.pack(">B" + form, head, value)
    raise ValueError(value)


def pack_size(size: int, small: tuple[int, int], forms: dict[int, str]) -> bytes:
    if size <= small[1]:
        return bytes([small[0] | size])
    for head, form in forms.items():
        if size < 256 ** struct.calcsize(form):
            return struct.pack(">B" + form, head, size)
    raise ValueError(size)


def read_envelope(data: bytes) -> dict[str, Any]:
    magic, version, kind, mechanism, channel = struct.unpack(">BBBB8s", data[:12])
    assert magic == 0x52
    return {
        "version": version,
        "kind": kind,
        "mechanism": mechanism,
        "channel": channel.hex(),
        "payload": data[12:].hex(),
    }


def write_envelope(value: dict[str, Any]) -> bytes:
    head = struct.pack(">BBBB", 0x52, value["version"], value["kind"], value["mechanism"])
    return head + bytes.fromhex(value["channel"]) + bytes.fromhex(value["payload"])


def read_batch(data: bytes) -> list[Any]:
    return [
        [name, topic, count, Unpack(bytes.fromhex(events["bytes"])).whole(), *rest]
        for name, topic, count, events, *rest in Unpack(data).whole()
    ]


def write_batch(runs: list[Any]) -> bytes:
    return pack(
        [[name, topic, count, {"bytes": pack(events).hex()}, *rest] for name, topic, count, events, *rest in runs]
    )


def read_frames(data: bytes) -> Iterator[dict[str, Any]]:
    while data:
        length, kind = struct.unpack(">IB", data[:5])
        body, data = data[5 : 4 + length], data[4 + length :]
        assert len(body) == length - 1
        if kind == 7:
            delivery, first, count = struct.unpack(">BQI", body[:13])
            yield {"kind": kind, "class": delivery, "first": first, "count": count, "batch": read_batch(body[13:])}
        elif kind == 15:
            after, first, count = struct.unpack(">QQI", body[:20])
            batch = read_batch(body[20:]) if count else []
            yield {"kind": kind, "after": after, "first": first, "count": count, "batch": batch}
        elif kind == 18:
            size = body[0]
            yield {"kind": kind, "store": body[1 : 1 + size].decode(), "message": body[1 + size :].hex()}
        else:
            yield {"kind": kind, "body": Unpack(body).whole()}


def write_frame(value: dict[str, Any]) -> bytes:
    if value["kind"] == 7:
        body = struct.pack(">BQI", value["class"], value["first"], value["count"]) + write_batch(value["batch"])
    elif value["kind"] == 15:
        body = struct.pack(">QQI", value["after"], value["first"], value["count"])
        body += write_batch(value["batch"]) if value["count"] else b""
    elif value["kind"] == 18:
        name = value["store"].encode()
        body = bytes([len(name)]) + name + bytes.fromhex(value["message"])
    else:
        body = pack(value["body"])
    return struct.pack(">IB", len(body) + 1, value["kind"]) + body


def read_packet(data: bytes) -> dict[str, Any]:
    version, number = struct.unpack(">BQ", data[:9])
    assert version == 1
    chunks, at = [], 9
    while at < len(data):
        kind = data[at]
        chunk, size = read_chunk(kind, data[at + 1 :])
        chunks.append({"kind": kind, **chunk})
        at += 1 + size
    assert at == len(data)
    return {"number": number, "chunks": chunks}


def read_chunk(kind: int, data: bytes) -> tuple[dict[str, Any], int]:
    """A chunk's meaning and its length."""
    match kind:
        case 1:
            largest, limit, delay, count, length = struct.unpack_from(">QQIBI", data)
            ranges = [[largest - length + 1, largest]]
            for number in range(count):
                gap, length = struct.unpack_from(">II", data, 25 + 8 * number)
                last = ranges[-1][0] - gap - 1
                ranges.append([last - length + 1, last])
            return {"ranges": ranges, "delay": delay, "limit": limit}, 25 + 8 * count
        case 2:
            offset, length = struct.unpack_from(">QH", data)
            return {"offset": offset, "data": data[10 : 10 + length].hex()}, 10 + length
        case 3:
            number, after, total, offset, length = struct.unpack_from(">QQIIH", data)
            value = {"number": number, "after": after, "total": total, "offset": offset}
            return {**value, "data": data[26 : 26 + length].hex()}, 26 + length
        case 4:
            return {"offset": struct.unpack_from(">Q", data)[0]}, 8
        case 5:
            return {}, 0
        case _:
            raise ValueError(kind)


def write_packet(value: dict[str, Any]) -> bytes:
    return struct.pack(">BQ", 1, value["number"]) + b"".join(map(write_chunk, value["chunks"]))


def write_chunk(chunk: dict[str, Any]) -> bytes:
    kind = bytes([chunk["kind"]])
    data = bytes.fromhex(chunk.get("data", ""))
    match chunk["kind"]:
        case 1:
            (first, last), *more = chunk["ranges"]
            body = struct.pack(">QQIBI", last, chunk["limit"], chunk["delay"], len(more), last - first + 1)
            for low, high in more:
                body += struct.pack(">II", first - high - 1, high - low + 1)
                first = low
            return kind + body
        case 2:
            return kind + struct.pack(">QH", chunk["offset"], len(data)) + data
        case 3:
            numbers = (chunk[name] for name in ("number", "after", "total", "offset"))
            return kind + struct.pack(">QQIIH", *numbers, len(data)) + data
        case 4:
            return kind + struct.pack(">Q", chunk["offset"])
        case _:
            return kind


def read(kind: str, data: bytes) -> Any:
    """A vector's meaning, by the page."""
    match kind:
        case "envelope":
            return read_envelope(data)
        case "opening":
            return {"opening": data.hex()}
        case "frame":
            (frame,) = read_frames(data)
            return frame
        case "batch":
            return read_batch(data)
        case "field":
            return Unpack(data).whole()
        case "stream":
            return {"opening": data[:8].hex(), "frames": list(read_frames(data[8:]))}
        case "packet":
            return read_packet(data)
        case _:
            raise ValueError(kind)


def write(kind: str, value: Any) -> bytes:
    """A vector's bytes, by the page."""
    match kind:
        case "envelope":
            return write_envelope(value)
        case "opening":
            return bytes.fromhex(value["opening"])
        case "frame":
            return write_frame(value)
        case "batch":
            return write_batch(value)
        case "field":
            return pack(value)
        case "stream":
            return bytes.fromhex(value["opening"]) + b"".join(map(write_frame, value["frames"]))
        case "packet":
            return write_packet(value)
        case _:
            raise ValueError(kind)


# -- the vectors ------------------------------------------------------------------------------------------------------


def tool(name: str) -> ModuleType:
    """One of the developers' programs, as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "tools" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def maker() -> ModuleType:
    return tool("make_wire_vectors")


def test_the_vectors_are_what_the_code_makes_today(maker: ModuleType) -> None:
    written = maker.TARGET.read_text("utf-8")
    assert written == maker.text(), "the protocol changed: if that is meant, run tools/make_wire_vectors.py"


def test_there_are_vectors_of_every_kind() -> None:
    assert {vector["kind"] for vector in VECTORS} == {
        *("envelope", "opening", "frame", "batch", "field", "stream", "packet")
    }
    frames = {vector["value"]["kind"] for vector in VECTORS if vector["kind"] == "frame"}
    assert frames == {int(kind) for kind in FrameKind}


@EACH
def test_a_vector_can_be_read_from_the_page_alone(vector: dict[str, Any]) -> None:
    got = read(vector["kind"], bytes.fromhex(vector["hex"]))
    assert got == vector["value"]
    assert json.dumps(got) == json.dumps(vector["value"]), "1, 1.0 and true are not the same"


@EACH
def test_a_vector_can_be_written_from_the_page_alone(vector: dict[str, Any]) -> None:
    assert write(vector["kind"], vector["value"]).hex() == vector["hex"]


# -- the page ---------------------------------------------------------------------------------------------------------


SHOWN: Final = re.findall(r"^```hex (\S+)\n(.*?)^```$", WIRE, re.MULTILINE | re.DOTALL)


def test_the_page_shows_a_vector_of_every_kind_of_frame() -> None:
    shown = {BY_NAME[name]["value"].get("kind") for name, _ in SHOWN if name.startswith("frame/")}
    assert shown == {int(kind) for kind in FrameKind} - {FrameKind.PONG}  # as Ping
    assert {name.split("/")[0] for name, _ in SHOWN} >= {"envelope", "opening", "frame", "batch", "stream"}


@pytest.mark.parametrize(("name", "block"), SHOWN, ids=[name for name, _ in SHOWN])
def test_what_the_page_shows_in_hex_is_the_vector(name: str, block: str) -> None:
    digits = "".join(line.split(";")[0] for line in block.splitlines())
    assert re.sub(r"\s", "", digits) == BY_NAME[name]["hex"]


def rows(section: str) -> list[list[str]]:
    """The cells of the tables in a section of the page."""
    text = re.split(r"^#+ " + re.escape(section) + r".*$", WIRE, maxsplit=1, flags=re.MULTILINE)[1]
    text = re.split(r"^#+ ", text, maxsplit=1, flags=re.MULTILINE)[0]
    cells = [
        [cell.strip() for cell in line.strip("|\n").split("|")] for line in text.splitlines() if line.startswith("|")
    ]
    return [row for row in cells if not set(row[0]) <= set("- ")]


def test_the_pages_kinds_of_frames_are_the_codes() -> None:
    listed = {
        row[1].strip("`").upper(): int(row[0]) for row in rows("4. Frames") if row[0].isdigit() and row[1][0] == "`"
    }
    assert listed == {kind.name: int(kind) for kind in FrameKind}


def test_the_pages_envelope_is_the_codes() -> None:
    text = "\n".join(" ".join(row) for row in rows("2.2 0MQ"))
    assert ", ".join(f"{int(kind)} {kind.name}" for kind in Kind) in text
    assert ", ".join(f"{int(each)} {each.name.lower()}" for each in Mechanism) in text
    assert f"`{ALPN}`" in WIRE
    assert f"protocol version {PROTOCOL_VERSION}" in WIRE


def test_the_pages_limits_are_the_codes() -> None:
    listed = [int(re.sub(r"\D", "", row[1])) for row in rows("9. Limits")[1:]]
    assert listed == [
        limits.MAX_HANDSHAKE_BYTES,
        limits.MAX_CARRIER_BYTES,
        limits.MAX_GREETING_FRAME_BYTES,
        limits.MAX_FRAME_BYTES,
        limits.MAX_NAME_BYTES,
        limits.MAX_TOPIC_BYTES,
        limits.MAX_SUBSCRIPTIONS,
        limits.MAX_BATCH_EVENTS,
        limits.MAX_STRINGS,
        limits.MAX_GAP_TOPICS,
        limits.MAX_CONTROL_FRAMES,
        limits.CONTROL_FRAMES_PER_S,
        limits.MAX_GREETING_LINKS,
        limits.MAX_DETAIL_CHARS,
    ]


def test_the_pages_packets_are_the_codes() -> None:
    section = " ".join(WIRE.split("## 11. Packets")[1].split())
    for said in (
        f"of 10 to {limits.MAX_PACKET_BYTES:,} bytes (less where the path or the mechanism carries less",
        f"at least {limits.MIN_PACKET_BYTES})",
        f"packet version: {PACKET_VERSION}",
        f"1 to {limits.MAX_PACKET_CHUNKS} chunks",
        f"at most {limits.MAX_ACK_RANGES - 1}, follows downwards",
        f"at the beginning {limits.STREAM_WINDOW_BYTES:,}; a receiver adds {limits.STREAM_WINDOW_BYTES:,}",
        f"({limits.MAX_STREAM_SEGMENTS:,} of them)",
        f"(1 to {limits.MAX_UNRELIABLE_BYTES:,})",
        f"at most {limits.MAX_HELD_MESSAGES} messages, and {limits.HELD_MESSAGE_BYTES:,} bytes of them",
        f"each fragment counts {limits.FRAGMENT_COST_BYTES} bytes more",
        f"within {1000 * MAX_ACK_DELAY_S:g} ms",
        f"a probe at least every {MAX_PTO_S:g} s",
        f"for {defaults.UNACKNOWLEDGED_TIMEOUT_S:g} s has failed",
        f"for at most {defaults.LINGER_S:g} s",
    ):
        assert said in section


def test_the_pages_times_are_the_codes() -> None:
    times = (defaults.HANDSHAKE_TIMEOUT_S, defaults.HEARTBEAT_INTERVAL_S, defaults.HEARTBEAT_TIMEOUT_S)
    assert f"to *up*: {times[0]:g} s. Afterwards each side sends something at least every {times[1]:g} s" in WIRE
    assert f"of which nothing at all was heard for {times[2]:g} s" in WIRE
    assert f"Answered within {defaults.PROBE_TIMEOUT_S:g} s" in WIRE


def codes_said(*paths: str) -> set[str]:
    """The codes with which the code refuses peers: constants that are given to what ends in a `Reject`."""
    found = set()
    for path in paths:
        for node in ast.walk(ast.parse((ROOT / "src" / "rapini" / path).read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in ("refuse", "ViolationError", "Refuse", "Drop", "_replace"):
                given = [*node.args, *(word.value for word in node.keywords if word.arg == "code")]
                texts = {each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)}
                found |= {text for text in texts if re.fullmatch(r"[a-z_]+", text)}
    return found


SAYING: Final = (
    *("session/link.py", "session/link_intents.py", "session/link_core.py", "session/roster.py"),
    *(f"node/{path.name}" for path in sorted((ROOT / "src" / "rapini" / "node").glob("*.py"))),
)


def test_the_pages_reject_codes_are_those_that_the_code_says() -> None:
    said = codes_said(*SAYING)
    listed = {row[0].strip("`") for row in rows("7.1")[1:]}
    assert listed == said | {"self_connection"}  # chosen by an expression
    assert '"self_connection"' in (ROOT / "src" / "rapini" / "session" / "roster.py").read_text("utf-8")


def test_the_pages_channel_codes_are_the_codes_with_their_sentences() -> None:
    listed = {row[0].strip("`"): row[1] for row in rows("7.3")[1:]}
    assert {code: listed.get(code) for code in SENTENCES} == SENTENCES


def test_the_diagram_of_the_states_is_current() -> None:
    states = tool("draw_states")
    assert states.TARGET.read_text("utf-8") == states.text(), "run tools/draw_states.py"


def test_the_examples_of_the_events_page_run() -> None:
    page = (ROOT / "docs" / "reference" / "events.md").read_text("utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == 3
    exec(compile("\n".join(blocks), "events.md", "exec", dont_inherit=True), {"__name__": "events_page"})  # noqa: S102
