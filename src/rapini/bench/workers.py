"""The processes that a link benchmark measures: a source and a sink for each variant.

Run as ``python -m rapini.bench.workers ROLE VARIANT OPTIONS-AS-JSON``; each prints one JSON object a line. The sink
prints its address first. Baselines are written as a careful user would write them with the bare library: pyzmq PUSH and
PULL, one msgspec-encoded event a message, decoded to the same class.
"""

from __future__ import annotations

import json
import resource
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import zmq

from rapini import Event, EventRun, Node, PeerStatus, PublishOutcome
from rapini.bench.events import TOPIC, BenchConnection, make_events
from rapini.defaults import MAX_BATCH_EVENTS, WINDOW_BYTES

__all__ = ["await_owed", "main"]

Options = dict[str, Any]
_PREPARED = 4096


class _LatencyEvent(Event, topic="bench/latency", name="rapini.bench.Latency"):
    """An event that knows when it was published (monotonic seconds, the same clock on both sides)."""

    sent_at: float
    event: BenchConnection


def _say(**facts: object) -> None:
    print(json.dumps(facts), flush=True)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _summary(count: int, started: float, ended: float, cpu_s: float, **more: object) -> None:
    seconds = max(ended - started, 1e-9)
    _say(events=count, seconds=seconds, rate=count / seconds, cpu_s=cpu_s, peak_mb=_peak_mb(), **more)


# -- Rapini ------------------------------------------------------------------------------------------------------


def rapini_sink(scheme: str, options: Options) -> None:
    """Take events with `items()`, or one by one with `events()`, until the source leaves."""
    with Node("sink", keys=options["keys"], window_bytes=options.get("window_bytes", WINDOW_BYTES)) as node:
        node.subscribe("bench/")
        _say(url=node.listen(f"{scheme}://127.0.0.1:0"))
        if options.get("latency"):
            _sink_latency(_rapini_latencies(node))
            return
        count, first, last, cpu = 0, 0.0, 0.0, 0.0
        for item in node.items():
            if isinstance(item, EventRun):
                if not count:
                    first, cpu = time.monotonic(), _cpu_s()
                count += len(item.events)
                last = time.monotonic()
            elif isinstance(item, PeerStatus) and item.state.value in ("left", "lost"):
                break
        _summary(count, first, last, _cpu_s() - cpu)


def _rapini_latencies(node: Node) -> Iterator[float]:
    for item in node.events(with_status=True):
        if isinstance(item, tuple):
            if isinstance(item[0], _LatencyEvent):
                yield time.monotonic() - item[0].sent_at
        elif isinstance(item, PeerStatus) and item.state.value in ("left", "lost"):
            return


def rapini_source(scheme: str, options: Options) -> None:
    """Call `publish()` once per event, for so many seconds or at such a rate; until all of it was taken, in the end."""
    del scheme
    events = make_events(_PREPARED)
    batch_events = options.get("batch_events", MAX_BATCH_EVENTS)
    more = options.get("node", {})
    with Node("source", keys=options["keys"], overflow="block", max_batch_events=batch_events, **more) as node:
        for url in options["urls"]:
            node.connect(url)
        if options.get("latency"):
            _source_latency(options, lambda sent_at, event: node.publish(_LatencyEvent(sent_at, event)))
            return
        warm_up = await_owed(node, events[0]) if "spool" in more else 0
        publish = node.publish
        started, cpu, count = time.monotonic(), _cpu_s(), 0
        deadline = started + options["seconds"]
        while time.monotonic() < deadline:
            for event in events:
                publish(event)
            count += len(events)
        is_flushed = node.flush(30)
        ended = time.monotonic()
        counters = node.counters()
        _summary(
            count,
            started,
            ended,
            _cpu_s() - cpu,
            encode_calls=counters.encode_calls,
            flushes=counters.flushes,
            dropped=counters.total_dropped,
            is_flushed=is_flushed,
            warm_up=warm_up,
        )


def await_owed(node: Node, event: BenchConnection) -> int:
    """Publish a durable event until it is owed to somebody; returns how many were (one)."""
    deadline = time.monotonic() + 10
    while node.publish_durable(event) is not PublishOutcome.ON_DISK:
        if time.monotonic() > deadline:
            raise SystemExit("nobody is owed durable events")
        time.sleep(0.001)
    return 1


# -- raw pyzmq ---------------------------------------------------------------------------------------------------

_END = b""


