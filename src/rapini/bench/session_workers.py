"""The processes that a session benchmark measures, beside the source and the sink of `rapini.bench.workers`.

Run as ``python -m rapini.bench.session_workers ROLE VARIANT OPTIONS-AS-JSON``; see `rapini.bench.rounds` for how they
speak. A link is cut by `shutdown()` of the kernel's socket beneath it, found by the peer's port: neither the node nor
libzmq knows of it, both ends see a connection that ends in mid-session, and no proxy adds to the times. Times are
monotonic seconds, one clock for all processes of a machine. Linux alone: `/proc/self` tells what a process holds.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import resource
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rapini import EventRun, Node, PeerState, PeerStatus
from rapini.bench.events import TOPIC, BenchConnection, make_events
from rapini.bench.workers import await_owed

__all__ = ["main"]

Options = dict[str, Any]
Facts = dict[str, object]

_INTERNET: Final = (socket.AF_INET, socket.AF_INET6)  # libzmq takes the second for both
_WAIT_S: Final = 30.0
_VALUE: Final = {"seen": 1_700_000_000.25, "ports": [22, 53, 443], "name": "host.example"}


def _say(facts: Facts) -> None:
    print(json.dumps(facts), flush=True)


def _serve(commands: dict[str, Callable[[Options], Facts]]) -> None:
    """Answer commands until standard input ends."""
    for line in sys.stdin:
        command: Options = json.loads(line)
        _say(commands[command["do"]](command))


def _usage(command: Options) -> Facts:
    """What this process holds, and has spent so far."""
    own = Path("/proc/self")
    spent = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "sockets": len(_sockets()),
        "descriptors": len(os.listdir(own / "fd")),  # noqa: PTH208 - see `_sockets`
        "threads": len(os.listdir(own / "task")),  # noqa: PTH208
        "rss_kb": int((own / "statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1024,
        "cpu_s": spent.ru_utime + spent.ru_stime,
        "at": time.monotonic(),
    }


def _sockets() -> list[int]:
    """The descriptors of this process that are sockets."""
    found = []
    for name in os.listdir("/proc/self/fd"):  # noqa: PTH208 - a Path keeps every name that it ever saw (interned)
        with contextlib.suppress(OSError):  # that of the listing itself
            if os.readlink(f"/proc/self/fd/{name}").startswith("socket:"):  # noqa: PTH115
                found.append(int(name))
    return found


def _cut(port: int) -> int:
    """End every TCP connection of this process to a port, beneath whoever uses it; how many there were."""
    cuts = 0
    for descriptor in _sockets():
        # It may have been closed meanwhile, or not be connected.
        with contextlib.suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as end:
            if end.family in _INTERNET and end.getpeername()[1] == port:
                end.shutdown(socket.SHUT_RDWR)
                cuts += 1
    return cuts


def _port(url: str) -> int:
    return int(url.rpartition(":")[2])


class _Watcher:
    """Consumes a node's items on a thread: counts events, and notes when each channel came up."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.events = 0
        self.up_at: dict[int, float] = {}
        self._lost = 0
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        for item in self.node.items():
            now = time.monotonic()
            with self._changed:
                if isinstance(item, EventRun):
                    self.events += len(item.events)
                elif isinstance(item, PeerStatus) and item.is_up:
                    self.up_at[item.epoch] = now
                    self._changed.notify_all()
                elif isinstance(item, PeerStatus) and item.state is PeerState.LOST:
                    self._lost = item.epoch
                    self._changed.notify_all()

    def wait_up(self, epoch: int) -> float:
        """When the channel with this number came up."""
        with self._changed:
            self._wait(lambda: epoch in self.up_at, f"channel {epoch} is not up")
            return self.up_at[epoch]

    def wait_lost(self) -> None:
        """Until the channel that came up last is lost."""
        with self._changed:
            self._wait(lambda: self._lost == max(self.up_at), "the link is not lost")

    def _wait(self, is_so: Callable[[], bool], what: str) -> None:
        if not self._changed.wait_for(is_so, _WAIT_S):
            raise SystemExit(f"{what} after {_WAIT_S:g} s")


# -- reconnecting ----------------------------------------------------------------------------------------------------


def reconnect_sink(scheme: str, options: Options) -> None:
    """Listen, and say when each channel came up."""
    with Node("sink", keys=options["keys"], **options["node"]) as node:
        node.subscribe(TOPIC)
        watcher = _Watcher(node)
        _say({"url": node.listen(f"{scheme}://127.0.0.1:0")})

        def ups(command: Options) -> Facts:
            return {"up_at": watcher.up_at, "events": watcher.events}

        _serve({"usage": _usage, "ups": ups})


def reconnect_source(scheme: str, options: Options) -> None:
    """Dial; cut the link when told, again and again, each time once an event has crossed the new one."""
    del scheme
    node_options = {"delivery": {TOPIC: "reliable"}, **options["node"]}
    with Node("source", keys=options["keys"], **node_options) as node:
        watcher = _Watcher(node)
        node.connect(options["url"])
        port, events = _port(options["url"]), make_events(1)
        epochs = itertools.count(2)

        def cut(command: Options) -> Facts:
            cut_at: dict[int, float] = {}
            for _ in range(command["times"]):
                epoch = next(epochs)
                cut_at[epoch] = time.monotonic()
                if not _cut(port):
                    raise SystemExit("there is no connection to cut")
                watcher.wait_up(epoch)
                node.publish(events[0])
                if not node.flush(_WAIT_S):  # the other side is up, too, and has taken it
                    raise SystemExit("an event was not taken")
            resumed = node.counters().handshakes_resumed
            return {"cut_at": cut_at, "up_at": watcher.up_at, "handshakes_resumed": resumed}

        _say({"ready": True})
        _serve({"usage": _usage, "cut": cut})


