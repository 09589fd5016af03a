"""Write docs/design/session-states.md: a link's states, drawn from the table that the code obeys.

    python tools/draw_states.py

The diagram is Mermaid's, which the usual viewers of Markdown draw; the table below it says the same. A test
(`tests/docs/test_wire.py`) checks that the file is current.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from rapini.session.states import TRANSITIONS, Input, LinkState

TARGET: Final = Path(__file__).resolve().parent.parent / "docs" / "design" / "session-states.md"

HEAD: Final = """\
# The states of a link

Made by `tools/draw_states.py` from `rapini.session.states.TRANSITIONS`: what a link accepts in each state, and where
that leads. A frame that is not listed for a state breaks the protocol and ends the link (`protocol_error`). *channel
opened* comes from the mechanism, *admitted* and *leave* are our own side's decisions. Every state may also end in
`closed` by the end of the connection, by a timer or by our own decision, which is not drawn. Roles decide besides: only
a responder accepts `Hello`, only an initiator `Welcome`; `Ready` needs `Subscriptions` before it.
"""


def diagram() -> str:
    """The state diagram, one arrow for all inputs between the same two states."""
    arrows: dict[tuple[LinkState, LinkState], list[Input]] = {}
    for (state, cause), target in TRANSITIONS.items():
        arrows.setdefault((state, target), []).append(cause)
    lines = ["```mermaid", "stateDiagram-v2", "    [*] --> handshaking"]
    for (state, target), causes in arrows.items():
        names = ", ".join(cause.value for cause in Input if cause in causes)
        lines.append(f"    {state.value} --> {target.value}: {names}")
    return "\n".join([*lines, "    closed --> [*]", "```"])


def table() -> str:
    """Inputs by state: where each leads."""
    states = [state for state in LinkState if state is not LinkState.CLOSED]
    lines = ["| input | " + " | ".join(state.value for state in states) + " |", "| --- |" + " --- |" * len(states)]
    for cause in Input:
        cells = [target.value if (target := TRANSITIONS.get((state, cause))) else "" for state in states]
        lines.append(f"| {cause.value} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def text() -> str:
    """The file as it should be."""
    return f"{HEAD}\n{diagram()}\n\n{table()}\n"


if __name__ == "__main__":
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    TARGET.write_text(text(), encoding="utf-8")
    print(TARGET.name)
