"""TCP as a bystander sees it: states, byte counts, history and gaps, with Zeek's semantics.

Where it sits: `flows` calls `segment` for every TCP packet that is not plain data or a plain acknowledgement in an
established connection (those take the analyzer's short way, which changes counters only).

Theory: a bystander cannot know what a host received, so each end's state is only what that end has sent (a SYN, data
without a SYN, a FIN, a RST). Together the two states give `conn_state`. Bytes are counted in sequence space, from the
initial sequence number to the furthest byte sent *or acknowledged*: so retransmissions count once, and packets that
the capture missed still count. What was acknowledged and never seen is a *gap*. The rules, and the cases behind them
(a RST with a wild sequence number, an acknowledgement of a half-open connection), are those of Zeek's
TCPSessionAdapter and TCP_Reassembler, described in our own words; checksums are not verified.

Source: RFC 9293; zeek/src/packet_analysis/protocol/tcp/TCPSessionAdapter.cc, zeek/src/analyzer/protocol/tcp.
"""

from __future__ import annotations

from typing import Final

from rapini.apps.sensor.flow import Flow, TcpHalf, TcpState

__all__ = ["ACK", "FIN", "RST", "SYN", "payload_size", "segment"]

FIN: Final = 1
SYN: Final = 2
RST: Final = 4
ACK: Final = 16

_MASK: Final = 0xFFFFFFFF
_HALF_SPACE: Final = 0x80000000
_WILD_JUMP: Final = 1 << 20
"""A SYN or RST whose sequence number is off by more than this is not believed."""
_MAX_BLOCKS: Final = 128
"""Ranges remembered beyond a hole; with more, the hole is taken for lost."""

INACTIVE: Final = TcpState.INACTIVE
SYN_SENT: Final = TcpState.SYN_SENT
SYN_ACK_SENT: Final = TcpState.SYN_ACK_SENT
PARTIAL: Final = TcpState.PARTIAL
ESTABLISHED: Final = TcpState.ESTABLISHED
CLOSED: Final = TcpState.CLOSED
RESET: Final = TcpState.RESET

_RUNNING: Final = frozenset({ESTABLISHED, PARTIAL})


def segment(flow: Flow, half: TcpHalf, ts: float, seq: int, ack: int, flags: int, window: int, size: int) -> int:
    """Take one segment into account (all but packet and IP byte counts).

    Args:
        flow: The connection.
        half: The direction the segment travels in.
        ts: Its time.
        seq: Sequence number.
        ack: Acknowledgement number; ignored without the flag.
        flags: TCP flags.
        window: The window field, unscaled.
        size: Payload bytes by the IP header.

    Returns:
        The position of the payload's first byte in the stream (1 is the first), or 0 if the payload is not new
        data in order.
    """
    peer = half.peer
    taken = (0 if flags & RST else size) + bool(flags & SYN) + bool(flags & FIN)
    _begin(half, flags, seq, taken)
    position = half.top + _difference(seq, half.next_seq)
    _note_flags(flow, half, flags, seq, size)
    if not (window or flags & RST or peer.state is CLOSED or half.state is RESET):
        flow.note_scaled("W", half)
    if not (half.did_close and peer.did_close):
        flow.last_ts = ts
    if flags & FIN:
        half.has_fin, half.fin_top = True, position + taken
    acked = _acknowledge(half, peer, ack, flags) if flags & ACK else 0
    _advance(flow, half, flags, seq, taken, size)
    closes = _TRANSITIONS[half.state](flow, half, peer, flags, size)
    if acked:
        _reconcile(flow, peer, acked)
    offset = 0
    if size and position >= 0 and not flags & RST:
        offset = _deliver(half, position + bool(flags & SYN), size)
    if closes:
        _close(flow, half, peer, flow.last_ts)
    flow.is_plain = (
        half.state in _RUNNING
        and peer.state in _RUNNING
        and half.delivered == half.top
        and peer.delivered == peer.top
        and half.stream is None
    )
    return offset


def payload_size(half: TcpHalf) -> int:
    """Payload bytes that this direction carried, by sequence numbers."""
    if half.previous is SYN_SENT and half.state is RESET and half.peer.state is INACTIVE and half.acked > 1:
        return 0  # a half-open connection found out: these numbers belong to an earlier one
    size = max(half.top, half.acked)
    if size:
        size -= 1  # the SYN
    if size and half.has_fin:
        size -= 1
    return size


def _difference(a: int, b: int) -> int:
    difference = (a - b) & _MASK
    return difference - 0x100000000 if difference & _HALF_SPACE else difference


