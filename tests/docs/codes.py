"""Finds the codes that a user can meet in the source itself, so that the manual's table cannot miss one.

Reads the syntax trees of the packages from which `PeerStatus.code`, `RapiniError.code` and `CountersSnapshot.rejected`
come. (`DecodeError`s excepted: what makes a peer's bytes bad is told as `protocol_error`, with the code in its detail.)
A code is a constant in one of the places where codes stand: an argument named `code`, the first arguments of a function
that takes one, what is assigned to a variable `code`, or the first of a pair that such a function returns.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

SOURCE: Final = Path(__file__).resolve().parents[2] / "src" / "rapini"

_PLACES: Final = ("secure", "session", "node", "transport", "events", "codec", "storage", "stores")
_CODE: Final = re.compile(r"[a-z]+(_[a-z]+)*")

_TAKERS: Final = {
    # by name, the argument that is a code
    **dict.fromkeys(
        ("refuse", "abandon", "leave", "fail", "lose", "failure", "_break_off", "ViolationError", "_error"), 0
    ),
    **dict.fromkeys(("transport_ended", "Goodbye", "Reject"), 0),
    **dict.fromkeys(("ConfigError", "LocalError", "TransportError", "PeerTimeoutError", "StoreError", "EventError"), 0),
    "WriteResult": 0,
    **dict.fromkeys(("Disconnected", "ConnectFailed", "end", "_close", "store_error", "disconnect"), 1),
    "RequestError": 0,
    "_answer": 2,
    "_replace": 2,
}


def constants(node: ast.expr | None) -> set[str]:
    """The codes that an expression may be."""
    match node:
        case ast.Constant(value=str(text)) if _CODE.fullmatch(text):
            return {text}
        case ast.IfExp():
            return constants(node.body) | constants(node.orelse)
        case ast.BoolOp():
            return set().union(*map(constants, node.values))
        case _:
            return set()


def codes() -> set[str]:
    """All of them."""
    found: set[str] = set()
    for place in _PLACES:
        for path in sorted((SOURCE / place).glob("*.py")):
            for node in ast.walk(ast.parse(path.read_text("utf-8"))):
                found.update(*_codes_in(node))
    return found


def _codes_in(node: ast.AST) -> Iterator[set[str]]:
    match node:
        case ast.Call(func=func, args=args, keywords=keywords):
            name = func.attr if isinstance(func, ast.Attribute) else getattr(func, "id", "")
            at = 1 if name in ("refuse", "fail") and _is_transport(args) else _TAKERS.get(name)
            if at is not None and len(args) > at:
                yield constants(args[at])
            yield from (constants(word.value) for word in keywords if word.arg == "code")
        case ast.Assign(targets=[target], value=value):
            yield from _assigned(target, value)
        case ast.AnnAssign(target=ast.Name(id="DETAILS" | "SENTENCES"), value=ast.Dict(keys=keys)):
            yield from map(constants, keys)
        case ast.Return(value=ast.Tuple(elts=[code, ast.JoinedStr()])):
            yield constants(code)
        case _:
            pass


def _is_transport(args: list[ast.expr]) -> bool:
    """Whether the first argument is a connection, as the transports have it."""
    return len(args) > 1 and not constants(args[0])


def _assigned(target: ast.expr, value: ast.expr) -> Iterator[set[str]]:
    match target, value:
        case ast.Name(id="code"), _:
            yield constants(value)
        case ast.Tuple(elts=[ast.Name(id="code"), *_]), ast.Tuple(elts=[code, *_]):
            yield constants(code)
        case ast.Attribute(attr="cause"), _:
            yield constants(value)
        case ast.Name(id="_REASONS"), ast.Dict(keys=keys):
            yield from map(constants, keys)
        case _:
            pass
