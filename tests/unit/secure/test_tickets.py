"""Resumed handshakes: what makes them possible, and each check that OpenSSL leaves to us."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization

from rapini.errors import ConfigError
from rapini.secure.certificates import Issuer, LeafForm, make_authority, make_leaf
from rapini.secure.channel import ChannelClosed, HandshakeCompleted
from rapini.secure.identity import check_denied, identity_uri
from rapini.secure.material import TlsMaterial
from rapini.secure.tickets import (
    LIFETIME_S,
    MARGIN_S,
    MAX_PROOFS,
    MAX_READ_AT_ONCE,
    MAX_TICKETS,
    PAUSE_S,
    READING_PAUSE_S,
    Place,
    Tickets,
    issuers_of,
)
from rapini.secure.tls import TlsChannel
from rapini.testing.authority import IssuedFiles, ThrowawayAuthority
from tests.unit.secure.pairs import HOST, NOW, World, failure_of, load, settle

pytestmark = pytest.mark.filterwarnings("error")

ENDPOINT = "tcp+tls://127.0.0.1:9750"
HOUR = timedelta(hours=1)
PRE_SHARED_KEY, EARLY_DATA, PSK_MODES, KEY_SHARE = 41, 42, 45, 51  # extensions, RFC 8446 section 4.2


class Pair:
    """Two nodes that dial again and again, with clocks of their own."""

    def __init__(self, world: World, *, responder: TlsMaterial | None = None, **options: Any) -> None:
        self.initiator = load(world.authority.issue("sensor-1", **options))
        self.responder = responder or load(world.authority.issue("manager"))
        self.now = NOW
        self.wall = datetime.now(UTC)
        self.sessions: list[ssl.SSLSession | None] = []

    def channels(self, **options: Any) -> tuple[TlsChannel, TlsChannel]:
        """An initiator and a responder, not started."""
        options = {"check_host": HOST, "endpoint": ENDPOINT, "wall_now": self.wall, **options}
        return self.initiator.initiator(**options), self.responder.responder(wall_now=self.wall)

    def join(self, *, ticket: ssl.SSLSession | None = None, **options: Any) -> tuple[TlsChannel, TlsChannel]:
        """Handshake, then a greeting each way; `ticket` is forced on the initiator, past its own checks."""
        initiator, responder = self.channels(**options)
        if ticket is not None:
            initiator._tls.session = ticket
        initiator.start(self.now)
        responder.start(self.now)
        _settle(initiator, responder, self.now)
        if initiator.is_established and responder.is_established:
            initiator.send(b"hello")
            responder.send(b"welcome")
            _settle(initiator, responder, self.now)
            self.sessions.append(initiator._tls.session)
        return initiator, responder

    def is_resumed(self, **options: Any) -> bool:
        """Dial once; both sides must say the same."""
        found = []
        for channel in self.join(**options):
            completed = channel.outcomes()[0]
            assert isinstance(completed, HandshakeCompleted), completed
            assert channel.is_established
            found.append(completed.is_resumed)
        assert found[0] == found[1]
        return found[0]

    @property
    def tickets(self) -> Tickets:
        assert self.initiator.tickets is not None
        return self.initiator.tickets


def _settle(a: TlsChannel, b: TlsChannel, now: float) -> None:
    for _ in range(20):
        from_a, from_b = a.data_to_send(), b.data_to_send()
        if not from_a and not from_b:
            return
        if from_a:
            b.receive(from_a, now)
        if from_b:
            a.receive(from_b, now)
    raise AssertionError("they never stop talking")


@pytest.fixture
def pair(world: World) -> Pair:
    return Pair(world)


# --- what works ---


def test_a_second_dial_resumes_and_both_sides_prove_the_same_as_before(pair: Pair) -> None:
    full = [channel.outcomes()[0] for channel in pair.join()]
    resumed = [channel.outcomes()[0] for channel in pair.join()]
    for before, after in zip(full, resumed, strict=True):
        assert isinstance(before, HandshakeCompleted)
        assert isinstance(after, HandshakeCompleted)
        assert (before.is_resumed, after.is_resumed) == (False, True)
        assert after.identity == before.identity
        assert after.version == "TLSv1.3"


def test_each_resumed_handshake_brings_the_ticket_for_the_next(pair: Pair) -> None:
    assert [pair.is_resumed() for _ in range(5)] == [False, True, True, True, True]


def test_a_ticket_is_used_once(pair: Pair) -> None:
    """RFC 8446 appendix C.4: two connections with one ticket would show an onlooker that they are of one client."""
    pair.join()
    first, second = pair.channels()[0], pair.channels()[0]
    first.start(NOW)
    second.start(NOW)
    assert PRE_SHARED_KEY in _extensions(first.data_to_send())
    assert PRE_SHARED_KEY not in _extensions(second.data_to_send())
    much_later = pair.channels()[0]
    much_later.start(NOW + PAUSE_S)
    assert PRE_SHARED_KEY not in _extensions(much_later.data_to_send())


def test_a_ticket_is_looked_for_once_per_channel_not_with_each_record(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Taking it out of OpenSSL costs about 0.2 ms."""
    kept, keep = [], Tickets.keep

    def counted(self: Tickets, place: Place, *arguments: Any, **options: Any) -> None:
        kept.append(place)
        keep(self, place, *arguments, **options)

    monkeypatch.setattr(Tickets, "keep", counted)
    initiator, responder = pair.join()
    for _ in range(50):
        responder.send(b"more")
        settle(initiator, responder)
    assert kept == [Place(ENDPOINT, HOST)]


