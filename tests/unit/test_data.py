"""The shipped capture and the tests' variants hold what their README and the demo promise.

Unit tests of `rapini.data`, and of the tools that count a capture. Nothing is recorded here: that needs root and a
dozen servers (`tools/record_capture.py`). dpkt, an independent reader, opens every file.
"""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import dpkt
import pytest

from rapini.data import demo_capture
from tools import capture_files as cf

ROOT = Path(__file__).resolve().parents[2]
CAPTURES = ROOT / "tests/data/captures"


@pytest.fixture(scope="module")
def demo() -> Iterator[Path]:
    with demo_capture() as path:
        yield path


@pytest.fixture(scope="module")
def counts(demo: Path) -> cf.Tally:
    return cf.tally(cf.read_pcap(demo))


def open_with_dpkt(name: str) -> tuple[int, list[bytes]]:
    """The link type and the packets of a test capture, by dpkt's own reader."""
    with (CAPTURES / name).open("rb") as file:
        reader = dpkt.pcapng.Reader(file) if name.endswith("ng") else dpkt.pcap.Reader(file)
        return reader.datalink(), [data for _, data in reader]


def test_the_shipped_capture_is_small_and_opens_with_dpkt(demo: Path, counts: cf.Tally) -> None:
    with demo.open("rb") as file:
        reader = dpkt.pcap.Reader(file)
        assert reader.datalink() == dpkt.pcap.DLT_EN10MB
        assert sum(1 for _ in reader) == counts.packets
    assert demo.stat().st_size < 700_000


def test_it_holds_several_hundred_connections_over_half_a_minute(counts: cf.Tally) -> None:
    assert 300 <= len(counts.flows) <= 1000
    assert 25 <= counts.seconds <= 90


@pytest.mark.parametrize(
    ("service", "at_least"),
    [
        ("tcp/http", 100),
        ("tcp/tls", 20),
        ("tcp/ssh", 5),
        ("tcp/dns", 5),
        ("udp/dns", 200),
        ("udp/syslog", 5),
        ("udp/ntp", 3),
        ("ipv4/icmp", 1),
        ("ipv6/icmp", 1),
    ],
)
def test_every_service_is_there(counts: cf.Tally, service: str, at_least: int) -> None:
    assert counts.by_service()[service] >= at_least


@pytest.mark.parametrize(
    ("ending", "at_least"),
    [
        ("closed by both", 100),
        ("refused", 5),
        ("unanswered", 5),
        ("reset by server", 3),
        ("reset by client", 3),
        ("open at the end", 1),
        ("begun before the capture", 1),
    ],
)
def test_tcp_connections_end_in_every_way(counts: cf.Tally, ending: str, at_least: int) -> None:
    assert counts.by_ending()[ending] >= at_least


@pytest.mark.parametrize("rcode", ["NOERROR", "NXDOMAIN", "SERVFAIL", "REFUSED"])
def test_dns_answers_are_of_every_kind(counts: cf.Tally, rcode: str) -> None:
    assert counts.rcodes[rcode] >= 3


def test_some_queries_stay_unanswered_and_some_answers_are_truncated(counts: cf.Tally) -> None:
    assert counts.unanswered_udp() >= 5
    assert counts.truncated_answers >= 2


def test_udp_is_whole_so_that_every_dns_message_can_be_read(demo: Path) -> None:
    messages = 0
    for record in cf.read_pcap(demo):
        packet = cf.decode(record.data)
        if packet and isinstance(packet.transport, dpkt.udp.UDP) and not packet.is_fragment:
            assert len(packet.transport.data) == packet.transport.ulen - 8
            messages += 53 in (packet.source[1], packet.destination[1])
    assert messages > 400


def test_times_never_run_backwards_and_wire_lengths_are_kept(demo: Path) -> None:
    records = cf.read_pcap(demo)
    times = [record.time_us for record in records]
    assert times == sorted(times)
    assert all(record.wire_length >= len(record.data) for record in records)
    assert any(record.wire_length > len(record.data) for record in records)


def test_every_address_is_one_of_the_laboratory(demo: Path) -> None:
    """Nothing of the recording machine got in: addresses are the namespaces', link-local or multicast."""
    ours = (b"\x0a\x14\x00", b"\xfd\x00\x00\x20", b"\xfe\x80", b"\xff\x02", bytes(16))
    for record in cf.read_pcap(demo):
        packet = cf.decode(record.data)
        if packet:
            assert packet.source[0].startswith(ours), packet.source
            assert packet.destination[0].startswith(ours), packet.destination