def zmq_sink(variant: str, options: Options) -> None:
    """PULL, one event a message."""
    context = zmq.Context()
    socket = context.socket(zmq.PULL)
    if variant == "curve":
        public, secret = zmq.curve_keypair()
        socket.curve_server = True
        socket.curve_secretkey = secret
        options["server_key"] = public.decode()
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    _say(url=f"tcp://127.0.0.1:{port}", server_key=options.get("server_key", ""))
    if options.get("latency"):
        decode_latency = msgspec.msgpack.Decoder(_LatencyEvent).decode
        _sink_latency(_zmq_latencies(socket, decode_latency))
    else:
        decode = msgspec.msgpack.Decoder(BenchConnection).decode
        receive = socket.recv
        count, first, cpu = 0, 0.0, 0.0
        while message := receive():
            decode(message)
            if not count:
                first, cpu = time.monotonic(), _cpu_s()
            count += 1
        _summary(count, first, time.monotonic(), _cpu_s() - cpu)
    context.destroy(linger=0)


def _zmq_latencies(socket: zmq.Socket[bytes], decode: Callable[[bytes], _LatencyEvent]) -> Iterator[float]:
    while message := socket.recv():
        yield time.monotonic() - decode(message).sent_at


def zmq_source(variant: str, options: Options) -> None:
    """PUSH, one event a message."""
    context = zmq.Context()
    socket = context.socket(zmq.PUSH)
    if variant == "curve":
        socket.curve_publickey, socket.curve_secretkey = zmq.curve_keypair()
        socket.curve_serverkey = options["server_key"].encode()
    socket.connect(options["urls"][0])
    encode = msgspec.msgpack.Encoder().encode
    send = socket.send
    if options.get("latency"):
        _source_latency(options, lambda sent_at, event: send(encode(_LatencyEvent(sent_at, event))))
    else:
        events = make_events(_PREPARED)
        started, cpu, count = time.monotonic(), _cpu_s(), 0
        deadline = started + options["seconds"]
        while time.monotonic() < deadline:
            for event in events:
                send(encode(event))
            count += len(events)
        _summary(count, started, time.monotonic(), _cpu_s() - cpu)
    send(_END)
    socket.close(linger=30_000)
    context.term()


# -- latency -----------------------------------------------------------------------------------------------------


def _source_latency(options: Options, publish: Callable[[float, BenchConnection], object]) -> None:
    events = make_events(256)
    interval_s = 1 / options["rate"]
    due = time.monotonic() + 0.2
    for index in range(int(options["seconds"] * options["rate"])):
        pause = due - time.monotonic()
        if pause > 0:
            time.sleep(pause)
        publish(time.monotonic(), events[index % 256])
        due += interval_s
    _say(published=int(options["seconds"] * options["rate"]))


def _sink_latency(latencies: Iterator[float]) -> None:
    delays_us = sorted(delay * 1e6 for delay in latencies)
    quantiles = statistics.quantiles(delays_us, n=100) if len(delays_us) > 1 else [0.0] * 99
    _say(events=len(delays_us), p50_us=quantiles[49], p99_us=quantiles[98])


# -- many subscribers --------------------------------------------------------------------------------------------


def rapini_fan_sink(scheme: str, options: Options) -> None:
    """Several subscribers in one process; each takes everything and decodes nothing twice."""
    import threading

    names = [f"sink-{index}" for index in range(options["subscribers"])]
    nodes = [Node(name, keys=options["keys"]) for name in names]
    counts = [0] * len(nodes)

    def consume(index: int) -> None:
        for item in nodes[index].items():
            if isinstance(item, EventRun):
                counts[index] += len(item.events)
            elif isinstance(item, PeerStatus) and item.state.value in ("left", "lost"):
                return

    urls = []
    for node in nodes:
        node.subscribe(TOPIC)
        urls.append(node.listen(f"{scheme}://127.0.0.1:0"))
    _say(urls=urls)
    threads = [threading.Thread(target=consume, args=(index,)) for index in range(len(nodes))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for node in nodes:
        node.close()
    _say(events=counts)


def main(arguments: list[str]) -> None:
    """Run one role of one variant."""
    role, variant, encoded = arguments
    options: Options = json.loads(encoded)
    match role, variant:
        case "sink", ("plain" | "curve"):
            zmq_sink(variant, options)
        case "source", ("plain" | "curve"):
            zmq_source(variant, options)
        case "sink", _:
            rapini_sink(variant, options)
        case "source", _:
            rapini_source(variant, options)
        case _:
            rapini_fan_sink(variant, options)


if __name__ == "__main__":
    main(sys.argv[1:])
