"""The event that the benchmarks send: a connection summary of 11 typed fields."""

from __future__ import annotations

from rapini import Address, Event, Interval, Time

__all__ = ["TOPIC", "BenchConnection", "make_events"]

TOPIC = "bench/connection"


class BenchConnection(Event, topic=TOPIC, name="rapini.bench.Connection"):
    """What a sensor says of a finished connection, in its shortest useful form."""

    ts: Time
    uid: str
    orig_h: Address
    orig_p: int
    resp_h: Address
    resp_p: int
    proto: str
    service: str
    duration: Interval
    orig_bytes: int
    resp_bytes: int


def make_events(count: int) -> list[BenchConnection]:
    """Different events, made beforehand: the benchmarks measure sending, not making."""
    return [
        BenchConnection(
            ts=1_700_000_000.123456 + index / 1000,
            uid=f"C{index:06d}hAvVGS1DHFjw",
            orig_h=Address.of(f"10.20.{index // 256 % 256}.{index % 256}"),
            orig_p=1024 + index * 7 % 60_000,
            resp_h=Address.of(f"192.168.{index % 64}.{index % 251}"),
            resp_p=(80, 443, 53, 22)[index % 4],
            proto=("tcp", "tcp", "udp", "tcp")[index % 4],
            service=("http", "ssl", "dns", "ssh")[index % 4],
            duration=0.25 + index % 97 / 100,
            orig_bytes=517 + index % 1000,
            resp_bytes=4096 + index * 13 % 100_000,
        )
        for index in range(count)
    ]