def test_no_ticket_without_a_place_to_keep_it_for(pair: Pair) -> None:
    assert [pair.is_resumed(endpoint=None) for _ in range(2)] == [False, False]
    assert len(pair.tickets) == 0


def test_a_peer_that_has_said_nothing_has_admitted_nobody_and_its_ticket_is_not_kept(pair: Pair) -> None:
    initiator, responder = pair.channels()
    initiator.start(NOW)
    responder.start(NOW)
    settle(initiator, responder)
    assert initiator.is_established
    responder.close()
    settle(initiator, responder)
    assert initiator.outcomes()[-1] == ChannelClosed()
    assert len(pair.tickets) == 0


def test_resumption_can_be_switched_off_on_either_side(world: World) -> None:
    off = {name: _load_without(world.authority.issue(name)) for name in ("sensor-1", "manager")}
    assert all(material.tickets is None for material in off.values())
    pair = Pair(world, responder=off["manager"])
    assert [pair.is_resumed() for _ in range(3)] == [False, False, False]
    assert len(pair.tickets) == 0, "a responder without tickets works, and gives none"
    pair = Pair(world)
    pair.initiator = off["sensor-1"]
    assert [pair.is_resumed() for _ in range(3)] == [False, False, False]


def test_a_resumed_handshake_agrees_on_a_new_key_and_sends_no_early_data(pair: Pair) -> None:
    """The ticket's key alone would open every recording of what followed it."""
    pair.join()
    initiator, responder = pair.channels()
    initiator.start(NOW)
    responder.start(NOW)
    hello = initiator.data_to_send()
    asked = _extensions(hello)
    assert PRE_SHARED_KEY in asked
    assert asked[PSK_MODES] == b"\x01\x01", "psk_dhe_ke alone"
    assert EARLY_DATA not in asked
    responder.receive(hello, NOW)
    answered = _extensions(responder.data_to_send())
    assert {PRE_SHARED_KEY, KEY_SHARE} <= answered.keys()


def test_the_responder_keeps_no_tickets(pair: Pair) -> None:
    for _ in range(20):
        pair.join()
    stats = pair.responder.contexts.responder.session_stats()
    assert (stats["number"], stats["hits"]) == (0, 19)
    assert pair.responder.tickets is not None
    assert len(pair.responder.tickets) == 0


