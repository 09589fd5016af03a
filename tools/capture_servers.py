"""The recorder's servers: web, names, remote shell, time, log, and one that says 'tick' every second.

Used by `record_capture.py`; each `write_` function makes one server's configuration, `start_servers` starts
them all in the server's namespace of `capture_lab.Lab`. Keys and certificates are made here and go with the
work directory.

Source: the manuals of nginx, BIND 9.18, OpenSSH, chrony and socat as Debian 12 has them.
"""

from __future__ import annotations

import ipaddress
import shutil
import subprocess
import time
from pathlib import Path

from tools.capture_lab import CLIENT, DARK, DNS, SERVER, SSH, SYSLOG, TICKER, WEB, Lab, v4, v6

ZONE = "demo.example"


def start_servers(lab: Lab) -> None:
    """Writes the servers' configuration into the work directory and starts them all."""
    write_web(lab.work)
    write_zones(lab.work)
    write_ssh(lab.work)
    (lab.work / "chrony.conf").write_text(
        f"local stratum 8\nallow all\ncmdport 0\nbindcmdaddress /\npidfile {lab.work}/chrony.pid\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)  # where sshd separates its privileges; Debian makes it at boot
    lab.start(SERVER, "nginx", "-c", f"{lab.work}/nginx.conf", "-e", "stderr")
    lab.start(SERVER, "named", "-f", "-c", f"{lab.work}/named.conf")
    # sshd starts itself anew for each connection, for which it wants its full path
    lab.start(SERVER, shutil.which("sshd") or "sshd", "-D", "-f", f"{lab.work}/sshd")
    lab.start(SERVER, "chronyd", "-x", "-d", "-u", "root", "-f", f"{lab.work}/chrony.conf")
    lab.start(SERVER, "socat", "-u", f"UDP4-RECV:514,bind={v4(SYSLOG)}", "OPEN:/dev/null")
    ticks = "while echo tick; do sleep 1; done"
    ticker = f"TCP4-LISTEN:7000,bind={v4(TICKER)},fork,reuseaddr"
    lab.start(SERVER, "socat", "-t60", ticker, f"SYSTEM:{ticks}")
    for port, host in ((80, WEB), (443, WEB), (53, DNS), (22, SSH), (7000, TICKER)):
        wait_for(lab, host, port)


def wait_for(lab: Lab, host: int, port: int) -> None:
    """Waits until a TCP port answers, at most 10 s."""
    for _ in range(50):
        remote = f"TCP4:{v4(host)}:{port},connect-timeout=1"
        if lab.run(CLIENT, "socat", "-u", "OPEN:/dev/null", remote) == 0:
            return
        time.sleep(0.2)
    raise RuntimeError(f"nothing listens on {v4(host)}:{port}; is the server's Debian package installed?")


def write_web(work: Path) -> None:
    """A web site with pages of several sizes, and a throwaway certificate."""
    site = work / "site"
    site.mkdir()
    sizes = {"index.html": 640, "1k": 1_000, "10k": 10_000, "30k": 30_000, "long": 150_000}
    for name, size in sizes.items():
        line = f"Rapini's demonstration traffic, page {name}.\n"
        (site / name).write_text((line * (size // len(line) + 1))[:size])
    subject = ["-subj", f"/CN=www.{ZONE}", "-addext", f"subjectAltName=DNS:www.{ZONE}"]
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", f"{work}/web.key", "-out", f"{work}/web.crt"]
    command = ["openssl", "req", "-x509", *kind, *subject, *files]
    subprocess.run(command, check=True, capture_output=True)
    hosts = (v4(WEB), f"[{v6(WEB)}]")
    addresses = " ".join(f"listen {host}:80; listen {host}:443 ssl;" for host in hosts)
    modules = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    paths = " ".join(f"{module}_temp_path {work}/partial;" for module in modules)
    (work / "nginx.conf").write_text(
        f"""daemon off; user root; pid {work}/nginx.pid; worker_processes 2;
        events {{ worker_connections 256; }}
        http {{ access_log off; {paths} default_type text/plain; keepalive_timeout 20;
        reset_timedout_connection on;
        server {{ {addresses} server_name www.{ZONE}; root {site}; ssl_certificate {work}/web.crt;
        ssl_certificate_key {work}/web.key; ssl_protocols TLSv1.2 TLSv1.3;
        location = /long {{ limit_rate 6k; }}
        location = /moved {{ return 301 /index.html; }} location = /broken {{ return 503; }}
        location = /reset {{ return 444; }} location = /upload {{ return 204; }} }} }}"""
    )


def write_zones(work: Path) -> None:
    """A zone with every record type that is asked for, both reverse zones, and a zone that cannot be loaded."""
    head = f"$TTL 300\n@ SOA ns.{ZONE}. admin.{ZONE}. 1 3600 900 604800 60\n@ NS ns.{ZONE}.\n"
    hosts = {"ns": DNS, "www": WEB, "ssh": SSH, "log": SYSLOG, "ticker": TICKER, "dark": DARK}
    text = head + "".join(f"{name} A {v4(n)}\n{name} AAAA {v6(n)}\n" for name, n in hosts.items())
    text += "@ MX 10 mail1\n@ MX 20 mail2\nmail1 A 10.20.0.25\nmail2 A 10.20.0.26\nalias1 CNAME alias2\n"
    text += "alias2 CNAME alias3\nalias3 CNAME www\nwww HTTPS 1 . alpn=h2\n*.wild A 10.20.0.80\n"
    text += '@ TXT "v=spf1 mx -all" "second \\"quoted\\" part\\009tab"\n'
    text += '_ssh._tcp SRV 0 5 22 ssh\n@ CAA 0 issue "ca.example"\n'
    text += "odd\\032name\\.dot A 10.20.0.80\nv4only A 10.20.0.80\n"
    text += "".join(f'big TXT "{n:03d} {"x" * 180}"\n' for n in range(14))
    text += "".join(f"many A 10.20.1.{n}\n" for n in range(1, 41))
    (work / "demo.zone").write_text(text)
    zones = {ZONE: "demo.zone", "broken.example": "absent.zone"}
    for family, spell in ((4, v4), (6, v6)):
        network = ipaddress.ip_network(f"{spell(0)}/{24 if family == 4 else 64}")
        labels = network.network_address.reverse_pointer.split(".")[1 if family == 4 else 16 :]
        zones[".".join(labels)] = f"reverse{family}.zone"
        reverse = {name: ipaddress.ip_address(spell(n)).reverse_pointer for name, n in hosts.items()}
        pointers = "".join(f"{pointer}. PTR {name}.{ZONE}.\n" for name, pointer in reverse.items())
        (work / f"reverse{family}.zone").write_text(head + pointers)
    declared = "".join(f'zone "{name}" {{ type primary; file "{file}"; }};\n' for name, file in zones.items())
    (work / "named.conf").write_text(
        f"""options {{ directory "{work}"; listen-on {{ {v4(DNS)}; }}; listen-on-v6 {{ {v6(DNS)}; }};
        recursion no; max-udp-size 4096; check-names primary ignore; allow-transfer {{ any; }};
        dnssec-validation no; version none; hostname none; server-id none;
        pid-file none; lock-file none; session-keyfile none; }};
        controls {{ }};\n{declared}"""
    )


def write_ssh(work: Path) -> None:
    """A throwaway host key and a throwaway user key, neither of which carries a name."""
    for key in ("host_key", "user_key"):
        command = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", f"{work}/{key}"]
        subprocess.run(command, check=True)
    addresses = f"ListenAddress {v4(SSH)}\nListenAddress {v6(SSH)}\n"
    keys = f"HostKey {work}/host_key\nAuthorizedKeysFile {work}/user_key.pub\nStrictModes no\n"
    rest = "PidFile none\nUsePAM no\nPermitRootLogin prohibit-password\nPrintLastLog no\n"
    (work / "sshd").write_text(addresses + keys + rest)