# -- durable, one at a time ------------------------------------------------------------------------------------------


def durable_callers(scheme: str, options: Options) -> None:
    """Call `publish_durable()` from so many threads, again and again, with a subscriber connected."""
    del scheme
    node_options = {"delivery": {TOPIC: "durable"}, **options["node"]}
    with Node("source", keys=options["keys"], **node_options) as node:
        for url in options["urls"]:
            node.connect(url)
        await_owed(node, make_events(1)[0])
        counts = [0] * options["threads"]
        deadline = time.monotonic() + options["seconds"]

        def call(number: int, event: BenchConnection) -> None:
            while time.monotonic() < deadline:
                node.publish_durable(event, timeout_s=_WAIT_S)
                counts[number] += 1

        started = time.monotonic()
        threads = [
            threading.Thread(target=call, args=(number, event))
            for number, event in enumerate(make_events(options["threads"]))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - started
        if not node.flush(_WAIT_S):
            raise SystemExit("not everything was taken")
        _say({"events": sum(counts) + 1, "seconds": seconds, "rate": sum(counts) / seconds})


# -- stores ----------------------------------------------------------------------------------------------------------


def store_master(scheme: str, options: Options) -> None:
    """The master of a store with so many entries; changes as many of them as it is told."""
    with Node("sink", keys=options["keys"]) as node:
        store = node.store("bench", master=True)
        for number in range(options["entries"]):
            store.put(f"host-{number}", _VALUE)
        _say({"url": node.listen(f"{scheme}://127.0.0.1:0"), "entries": len(store)})

        def change(command: Options) -> Facts:
            value = {**_VALUE, "change": command["number"]}
            for number in range(command["count"]):
                store.put(f"host-{number}", value)
            return {"version": store.version, "entries": len(store)}

        _serve({"usage": _usage, "change": change})


def store_clone(scheme: str, options: Options) -> None:
    """A clone; says how long it takes to be in sync after a connection was begun, TCP and TLS included."""
    del scheme
    with Node("source", keys=options["keys"], reconnect="manual") as node:
        store = node.store("bench")
        watcher, url = _Watcher(node), options["url"]
        epochs = itertools.count(1)

        def synced(began: float) -> Facts:
            store.wait_synced(_WAIT_S)
            ended = time.monotonic()
            up_at = watcher.wait_up(next(epochs))
            key = f"host-{options['entries'] - 1}"
            return {
                "seconds": ended - began,
                "up_s": up_at - began,
                "version": store.version,
                "entries": len(store),
                "last": repr(store.get(key)),
            }

        def first(command: Options) -> Facts:
            began = time.monotonic()
            node.connect(url)
            return synced(began)

        def cut(command: Options) -> Facts:
            count = _cut(_port(url))
            watcher.wait_lost()
            return {"cuts": count, "is_stale": store.is_stale}

        def again(command: Options) -> Facts:
            began = time.monotonic()
            node.reconnect(url, wait_s=0)
            return synced(began)

        _say({"ready": True})
        _serve({"usage": _usage, "first": first, "cut": cut, "again": again})


def store_writes(variant: str, options: Options) -> None:
    """`put_unique()` of new keys at a master in memory, beside a plain dict's `setdefault`."""
    del variant
    keys = [f"host-{number}" for number in range(options["entries"])]
    table: dict[str, object] = {}
    began = time.perf_counter()
    for key in keys:
        table.setdefault(key, 1)
    dict_s = time.perf_counter() - began
    with Node("source", keys=options["keys"]) as node:
        store = node.store("bench", master=True)
        began, cpu = time.perf_counter(), time.process_time()
        for key in keys:
            store.put_unique(key, 1)
        calls_s, cpu_s = time.perf_counter() - began, time.process_time() - cpu
        again = store.put_unique(keys[0], 2)
        rates = {"dict": len(keys) / dict_s, "put_unique": len(keys) / calls_s, "cpu_us": cpu_s / len(keys) * 1e6}
        _say({**rates, "entries": len(store), "again": again})


# -- idle peers ------------------------------------------------------------------------------------------------------


def idle_sink(scheme: str, options: Options) -> None:
    """Listen; what it costs is asked with `usage`."""
    with Node("sink", keys=options["keys"]) as node:
        node.subscribe(TOPIC)
        _Watcher(node)
        _say({"url": node.listen(f"{scheme}://127.0.0.1:0")})
        _serve({"usage": _usage, "peers": lambda command: {"up": sum(peer.is_up for peer in node.peers())}})


def idle_peers(scheme: str, options: Options) -> None:
    """Several nodes that dial and then say nothing."""
    del scheme
    nodes = [Node(name, keys=options["keys"]) for name in options["names"]]
    for node in nodes:
        node.connect(options["url"], wait_s=0)
    for node in nodes:
        node.wait_for("sink", timeout_s=_WAIT_S * 2)
    _say({"up": len(nodes)})
    _serve({"usage": _usage})
    for node in nodes:
        node.close(0.1)


_ROLES: Final[dict[str, Callable[[str, Options], None]]] = {
    "reconnect-sink": reconnect_sink,
    "reconnect-source": reconnect_source,
    "durable-callers": durable_callers,
    "store-master": store_master,
    "store-clone": store_clone,
    "store-writes": store_writes,
    "idle-sink": idle_sink,
    "idle-peers": idle_peers,
}


def main(arguments: list[str]) -> None:
    """Run one role."""
    role, variant, encoded = arguments
    _ROLES[role](variant, json.loads(encoded))


if __name__ == "__main__":
    main(sys.argv[1:])
