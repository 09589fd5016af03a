"""One channel's life as a session sees it: greeting, state exchange, flow, heartbeat, goodbye. Sans-IO.

A `Link` sits on a `rapini.secure` channel and below the node: bytes of one connection go in with the time, bytes and
outcomes come out. It never outlives its connection; what two nodes share *across* connections (epochs, unacknowledged
events) is kept by `roster` and `outbox`.

    initiator                                   responder
    channel ........ handshake ................ channel        HANDSHAKING
    Hello  ------------------------------------>               GREETING
           (the roster judges, the admission hook is asked)    JUDGING
           <------------------------------------ Welcome       SYNCING
    Subscriptions <---------------------------> Subscriptions
    Subscribed, Ready <-----------------------> Subscribed, Ready
    Events, Ack, Ping, Pong <-----------------> …              UP
    Goodbye ----------------------------------> Goodbye        LEAVING, CLOSED

A side sends `Ready` once the peer's subscriptions are in force, and events only when both have said it; frames keep
their order, so no event can arrive before the state it depends on. What a state may receive stands in `TRANSITIONS`;
anything else is the peer's fault and ends the link with `protocol_error`. A link is `UP` only after the responder's
`Welcome`, since the client of a TLS 1.3 handshake finishes before the server has judged its certificate (RFC 8446
section 4.4.2.4 and appendix E.1.2).
"""

from __future__ import annotations

from rapini import limits
from rapini.errors import DecodeError
from rapini.events import is_topic
from rapini.events.delivery import Delivery
from rapini.secure.channel import ChannelClosed, ChannelFailed, DataReceived, HandshakeCompleted, Side
from rapini.session.asking import Heard
from rapini.session.link_core import Timing, ViolationError
from rapini.session.link_intents import LinkIntents
from rapini.session.messages import (
    PROTOCOL_VERSION,
    Ack,
    Body,
    Epoch,
    FrameKind,
    Gap,
    Goodbye,
    Greeting,
    Hello,
    Ping,
    Pong,
    Position,
    Ready,
    Reject,
    Request,
    Response,
    Stream,
    Strings,
    Subscribed,
    Subscriptions,
    Welcome,
    decode_body_untrusted,
    split_durable_untrusted,
    split_events_untrusted,
    split_store_untrusted,
)
from rapini.session.outcomes import (
    AnswerReceived,
    ChannelOpened,
    CloseKind,
    DurableReceived,
    EventsAcknowledged,
    EventsReceived,
    GapReceived,
    GreetingReceived,
    LinkClosed,
    LinkOutcome,
    LinkUp,
    PongReceived,
    PositionTold,
    RequestExpired,
    RequestReceived,
    StoreReceived,
    StreamAnnounced,
    SubscriptionsInForce,
    SubscriptionsReceived,
)
from rapini.session.states import TRANSITIONS, Input, LinkState
from rapini.session.texts import printable, reason

__all__ = [
    "TRANSITIONS",
    "AnswerReceived",
    "ChannelOpened",
    "CloseKind",
    "DurableReceived",
    "EventsAcknowledged",
    "EventsReceived",
    "GapReceived",
    "GreetingReceived",
    "Input",
    "Link",
    "LinkClosed",
    "LinkOutcome",
    "LinkState",
    "LinkUp",
    "PongReceived",
    "PositionTold",
    "RequestExpired",
    "RequestReceived",
    "StoreReceived",
    "StreamAnnounced",
    "SubscriptionsInForce",
    "SubscriptionsReceived",
    "Timing",
]


