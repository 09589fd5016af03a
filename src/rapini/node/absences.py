"""Who is not here, and why: what became last of each peer that is not up, for those who wait for it in vain."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from rapini.node.dials import Dial
from rapini.node.status import PeerState, PeerStatus

__all__ = ["Absences", "describe_missing"]

MAX_ABSENCES: Final = 256
"""Peers, and strangers by host, whose end is remembered; the oldest are forgotten."""

_MAX_TOLD: Final = 8
_ENDS: Final = (PeerState.LOST, PeerState.LEFT, PeerState.REJECTED)


class Absences:
    """Remembers how peers ended. Under the node's lock."""

    def __init__(self) -> None:
        self._last: OrderedDict[str, tuple[float, PeerStatus]] = OrderedDict()

    def note(self, status: PeerStatus, now: float) -> None:
        """A peer's state has changed."""
        host = status.address.rpartition(":")[0] or status.address  # a stranger's port is another one each time
        who = status.peer or host
        if status.is_up:
            self._last.pop(who, None)
            self._last.pop(host, None)
        elif status.state in _ENDS and who:
            self._last[who] = (now, status)
            self._last.move_to_end(who)
            if len(self._last) > MAX_ABSENCES:
                self._last.popitem(last=False)

    def of(self, name: str, now: float) -> str:
        """What became of a peer, or an empty string if nothing is known."""
        known = self._last.get(name)
        return _told(name, *known, now) if known is not None else ""

    def newest(self, now: float) -> list[str]:
        """What became of those that ended last."""
        recent = [(who, at, status) for who, (at, status) in reversed(self._last.items())]
        return [_told(who, at, status, now) for who, at, status in recent[:_MAX_TOLD]]


def _told(who: str, at: float, status: PeerStatus, now: float) -> str:
    why = f": {status.detail}" if status.detail else ""
    code = f" ({status.code})" if status.code else ""
    return f"{who} {_VERBS[status.state]} {now - at:.1f} s ago{code}{why}"


_VERBS: Final = {PeerState.LOST: "was lost", PeerState.LEFT: "left", PeerState.REJECTED: "was rejected"}


def describe_missing(
    *,
    roles: Mapping[str, int],
    names: Sequence[str],
    up: Mapping[str, str],
    dials: Iterable[Dial],
    absences: Absences,
    now: float,
) -> str:
    """Say who is missing and why; an empty string if nobody is.

    Args:
        roles: How many of each role are wanted.
        names: Who is wanted by name.
        up: The roles of the peers that are up, by name.
        dials: What is dialled.
        absences: What became of others.
        now: Monotonic seconds.
    """
    missing = []
    for role, wanted in roles.items():
        there = sorted(name for name, has in up.items() if has == role)
        if len(there) < wanted:
            who = f" ({', '.join(there)})" if there else ""
            missing.append(f"{len(there)} of {wanted} {role}{who}")
    missing += [f"no {name}" for name in names if name not in up]
    if not missing:
        return ""
    reasons = [f"{d.endpoint}: {d.failure[1]} ({d.failure[0]})" for d in dials if d.failure is not None][:_MAX_TOLD]
    reasons += absences.newest(now)
    return f"{', '.join(missing)}; {'; '.join(reasons) or 'nobody else has tried to connect, nor is any dial failing'}"
