"""Forwards events by topic: sensor to manager to logger, bridges between groups, whoever listens in.

A relay subscribes to its prefixes at all its peers; what comes on them goes to every other peer that subscribed to it
here, in the class in which it came, through the same queues and policies as the relay's own events. Runs are parted and
joined again, their events are neither decoded nor encoded, and a run is made once for all receivers.

Paths may join and close: each run carries who published it, in which incarnation and under which numbers, and how many
relays it has passed. It is not sent back to whom it came from nor to whom published it, and cut

* `own`: we published it ourselves;
* `duplicate`: it was forwarded before (`session.seen`);
* `not_a_relay`: it is of another than who brought it, and that one is not in the setting `relays`;
* `hop_limit`: it has passed as many relays as are allowed, which ends what the memory of `seen` might let through;
* `bad_run`: it has no number, or no proper origin;
* `durable`: durable events are not forwarded (their numbers are their publisher's stream's, which ends here).

Delivery is promised hop by hop: an acknowledgement says that the relay took an event, not that the last receiver did.
What the relay has to drop becomes a gap at its receiver as any other; what was lost before it came here is told on as a
gap with the reason `upstream_1` (`upstream_2` a relay later, and so on up to the hop limit). Where several paths lead
to a receiver, one may bring what another tells as a gap.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Collection
from typing import Final

import msgspec

from rapini.codec import EncodedRun, Transit
from rapini.errors import DecodeError
from rapini.node.counters import Counters
from rapini.node.links import LinkRecord
from rapini.node.publisher import Publisher
from rapini.node.sessions import Session
from rapini.session.outbox import Batch
from rapini.session.outcomes import EventsReceived, GapReceived
from rapini.session.seen import Seen

__all__ = ["Relay"]

_log = logging.getLogger("rapini.node")

_BAD_RUN: Final = "bad_run"
_UPSTREAM: Final = re.compile(r"upstream_(\d{1,3})", re.ASCII)


class Relay:
    """What one node forwards. Under the node's lock.

    Args:
        name: The node's name.
        prefixes: What is forwarded.
        hop_limit: How many relays an event may have passed when it leaves here, this one included.
        counters: Where cut events are counted.
        publisher: Routes and sends.
        relays: Who may bring events of others; with nobody in it, everybody may.
    """

    def __init__(
        self,
        *,
        name: str,
        prefixes: tuple[str, ...],
        hop_limit: int,
        counters: Counters,
        publisher: Publisher,
        relays: Collection[str] = (),
    ) -> None:
        self._name = name
        self._prefixes = prefixes
        self._hop_limit = hop_limit
        self._counters = counters
        self._publisher = publisher
        self._relays = frozenset(relays)
        self._seen = Seen()

    def forward(self, record: LinkRecord, session: Session, events: EventsReceived, now: float) -> None:
        """Send on what came from a peer.

        Args:
            record: The link that it came over.
            session: The peer's.
            events: A batch, hostile or not.
            now: Monotonic seconds.
        """
        cut, delivery = self._counters.relay_cut, events.delivery
        try:
            runs, bad = self._publisher.codec.split_batch_untrusted(events.batch, record.link.peer_strings)
        except DecodeError:
            cut[_BAD_RUN] += events.count
            return
        if bad:
            cut[_BAD_RUN] += bad
        routed: list[tuple[EncodedRun, tuple[Session, ...]]] = []
        for run in runs:
            if run.topic.startswith(self._prefixes):
                self._route(run, session, cut, routed)
        if routed:
            self._publisher.relay(routed, delivery, now)

    def skip_durable(self, data: bytes, count: int) -> None:
        """Durable events have come: count those that would have been forwarded in another class."""
        try:
            runs, _ = self._publisher.codec.split_batch_untrusted(data, numbered=False)
        except DecodeError:
            self._counters.relay_cut[_BAD_RUN] += count
            return
        skipped = sum(run.count for run in runs if run.topic.startswith(self._prefixes))
        if skipped:
            if not self._counters.relay_cut["durable"]:
                _log.warning("durable events are not relayed: their subscribers must connect to their publisher")
            self._counters.relay_cut["durable"] += skipped

    def _route(
        self, run: Transit, session: Session, cut: Counter[str], routed: list[tuple[EncodedRun, tuple[Session, ...]]]
    ) -> None:
        origin = run.origin or session.name
        if origin == self._name:
            cut["own"] += run.count
            return
        if run.origin and self._relays and session.name not in self._relays:
            cut["not_a_relay"] += run.count
            return
        if run.hops >= self._hop_limit:
            cut["hop_limit"] += run.count
            return
        passed = msgspec.structs.replace(
            run, origin=origin, stream=run.stream or bytes(session.incarnation), hops=run.hops + 1
        )
        after = run.first + run.count
        new = self._seen.add(origin, passed.stream, run.first, run.count)
        cut_count = run.count - sum(end - first for first, end in new)
        if cut_count:
            cut["duplicate"] += cut_count
        receivers = tuple(s for s in self._publisher.route(run.topic) if s is not session and s.name != origin)
        if not receivers:
            return
        for first, end in new:
            part = passed if (first, end) == (run.first, after) else self._part(passed, first, end, cut)
            if part is not None:
                self._counters.relayed[run.topic] += part.count
                routed.append((self._publisher.codec.forward_run(part), receivers))

    def forward_gap(self, session: Session, gap: GapReceived, now: float) -> None:
        """Tell on what a peer could not keep for us, to those who would have got it from here."""
        told = _UPSTREAM.fullmatch(gap.reason)
        hops = int(told[1]) + 1 if told else 1
        lost = {topic: n for topic, n in gap.topics.items() if n and topic.startswith(self._prefixes)}
        if hops > self._hop_limit:
            self._counters.relay_cut["hop_limit"] += sum(lost.values()) or gap.count
            return
        wanted: dict[Session, dict[str, int]] = {}
        if gap.topics:
            for topic, number in lost.items():
                for receiver in self._publisher.route(topic):
                    wanted.setdefault(receiver, {})[topic] = number
        else:  # the peer does not know any more which they were
            wanted = {each: {} for prefix in self._prefixes for each in self._publisher.overlapping(prefix)}
        for receiver, topics in wanted.items():
            if receiver is not session:
                batch = Batch(b"", sum(topics.values()) or gap.count, topics)
                self._publisher.lose(receiver, batch, gap.delivery, f"upstream_{hops}", now)

    def _part(self, run: Transit, first: int, end: int, cut: Counter[str]) -> Transit | None:
        try:
            return self._publisher.codec.cut_run_untrusted(run, first, end - first)
        except DecodeError:
            cut[_BAD_RUN] += end - first
            return None