# --- what OpenSSL does not look at: the tripwires that say why we must ---


def test_openssl_itself_would_resume_for_any_host(pair: Pair) -> None:
    """If this ever fails, OpenSSL checks the host in resumed handshakes, and our check is the second one."""
    pair.join()
    initiator, responder = pair.channels(check_host="other.example", endpoint=None)
    initiator._tls.session = pair.sessions[-1]
    initiator.start(NOW)
    responder.start(NOW)
    settle(initiator, responder)
    assert initiator._tls.session_reused
    assert failure_of(initiator) == ("wrong_host", "ours")


def test_the_session_id_context_does_not_keep_nodes_apart_so_the_ticket_key_must(world: World) -> None:
    """Python gives every context the same one; two nodes of one process still cannot read each other's tickets."""
    files = world.authority.issue("manager")
    pair = Pair(world, responder=load(files))
    pair.join()
    pair.responder = load(files)
    assert not pair.is_resumed()
    assert pair.is_resumed()


# --- the checks ---


def test_a_ticket_is_not_offered_elsewhere(pair: Pair) -> None:
    pair.join()
    assert not pair.is_resumed(endpoint="tcp+tls://127.0.0.1:9751")
    assert not pair.is_resumed(check_host=None)
    assert not pair.is_resumed(check_host="localhost")
    assert len(pair.tickets) == 4, "each has its own now"
    assert pair.is_resumed()


def test_a_ticket_of_another_host_is_refused_as_its_certificate_would_be(pair: Pair) -> None:
    pair.join()
    initiator, responder = pair.join(check_host="other.example", ticket=pair.sessions[-1])
    assert failure_of(initiator) == ("wrong_host", "ours")
    assert responder.outcomes()[-1] == ChannelClosed()


def test_a_ticket_of_another_node_than_expected(pair: Pair) -> None:
    pair.join()
    initiator, _ = pair.join(expect_peer="logger")
    assert failure_of(initiator) == ("wrong_name", "ours")


def test_a_ticket_of_another_context_is_not_taken_by_python(world: World, pair: Pair) -> None:
    pair.join()
    with pytest.raises(ValueError, match="different SSLContext"):
        Pair(world).join(ticket=pair.sessions[-1])


def test_a_certificate_that_ended_meanwhile_is_refused_with_the_code_of_a_full_handshake(world: World) -> None:
    pair = Pair(world, not_after=datetime.now(UTC) + HOUR)
    pair.join()
    pair.wall += HOUR * 1.5
    _, responder = pair.join(ticket=pair.sessions[-1])
    assert failure_of(responder) == ("certificate_expired", "ours")
    pair.wall -= HOUR * 30
    _, responder = pair.join(ticket=pair.sessions[-1])
    assert failure_of(responder) == ("certificate_not_yet_valid", "ours")


def test_without_a_given_time_the_clock_counts(world: World) -> None:
    """In a full handshake OpenSSL looks at the clock; in a resumed one nobody would."""
    pair = Pair(world)
    pair.join()
    assert pair.responder.tickets is not None
    pair.responder.tickets.clock = lambda: datetime.now(UTC) + timedelta(days=2)
    initiator = pair.channels()[0]
    responder = pair.responder.responder()
    initiator.start(NOW)
    responder.start(NOW)
    settle(initiator, responder)
    assert failure_of(responder) == ("certificate_expired", "ours")


def test_an_honest_initiator_makes_a_full_handshake_when_either_certificate_is_about_to_end(world: World) -> None:
    soon = datetime.now(UTC) + HOUR
    pair = Pair(world, not_after=soon)
    pair.join()
    pair.wall = soon - timedelta(seconds=MARGIN_S / 2)
    assert not pair.is_resumed(), "ours"
    pair = Pair(world, responder=load(world.authority.issue("manager", not_after=soon)))
    pair.join()
    pair.wall = soon - timedelta(seconds=MARGIN_S / 2)
    assert not pair.is_resumed(), "the peer's"


