"""The delivery classes: what is promised for events of a topic.

A class is named at the event type (``class X(Event, topic="…", delivery="reliable")``) or for a topic prefix in the
configuration, which wins. `docs/explanation/delivery.md` says what each promises and what it costs.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Final, Literal

__all__ = ["DELIVERIES", "Delivery", "DeliveryName"]

DeliveryName = Literal["best_effort", "reliable", "durable"]


class Delivery(IntEnum):
    """A delivery class, as it stands on the wire."""

    BEST_EFFORT = 0
    """Drops are allowed, and counted at the sender by topic and cause."""
    RELIABLE = 1
    """Exactly once and in order per publisher, across lost connections, while both incarnations live."""
    DURABLE = 2
    """On disk with a stable number before it is sent; survives restarts of both."""

    @property
    def label(self) -> DeliveryName:
        """The name that users write."""
        return _LABELS[self]


_LABELS: Final[dict[int, DeliveryName]] = {0: "best_effort", 1: "reliable", 2: "durable"}

DELIVERIES: Final = {label: Delivery(number) for number, label in _LABELS.items()}
"""The classes by the names that users write."""
