"""Many real clients in one process: mutual TLS over real sockets, one loop for all of them instead of a thread each.

Each client has its own certificate, subscribes to a topic of its own, and checks that it gets its own events, all of
them while it is up, and nobody else's. A share of them leaves every second, abruptly or politely, and comes back, as
the same incarnation or as a new one. Built from the package's own parts below `Node`: transport, envelope, TLS channel,
link, session.

Argument: one JSON object (see `main`). Output: one JSON object when all are up, one at the end.
"""

from __future__ import annotations

import json
import math
import os
import random
import selectors
import sys
import time
from collections.abc import Callable
from typing import Any

from rapini.codec import Codec, join_runs
from rapini.events.delivery import Delivery
from rapini.node.links import LinkRecord
from rapini.node.sessions import Session
from rapini.secure.envelope import EnvelopeGate, Mechanism
from rapini.secure.material import TlsMaterial
from rapini.session.link import (
    ChannelOpened,
    EventsAcknowledged,
    EventsReceived,
    GapReceived,
    GreetingReceived,
    Link,
    LinkClosed,
    LinkOutcome,
    LinkUp,
    Timing,
)
from rapini.session.messages import Incarnation
from rapini.session.outbox import Batch, Outbox
from rapini.transport import (
    Connected,
    ConnectFailed,
    Connection,
    Disconnected,
    Endpoint,
    Options,
    Received,
    TransportOutcome,
    Writable,
)
from rapini.transport.factory import make_transport
from tests.programs.events import Canary, Tick

__all__ = ["Client", "Swarm"]

MAX_CONNECTING = 60
"""Of one process at a time: a listener has room for 256 strangers."""


class Client:
    """One client: a session, and a link while it is connected."""

    def __init__(self, name: str, keys: dict[str, str], claims: str = "") -> None:
        self.name = name
        self.claims = claims or name
        self.material = TlsMaterial.load(keys["certificate"], keys["key"], keys["trust"])
        self.record: LinkRecord | None = None
        self.connection: Connection | None = None
        self.due_at: float | None = 0.0
        self.codec = Codec()
        self.own = self.foreign = self.gaps = self.ups = 0
        self.own_before = -1
        self.in_epoch = self.last = 0
        self.sent = 0
        self.up_at = 0.0
        self.starved = 0
        self.codes: list[str] = []
        self.renew()

    def renew(self) -> None:
        """Become a new incarnation."""
        self.incarnation = Incarnation(os.urandom(16))
        self.session = Session(name="server", outbox=Outbox(1 << 20), window_bytes=1 << 20)

    @property
    def is_up(self) -> bool:
        """Whether events flow."""
        return self.record is not None and self.record.is_up

    def take(self, session: Session, events: EventsReceived, strings: list[tuple[str, str]], now: float) -> None:
        """Check a batch and acknowledge it."""
        if not session.received(events):
            raise AssertionError(
                f"{self.name}: event {events.first_sequence} does not continue {session.intakes[0].position}"
            )
        for run in self.codec.decode_batch_untrusted(events.batch, strings):
            for event in run.events:
                if not isinstance(event, Canary) or event.receiver != self.name or run.topic != topic_of(self.name):
                    self.foreign += 1
                    continue
                self.own += 1
                self.gaps += self.in_epoch > 0 and event.number != self.last + 1
                self.in_epoch, self.last = self.in_epoch + 1, event.number
            self.foreign += len(run.bad)
        session.was_taken(session.generation, events.delivery, events.first_sequence, events.count)
        session.acknowledge(now)


def topic_of(name: str) -> str:
    """Where a client's canaries go."""
    return f"canary/{name}/"