def test_an_authority_that_ended_meanwhile(world: World, tmp_path: Path) -> None:
    short = ThrowawayAuthority(tmp_path, not_after=datetime.now(UTC) + HOUR)
    later = datetime.now(UTC) + 9 * HOUR
    pair = Pair(world, responder=load(short.issue("manager", not_after=later)))
    pair.initiator = load(short.issue("sensor-1", not_after=later))
    pair.join()
    assert pair.is_resumed()
    pair.wall += HOUR * 1.5
    _, responder = pair.join(ticket=pair.sessions[-1])
    assert failure_of(responder) == ("certificate_expired", "ours")


def test_resuming_does_not_renew_the_proof(pair: Pair) -> None:
    """A chain of resumptions, each within the two hours of its ticket, ends two hours after the full handshake."""
    pair.join()
    for _ in range(3):
        pair.now += LIFETIME_S / 3 - MARGIN_S
        assert pair.is_resumed()
    forged = pair.sessions[-1]
    pair.now = NOW + LIFETIME_S - MARGIN_S
    assert not pair.is_resumed(), "the initiator stops in time"
    pair.now = NOW + 2 * LIFETIME_S
    initiator, responder = pair.join(ticket=forged)
    assert failure_of(responder) == ("resumption_refused", "ours")
    assert initiator.is_closed


def test_a_host_that_slept_makes_a_full_handshake(pair: Pair) -> None:
    """Its monotonic clock stood still, the responder's did not."""
    pair.join()
    pair.wall += timedelta(seconds=LIFETIME_S)
    assert not pair.is_resumed()


@pytest.mark.parametrize("by", ["name", "fingerprint"])
@pytest.mark.parametrize("who", ["initiator", "responder"])
def test_who_is_denied_is_refused_in_full_and_in_resumed_handshakes(world: World, by: str, who: str) -> None:
    pair = Pair(world)
    judge, peer = (pair.responder, pair.initiator) if who == "initiator" else (pair.initiator, pair.responder)
    pair.join()
    denied = check_denied([peer.identity.node if by == "name" else peer.identity.fingerprint_sha256.upper()])
    # Into the live material, which nobody should do: so that the ticket is good and the list alone refuses.
    object.__setattr__(judge, "denied", denied)
    for ticket in (pair.sessions[-1], None):
        initiator, responder = pair.join(ticket=ticket, endpoint=None)
        assert bool(initiator._tls.session_reused) is (ticket is not None)
        judging = responder if who == "initiator" else initiator
        assert failure_of(judging) == ("certificate_revoked", "ours")


def test_a_deny_list_takes_names_and_fingerprints_as_people_write_them() -> None:
    colons = ":".join(["AB"] * 32)
    assert check_denied(["sensor-1", colons]) == {"sensor-1", "ab" * 32}
    with pytest.raises(ConfigError) as caught:
        check_denied(["not a name"])
    assert caught.value.code == "bad_name"


def test_retired_material_forgets_and_refuses(pair: Pair) -> None:
    pair.join()
    ticket = pair.sessions[-1]
    pair.initiator.retire()
    assert len(pair.tickets) == 0
    assert not pair.is_resumed()
    assert len(pair.tickets) == 0, "what channels still bring is not kept"
    pair.responder.retire()
    _, responder = pair.join(ticket=ticket)
    assert failure_of(responder) == ("resumption_refused", "ours"), "a handshake under way when the trust changed"
    assert not pair.is_resumed()
    _, responder = pair.join(ticket=ticket)
    assert failure_of(responder) == ("resumption_refused", "ours"), "what the old trust proves counts no more"


