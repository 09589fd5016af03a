"""Records the shipped capture: real programs talk in network namespaces while tcpdump listens.

Run by a developer, as root, when the capture should change; nothing at run time or in the tests needs it.

    sudo .venv/bin/python -m tools.record_capture            # records and replaces the files in the tree
    sudo .venv/bin/python -m tools.record_capture --out DIR  # records into DIR, leaves the tree alone

How: two namespaces are joined by a veth pair with checksum and segmentation offload off, so that packets look
as they would on a wire. The server's side runs nginx (HTTP, HTTPS with a certificate made on the spot), BIND,
OpenSSH, chrony and socat; the client's side runs curl, dig, ssh, logger, ntpdig, ping and socat from three
addresses, over IPv4 and IPv6. tcpdump listens on the server's interface, where packets are seen before its
firewall. Each namespace has its own host name, resolver and MAC address, so nothing of the recording machine
gets in. Keys and certificates live in a temporary directory that goes when the recording ends.

What it holds, beyond the ordinary: closed ports (reset, and ICMP unreachable), an address that never answers,
clients that give up in a transfer, a server that resets, a peer that vanishes and leaves a half-open
connection, connections begun before the capture and open at its end, answers of every DNS kind, UDP and ICMP
fragments, a long slow download.

What is kept: DNS and all UDP whole, of other packets the first 256 bytes (`capture_files.trim`). The small
variants for the tests are parts of the same recording: `linux_cooked*.pcap` are recorded by tcpdump on 'any';
`raw_ip.pcap` and `vlan.pcap` are recorded frames whose link layer was rewritten (few kernels in containers
have VLANs); `demo.pcapng` is written by Wireshark's editcap.

Debian packages: nginx-light curl bind9 bind9-dnsutils chrony ntpsec-ntpdig openssh-server openssh-client
openssl socat tcpdump wireshark-common iproute2 iputils-ping nftables ethtool bsdutils. Where AppArmor
confines named, chronyd or tcpdump, record in a container. Uses dpkt from the project's environment.
"""

from __future__ import annotations

import argparse
import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from tools import capture_files as cf
from tools.capture_lab import CLIENT, CLIENTS, DARK, DNS, LINK, SERVER, SSH, SYSLOG, TICKER, WEB, Lab, sh, v4, v6
from tools.capture_servers import ZONE, start_servers

ROOT = Path(__file__).resolve().parent.parent
SPACING_S = 0.12
PROGRAMS = (
    *("nginx", "named", "chronyd", "sshd", "socat", "curl", "dig", "ntpdig", "ssh", "ssh-keygen", "logger", "ping"),
    *("openssl", "tcpdump", "editcap", "ip", "nft", "ethtool"),
)

Job = Callable[[], object]


def curl(lab: Lab, *arguments: str, source: int = 10) -> int:
    """Runs curl from one of the client's addresses (its IPv6 address if `-6` is given)."""
    address = v6(source) if "-6" in arguments else v4(source)
    family = () if {"-6", "-4"} & set(arguments) else ("-4",)
    return lab.run(CLIENT, "curl", "-sk", "-o", "/dev/null", "--interface", address, *family, *arguments)


def dig(lab: Lab, *arguments: str, server: str = v4(DNS)) -> int:
    """Runs dig with short patience."""
    return lab.run(CLIENT, "dig", f"@{server}", "+time=1", "+tries=2", *arguments)


def abort(lab: Lab, *options: str) -> int:
    """Leaves a service that goes on talking: it is answered with a reset, at once if linger is 0."""
    remote = ",".join((f"TCP4:{v4(TICKER)}:7000", f"bind={v4(10)}", *options))
    return lab.run(CLIENT, "timeout", "1.3", "socat", "-u", remote, "OPEN:/dev/null")


