"""What was published, parted into runs of one type and topic, and how each topic is treated."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Final, TypeVar

from rapini.codec import EncodedRun, join_runs
from rapini.events import Event
from rapini.events.delivery import DELIVERIES, Delivery, DeliveryName
from rapini.session.outbox import Batch

__all__ = ["Addressed", "Treatments", "batch_of", "runs_of"]

_MAX_CACHED: Final = 65_536

_T = TypeVar("_T")


class Treatments:
    """The delivery class and the priority of each topic: the configuration's word, else the event type's.

    Args:
        deliveries: Delivery classes by topic prefix.
        priorities: Priorities by topic prefix.
    """

    def __init__(self, deliveries: Mapping[str, DeliveryName], priorities: Mapping[str, int]) -> None:
        self._deliveries, self._priorities = _by_length(deliveries), _by_length(priorities)
        self._known: dict[tuple[str, Delivery], tuple[Delivery, int]] = {}

    def of(self, topic: str, declared: Delivery) -> tuple[Delivery, int]:
        """Class and priority of a topic, for a type that was declared with a class."""
        known = self._known.get((topic, declared))
        if known is None:
            names = (name for prefix, name in self._deliveries if topic.startswith(prefix))
            delivery = next((DELIVERIES[name] for name in names), declared)
            priority = next((rank for prefix, rank in self._priorities if topic.startswith(prefix)), 0)
            if len(self._known) > _MAX_CACHED:
                self._known.clear()
            known = self._known[topic, declared] = (delivery, priority)
        return known


class Addressed:
    """An event with a topic of its own."""

    __slots__ = ("event", "topic")

    def __init__(self, topic: str, event: Event) -> None:
        self.topic = topic
        self.event = event


def runs_of(taken: list[Event | Addressed]) -> Iterable[tuple[str, list[Event]]]:
    """Part what was collected into runs of one type and topic, keeping the order."""
    if len(taken) == 1 and taken[0].__class__ is not Addressed:  # nearly always, while events are few
        return ((taken[0].__class__.__rapini_topic__, taken),)  # type: ignore[union-attr,return-value]
    kinds = set(map(type, taken))
    if len(kinds) == 1 and Addressed not in kinds:
        return ((kinds.pop().__rapini_topic__, taken),)  # type: ignore[attr-defined,return-value]  # never `Addressed`
    return [
        (topic, [item.event if isinstance(item, Addressed) else item for item in group])
        for (_, topic), group in groupby(taken, key=_kind_and_topic)
    ]


def _kind_and_topic(item: Event | Addressed) -> tuple[type[Event], str]:
    if isinstance(item, Addressed):
        return type(item.event), item.topic
    return type(item), type(item).__rapini_topic__


def _by_length(table: Mapping[str, _T]) -> list[tuple[str, _T]]:
    """Prefixes with what is said of them, the longest first."""
    return sorted(table.items(), key=lambda item: -len(item[0]))


def batch_of(runs: Sequence[EncodedRun], priority: int) -> Batch:
    """Make one batch of runs, all of one priority."""
    topics: dict[str, int] = {}
    for run in runs:
        topics[run.topic] = topics.get(run.topic, 0) + run.count
    return Batch(join_runs(runs), sum(topics.values()), topics, priority)