def test_the_readme_states_the_facts_of_the_file_beside_it(demo: Path) -> None:
    assert cf.facts(demo) in (ROOT / "src/rapini/data/README.md").read_text()


def test_the_capture_is_found_inside_a_zip_archive(tmp_path: Path, demo: Path) -> None:
    """As from a zipped wheel: no source tree, no file beside the module, a path all the same."""
    archive = tmp_path / "wheel.zip"
    with zipfile.ZipFile(archive, "w") as wheel:
        wheel.writestr("rapini/__init__.py", "")
        for name in ("__init__.py", "demo.pcap"):
            wheel.write(ROOT / "src/rapini/data" / name, f"rapini/data/{name}")
    program = (
        f"import sys; sys.path.insert(0, {str(archive)!r}); import rapini.data as d\n"
        "assert '.zip' in d.__file__, d.__file__\n"
        "with d.demo_capture() as path: print(path.stat().st_size)"
    )
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, timeout=30, check=True)
    assert int(done.stdout) == demo.stat().st_size


@pytest.mark.parametrize("name", sorted(path.name for path in CAPTURES.iterdir()))
def test_the_variants_are_small(name: str) -> None:
    assert 1_000 < (CAPTURES / name).stat().st_size < 60_000


@pytest.mark.parametrize(("name", "linktype"), [("linux_cooked.pcap", 113), ("linux_cooked2.pcap", 276)])
def test_the_cooked_captures_are_of_both_kinds(name: str, linktype: int) -> None:
    found, packets = open_with_dpkt(name)
    assert (found, len(packets)) == (linktype, 60)
    header, ethertype_at = (16, 14) if linktype == 113 else (20, 0)
    ethertypes = {packet[ethertype_at : ethertype_at + 2] for packet in packets if len(packet) > header}
    assert b"\x08\x00" in ethertypes


def test_raw_ip_holds_both_families_without_a_link_layer() -> None:
    linktype, packets = open_with_dpkt("raw_ip.pcap")
    assert linktype == cf.LINKTYPE_RAW
    assert {packet[0] >> 4 for packet in packets} == {4, 6}
    assert all(dpkt.ip.IP(packet).data for packet in packets if packet[0] >> 4 == 4)


def test_vlan_frames_carry_one_tag_or_two() -> None:
    _, packets = open_with_dpkt("vlan.pcap")
    outer = {packet[12:16] for packet in packets}
    assert outer == {b"\x81\x00\x00\x14", b"\x88\xa8\x00\x64"}
    assert all(cf.decode(packet) is not None for packet in packets)


def test_fragments_are_of_both_families_and_of_udp_too() -> None:
    _, packets = open_with_dpkt("fragments.pcap")
    decoded = [cf.decode(packet) for packet in packets]
    assert all(packet is not None and packet.is_fragment for packet in decoded)
    assert {len(packet.source[0]) for packet in decoded if packet} == {4, 16}
    assert {packet.key[0] for packet in decoded if packet} >= {dpkt.ip.IP_PROTO_ICMP, dpkt.ip.IP_PROTO_UDP}


def test_pcapng_holds_the_same_packets_as_the_others() -> None:
    linktype, packets = open_with_dpkt("demo.pcapng")
    _, raw = open_with_dpkt("raw_ip.pcap")
    assert linktype == dpkt.pcap.DLT_EN10MB
    assert [packet[cf.ETHERNET_HEADER :] for packet in packets] == raw


def test_the_truncated_capture_ends_inside_a_packet() -> None:
    whole = cf.read_pcap(CAPTURES / "truncated.pcap")
    used = 24 + sum(16 + len(record.data) for record in whole)
    left = (CAPTURES / "truncated.pcap").stat().st_size - used
    assert left > 16  # a whole record header, and some of the packet it announces
    assert len(whole) == len(open_with_dpkt("raw_ip.pcap")[1]) - 1


def test_the_tally_tells_what_is_not_a_capture(tmp_path: Path) -> None:
    other = tmp_path / "other.pcap"
    other.write_text("not a capture, but long enough to be one")
    command = [sys.executable, "-m", "tools.capture_files", str(other)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "not a little-endian microsecond pcap" in done.stderr


def test_a_record_written_and_read_is_the_same(tmp_path: Path) -> None:
    records = [cf.Record(time_us=1_700_000_000_000_001, wire_length=1500, data=b"\x00" * 60)]
    cf.write_pcap(tmp_path / "one.pcap", records)
    assert cf.read_pcap(tmp_path / "one.pcap") == records