def web_jobs(lab: Lab) -> Iterator[Job]:
    """HTTP and HTTPS: sizes, methods, kept and closed connections, both address families, errors, aborts."""
    site, tls = f"http://www.{ZONE}", f"https://www.{ZONE}"
    plain = itertools.product(("", "1k", "10k", "absent", "moved"), ("-4", "-6") * 7)
    for n, (page, family) in enumerate(plain):
        yield partial(curl, lab, family, f"{site}/{page}", source=CLIENTS[n % 3])
    for n, family in enumerate(("-4", "-6") * 11):
        page = ("", "1k", "10k")[n % 3]
        version = ("--tls-max", "1.2") if n % 4 == 3 else ("--tlsv1.3",)
        yield partial(curl, lab, family, *version, f"{tls}/{page}")
    for _ in range(5):
        yield partial(curl, lab, f"{site}/", f"{site}/1k", f"{site}/absent", f"{site}/10k")
        yield partial(curl, lab, "-H", "Connection: close", f"{site}/1k", source=11)
        yield partial(curl, lab, "-I", f"{site}/30k", source=12)
        yield partial(curl, lab, "-d", "x" * 3000, f"{site}/upload")
        yield partial(curl, lab, "-r", "100-299", f"{site}/10k")
        yield partial(curl, lab, f"{site}/broken", source=11)
        yield partial(curl, lab, f"{site}/reset", source=12)
        yield partial(curl, lab, "-m", "0.6", f"{site}/long")
        yield partial(curl, lab, f"http://{v4(WEB)}:8080/", source=11)
        yield partial(curl, lab, "-6", f"http://[{v6(WEB)}]:8080/")
    for _ in range(2):
        several = [argument for _ in range(6) for argument in ("-o", "/dev/null", f"{site}/1k")]
        yield partial(curl, lab, "-Z", "--parallel-immediate", *several)
        yield partial(curl, lab, f"{site}/30k", source=12)


def dns_jobs(lab: Lab) -> Iterator[Job]:
    """DNS: types, aliases, reverse look-ups, every refusal, TCP, large answers, and a silent server."""
    asked = [
        *(["www." + ZONE, kind] for kind in ("A", "AAAA", "HTTPS")),
        *([ZONE, kind] for kind in ("MX", "TXT", "NS", "SOA", "CAA", "ANY")),
        ["_ssh._tcp." + ZONE, "SRV"], ["alias1." + ZONE, "A"], ["alias1." + ZONE, "AAAA"],
        ["x1.wild." + ZONE, "A"], ["nothing.here." + ZONE, "AAAA"],
        ["WwW.dEmO.eXaMpLe", "A"], [r"odd\032name\.dot." + ZONE, "A"], ["v4only." + ZONE, "AAAA"],
        ["-x", v4(WEB)], ["-x", v6(WEB)], ["-x", v4(200)], ["absent." + ZONE, "A"],
        ["www.elsewhere.test", "A"], ["broken.example", "A"], ["www." + ZONE, "A", "+noedns"],
        ["www." + ZONE, "A", "+tcp"], ["many." + ZONE, "A", "+noedns"], ["many." + ZONE, "A", "+dnssec"],
        ["www." + ZONE, "A", "+nocookie", "+norecurse"], ["version.bind", "TXT", "CH"],
    ]  # fmt: skip
    for n in range(3):
        for question in asked:
            server = v6(DNS) if n == 1 else v4(DNS)
            yield partial(dig, lab, *question, server=server)
    for server in (v4(DNS), v6(DNS)):
        yield partial(dig, lab, "big." + ZONE, "TXT", "+bufsize=4096", server=server)
        yield partial(dig, lab, "big." + ZONE, "TXT", "+bufsize=512", server=server)
        yield partial(dig, lab, ZONE, "AXFR", server=server)
    for name in ("www", "lost", "gone"):
        yield partial(dig, lab, f"{name}.{ZONE}", "A", server=v4(DARK))
        yield partial(dig, lab, "-p", "5300", f"{name}.{ZONE}", server=v4(WEB))
    yield partial(dig, lab, f"www.{ZONE}", "AAAA", server=v6(DARK))


