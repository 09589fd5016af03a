"""Properties of reading captures: formats, byte orders, resolutions, and every way in which a file can be bad."""

from __future__ import annotations

import gzip
import io
import os
import struct
import threading
from pathlib import Path

import dpkt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.apps.sensor import capture as module
from rapini.apps.sensor import open_capture
from rapini.apps.sensor.capture import Packet
from rapini.errors import CaptureError
from tests.unit.apps.sensor.packets import CAPTURES, Talk, pcap_bytes

FRAMES = Talk("S h A D700 a d3000 A F f A").frames


def read(path: Path) -> list[Packet]:
    with open_capture(path) as capture:
        return list(capture)


def read_bytes(data: bytes, path: Path) -> tuple[list[Packet], CaptureError | None]:
    """What was readable, and how it ended."""
    path.write_bytes(data)
    packets: list[Packet] = []
    try:
        with open_capture(path) as capture:
            packets.extend(capture)
    except CaptureError as error:
        return packets, error
    return packets, None


def swapped(data: bytes) -> bytes:
    """The same pcap file in the other byte order."""
    out, at = struct.pack(">IHHiIII", *struct.unpack_from("<IHHiIII", data)), 24
    while at < len(data):
        header = struct.unpack_from("<4I", data, at)
        out += struct.pack(">4I", *header) + data[at + 16 : at + 16 + header[2]]
        at += 16 + header[2]
    return out


def block(order: str, kind: int, body: bytes) -> bytes:
    body += bytes(-len(body) % 4)
    size = struct.pack(order + "I", len(body) + 12)
    return struct.pack(order + "I", kind) + size + body + size


def section(order: str) -> bytes:
    return block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))


def interface(order: str, link_type: int, options: bytes = b"", snap: int = 0) -> bytes:
    return block(order, 1, struct.pack(order + "HHI", link_type, 0, snap) + options)


def packet(order: str, index: int, ticks: int, frame: bytes) -> bytes:
    head = struct.pack(order + "5I", index, ticks >> 32, ticks & 0xFFFFFFFF, len(frame), len(frame) + 7)
    return block(order, 6, head + frame)


def test_both_byte_orders_and_both_resolutions_read_alike(tmp_path: Path) -> None:
    micro, nano = pcap_bytes(FRAMES), pcap_bytes(FRAMES, nano=True)
    results = [read_bytes(data, tmp_path / "a") for data in (micro, swapped(micro), nano, swapped(nano))]
    assert all(error is None for _, error in results)
    for packets, _ in results:
        assert [frame for _, _, frame, _ in packets] == [frame for _, frame in FRAMES]
        assert [ts for ts, *_ in packets] == pytest.approx([ts for ts, _ in FRAMES], abs=2e-6)
        assert {link for _, link, *_ in packets} == {1}


def test_the_length_on_the_wire_survives_a_snapshot_length(tmp_path: Path) -> None:
    head = pcap_bytes([])
    data = head + struct.pack("<4I", 5, 250000, 60, 1500) + bytes(60)
    assert read_bytes(data, tmp_path / "a")[0] == [(5.25, 1, bytes(60), 1500)]


def test_kuznetzovs_variant_is_read(tmp_path: Path) -> None:
    head = b"\x34\xcd\xb2\xa1" + pcap_bytes([])[4:]
    data = head + struct.pack("<6I", 5, 250000, 60, 60, 0, 0) + bytes(60)
    assert read_bytes(data, tmp_path / "a")[0] == [(5.25, 1, bytes(60), 60)]


@pytest.mark.parametrize("chunk", [1, 7, 100, 4096])
def test_packets_do_not_depend_on_how_much_is_read_at_a_time(
    chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap_bytes(FRAMES))
    whole = read(path)
    monkeypatch.setattr(module, "CHUNK_BYTES", chunk)
    assert read(path) == whole


def test_a_pipe_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(pcap_bytes(FRAMES),))
    writer.start()
    assert len(read(path)) == len(FRAMES)
    writer.join(5)


