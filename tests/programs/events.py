"""The events that test programs and tests exchange; both sides import this one module."""

from __future__ import annotations

from rapini import Event

__all__ = ["Canary", "KeptTick", "Question", "SureTick", "Tick"]


class Tick(Event, topic="tick/main"):
    """Numbered by its sender, so that loss, repetition and disorder show."""

    sender: str
    number: int
    pad: bytes = b""


class SureTick(Event, topic="sure/tick", delivery="reliable"):
    """A tick that is delivered exactly once while both sides live."""

    sender: str
    number: int
    pad: bytes = b""


class KeptTick(Event, topic="kept/tick", delivery="durable"):
    """A tick that is on disk before it is sent."""

    sender: str
    number: int
    pad: bytes = b""


class Canary(Event, topic="canary"):
    """Meant for one receiver alone."""

    receiver: str
    number: int


class Question(Event, topic="question/main"):
    """What is asked, and what is answered."""

    sender: str
    number: int
    pad: bytes = b""