def test_a_changed_trust_refuses_the_old_authoritys_nodes_whatever_tickets_they_hold(world: World) -> None:
    """Old authority, both, new one alone: the ticket made under each is worth nothing under the next."""
    files = world.authority.issue("manager")
    pair = Pair(world, responder=load(files))
    pair.join()
    assert pair.is_resumed()
    files.trust_path.write_bytes(world.other.trust_pem + world.authority.trust_pem)
    pair.responder.retire()
    pair.responder = load(files)
    assert not pair.is_resumed()
    assert pair.is_resumed()
    files.trust_path.write_bytes(world.other.trust_pem)
    pair.responder.retire()
    pair.responder = load(files)
    initiator, responder = pair.join()
    assert failure_of(responder) == ("unknown_ca", "ours")
    assert failure_of(initiator) == ("peer_refused_unknown_ca", "theirs")


def test_a_ticket_whose_certificate_was_never_proved_here_is_refused(pair: Pair) -> None:
    pair.join()
    assert pair.responder.tickets is not None
    pair.responder.tickets._proofs.clear()
    _, responder = pair.join()
    assert failure_of(responder) == ("resumption_refused", "ours")


def test_a_channel_without_tickets_refuses_whoever_resumes(pair: Pair) -> None:
    pair.join()
    lax = TlsChannel(
        pair.responder.contexts.responder, is_initiator=False, cluster="test", handshake_timeout_s=10, tickets=None
    )
    initiator = pair.channels()[0]
    initiator.start(NOW)
    lax.start(NOW)
    settle(initiator, lax)
    assert failure_of(lax) == ("resumption_refused", "ours")


def test_after_a_refusal_the_place_gets_full_handshakes(pair: Pair) -> None:
    """Else each second dial would fail, for as long as the responder refuses."""
    pair.join()
    assert pair.responder.tickets is not None
    pair.responder.tickets._proofs.clear()
    initiator, _ = pair.join()
    assert initiator.is_closed
    for after in (0.0, PAUSE_S - 1):
        pair.now = NOW + after
        assert not pair.is_resumed()
    pair.now = NOW + PAUSE_S
    pair.join()
    assert pair.is_resumed()


# --- tickets in wrong hands ---


def test_who_overhears_a_ticket_cannot_use_it(pair: Pair) -> None:
    """A recorded connection, said again word for word: the ticket is good, and there is no key to it."""
    pair.join()
    initiator, responder = pair.channels()
    initiator.start(NOW)
    responder.start(NOW)
    said = []
    for _ in range(3):
        said.append(initiator.data_to_send())
        responder.receive(said[-1], NOW)
        initiator.receive(responder.data_to_send(), NOW)
    assert isinstance(responder.outcomes()[0], HandshakeCompleted)
    thief = pair.channels()[1]
    thief.start(NOW)
    thief.receive(said[0], NOW)
    assert thief.outcomes() == [], "it is answered, as every stranger is"
    for words in said[1:]:
        thief.receive(words, NOW)
    assert failure_of(thief) == ("record_damaged", "ours")


def test_an_altered_ticket_is_worth_nothing(pair: Pair) -> None:
    """One flipped bit anywhere in the hello: never a resumed session, never an exception."""
    pair.join()
    template = pair.sessions[-1]
    for place in range(0, 1300, 37):
        initiator, responder = pair.channels(endpoint=None)
        initiator._tls.session = template
        initiator.start(NOW)
        responder.start(NOW)
        hello = bytearray(initiator.data_to_send())
        hello[place % len(hello)] ^= 1
        responder.receive(bytes(hello), NOW)
        initiator.receive(responder.data_to_send(), NOW)
        responder.receive(initiator.data_to_send(), NOW)
        assert not any(isinstance(outcome, HandshakeCompleted) for outcome in responder.outcomes())
        assert not responder.is_established


