"""What a TLS handshake costs, full and resumed, at each end: CPU time over memory, no network.

    python -m rapini.bench.handshake

Each handshake is the whole of what a connection does before its session greets: making the channel, both flights, our
own look at the certificate, and the first data each way, with which the initiator takes the next ticket. Three kinds:
`off` (no tickets at either end), `full` (a ticket is issued and kept) and `resumed`. Their rounds take turns, so that a
machine whose speed drifts treats all alike. Figures are medians over the rounds, of the CPU time of the one thread that
runs both ends.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeVar

from rapini import Authority
from rapini.bench.machine import describe_machine
from rapini.secure.channel import HandshakeCompleted
from rapini.secure.material import TlsMaterial
from rapini.secure.tls import TlsChannel

__all__ = ["measure"]

HOST: Final = "127.0.0.1"
ENDPOINT: Final = "tcp+tls://127.0.0.1:9750"

KINDS: Final = ("off", "full", "resumed")

T = TypeVar("T")


class _Ends:
    """An initiator and a responder, with the CPU seconds and the bytes that each has spent."""

    def __init__(self, initiator: TlsMaterial, responder: TlsMaterial) -> None:
        self._initiator = initiator
        self._responder = responder
        self.seconds = {"initiator": 0.0, "responder": 0.0}
        self.bytes = {"initiator": 0, "responder": 0}

    def _timed(self, end: str, call: Callable[[], T]) -> T:
        began = time.thread_time()
        result = call()
        self.seconds[end] += time.thread_time() - began
        return result

    def join(self, endpoint: str) -> None:
        """Make one connection and leave it."""
        channels = {
            "initiator": self._timed(
                "initiator", lambda: self._initiator.initiator(check_host=HOST, endpoint=endpoint)
            ),
            "responder": self._timed("responder", self._responder.responder),
        }
        for end, channel in channels.items():
            self._timed(end, lambda channel=channel: channel.start(0.0))  # type: ignore[misc]
        self._settle(channels)
        for end, channel in channels.items():
            (completed,) = channel.outcomes()
            if not isinstance(completed, HandshakeCompleted):
                raise TypeError(f"the handshake failed: {completed}")
            self._timed(end, lambda channel=channel: channel.send(b"hello"))  # type: ignore[misc]
        self._settle(channels)

    def _settle(self, channels: dict[str, TlsChannel]) -> None:
        others = {"initiator": "responder", "responder": "initiator"}
        for _ in range(4):
            for end, other in others.items():
                data = self._timed(end, channels[end].data_to_send)
                self.bytes[end] += len(data)
                if data:
                    self._timed(other, lambda data=data, other=other: channels[other].receive(data, 0.0))  # type: ignore[misc]


def measure(*, rounds: int = 15, handshakes: int = 40) -> dict[str, Any]:
    """Measure handshakes without tickets, full and resumed.

    Args:
        rounds: Of each kind.
        handshakes: In each round.

    Returns:
        The machine, and for each kind and end the CPU milliseconds and the bytes of one handshake.
    """
    materials = {kind: _materials(resume=kind != "off") for kind in KINDS}
    _Ends(*materials["resumed"]).join(ENDPOINT)  # brings the first ticket
    numbers = itertools.count()
    spent: dict[str, list[_Ends]] = {kind: [] for kind in KINDS}
    for _ in range(rounds):
        for kind in KINDS:
            ends = _Ends(*materials[kind])
            for _ in range(handshakes):
                # A place of its own has no ticket yet.
                ends.join(ENDPOINT if kind == "resumed" else f"{ENDPOINT}/{next(numbers)}")
            spent[kind].append(ends)
    expected = {"off": 0, "full": 0, "resumed": rounds * handshakes}
    resumed = {kind: materials[kind][1].contexts.responder.session_stats()["hits"] for kind in KINDS}
    if resumed != expected:
        raise AssertionError(f"resumed {resumed}, meant {expected}")
    return {
        "machine": describe_machine(),
        "rounds": rounds,
        "handshakes_per_round": handshakes,
        **{kind: _figures(spent[kind], handshakes) for kind in KINDS},
        "resumed_to_full": _ratio(spent["resumed"], spent["full"]),
        "resumed_to_off": _ratio(spent["resumed"], spent["off"]),
    }


def _materials(*, resume: bool) -> tuple[TlsMaterial, TlsMaterial]:
    with tempfile.TemporaryDirectory() as folder:
        authority = Authority.create(Path(folder), "bench")
        initiator, responder = (
            TlsMaterial.load(files.certificate_path, files.key_path, files.trust_path, resume=resume)
            for files in (authority.issue(name, hosts=[HOST]) for name in ("sensor", "manager"))
        )
    return initiator, responder


def _ratio(some: list[_Ends], others: list[_Ends]) -> dict[str, float]:
    ratios = [sum(one.seconds.values()) / sum(other.seconds.values()) for one, other in zip(some, others, strict=True)]
    return {
        "median": round(statistics.median(ratios), 3),
        "min": round(min(ratios), 3),
        "max": round(max(ratios), 3),
    }


def _figures(found: list[_Ends], handshakes: int) -> dict[str, Any]:
    cpu = {end: statistics.median(ends.seconds[end] for ends in found) / handshakes * 1000 for end in found[0].seconds}
    both = statistics.median(sum(ends.seconds.values()) for ends in found) / handshakes * 1000
    size = {end: round(found[0].bytes[end] / handshakes) for end in found[0].bytes}
    return {"cpu_ms": {**{end: round(ms, 3) for end, ms in cpu.items()}, "both": round(both, 3)}, "bytes_sent": size}


def main() -> None:
    """Measure and print JSON."""
    parser = argparse.ArgumentParser(prog="python -m rapini.bench.handshake", description=measure.__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--handshakes", type=int, default=40)
    options = parser.parse_args()
    print(json.dumps(measure(rounds=options.rounds, handshakes=options.handshakes), indent=2))


if __name__ == "__main__":
    main()
