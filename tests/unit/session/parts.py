"""One link whose peer is written by hand: frames go in by name, and come out by name."""

from __future__ import annotations

from rapini.defaults import HANDSHAKE_TIMEOUT_S
from rapini.secure.plain import OPENING, PlainChannel
from rapini.session.link import Link, LinkState, Timing
from rapini.session.messages import (
    Ack,
    Body,
    Epoch,
    FrameKind,
    FrameReader,
    Gap,
    Goodbye,
    Greeting,
    Hello,
    Ping,
    Pong,
    Ready,
    Reject,
    Request,
    Response,
    Subscribed,
    Subscriptions,
    Welcome,
    decode_body_untrusted,
    encode_frame,
    pack_events_frame,
)
from rapini.session.outcomes import GreetingReceived, LinkClosed, LinkOutcome
from rapini.session.states import Input
from rapini.testing import greeting_of

NOW = 1000.0
ALPHA, BETA = greeting_of("alpha"), greeting_of("beta")

FRAMES: dict[Input, bytes] = {
    Input.HELLO: encode_frame(Hello(2, 2, ALPHA)),
    Input.WELCOME: encode_frame(Welcome(2, 1, BETA)),
    Input.REJECT: encode_frame(Reject("denied", "no", 1500)),
    Input.SUBSCRIPTIONS: encode_frame(Subscriptions(1, ["a/"])),
    Input.SUBSCRIBED: encode_frame(Subscribed(1)),
    Input.READY: encode_frame(Ready()),
    Input.EVENTS: pack_events_frame(0, 0, 1, b"batch"),
    Input.ACK: encode_frame(Ack([0])),
    Input.GAP: encode_frame(Gap(0, 1, 2, "queue_full", {"t": 2})),
    Input.PING: encode_frame(Ping(7)),
    Input.PONG: encode_frame(Pong(7)),
    Input.REQUEST: encode_frame(Request(5, 1000, "t", True, b"batch")),
    Input.RESPONSE: encode_frame(Response(0, "", "", b"")),
    Input.GOODBYE: encode_frame(Goodbye("goodbye", "bye")),
}
"""One frame of each kind, valid in itself."""


class Scripted:
    """A link under test, and the lines of its peer."""

    def __init__(self, *, is_initiator: bool, timing: Timing | None = None, cluster: str = "test") -> None:
        channel = PlainChannel(is_initiator=is_initiator, handshake_timeout_s=HANDSHAKE_TIMEOUT_S)
        self.now = NOW
        self.link = Link(
            channel=channel,
            is_initiator=is_initiator,
            cluster=cluster,
            subscriptions=("ours/",),
            subscriptions_version=4,
            timing=timing or Timing(),
            now=self.now,
        )
        self._reader = FrameReader(1 << 30)
        self._is_opening = True

    def hears(self, *frames: bytes | Input) -> list[LinkOutcome]:
        """The peer says this, all at once; returns what the link reports."""
        self.link.receive(b"".join(FRAMES[f] if isinstance(f, Input) else f for f in frames), self.now)
        return self.link.outcomes()

    def says(self) -> list[Body | FrameKind]:
        """What the link has to say, as bodies (`FrameKind.EVENTS` for events)."""
        data = self.link.data_to_send()
        if self._is_opening and data:
            assert data.startswith(OPENING)
            data, self._is_opening = data[len(OPENING) :], False
        return [
            kind if kind is FrameKind.EVENTS else decode_body_untrusted(kind, body)
            for kind, body in self._reader.frames_untrusted(data)
        ]

    def closed(self) -> LinkClosed:
        """How it ended; there must be exactly one end among what it reports."""
        (end,) = [outcome for outcome in self.link.outcomes() if isinstance(outcome, LinkClosed)]
        return end

    def at(self, seconds: float) -> list[LinkOutcome]:
        """Let the link see that it is now so many seconds after the beginning."""
        self.now = NOW + seconds
        due = self.link.next_timer()
        if due is not None and due <= self.now:
            self.link.handle_timer(self.now)
        return self.link.outcomes()

    def judge(self, epoch: int = 1) -> None:
        """Admit the peer."""
        if not self.link.is_initiator:
            self.link.greet(BETA, self.now)
        self.link.admit(self.link.offered_epoch or Epoch(epoch), self.now)


def scripted(
    state: LinkState, *, is_initiator: bool, greeting: Greeting = ALPHA, timing: Timing | None = None
) -> Scripted:
    """A link that the peer's lines brought into a state; nothing of them is left to be read."""
    script = Scripted(is_initiator=is_initiator, timing=timing)
    link = script.link
    if state is LinkState.HANDSHAKING:
        return script
    script.hears(OPENING)
    if is_initiator:
        link.greet(greeting, script.now)
    if state is not LinkState.GREETING:
        outcomes = script.hears(Input.WELCOME if is_initiator else Input.HELLO)
        assert isinstance(outcomes[-1], GreetingReceived)
    if state not in (LinkState.GREETING, LinkState.JUDGING):
        script.judge()
    if state in (LinkState.UP, LinkState.LEAVING, LinkState.CLOSED):
        script.hears(Input.SUBSCRIPTIONS, Input.SUBSCRIBED, Input.READY)
    if state in (LinkState.LEAVING, LinkState.CLOSED):
        link.leave("goodbye", "", script.now)
    if state is LinkState.CLOSED:
        script.hears(Input.GOODBYE)
    link.outcomes()
    script.says()
    assert link.state is state
    return script