def test_progress_ends_at_the_files_size(tmp_path: Path) -> None:
    path = tmp_path / "a.pcap"
    path.write_bytes(pcap_bytes(FRAMES))
    with open_capture(path) as capture:
        assert (capture.packets_read, capture.bytes_read) == (0, 24)
        assert len(list(capture)) == capture.packets_read == len(FRAMES)
        assert capture.bytes_read == capture.size_bytes == path.stat().st_size
        assert capture.format == "pcap"


def test_pcapng_reads_as_the_pcap_it_was_made_of() -> None:
    """The recorder's pcapng file holds the first packets of the shipped capture."""
    ours = read(CAPTURES / "demo.pcapng")
    with (CAPTURES / "demo.pcapng").open("rb") as stream:
        theirs = [(float(ts), frame) for ts, frame in dpkt.pcapng.Reader(stream)]
    assert [frame for _, _, frame, _ in ours] == [frame for _, frame in theirs]
    assert [ts for ts, *_ in ours] == pytest.approx([ts for ts, _ in theirs], abs=1e-6)
    assert len(ours) > 100


@pytest.mark.parametrize("order", ["<", ">"])
def test_each_pcapng_interface_has_its_own_link_type_and_resolution(order: str, tmp_path: Path) -> None:
    nanoseconds = struct.pack(order + "HHB3x", 9, 1, 9)
    binary_offset = struct.pack(order + "HHB3xHHq", 9, 1, 0x80 | 10, 14, 8, 1000) + bytes(4)
    data = section(order) + interface(order, 1) + interface(order, 101, nanoseconds)
    data += interface(order, 276, binary_offset) + block(order, 0xBAD, b"unknown: skipped")
    data += packet(order, 0, 1_700_000_000_250_000, b"ether")
    data += packet(order, 1, 1_700_000_000_500_000_000, b"raw")
    data += packet(order, 2, 512, b"sll2")
    data += block(order, 3, struct.pack(order + "I", 6) + b"simple")
    assert read_bytes(data, tmp_path / "a") == (
        [
            (1_700_000_000.25, 1, b"ether", 12),
            (1_700_000_000.5, 101, b"raw", 10),
            (1000.5, 276, b"sll2", 11),
            (1000.5, 1, b"simple", 6),
        ],
        None,
    )


def test_a_second_section_forgets_the_interfaces_and_the_byte_order_of_the_first(tmp_path: Path) -> None:
    data = section("<") + interface("<", 1) + packet("<", 0, 1_000_000, b"one")
    data += section(">") + interface(">", 101) + packet(">", 0, 2_000_000, b"two")
    assert read_bytes(data, tmp_path / "a")[0] == [(1.0, 1, b"one", 10), (2.0, 101, b"two", 10)]


def test_a_simple_packet_is_as_long_as_the_interface_cut_it(tmp_path: Path) -> None:
    data = section("<") + interface("<", 1, snap=4) + block("<", 3, struct.pack("<I", 9) + b"abcd")
    assert read_bytes(data, tmp_path / "a")[0] == [(0.0, 1, b"abcd", 9)]


# --- Bad input --------------------------------------------------------------------------------------------------


def code_of(path: Path) -> str:
    with pytest.raises(CaptureError) as caught:
        read(path)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)
    return caught.value.code


def test_what_is_no_capture_says_so_when_opened(tmp_path: Path) -> None:
    path = tmp_path / "a"
    assert code_of(path) == "not_found"
    assert code_of(tmp_path) == "unreadable"
    for data in (b"", b"GIF89a, rather", b"\xd4\xc3", gzip.compress(pcap_bytes(FRAMES))):
        path.write_bytes(data)
        assert code_of(path) == "not_a_capture"
    path.write_bytes(pcap_bytes(FRAMES, link_type=127))
    assert code_of(path) == "link_type"
    path.write_bytes(section("<") + interface("<", 127) + packet("<", 0, 1, b"x"))
    assert code_of(path) == "link_type"


def test_what_the_system_refuses_to_open_is_unreadable(tmp_path: Path) -> None:
    """Not by permissions, which do not hold root: by a link to itself, and by a file taken for a directory."""
    loop, file = tmp_path / "loop", tmp_path / "file"
    loop.symlink_to(loop)
    file.write_bytes(pcap_bytes(FRAMES))
    assert code_of(loop) == code_of(file / "a") == "unreadable"