def test_nothing_is_written_anywhere(pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with _opened_files() as opened:
        pair.join()
        assert pair.is_resumed()
        (tmp_path / "witness").write_bytes(b"")
    assert [Path(str(path)).name for path in opened] == ["witness"]
    assert [path.name for path in tmp_path.iterdir()] == ["witness"]


# --- bounds ---


def test_what_is_kept_is_bounded_and_the_oldest_goes_first(pair: Pair) -> None:
    pair.join()
    tickets, session = pair.tickets, pair.sessions[-1]
    for number in range(2 * MAX_TICKETS):
        tickets.keep(Place(f"tcp+tls://h:{number}", None), session, "ab" * 32, was_offered=False)
        assert len(tickets) <= MAX_TICKETS
    assert len(tickets) == MAX_TICKETS
    assert pair.is_resumed() is False, "the oldest"
    for number in range(MAX_PROOFS + 10):
        tickets.proved(b"", f"{number:064x}", None, NOW, pair.wall)
    assert len(tickets._proofs) == MAX_PROOFS
    assert (f"{0:064x}", None) not in tickets._proofs
    assert (f"{MAX_PROOFS + 9:064x}", None) in tickets._proofs


@pytest.mark.parametrize("leaks", [True, False])
def test_where_reading_a_ticket_leaks_it_is_not_done_without_end(
    pair: Pair, monkeypatch: pytest.MonkeyPatch, *, leaks: bool
) -> None:
    """CPython issue 116810: 6 KB each time. Without its ticket a place gets a full handshake."""
    monkeypatch.setattr("rapini.secure.tickets.READING_LEAKS", leaks)
    dials = MAX_READ_AT_ONCE + 5
    resumed = sum(pair.is_resumed() for _ in range(dials))
    assert resumed == (MAX_READ_AT_ONCE if leaks else dials - 1)
    if leaks:
        pair.now += READING_PAUSE_S
        assert [pair.is_resumed() for _ in range(3)] == [False, True, False]


def test_attempts_that_came_to_nothing_are_bounded_too(pair: Pair) -> None:
    pair.join()
    fingerprint, session = pair.responder.identity.fingerprint_sha256, pair.sessions[-1]
    for number in range(MAX_TICKETS + 10):
        place = Place(f"tcp+tls://h:{number}", HOST)
        pair.tickets.keep(place, session, fingerprint, was_offered=False)
        assert pair.tickets.take(place, NOW, pair.wall) is session
    assert len(pair.tickets._on_trial) == MAX_TICKETS


# --- chains ---


def test_a_longer_chain_is_never_resumed_because_nobody_could_look_at_its_middle_again(world: World) -> None:
    """Python shows the peer's own certificate alone. Full handshakes go on working, and none fails for it."""
    chain = LongChain.make()
    for issuer_of_initiator, issuer_of_responder, is_resumed in (
        (chain.root, chain.root, True),
        (chain.middle, chain.root, False),
        (chain.root, chain.middle, False),
    ):
        pair = Pair(world, responder=chain.files(world, "manager", issuer_of_responder))
        pair.initiator = chain.files(world, "sensor-1", issuer_of_initiator)
        assert [pair.is_resumed() for _ in range(3)] == [False, is_resumed, is_resumed]


def test_a_responder_refuses_to_resume_a_longer_chain(world: World) -> None:
    chain = LongChain.make()
    pair = Pair(world, responder=chain.files(world, "manager", chain.root))
    pair.initiator = chain.files(world, "sensor-1", chain.middle)
    pair.join()
    _, responder = pair.join(ticket=pair.sessions[-1])
    assert failure_of(responder) == ("resumption_refused", "ours")


def test_issuers_are_found_by_name_and_signature(world: World, tmp_path: Path) -> None:
    namesake = ThrowawayAuthority(tmp_path)  # of the same name as the world's, with another key
    ours, theirs = (x509.load_pem_x509_certificate(each.trust_pem) for each in (world.authority, namesake))
    assert ours.subject == theirs.subject
    leaf = x509.load_pem_x509_certificate(world.authority.issue("n").certificate_path.read_bytes())
    assert issuers_of(leaf.public_bytes(serialization.Encoding.DER), [theirs, ours]) == (ours,)
    assert issuers_of(leaf.public_bytes(serialization.Encoding.DER), [theirs]) == ()
    assert issuers_of(b"no certificate", [ours]) == ()


def _load_without(files: IssuedFiles) -> TlsMaterial:
    return TlsMaterial.load(files.certificate_path, files.key_path, files.trust_path, resume=False)


def _extensions(record: bytes) -> dict[int, bytes]:
    """The extensions of the ClientHello or ServerHello that a first record holds."""
    at = 5 + 4 + 2 + 32  # record's and message's heads, version, random
    is_client = record[5] == 1
    at += 1 + record[at]
    if is_client:
        at += 2 + int.from_bytes(record[at : at + 2], "big")
        at += 1 + record[at]
    else:
        at += 3
    end = at + 2 + int.from_bytes(record[at : at + 2], "big")
    at += 2
    found = {}
    while at < end:
        kind, size = (int.from_bytes(record[i : i + 2], "big") for i in (at, at + 2))
        found[kind] = record[at + 4 : at + 4 + size]
        at += 4 + size
    return found


_watched: list[list[object]] = []


def _audit(event: str, arguments: tuple[object, ...]) -> None:
    if event == "open" and _watched:
        _watched[-1].append(arguments[0])


@contextmanager
def _opened_files() -> Iterator[list[object]]:
    """The files that Python opens meanwhile."""
    if not hasattr(_audit, "is_on"):
        sys.addaudithook(_audit)  # cannot be taken back
        _audit.is_on = True  # type: ignore[attr-defined]
    _watched.append([])
    try:
        yield _watched[-1]
    finally:
        _watched.pop()


@dataclass
class LongChain:
    """An authority that allows others below it, unlike those of `rapini ca`, and one such."""

    root: Issuer
    middle: Issuer

    @classmethod
    def make(cls) -> LongChain:
        root = _authority("root", None)
        return cls(root, _authority("middle", root))

    def files(self, world: World, name: str, issuer: Issuer) -> TlsMaterial:
        """A node that one of the two issued; all trust the root."""
        files = world.authority.issue(name)
        form = LeafForm(
            common_name=name,
            uris=[identity_uri("test", name)],
            hosts=[HOST],
            not_before=issuer.certificate.not_valid_before_utc,
            not_after=issuer.certificate.not_valid_after_utc,
        )
        leaf = make_leaf(issuer, form)
        chain = b"" if issuer is self.root else issuer.certificate_pem()
        files.certificate_path.write_bytes(leaf.certificate_pem() + chain)
        files.key_path.write_bytes(leaf.key_pem())
        files.trust_path.write_bytes(self.root.certificate_pem())
        return load(files)


def _authority(name: str, issuer: Issuer | None) -> Issuer:
    made = make_authority(name, not_before=datetime.now(UTC) - HOUR, not_after=datetime.now(UTC) + 9 * HOUR)
    signer = issuer or made
    builder = x509.CertificateBuilder(
        issuer_name=signer.certificate.subject,
        subject_name=made.certificate.subject,
        public_key=made.key.public_key(),
        serial_number=x509.random_serial_number(),
        not_valid_before=made.certificate.not_valid_before_utc,
        not_valid_after=made.certificate.not_valid_after_utc,
    )
    usage = made.certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(usage, critical=True)
    for extension in (
        x509.SubjectKeyIdentifier.from_public_key(made.key.public_key()),
        x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.key.public_key()),
    ):
        builder = builder.add_extension(extension, critical=False)
    return Issuer(certificate=builder.sign(signer.key, hashes.SHA256()), key=made.key)