def other_jobs(lab: Lab) -> Iterator[Job]:
    """SSH, syslog, NTP, ICMP, and connections to an address that never answers."""
    options = ("StrictHostKeyChecking=no", "UserKnownHostsFile=/dev/null", "BatchMode=yes")
    quiet = ["-F", "none", *(word for option in options for word in ("-o", option))]
    for host in (v4(SSH), v6(SSH), v4(SSH)):
        yield partial(lab.run, CLIENT, "ssh", *quiet, "-i", f"{lab.work}/user_key", f"root@{host}", "true")
        yield partial(lab.run, CLIENT, "ssh", *quiet, f"visitor@{host}", "true")
    syslog = ("logger", "-d", "-t", "demo", "-n", v4(SYSLOG))
    for n in range(6):
        yield partial(lab.run, CLIENT, *syslog, "-P", "514", f"message {n} of the demonstration")
    yield partial(lab.run, CLIENT, *syslog, "-P", "514", "--size", "5000", "long message " * 350)
    yield partial(lab.run, CLIENT, *syslog, "-P", "515", "nobody listens here")
    for _ in range(3):
        yield partial(lab.run, CLIENT, "ntpdig", "-t", "1", v4(DNS))
        yield partial(lab.run, CLIENT, "ping", "-c", "2", "-i", "0.2", v4(WEB))
        yield partial(lab.run, CLIENT, "ping", "-c", "2", "-i", "0.2", v6(WEB))
    yield partial(lab.run, CLIENT, "ping", "-c", "2", "-i", "0.2", "-s", "4000", v4(WEB))
    yield partial(lab.run, CLIENT, "ping", "-c", "2", "-i", "0.2", "-s", "4000", v6(WEB))
    yield partial(lab.run, CLIENT, "ping", "-c", "2", "-i", "0.2", "-W", "1", v4(DARK))
    for option in ((), ("linger=0",)):
        for _ in range(3):
            yield partial(abort, lab, *option)
    for wait in ("1.5", "2.5", "4"):
        yield partial(curl, lab, "--connect-timeout", wait, f"http://{v4(DARK)}/")
        yield partial(curl, lab, "-6", "--connect-timeout", wait, f"http://[{v6(DARK)}]/")


def listen_to_ticker(lab: Lab, source: int, input_: str = "OPEN:/dev/null") -> subprocess.Popen[bytes]:
    """A connection to the service that says 'tick' every second."""
    direction = ("-u",) if input_ == "OPEN:/dev/null" else ("-t30",)
    remote = f"TCP4:{v4(TICKER)}:7000,bind={v4(source)}"
    ends = (remote, input_) if direction == ("-u",) else (input_, remote)
    return lab.start(CLIENT, "socat", *direction, *ends)


def vanish(lab: Lab, victim: subprocess.Popen[bytes], source: int) -> None:
    """Cuts one client's outgoing packets and kills it: the server is left with a half-open connection."""
    lab.firewall(CLIENT, "output", f"ip saddr {v4(source)} tcp dport 7000 drop")
    lab.stop(victim, signal.SIGKILL)


def make_traffic(lab: Lab) -> None:
    """The whole story, about 35 s: slow connections in the background, the rest paced in a shuffled order."""
    jobs = [*web_jobs(lab), *dns_jobs(lab), *other_jobs(lab)]
    random.Random(2).shuffle(jobs)
    victim = listen_to_ticker(lab, 12)
    long_download: Job = partial(curl, lab, f"http://www.{ZONE}/long", source=11)
    with ThreadPoolExecutor(max_workers=10) as pool:
        pending = [pool.submit(long_download)]
        try:
            for n, job in enumerate(jobs):
                if n == len(jobs) // 4:
                    vanish(lab, victim, 12)
                pending.append(pool.submit(job))
                time.sleep(SPACING_S)
            for done in pending:
                done.result()  # raises what a job raised
        finally:
            pool.shutdown(cancel_futures=True)
    listen_to_ticker(lab, 10)
    listen_to_ticker(lab, 11, "STDIO")
    time.sleep(1.5)