def test_a_stranger_among_known_interfaces_is_left_to_the_decoder(tmp_path: Path) -> None:
    data = section("<") + interface("<", 127) + interface("<", 1) + packet("<", 0, 1, b"x") + packet("<", 1, 2, b"y")
    packets, error = read_bytes(data, tmp_path / "a")
    assert [link for _, link, *_ in packets] == [127, 1]
    assert error is None


@pytest.mark.parametrize(
    "data",
    [
        pcap_bytes([]) + struct.pack("<4I", 1, 0, 0x7FFFFFFF, 1500),
        section("<") + interface("<", 1) + packet("<", 1, 0, b"no such interface"),
        section("<") + interface("<", 1) + struct.pack("<II", 6, 5),
        section("<") + interface("<", 1) + struct.pack("<II", 6, 1 << 30),
        section("<") + interface("<", 1) + packet("<", 0, 0, b"two lengths")[:-4] + bytes(4),
        section("<") + interface("<", 1) + block("<", 6, b"short"),
        section("<") + interface("<", 1) + block("<", 6, struct.pack("<5I", 0, 0, 0, 100, 100)),
        section("<") + interface("<", 1) + block("<", 3, struct.pack("<I", 100)),
        section("<")[:8] + b"abcd" + section("<")[12:],
    ],
)
def test_a_contradiction_is_damage(data: bytes, tmp_path: Path) -> None:
    _, error = read_bytes(data, tmp_path / "a")
    assert error is not None
    assert (error.code, error.packet) == ("damaged", 1)


def test_the_recorded_truncated_capture_names_the_packet_and_yields_those_before() -> None:
    path, error = CAPTURES / "truncated.pcap", None
    packets: list[Packet] = []
    try:
        with open_capture(path) as capture:
            packets.extend(capture)
    except CaptureError as caught:
        error = caught
    assert error is not None
    assert (error.code, error.packet) == ("truncated", len(packets) + 1)
    assert len(packets) > 100
    assert f"packet {error.packet}" in str(error)


PCAPNG = section("<") + interface("<", 1) + b"".join(packet("<", 0, 1, frame) for _, frame in FRAMES)


@pytest.mark.parametrize("data", [pcap_bytes(FRAMES), PCAPNG], ids=["pcap", "pcapng"])
@given(share=st.floats(0, 1))
def test_a_file_cut_anywhere_yields_a_prefix_and_says_where_it_is_cut(
    data: bytes, share: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "cut"
    whole, _ = read_bytes(data, path)
    packets, error = read_bytes(data[: int(len(data) * share)], path)
    assert packets == whole[: len(packets)]
    if error is not None:
        assert error.code in ("truncated", "not_a_capture")
        assert error.packet == (len(packets) + 1 if error.code == "truncated" else 0)
    else:  # only a cut between two packets goes unnoticed
        rebuilt = io.BytesIO(data[: int(len(data) * share)]).getvalue()
        assert len(rebuilt) in boundaries(data)


def boundaries(data: bytes) -> set[int]:
    found, at = set(), 24 if data[:4] == b"\xd4\xc3\xb2\xa1" else 0
    is_pcap = at == 24
    while at < len(data):
        found.add(at)
        at += 16 + struct.unpack_from("<I", data, at + 8)[0] if is_pcap else struct.unpack_from("<I", data, at + 4)[0]
    return found | {at}


@given(
    base=st.sampled_from([pcap_bytes(FRAMES), PCAPNG]),
    changes=st.lists(st.tuples(st.integers(4, 400), st.integers(0, 255)), max_size=8),
)
def test_a_mutated_file_ends_in_a_capture_error_or_not_at_all(
    base: bytes, changes: list[tuple[int, int]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(base)
    for at, value in changes:
        data[at] = value
    path = tmp_path_factory.getbasetemp() / "mutated"
    _, error = read_bytes(bytes(data), path)
    assert error is None or error.code in ("truncated", "damaged", "link_type")
