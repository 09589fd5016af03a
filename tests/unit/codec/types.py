"""The event types that the codec's tests send: one with every kind of field, and one in three ages."""

from __future__ import annotations

from enum import Enum, IntEnum
from typing import Literal

from hypothesis import strategies as st

from rapini.events import Address, Event, Interval, Network, Port, Record, Time


class Color(Enum):
    RED = "red"
    GREEN = "green"


class Level(IntEnum):
    LOW = 1
    HIGH = 300


class Inner(Record):
    name: str
    size: int = 7


class Everything(Event, topic="codec/everything"):
    flag: bool
    number: int
    ratio: float
    text: str
    blob: bytes
    ts: Time
    span: Interval
    host: Address
    net: Network
    port: Port
    color: Color
    level: Level
    kind: Literal["a", "b"]
    inner: Inner
    numbers: list[int]
    names: set[str]
    table: dict[str, int]
    hosts: dict[Address, list[Port]]
    maybe: str | None
    deep: list[Inner | None] | None = None


_floats = st.floats(allow_nan=False)
_ints = st.integers(-(2**63), 2**64 - 1)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
_addresses = st.ip_addresses().map(Address.of)
_ports = st.builds(Port, st.integers(0, 65535), st.sampled_from(["tcp", "udp", "icmp", "sctp", "unknown"]))
_inners = st.builds(Inner, _texts, _ints)

everything = st.builds(
    Everything,
    flag=st.booleans(),
    number=_ints,
    ratio=_floats,
    text=_texts,
    blob=st.binary(max_size=40),
    ts=_floats,
    span=_floats,
    host=_addresses,
    net=st.builds(Network, _addresses, st.integers(0, 128)),
    port=_ports,
    color=st.sampled_from(Color),
    level=st.sampled_from(Level),
    kind=st.sampled_from(["a", "b"]),
    inner=_inners,
    numbers=st.lists(_ints, max_size=4),
    names=st.sets(_texts, max_size=4),
    table=st.dictionaries(_texts, _ints, max_size=4),
    hosts=st.dictionaries(_addresses, st.lists(_ports, max_size=2), max_size=3),
    maybe=st.none() | _texts,
    deep=st.none() | st.lists(st.none() | _inners, max_size=3),
)
"""Events with every kind of field."""


def example() -> Everything:
    """One event with every kind of field, always the same."""
    return Everything(
        flag=True,
        number=-5,
        ratio=0.5,
        text="é",
        blob=b"\x00\xff",
        ts=1.7e9,
        span=0.25,
        host=Address.of("192.0.2.1"),
        net=Network.of("2001:db8::/32"),
        port=Port(443),
        color=Color.GREEN,
        level=Level.HIGH,
        kind="b",
        inner=Inner("x"),
        numbers=[1, 2**40],
        names={"n"},
        table={"k": 1},
        hosts={Address.of("::1"): [Port(53, "udp")]},
        maybe=None,
    )


class Old(Event, topic="codec/age", name="codec.Age.old"):
    uid: str
    size: int


class New(Event, topic="codec/age", name="codec.Age.new"):
    uid: str
    size: int
    note: str = "none"
    tags: list[str] = []  # noqa: RUF012 - msgspec makes a new one each time