class Swarm:
    """The clients of one process and their loop."""

    def __init__(self, url: str, clients: list[Client]) -> None:
        self.endpoint = Endpoint.parse(url)
        self.clients = clients
        self._selector = selectors.DefaultSelector()
        self._transport = make_transport(self.endpoint.transport, self._selector, lambda: None, Options())
        self._of: dict[Connection, Client] = {}
        self.failures: dict[str, int] = {}

    def run(self, seconds: float, *, churn: float = 0.0, until: Callable[[Client], bool] | None = None) -> None:
        """Turn for so long, or until something is true of every client."""
        end = time.monotonic() + seconds
        next_churn = time.monotonic() + 0.1
        while (now := time.monotonic()) < end:
            if until is not None and all(map(until, self.clients)):
                return
            if churn and now >= next_churn:
                next_churn += 0.1
                self._churn(math.ceil(len(self.clients) * churn / 10), now)
            self._turn(now)

    def close(self) -> None:
        """Everybody leaves at once, without a word."""
        self._transport.close()
        self._selector.close()

    def _turn(self, now: float) -> None:
        for key, mask in self._selector.select(0 if self._transport.has_more else 0.01):
            key.data.transport.on_ready(key, mask)
        for outcome in self._transport.outcomes():
            self._on_outcome(outcome, now)
        connecting = sum(c.connection is not None and not c.is_up for c in self.clients)
        for client in self.clients:
            if client.due_at is not None and client.due_at <= now and connecting < MAX_CONNECTING:
                self._dial(client)
                connecting += 1
            record = client.record
            if record is not None:
                due = record.link.next_timer()
                if due is not None and due <= now:
                    record.link.handle_timer(now)
                self._service(client, record, now)

    def _dial(self, client: Client) -> None:
        client.due_at = None
        client.connection = self._transport.dial(self.endpoint, (self.endpoint.host, self.endpoint.port))
        self._of[client.connection] = client

    def _churn(self, count: int, now: float) -> None:
        up = [client for client in self.clients if client.is_up]
        for client in random.sample(up, min(count, len(up))):
            record = client.record
            assert record is not None
            client.starved += now - client.up_at > 3.0 and not client.in_epoch
            if random.random() < 0.5:
                record.link.leave("goodbye", "", now)
                self._service(client, record, now)
            else:
                record.connection.abort()
            if random.random() < 0.5:
                client.renew()

    def _on_outcome(self, outcome: TransportOutcome, now: float) -> None:
        client = self._of[outcome.connection]
        match outcome:
            case Connected(connection=connection):
                client.record = self._open(client, connection, now)
                self._service(client, client.record, now)
            case Received(connection=connection, data=data) if isinstance(connection.user, LinkRecord):
                record = connection.user
                if record.gate is not None:
                    verdict = record.gate.judge_untrusted(data)
                    data = verdict.payload if hasattr(verdict, "payload") else b""
                record.link.receive(data, now)
                self._service(client, record, now)
            case Writable(connection=connection) if isinstance(connection.user, LinkRecord):
                connection.user.transmit()
            case ConnectFailed(connection=connection, code=code) | Disconnected(connection=connection, code=code):
                del self._of[connection]
                if isinstance(connection.user, LinkRecord):
                    connection.user.link.transport_ended(code, "", now)
                    self._service(client, connection.user, now)
                if client.connection is connection:
                    if isinstance(outcome, ConnectFailed):
                        self.failures[code] = self.failures.get(code, 0) + 1
                    client.connection = client.record = None
                    client.due_at = now + 0.05 + random.random() * 0.1
            case _:
                pass

    def _open(self, client: Client, connection: Connection, now: float) -> LinkRecord:
        link = Link(
            channel=client.material.initiator(check_host=self.endpoint.host),
            is_initiator=True,
            cluster=client.material.identity.cluster,
            subscriptions=(topic_of(client.name),),
            subscriptions_version=1,
            timing=Timing(),
            now=now,
        )
        gate = EnvelopeGate.initiator(Mechanism.TLS, os.urandom(8)) if connection.is_message_based else None
        record = LinkRecord(connection=connection, link=link, gate=gate, mechanism="tls", dial=None)
        connection.user = record
        return record

    def _service(self, client: Client, record: LinkRecord, now: float) -> None:
        for outcome in record.link.outcomes():
            self._on_link(client, record, outcome, now)
        record.transmit()
        if record.link.is_closed and not record.is_finished:
            record.is_finished = True
            record.connection.close()

    def _on_link(self, client: Client, record: LinkRecord, outcome: LinkOutcome, now: float) -> None:
        session = record.session or client.session  # a link that leaves still delivers to the session that it served
        match outcome:
            case ChannelOpened():
                cluster = client.material.identity.cluster
                record.greeting = session.greeting(cluster, client.claims, "", client.incarnation)
                record.link.greet(record.greeting, now)
            case GreetingReceived(greeting=greeting):
                assert record.greeting is not None
                assert record.link.offered_epoch is not None
                if not session.admitted(record.greeting, greeting, record.link.offered_epoch):
                    raise AssertionError(f"{client.name}: the server contradicts itself")
                record.session = session
                record.link.admit(record.link.offered_epoch, now)
            case LinkUp():
                client.ups += 1
                client.in_epoch, client.up_at = 0, now
                session.record = record
                self._say(client, record, now)
            case EventsReceived():
                client.take(session, outcome, record.link.peer_strings, now)
            case GapReceived():
                if not session.received_gap(outcome):
                    raise AssertionError(f"{client.name}: gap numbers do not continue")
                session.was_taken(session.generation, outcome.delivery, outcome.first_sequence, outcome.count)
            case EventsAcknowledged(taken=taken):
                session.outbox.acknowledge(taken)
            case LinkClosed(code=code):
                client.codes.append(code)
                if session.record is record:
                    session.lost(now)
            case _:
                pass

    def _say(self, client: Client, record: LinkRecord, now: float) -> None:
        client.sent += 1
        runs, _ = client.codec.encode_run("tick/swarm", [Tick(sender=client.name, number=client.sent)])
        client.session.outbox.put(Batch(join_runs(runs), 1, {"tick/swarm": 1}), Delivery.BEST_EFFORT, now)
        for delivery, first, item in client.session.outbox.sendable():
            if isinstance(item, Batch):
                record.link.send_events(delivery, first, item.count, item.data, now)
            else:
                record.link.send_gap(delivery, first, item, now)


def main() -> None:
    """Connect, report, churn, report."""
    start: dict[str, Any] = json.loads(sys.argv[1])
    swarm = Swarm(start["url"], [Client(name, keys) for name, keys in start["clients"].items()])
    swarm.run(30, until=lambda client: client.is_up)
    _report(swarm)
    swarm.run(30, until=lambda client: client.own > 0)  # the other swarm may need longer to come up
    swarm.run(start["seconds"], churn=start["churn"])
    swarm.run(30, until=lambda client: client.is_up)
    for client in swarm.clients:
        client.own_before = client.own
    swarm.run(10, until=lambda client: client.own > client.own_before)  # nobody leaves now: each must be served
    _report(swarm)
    swarm.close()


def _report(swarm: Swarm) -> None:
    clients = swarm.clients
    report = {
        "up": sum(client.is_up for client in clients),
        "ups": sum(client.ups for client in clients),
        "own": sum(client.own for client in clients),
        "foreign": sum(client.foreign for client in clients),
        "gaps": sum(client.gaps for client in clients),
        "starved": sum(client.starved for client in clients),
        "idle_at_the_end": sum(client.own == client.own_before for client in clients),
        "sent": sum(client.sent for client in clients),
        "failures": swarm.failures,
        "codes": {code: sum(c.codes.count(code) for c in clients) for code in {x for c in clients for x in c.codes}},
    }
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
