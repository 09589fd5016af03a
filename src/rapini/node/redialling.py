"""What becomes of a dial when its connection has ended.

The part of `peers` that dials again. Under the node's lock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rapini.node.dials import Dial, DialState
from rapini.node.links import LinkRecord
from rapini.node.loop import Loop
from rapini.node.settings import NodeSettings
from rapini.session.link import CloseKind, LinkClosed
from rapini.session.messages import is_name
from rapini.session.roster import Roster

__all__ = ["INTRODUCE", "Redialling"]

INTRODUCE: Final = "introduce"
"""The code of a refusal that is none: dial again, now that you know my name (the detail)."""


class Redialling:
    """What `Peers` inherits; see there."""

    dials: list[Dial]
    roster: Roster
    _loop: Loop
    _settings: NodeSettings
    _random: Callable[[], float]

    def _dial_ended(self, record: LinkRecord, closed: LinkClosed, now: float) -> None:
        dial = record.dial
        if dial is None or dial.state is DialState.DONE:
            return
        name = record.link.peer or dial.peer
        is_news = False
        if closed.code == INTRODUCE:
            said = record.link.peer or closed.detail
            if is_name(said):  # an unproven word: it chooses the account that we greet with, and nothing else
                is_news, name = not dial.was_introduced, said
                dial.peer, dial.was_introduced = said, True
        if closed.code in ("duplicate_connection", INTRODUCE) and self.roster.has_link(name):
            dial.stand_by(name)
            return
        if is_news:
            dial.wake(now)  # at once, and this time we know whom we greet
            self._loop.wake_before(now)
            return
        was_rejected = closed.kind is CloseKind.REJECTED and closed.code not in ("duplicate_connection", INTRODUCE)
        dial.ended(now, closed.code, closed.detail, closed, was_rejected=was_rejected)
        if dial.due_at is not None:
            self._loop.wake_before(dial.due_at)

    def wake_standby(self, name: str, now: float) -> None:
        """A peer's session ended: the dials that stood by may try."""
        for dial in self.dials:
            if dial.state is DialState.STANDBY and dial.peer == name:
                due = now + self._random() * self._settings.backoff_first_s
                dial.wake(due)
                self._loop.wake_before(due)
