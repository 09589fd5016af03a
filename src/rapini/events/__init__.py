"""What monitors tell each other: event types, their field types and their names.

A leaf: nothing here knows how an event is encoded (`rapini.codec`) or sent (`rapini.node`).
"""

from rapini.events.event import (
    Event,
    RawEvent,
    UnknownEvent,
    check_topic,
    event_type,
    event_types,
    is_topic,
    is_type_name,
)
from rapini.events.types import Address, Interval, IPAddress, IPNetwork, Network, Port, Record, Time

__all__ = [
    "Address",
    "Event",
    "IPAddress",
    "IPNetwork",
    "Interval",
    "Network",
    "Port",
    "RawEvent",
    "Record",
    "Time",
    "UnknownEvent",
    "check_topic",
    "event_type",
    "event_types",
    "is_topic",
    "is_type_name",
]
