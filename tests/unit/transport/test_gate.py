"""The half-open gate against its four promises, by random histories."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rapini.transport.base import Connection, Options, SendResult
from rapini.transport.gate import HalfOpenGate

_OPTIONS = Options(max_half_open=4, silence_grace_s=1.0, first_message_timeout_s=5.0)


class Plain(Connection):
    def __init__(self) -> None:
        super().__init__(endpoint="", address="", is_dialled=False, is_message_based=True)

    def send(self, data: bytes) -> SendResult:
        return SendResult.GONE

    def abort(self) -> None:
        return

    def close(self, linger_s: float = 0.5) -> None:
        return


@given(st.lists(st.tuples(st.sampled_from(["come", "speak", "leave", "tick"]), st.floats(0, 3), st.integers(0, 9))))
def test_the_gate_keeps_its_promises(steps: list[tuple[str, float, int]]) -> None:
    gate: HalfOpenGate[Plain] = HalfOpenGate(_OPTIONS)
    now = 0.0
    since: dict[Plain, float] = {}
    spoken: set[Plain] = set()
    for action, pause_s, pick in steps:
        now += pause_s
        members = gate.members()
        chosen = members[pick % len(members)] if members else None
        if action == "come":
            newcomer = Plain()
            is_admitted, pushed_out = gate.admit(newcomer, now)
            if is_admitted:
                since[newcomer] = now
            else:
                assert len(members) == _OPTIONS.max_half_open
                assert all(m in spoken or now - since[m] < _OPTIONS.silence_grace_s for m in members)
            if pushed_out is not None:
                assert pushed_out not in spoken  # nobody in the handshake is pushed out
                assert since[pushed_out] == min(since[m] for m in members if m not in spoken)
        elif action == "speak" and chosen is not None:
            gate.spoke(chosen)
            spoken.add(chosen)
        elif action == "leave" and chosen is not None:
            gate.forget(chosen)
            assert chosen not in gate
        elif action == "tick":
            for overdue in gate.take_overdue(now):
                assert now - since[overdue] >= _OPTIONS.first_message_timeout_s
            assert all(m in spoken or now - since[m] < _OPTIONS.first_message_timeout_s for m in gate.members())
        assert len(gate) <= _OPTIONS.max_half_open
        timer = gate.next_timer()
        silent = [since[m] for m in gate.members() if m not in spoken]
        assert timer == (min(silent) + _OPTIONS.first_message_timeout_s if silent else None)