def _number_from(half: TcpHalf, start: int, top: int) -> None:
    half.start = start & _MASK
    half.top = top
    half.acked = 0
    half.delivered = 1
    half.blocks = None
    half.next_seq = (start + top) & _MASK


def _begin(half: TcpHalf, flags: int, seq: int, taken: int) -> None:
    """Fix where the numbering starts, at the first packet or at a SYN that contradicts the numbers so far."""
    state = half.state
    if state is INACTIVE:
        # Without a SYN the numbers are set as if there had been one, so that the first byte is 1 all the same.
        _number_from(half, seq, taken) if flags & SYN else _number_from(half, seq - 1, 1)
    elif flags & SYN and (
        (state in (SYN_SENT, SYN_ACK_SENT) and seq != half.start)
        or state in _RUNNING
        or (state is RESET and half.previous is INACTIVE)
    ):
        _number_from(half, seq, taken)


def _note_flags(flow: Flow, half: TcpHalf, flags: int, seq: int, size: int) -> None:
    control = flags & (SYN | FIN | RST)
    if not control:
        if size:
            if not half.saw_data:
                half.saw_data = True
                flow.note("D", half)
        elif flags & ACK and not half.saw_ack:
            half.saw_ack = True
            flow.note("A", half)
    elif control == SYN:
        _note_number(flow, half, "H" if flags & ACK else "S", "S", seq)
    elif control == FIN:
        # A FIN stands at the end of its payload, so a repetition may begin elsewhere.
        _note_number(flow, half, "F", "F", (seq + size) & _MASK)
    elif control == RST:
        _note_number(flow, half, "R", "R", seq)
    else:
        letter = "I" if control & FIN and control & RST else "Q"
        code = letter if half.is_orig else letter.lower()
        if code not in flow.marks:
            flow.marks[code] = 0
            flow.history += code


def _note_number(flow: Flow, half: TcpHalf, letter: str, kind: str, number: int) -> None:
    """Note a control flag, again only if its sequence number is another one."""
    code = kind if half.is_orig else kind.lower()
    if flow.marks.get(code) != number:
        flow.note(letter, half)
        flow.marks[code] = number


def _acknowledge(half: TcpHalf, peer: TcpHalf, ack: int, flags: int) -> int:
    """Note what `half` acknowledges of its peer's; return the position, 0 if it makes no sense."""
    if peer.state is INACTIVE:
        _number_from(peer, ack - 1, 0)
        return 1
    step = _difference(ack, (peer.start + peer.acked) & _MASK)
    position = peer.acked + step
    if position < 0:
        return 0
    # RSTs carry any number; and 0 is rather no number than the end of a large transfer.
    if not flags & RST and step > 0 and not (ack == 0 and step > _WILD_JUMP):
        peer.acked = position
    return position


def _advance(flow: Flow, half: TcpHalf, flags: int, seq: int, taken: int, size: int) -> None:
    """Move `top` up to the end of the segment, or note a retransmission."""
    step = _difference((seq + taken) & _MASK, half.next_seq)
    if flags & (SYN | RST) and abs(step) > _WILD_JUMP:
        return
    if flags & FIN and half.top == 1:
        # Only SYN and FIN were seen, possibly of more than 2 GB: the FIN is believed even if it seems to go back.
        step &= _MASK
    elif half.state is RESET:
        return
    if step > 0:
        half.top += step
        half.next_seq = (half.next_seq + step) & _MASK
    elif size:
        flow.note_scaled("T", half)


# --- What a segment does to the state of the end that sent it ---------------------------------------------------


def _set_state(half: TcpHalf, state: TcpState) -> None:
    if state is not half.state:
        half.previous, half.state = half.state, state


def _from_inactive(flow: Flow, half: TcpHalf, peer: TcpHalf, flags: int, size: int) -> bool:
    closes = False
    if flags & SYN:
        if half.is_orig:
            _set_state(half, SYN_ACK_SENT if flags & ACK else SYN_SENT)
        else:
            _answer_syn(flow, half, peer, flags)
    if flags & FIN:
        _set_state(half, CLOSED)
        closes = True
    if flags & RST:
        _set_state(half, RESET)
        closes = True
    if half.state is INACTIVE:
        _begin_partial(half, peer, flags, size)
    return closes


def _answer_syn(flow: Flow, half: TcpHalf, peer: TcpHalf, flags: int) -> None:
    if not flags & ACK and peer.state is SYN_ACK_SENT:
        flow.flip()  # SYN and SYN-ACK arrived in the wrong order
        _set_state(peer, ESTABLISHED)
    if peer.state is SYN_SENT:
        _set_state(peer, ESTABLISHED)
    _set_state(half, ESTABLISHED)