class Link(LinkIntents):
    """One channel's session life. Thread: the owner's.

    After every call drain `data_to_send()` and `outcomes()`, then re-arm `next_timer()`. Made as `LinkCore` says.
    """

    # -- bytes and time ------------------------------------------------------------------------------------------

    def receive(self, data: bytes | memoryview, now: float) -> None:
        """Feed bytes of the connection, hostile or not, in order; over datagrams one of them, in any order."""
        if self.state is LinkState.CLOSED:
            if self._lossy is not None:
                self._channel.receive(data, now)  # it has to hear that its last words arrived
            return
        self._channel.receive(data, now)
        self._drain_channel(now)

    def transport_ended(self, code: str, detail: str, now: float) -> None:
        """The connection is gone."""
        if self.state is LinkState.HANDSHAKING and code in ("closed", "reset"):
            # The channel knows better what that means in its handshake; why the transport ended it, the transport.
            self._channel.transport_ended(now)
            self._drain_channel(now)
        self._close(self._how_it_ends(), code, Side.THEIRS, detail)

    def data_to_send(self) -> bytes:
        """Bytes for the connection; empty when there are none. Over datagrams, the next one."""
        return self._channel.data_to_send()

    def outcomes(self) -> list[LinkOutcome]:
        """What happened since the last call, in order."""
        happened, self._outcomes = self._outcomes, []
        return happened

    def next_timer(self) -> float | None:
        """When `handle_timer` wants to be called, in monotonic seconds."""
        if self.state is LinkState.CLOSED:
            return None if self._lossy is None else self._channel.next_timer()
        if self.state not in (LinkState.UP, LinkState.LEAVING):
            channel = self._channel.next_timer()
            return self._deadline if channel is None else min(self._deadline, channel)
        heartbeat = min(
            self._last_sent + self._heartbeat_s,
            self._last_heard + self._timing.heartbeat_timeout_s,
            self.asking.next_timer(),
        )
        if self._lossy is None:
            return heartbeat
        channel = self._channel.next_timer()
        return heartbeat if channel is None else min(heartbeat, channel)

    def handle_timer(self, now: float) -> None:
        """Do what is due: a heartbeat, or the end of patience."""
        if self.state is LinkState.CLOSED:
            if self._lossy is not None:
                self._channel.handle_timer(now)
            return
        if self._lossy is not None and self.state in (LinkState.UP, LinkState.LEAVING):
            self._channel.handle_timer(now)
            self._drain_channel(now)
            if self.is_closed:
                return
        if self.state not in (LinkState.UP, LinkState.LEAVING):
            self._channel.handle_timer(now)
            self._drain_channel(now)
            if now >= self._deadline and not self.is_closed:
                code = "handshake_timeout" if self.state is LinkState.HANDSHAKING else "greeting_timeout"
                detail = f"no session within {self._timing.handshake_timeout_s:g} s (state: {self.state.value})"
                self._close(CloseKind.FAILED, code, Side.THEIRS, detail)
            return
        self._outcomes += [RequestExpired(id=number) for number in self.asking.handle_timer(now)]
        if now >= self._last_heard + self._timing.heartbeat_timeout_s:
            silent = now - self._last_heard
            self._close(self._how_it_ends(), "silent", Side.THEIRS, f"nothing heard for {silent:.1f} s")
        elif now >= self._last_sent + self._heartbeat_s:
            self.ping(now)

    def forgive(self, pause_s: float) -> None:
        """Our own process stood still: do not count that time against the peer."""
        self._last_heard += pause_s
        self._deadline += pause_s
        self.asking.forgive(pause_s)
        if self._lossy is not None:
            self._lossy.forgive(pause_s)

    # -- the machine ---------------------------------------------------------------------------------------------

    def _drain_channel(self, now: float) -> None:
        if self._lossy is not None:
            self._last_heard = max(self._last_heard, self._lossy.heard_at)
        for outcome in self._channel.outcomes():
            match outcome:
                case DataReceived(data=data):
                    self._last_heard = now  # of the peer for certain: what is not protected is anybody's
                    sole = self._frames.sole_batch_untrusted(data) if self.state is LinkState.UP else None
                    if sole is None:
                        self._receive_plaintext(data, now)
                    else:
                        delivery, first, count, batch = sole
                        self._outcomes.append(
                            EventsReceived(delivery=delivery, first_sequence=first, count=count, batch=batch)
                        )
                case HandshakeCompleted(identity=identity, cipher=cipher, version=version, is_resumed=is_resumed):
                    self._move(Input.OPENED)
                    self.identity = identity
                    self._outcomes.append(
                        ChannelOpened(identity=identity, cipher=cipher, version=version, is_resumed=is_resumed)
                    )
                case ChannelFailed(code=code, side=side, detail=detail):
                    self._close(self._how_it_ends(), code, side, detail)
                case ChannelClosed():
                    self.transport_ended("closed", "the peer closed the channel", now)

    def _receive_plaintext(self, data: bytes, now: float) -> None:
        try:
            for kind, body in self._frames.frames_untrusted(data):
                if self.is_closed:
                    return
                if kind is FrameKind.EVENTS:
                    self._on_events(body)
                elif kind is FrameKind.DURABLE:
                    self._on_durable(body)
                elif kind is FrameKind.STORE:
                    self._on_store(body, now)
                else:
                    self._on_body(kind, decode_body_untrusted(kind, body), now)
        except DecodeError as exc:  # the peer is at fault after authentication: it hears why, typed
            self.refuse("protocol_error", str(exc), now)
        except ViolationError as exc:
            self.refuse(exc.code, exc.detail, now)

    def _on_events(self, body: memoryview) -> None:
        if self.state is not LinkState.UP:  # the table says so too; looking it up is dear where batches are many
            self._move(Input.EVENTS)
        header, batch = split_events_untrusted(body)
        self._outcomes.append(
            EventsReceived(
                delivery=header.delivery,
                first_sequence=header.first_sequence,
                count=header.count,
                batch=bytes(batch),
            )
        )

    def _on_durable(self, body: memoryview) -> None:
        if self.state is not LinkState.UP:
            self._move(Input.DURABLE)
        header, batch = split_durable_untrusted(body)
        self._outcomes.append(
            DurableReceived(
                after=header.after, first_sequence=header.first_sequence, count=header.count, batch=bytes(batch)
            )
        )

    def _on_store(self, body: memoryview, now: float) -> None:
        self._move(Input.STORE)
        store, data = split_store_untrusted(body)
        if self.state is LinkState.SYNCING:  # a large table takes its time, and is a sign of life
            self._deadline = max(self._deadline, now + self._timing.handshake_timeout_s)
        self._outcomes.append(StoreReceived(store=store, data=data))

    def _on_body(self, kind: FrameKind, body: Body, now: float) -> None:
        # Acknowledgements of something new, gaps, which take credit, and requests, which have a bound of their own, are
        # as many as the traffic makes them.
        is_news = isinstance(body, (Gap, Strings, Request, Response)) or (
            isinstance(body, Ack) and sum(body.taken) > self._acknowledged
        )
        if not is_news and not self._allowance.take(now):
            raise ViolationError("flood", "more control frames than anybody needs")
        match body:
            case Ack(taken=taken):
                self._move(Input.ACK)
                self._acknowledged = max(self._acknowledged, sum(taken))
                self._outcomes.append(EventsAcknowledged(taken=taken))
            case Gap():
                self._on_gap(body)
            case Request() | Response():
                self._on_asking(body, now)
            case Ping(token=token):
                self._move(Input.PING)
                self._send(Pong(token), now)
            case Pong(token=token):
                self._move(Input.PONG)
                self._outcomes.append(PongReceived(token=token))
            case Subscriptions():
                self._on_subscriptions(body, now)
            case Subscribed(version=version):
                self._move(Input.SUBSCRIBED)
                self._outcomes.append(SubscriptionsInForce(version=version))
            case Stream() | Position() | Strings():
                self._on_stream(body)
            case _:
                self._on_turning_point(kind, body, now)

    def _on_turning_point(self, kind: FrameKind, body: Body, now: float) -> None:
        """What moves a link from one state to the next, each once in its life."""
        match body:
            case Hello():
                self._on_hello(body)
            case Welcome():
                self._on_welcome(body)
            case Ready():
                self._on_ready()
            case Reject(code=code, detail=detail, retry_after_ms=pause_ms):
                self._on_reject(code, detail, pause_ms)
            case Goodbye(code=code, detail=detail):
                self._on_goodbye(code, detail, now)
            case _:
                raise ViolationError("protocol_error", f"{kind.name} has no handler")

    def _on_gap(self, gap: Gap) -> None:
        self._move(Input.GAP)
        if len(gap.topics) > limits.MAX_GAP_TOPICS or not all(map(str.isprintable, gap.topics)):
            raise ViolationError("protocol_error", "a gap in what cannot be topics")
        self._outcomes.append(
            GapReceived(
                delivery=Delivery(gap.delivery),
                first_sequence=gap.first_sequence,
                count=gap.count,
                reason=reason(gap.reason),
                topics=gap.topics,
            )
        )

    def _on_asking(self, body: Request | Response, now: float) -> None:
        if isinstance(body, Request):
            self._move(Input.REQUEST)
            fault = self.asking.received(body, now) if is_topic(body.topic) else "a request on what is no topic"
            if fault:
                raise ViolationError("protocol_error", fault)
            self._outcomes.append(
                RequestReceived(id=body.id, topic=body.topic, wants_reply=body.wants_reply, payload=body.payload)
            )
            return
        self._move(Input.RESPONSE)
        match self.asking.heard(body.id):
            case Heard.UNASKED:
                raise ViolationError("protocol_error", "a response to what was not asked")
            case Heard.ANSWER:
                code = reason(body.code) if body.code else ""
                detail = printable(body.detail)
                self._outcomes.append(AnswerReceived(id=body.id, code=code, detail=detail, payload=body.payload))
            case Heard.LATE:
                pass  # counted

    def _on_stream(self, body: Stream | Position | Strings) -> None:
        match body:
            case Strings(base=base, pairs=pairs):
                self._move(Input.STRINGS)
                if base != len(self.peer_strings) or base + len(pairs) > limits.MAX_STRINGS:
                    raise ViolationError("protocol_error", "names that do not continue those told before")
                self.peer_strings += pairs
            case Stream(stream_id=stream_id):
                self._move(Input.STREAM)
                if self._stream_heard:
                    raise ViolationError("protocol_error", "a second stream")
                self._stream_heard = True
                self._outcomes.append(StreamAnnounced(stream_id=stream_id))
            case Position(stream_id=stream_id, position=position, is_kept=is_kept):
                self._move(Input.POSITION)
                if stream_id != self._stream_id or self._position_heard:
                    raise ViolationError("protocol_error", "a position in a stream that is not ours, or a second one")
                self._position_heard = True
                self._outcomes.append(PositionTold(stream_id=stream_id, position=position, is_kept=is_kept))

    def _on_hello(self, hello: Hello) -> None:
        if self.is_initiator:
            raise ViolationError("protocol_error", "Hello is the initiator's to say")
        self._move(Input.HELLO)
        if not hello.version_min <= PROTOCOL_VERSION <= hello.version_max:
            spoken = f"{hello.version_min} to {hello.version_max}"
            raise ViolationError("version", f"the peer speaks protocol versions {spoken}, we speak {PROTOCOL_VERSION}")
        self._check_greeting(hello.greeting)
        self._outcomes.append(GreetingReceived(greeting=hello.greeting, identity=self.identity))

    def _on_welcome(self, welcome: Welcome) -> None:
        if not self.is_initiator or self._local_greeting is None:
            raise ViolationError("protocol_error", "Welcome answers a Hello")
        self._move(Input.WELCOME)
        if welcome.version != PROTOCOL_VERSION:
            raise ViolationError(
                "version", f"the peer chose protocol version {welcome.version}, we offered {PROTOCOL_VERSION}"
            )
        if welcome.epoch <= self._local_greeting.known_epoch:
            raise ViolationError("protocol_error", f"epoch {welcome.epoch} is not a new one")
        self._check_greeting(welcome.greeting)
        # It has admitted us and may follow up with many subscriptions at once, before we have judged it.
        self._frames.max_frame_bytes = limits.MAX_FRAME_BYTES
        self.offered_epoch = Epoch(welcome.epoch)
        self._outcomes.append(GreetingReceived(greeting=welcome.greeting, identity=self.identity))

    def _check_greeting(self, greeting: Greeting) -> None:
        """What the peer claims must agree with what its mechanism proved."""
        if greeting.cluster != self._cluster:
            raise ViolationError("cluster_mismatch", f"the peer belongs to cluster {greeting.cluster!r}")
        if self.identity is not None:
            if self.identity.node != greeting.node:
                detail = f"certified as {self.identity.node!r}, it calls itself {greeting.node!r}"
                raise ViolationError("identity_mismatch", detail)
            if (self.identity.role or "") != greeting.role:
                detail = f"certified for role {self.identity.role or ''!r}, it claims {greeting.role!r}"
                raise ViolationError("role_mismatch", detail)
        self.greeting = greeting

    def _on_subscriptions(self, body: Subscriptions, now: float) -> None:
        self._move(Input.SUBSCRIPTIONS)
        prefixes = tuple(dict.fromkeys(body.prefixes))
        if not all(map(str.isprintable, prefixes)):  # they are shown to people
            raise ViolationError("protocol_error", "a subscription that no topic can have")
        self._outcomes.append(SubscriptionsReceived(prefixes=prefixes))
        self._send(Subscribed(body.version), now)
        if not self._peer_subscribed:
            self._peer_subscribed = True
            if self.state is LinkState.SYNCING:
                self._say_ready(now)

    def _on_ready(self) -> None:
        if not self._peer_subscribed and self.state is LinkState.SYNCING:
            raise ViolationError("protocol_error", "Ready before Subscriptions")
        if self._is_ready_heard and self.state is LinkState.SYNCING:
            raise ViolationError("protocol_error", "a second Ready")
        self._is_ready_heard = True
        if self.state is LinkState.SYNCING and not self._is_ready_said:
            return  # we wait for state, and say Ready when it is here
        was_leaving = self.state is LinkState.LEAVING
        self._move(Input.READY)
        if not was_leaving:
            self._outcomes.append(LinkUp())

    def _on_reject(self, code: str, detail: str, pause_ms: int) -> None:
        self._next(Input.REJECT)
        was_up = self.state in (LinkState.UP, LinkState.LEAVING)
        kind = CloseKind.LOST if was_up else CloseKind.REJECTED
        self._close(kind, reason(code), Side.THEIRS, printable(detail), pause_ms / 1000)

    def _on_goodbye(self, code: str, detail: str, now: float) -> None:
        self._next(Input.GOODBYE)
        if self.state is LinkState.LEAVING:
            self._close(CloseKind.CLOSED, "left", Side.OURS, "goodbye answered")
            return
        self._send(Goodbye("goodbye"), now)
        self._close(CloseKind.LEFT, reason(code), Side.THEIRS, printable(detail))
