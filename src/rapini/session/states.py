"""The states of a link and what moves it from one to the next: the table that the machine obeys. Sans-IO.

A frame that is not listed for a state breaks the protocol; `tools/draw_states.py` draws the diagram from this table.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from types import MappingProxyType
from typing import Final

__all__ = ["TRANSITIONS", "Input", "LinkState"]


class LinkState(Enum):
    """Where a link stands."""

    HANDSHAKING = "handshaking"
    GREETING = "greeting"
    JUDGING = "judging"
    SYNCING = "syncing"
    UP = "up"
    LEAVING = "leaving"
    CLOSED = "closed"


class Input(Enum):
    """What moves a link: the peer's frames, and what our own side decides."""

    OPENED = "channel opened"
    HELLO = "Hello"
    WELCOME = "Welcome"
    REJECT = "Reject"
    ADMITTED = "admitted"
    SUBSCRIPTIONS = "Subscriptions"
    SUBSCRIBED = "Subscribed"
    READY = "Ready"
    EVENTS = "Events"
    GAP = "Gap"
    ACK = "Ack"
    STREAM = "Stream"
    POSITION = "Position"
    DURABLE = "Durable"
    REQUEST = "Request"
    RESPONSE = "Response"
    STORE = "Store"
    STRINGS = "Strings"
    PING = "Ping"
    PONG = "Pong"
    GOODBYE = "Goodbye"
    LEAVE = "leave"


def _transitions() -> Mapping[tuple[LinkState, Input], LinkState]:
    s, i = LinkState, Input
    table = {
        (s.HANDSHAKING, i.OPENED): s.GREETING,
        (s.GREETING, i.HELLO): s.JUDGING,
        (s.GREETING, i.WELCOME): s.JUDGING,
        (s.GREETING, i.REJECT): s.CLOSED,
        (s.JUDGING, i.ADMITTED): s.SYNCING,
        (s.JUDGING, i.SUBSCRIPTIONS): s.JUDGING,
        (s.SYNCING, i.SUBSCRIPTIONS): s.SYNCING,
        (s.SYNCING, i.SUBSCRIBED): s.SYNCING,
        (s.JUDGING, i.STREAM): s.JUDGING,
        (s.SYNCING, i.STREAM): s.SYNCING,
        (s.LEAVING, i.STREAM): s.LEAVING,
        (s.SYNCING, i.POSITION): s.SYNCING,
        (s.UP, i.POSITION): s.UP,
        (s.LEAVING, i.POSITION): s.LEAVING,
        (s.SYNCING, i.READY): s.UP,
        (s.SYNCING, i.LEAVE): s.LEAVING,
        (s.UP, i.LEAVE): s.LEAVING,
    }
    for state in (s.JUDGING, s.SYNCING, s.UP, s.LEAVING):
        for ready in (i.PING, i.PONG, i.STORE, i.STRINGS):
            table[state, ready] = state
        table[state, i.GOODBYE] = s.CLOSED
        table[state, i.REJECT] = s.CLOSED
    for state in (s.UP, s.LEAVING):
        for flowing in (i.SUBSCRIPTIONS, i.SUBSCRIBED, i.EVENTS, i.GAP, i.DURABLE, i.ACK, i.READY):
            table[state, flowing] = state
        for asking in (i.REQUEST, i.RESPONSE):
            table[state, asking] = state
    del table[s.UP, i.READY]  # said once: by then it has been heard
    return MappingProxyType(table)


TRANSITIONS: Final = _transitions()
"""(state, input) to the next state; a frame that is not listed for a state breaks the protocol."""