def _begin_partial(half: TcpHalf, peer: TcpHalf, flags: int, size: int) -> None:
    if not half.is_orig and size == 0 and peer.state is SYN_SENT:
        return  # some stacks acknowledge a SYN before they answer it
    if flags & ACK and peer.state is ESTABLISHED:
        _set_state(half, ESTABLISHED)  # we saw the SYN-ACK and missed the SYN
    else:
        _set_state(half, PARTIAL)


def _from_syn_sent(flow: Flow, half: TcpHalf, peer: TcpHalf, flags: int, size: int) -> bool:
    if flags & FIN:
        _set_state(half, CLOSED)
    if flags & RST:
        _set_state(half, RESET)
    return bool(flags & (FIN | RST))


def _from_running(flow: Flow, half: TcpHalf, peer: TcpHalf, flags: int, size: int) -> bool:
    if flags & SYN and not flags & ACK and half.state is PARTIAL and peer.state is INACTIVE:
        _set_state(half, SYN_SENT)
    if flags & FIN and not flags & RST:
        _set_state(half, CLOSED)
        if peer.state is RESET and peer.previous is CLOSED:
            _set_state(peer, CLOSED)  # it sent FIN, then RST: a normal end after all
    if flags & RST:
        _set_state(half, RESET)
    return bool(flags & (FIN | RST))


def _from_closed(flow: Flow, half: TcpHalf, peer: TcpHalf, flags: int, size: int) -> bool:
    if flags & RST and peer.state is not CLOSED:
        _set_state(half, RESET)
        return not half.did_close
    return False


def _from_reset(flow: Flow, half: TcpHalf, peer: TcpHalf, flags: int, size: int) -> bool:
    return False


_TRANSITIONS: Final = {
    INACTIVE: _from_inactive,
    SYN_SENT: _from_syn_sent,
    SYN_ACK_SENT: _from_syn_sent,
    PARTIAL: _from_running,
    ESTABLISHED: _from_running,
    CLOSED: _from_closed,
    RESET: _from_reset,
}


CLOSE_DELAY_S: Final = 5.0
"""How long a closed connection is kept for stragglers (Zeek's tcp_close_delay)."""


def _close(flow: Flow, half: TcpHalf, peer: TcpHalf, now: float) -> None:
    if half.did_close:
        return
    half.did_close = True
    if half.state is RESET or peer.did_close or peer.state is INACTIVE:
        flow.remove_at = now + CLOSE_DELAY_S


# --- Holes ------------------------------------------------------------------------------------------------------


def _deliver(half: TcpHalf, position: int, size: int) -> int:
    """Take [position, position + size) as seen; return where it begins if all before was, else 0."""
    end = position + size
    if not half.blocks and position == half.delivered:
        half.delivered = end
        return position
    if end <= half.delivered:
        return 0
    blocks = half.blocks = half.blocks or []
    blocks.append((max(position, half.delivered), end))
    blocks.sort()
    if len(blocks) > _MAX_BLOCKS:
        half.delivered = max(half.delivered, blocks[0][0])
    _join(half)
    return 0


def _join(half: TcpHalf) -> None:
    """Move `delivered` over the blocks that it has reached."""
    while half.blocks and half.blocks[0][0] <= half.delivered:
        half.delivered = max(half.delivered, half.blocks.pop(0)[1])


def _reconcile(flow: Flow, half: TcpHalf, acked: int) -> None:
    """Give up what `half`'s peer acknowledged and we never saw."""
    if half.has_fin and acked >= half.fin_top:
        acked = half.fin_top - 1
    if acked <= half.delivered:
        return
    peer = half.peer
    closing = half.has_fin or peer.has_fin or RESET in (half.state, peer.state)
    if half.delivered == 1 and closing:
        # A capture of SYN, FIN and RST packets only: nothing is missing that was ever meant to be seen.
        half.delivered = acked
    while half.delivered < acked:
        end = min(acked, half.blocks[0][0]) if half.blocks else acked
        _gap(flow, half, end - half.delivered)
        half.delivered = end
        _join(half)
    _join(half)


def _gap(flow: Flow, half: TcpHalf, size: int) -> None:
    if _is_clean(half) and _is_clean(half.peer):
        flow.note_scaled("G", half)
        flow.missed_bytes += size


def _is_clean(half: TcpHalf) -> bool:
    return half.state is ESTABLISHED or (half.state is CLOSED and half.previous is ESTABLISHED)