def listen(lab: Lab, path: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """Starts tcpdump in the server's namespace; returns when it listens."""
    command = ["tcpdump", "-n", "-U", "-Z", "root", "-B", "16384", "-s", "65535", "-w", str(path), *arguments]
    process = lab.start(SERVER, *command, stderr=subprocess.PIPE)
    assert process.stderr is not None
    for line in process.stderr:
        if b"listening on" in line:
            return process
    raise RuntimeError(f"tcpdump did not start; by hand: {' '.join(command)}")


def finish(lab: Lab, process: subprocess.Popen[bytes]) -> None:
    """Ends tcpdump and refuses a recording in which the kernel dropped packets."""
    time.sleep(0.3)
    lab.stop(process, signal.SIGINT)
    said = (process.stderr.read() if process.stderr else b"").decode()
    if "0 packets dropped by kernel" not in said:
        raise RuntimeError(f"tcpdump lost packets; record again on a quieter machine: {said.strip()}")


def record(out: Path, variants: Path, work: Path) -> None:
    """Records everything and writes the shipped capture and the tests' variants."""
    with Lab(work) as lab:
        start_servers(lab)
        early = lab.start(CLIENT, "curl", "-s", "-o", "/dev/null", "-r", "0-59999", f"http://{v4(WEB)}/long")
        ticking = listen_to_ticker(lab, 11)
        time.sleep(0.5)
        main = listen(lab, work / "all.pcap", "-i", LINK[SERVER])
        # 'any' is not closed with the others: each ends by itself after its number of packets
        cooked = [
            listen(lab, work / f"{name}.pcap", "-i", "any", "-y", kind, "-c", "60")
            for name, kind in (("linux_cooked", "LINUX_SLL"), ("linux_cooked2", "LINUX_SLL2"))
        ]
        make_traffic(lab)
        for process in (*cooked, main):
            finish(lab, process)
        for process in (early, ticking):
            lab.stop(process)
    for name in ("linux_cooked", "linux_cooked2"):
        shutil.copyfile(work / f"{name}.pcap", variants / f"{name}.pcap")
    everything = cf.read_pcap(work / "all.pcap")
    refuse_poor(cf.tally(everything))
    cf.write_pcap(out / "demo.pcap", cf.trim(everything))
    write_variants(out / "demo.pcap", variants)


def refuse_poor(counts: cf.Tally) -> None:
    """Refuses a recording in which a server did not do its part, before it replaces a good one."""
    wanted = {"closed by both", "refused", "unanswered", "reset by server", "reset by client", "open at the end"}
    missing = wanted - counts.by_ending().keys() | {"NXDOMAIN", "REFUSED", "SERVFAIL"} - counts.rcodes.keys()
    if missing or not 300 <= len(counts.flows) <= 1000:
        raise RuntimeError(f"poor recording: {len(counts.flows)} connections, without {sorted(missing)}")


def write_variants(demo: Path, variants: Path) -> None:
    """The small captures of the tests, cut and converted from the shipped one."""
    records = cf.read_pcap(demo)
    some = cf.whole_flows(records, 40, lambda packet: packet.source[1] != 7000 != packet.destination[1])[:250]
    cf.write_pcap(variants / "raw_ip.pcap", map(cf.strip_ethernet, some), linktype=cf.LINKTYPE_RAW)
    single = [cf.add_vlan(record, (0x8100, 20)) for record in some[:125]]
    double = [cf.add_vlan(record, (0x88A8, 100), (0x8100, 3 << 13 | 20)) for record in some[125:]]
    cf.write_pcap(variants / "vlan.pcap", [*single, *double])
    cf.write_pcap(variants / "fragments.pcap", cf.fragments_only(records))
    cf.write_pcap(variants / "truncated.pcap", some)
    whole = (variants / "truncated.pcap").read_bytes()
    last = len(some[-1].data)
    (variants / "truncated.pcap").write_bytes(whole[: -(last // 2)])
    with tempfile.NamedTemporaryFile(suffix=".pcap") as slice_:
        cf.write_pcap(Path(slice_.name), some)
        sh("editcap", "-F", "pcapng", slice_.name, str(variants / "demo.pcapng"))


def write_readme(readme: Path, demo: Path) -> None:
    """Puts the facts of a new capture between the marks of the README beside it."""
    begin, end = "<!-- facts -->\n", "<!-- end of facts -->"
    before, _, rest = readme.read_text().partition(begin)
    _, _, after = rest.partition(end)
    readme.write_text(f"{before}{begin}{cf.facts(demo)}\n{end}{after}")


def main() -> None:
    """Checks what is needed, records, reports."""
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=as_written)
    parser.add_argument("--out", type=Path, metavar="DIR", help="write here instead of into the tree")
    arguments = parser.parse_args()
    if os.geteuid() != 0:
        sys.exit("record_capture: needs root, for network namespaces and packet capture; run it with sudo")
    os.environ["PATH"] += ":/usr/sbin:/sbin"
    if missing := [program for program in PROGRAMS if shutil.which(program) is None]:
        sys.exit(f"record_capture: not installed: {' '.join(missing)}; --help lists the Debian packages")
    out = arguments.out or ROOT / "src/rapini/data"
    variants = arguments.out or ROOT / "tests/data/captures"
    for folder in (out, variants):
        folder.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that either signal cleans up
    with tempfile.TemporaryDirectory(prefix="rapini-rec-") as work:
        try:
            record(out, variants, Path(work))
        except (RuntimeError, subprocess.CalledProcessError) as error:
            sys.exit(f"record_capture: {error}")
        except KeyboardInterrupt:
            sys.exit("record_capture: interrupted; its namespaces and programs are gone")
    if arguments.out is None:
        write_readme(out / "README.md", out / "demo.pcap")
    print(cf.facts(out / "demo.pcap"))


if __name__ == "__main__":
    main()
