"""The peers by name, across all their channels: who may have one, and what a newcomer is. Sans-IO.

0MQ hides that a peer went and came back; here it is decided, by name, incarnation and epoch:

* **Nobody holds the name's channel.** The newcomer is admitted: as *first* seen, *back* (same incarnation) or
  *restarted* (another one), and the epoch counts on.
* **Same incarnation, same direction.** The peer made a new connection, so it has given the old one up: the newcomer
  replaces it. If it was we who dialled twice (two addresses of one node), the second is a duplicate.
* **Same incarnation, both dialled.** The channel initiated by the smaller name stays, at both ends alike. A node whose
  name is the smaller refuses the other's channel as soon as its own greeting is on its way.
* **Another incarnation under a live name.** It restarted and we have not noticed yet, or two processes have the same
  certificate. The old channel is probed: if it answers in time, the newcomer is rejected (`duplicate_name`, loudly);
  if not, it is lost and the newcomer takes over.

A name that was proven (TLS) belongs to whoever can prove it, for as long as this process lives: a link that only claims
it (plain) is refused (`unverified_name`), and one that had it before is dropped when the name's owner comes.

The roster decides; its owner acts on the returned `Decision`s in their order and reports back what happened.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import NewType

from rapini import defaults
from rapini.session.messages import Epoch, Incarnation

__all__ = ["Admit", "Claim", "Decision", "Drop", "LinkId", "Peer", "Probe", "Refuse", "Relation", "Roster"]

LinkId = NewType("LinkId", int)


class Relation(Enum):
    """What an admitted peer is to us."""

    FIRST = "first"
    """Not seen before by this process."""
    BACK = "back"
    """The same incarnation as before."""
    RESTARTED = "restarted"
    """A known name with a new incarnation: it knows nothing of what was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Claim:
    """A greeted link that wants a name's channel."""

    link: LinkId
    name: str
    incarnation: Incarnation
    known_epoch: Epoch
    """The last epoch the peer remembers; the chosen one minus 1 where the peer chose."""
    is_ours: bool
    """Whether we initiated the link."""
    is_verified: bool = False
    """Whether the mechanism proved the name; behind plain anybody may claim any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admit:
    """Admit the link with this epoch."""

    link: LinkId
    epoch: Epoch
    relation: Relation


@dataclass(frozen=True, slots=True, kw_only=True)
class Refuse:
    """Refuse the link with a typed reason."""

    link: LinkId
    code: str
    detail: str
    retry_after_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Drop:
    """Close an admitted link: its successor is here. It counts as lost if it was up."""

    link: LinkId
    code: str
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Probe:
    """Ping this link and call `probe_answered` when the answer comes, `handle_timer` in any case."""

    link: LinkId


Decision = Admit | Refuse | Drop | Probe


@dataclass(slots=True)
class Peer:
    """What we remember of a name."""

    name: str
    incarnation: Incarnation
    epoch: Epoch
    link: LinkId | None
    """Its admitted link."""
    link_is_ours: bool
    is_verified: bool
    contender: Claim | None = None
    probe_until: float = 0.0


class Roster:
    """All peers of one node. Thread: the owner's.

    Args:
        name: Our own name.
        incarnation: Our own incarnation.
        probe_timeout_s: How long a live name's old channel may take to answer.
        duplicate_retry_s: What a rejected duplicate is told to wait.
    """

    def __init__(
        self,
        *,
        name: str,
        incarnation: Incarnation,
        probe_timeout_s: float = defaults.PROBE_TIMEOUT_S,
        duplicate_retry_s: float = defaults.BACKOFF_REJECTED_S,
    ) -> None:
        self.peers: dict[str, Peer] = {}
        self._name = name
        self._incarnation = incarnation
        self._probe_timeout_s = probe_timeout_s
        self._duplicate_retry_s = duplicate_retry_s
        self._greeted: dict[str, LinkId] = {}
        self._probing = False
        """Whether a peer may have a contender."""

    def has_link(self, name: str) -> bool:
        """Whether this peer has an admitted link."""
        peer = self.peers.get(name)
        return peer is not None and peer.link is not None

    # -- claims --------------------------------------------------------------------------------------------------

    def open_outgoing(self, link: LinkId, name: str) -> Refuse | None:
        """We initiated `link` and the peer proved to be `name`: may we greet it?"""
        if self.has_link(name) and self.peers[name].is_verified:
            return Refuse(link=link, code="duplicate_connection", detail=f"{name} is connected already")
        if name in self._greeted:
            return Refuse(link=link, code="duplicate_connection", detail=f"{name} is being greeted already")
        self._greeted[name] = link
        return None

    def judge(self, claim: Claim, now: float) -> list[Decision]:
        """Decide on a greeted link. An empty list means that a probe is under way and decides later."""
        if claim.name == self._name:
            code = "self_connection" if claim.incarnation == self._incarnation else "duplicate_name"
            detail = "a node cannot connect to itself" if code == "self_connection" else "this name is ours"
            return [Refuse(link=claim.link, code=code, detail=detail, retry_after_s=self._duplicate_retry_s)]
        greeted = self._greeted.get(claim.name)
        peer = self.peers.get(claim.name)
        if not claim.is_verified and (greeted is not None or (peer is not None and peer.is_verified)):
            detail = f"{claim.name} is known by its certificate, and nobody else may use the name"
            return [
                Refuse(link=claim.link, code="unverified_name", detail=detail, retry_after_s=self._duplicate_retry_s)
            ]
        if claim.is_verified and peer is not None and not peer.is_verified:
            return self._unmask(peer, claim)
        if greeted is not None and greeted != claim.link and not claim.is_ours:
            if self._name < claim.name:
                detail = f"{self._name} has dialled, and the smaller name's channel stays"
                return [Refuse(link=claim.link, code="duplicate_connection", detail=detail)]
            del self._greeted[claim.name]
            drop = Drop(link=greeted, code="duplicate_connection", detail="the smaller name's channel stays")
            return [drop, *self._judge_against_admitted(claim, now)]
        return self._judge_against_admitted(claim, now)

    def _judge_against_admitted(self, claim: Claim, now: float) -> list[Decision]:
        peer = self.peers.get(claim.name)
        if peer is None:
            return [self._admit(claim)]
        # The responder may not know what we know: we greeted it as a stranger, or over two channels at once.
        is_used = claim.is_ours and claim.known_epoch < peer.epoch
        detail = f"epoch {claim.known_epoch + 1} of {claim.name} was used before"
        introduction: list[Decision] = [Refuse(link=claim.link, code="introduce", detail=detail)]
        if peer.link is None:
            return introduction if is_used else [self._admit(claim)]
        if peer.incarnation != claim.incarnation:
            return introduction if is_used else self._contend(peer, claim, now)
        if peer.link_is_ours == claim.is_ours:
            if claim.is_ours:
                detail = f"{claim.name} is connected already"
                return [Refuse(link=claim.link, code="duplicate_connection", detail=detail)]
            contender = self._refuse_contender(peer)  # it made a new connection, so it is alive
            return contender + self._replace(peer, claim, "superseded", "the peer made a new connection")
        if claim.is_ours == (self._name < claim.name):
            if is_used:
                return introduction
            contender = self._refuse_contender(peer)
            return contender + self._replace(peer, claim, "duplicate_connection", "the smaller name's channel stays")
        return [Refuse(link=claim.link, code="duplicate_connection", detail="the smaller name's channel stays")]

    def _unmask(self, peer: Peer, claim: Claim) -> list[Decision]:
        """Somebody proves to be who another only said it was: nothing of the other's is taken over."""
        decisions = self._refuse_contender(peer)
        if peer.link is not None:
            decisions.append(Drop(link=peer.link, code="unverified_name", detail=f"{claim.name} itself is here"))
        del self.peers[claim.name]
        return [*decisions, self._admit(claim)]

    def _contend(self, peer: Peer, claim: Claim, now: float) -> list[Decision]:
        if peer.contender is not None:
            detail = f"{claim.name} is being probed for another newcomer"
            return [Refuse(link=claim.link, code="duplicate_name", detail=detail, retry_after_s=self._probe_timeout_s)]
        peer.contender = claim
        self._probing = True
        peer.probe_until = now + self._probe_timeout_s
        return [] if peer.link is None else [Probe(link=peer.link)]

    def _replace(self, peer: Peer, claim: Claim, code: str, detail: str) -> list[Decision]:
        old = peer.link
        admit = self._admit(claim)
        return [admit] if old is None else [Drop(link=old, code=code, detail=detail), admit]

    def _admit(self, claim: Claim) -> Admit:
        peer = self.peers.get(claim.name)
        if peer is None:
            relation, last = Relation.FIRST, 0
        else:
            relation = Relation.BACK if peer.incarnation == claim.incarnation else Relation.RESTARTED
            last = peer.epoch
        epoch = Epoch(claim.known_epoch + 1 if claim.is_ours else max(last, claim.known_epoch) + 1)
        self._greeted.pop(claim.name, None)
        self.peers[claim.name] = Peer(
            name=claim.name,
            incarnation=claim.incarnation,
            epoch=epoch,
            link=claim.link,
            link_is_ours=claim.is_ours,
            is_verified=claim.is_verified,
        )
        return Admit(link=claim.link, epoch=epoch, relation=relation)

    # -- what happened since -------------------------------------------------------------------------------------

    def probe_answered(self, link: LinkId) -> list[Decision]:
        """The probed link gave a sign of life: the newcomer is a duplicate."""
        for peer in self.peers.values():
            if peer.link == link:
                return self._refuse_contender(peer)
        return []

    def _refuse_contender(self, peer: Peer) -> list[Decision]:
        """Who was before has shown life: whoever waited for its end is a duplicate."""
        newcomer, peer.contender = peer.contender, None
        if newcomer is None:
            return []
        detail = f"another live process holds the name {peer.name}"
        refusal = Refuse(
            link=newcomer.link, code="duplicate_name", detail=detail, retry_after_s=self._duplicate_retry_s
        )
        return [refusal]

    def link_closed(self, link: LinkId) -> list[Decision]:
        """A link ended, admitted or not; a newcomer that waited for it takes over."""
        for name in [name for name, greeted in self._greeted.items() if greeted == link]:
            del self._greeted[name]
        for peer in self.peers.values():
            if peer.contender is not None and peer.contender.link == link:
                peer.contender = None
            if peer.link == link:
                peer.link = None
                if peer.contender is not None:
                    newcomer, peer.contender = peer.contender, None
                    return [self._admit(newcomer)]
        return []

    def forget(self, name: str) -> None:
        """Forget a peer that has no link."""
        if not self.has_link(name):
            self.peers.pop(name, None)

    def next_timer(self) -> float | None:
        """When the next probe runs out, in monotonic seconds."""
        if not self._probing:  # asked in every turn, and nearly always the case
            return None
        probed = [peer for peer in self.peers.values() if peer.contender is not None]
        self._probing = bool(probed)
        return min((peer.probe_until for peer in probed), default=None)

    def handle_timer(self, now: float) -> list[Decision]:
        """Probes that ran out: the old link is lost, the newcomer takes over."""
        decisions: list[Decision] = []
        for peer in list(self.peers.values()):
            if peer.contender is None or now < peer.probe_until:
                continue
            newcomer, peer.contender = peer.contender, None
            detail = f"no answer to a probe within {self._probe_timeout_s:g} s, and its successor is here"
            decisions += self._replace(peer, newcomer, "superseded", detail)
        return decisions
