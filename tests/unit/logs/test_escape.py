"""Escaping as Zeek does it, and what it must guarantee whatever the text: a field stays a field, a line a line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapini.logs.escape import json_text, tsv_text, unescape_tsv

_DIFFICULT = st.text(
    alphabet=st.sampled_from("a-(empty)\\,\t\n\r\x00\x7f\x85é€\ue000\ufffd\U0001f600#x2d"), max_size=12
)
_TEXTS = st.one_of(_DIFFICULT, st.text(max_size=20), st.sampled_from(["", "-", "(empty)", "\\", ","]))


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("plain", "plain"),
        ("", "(empty)"),
        ("-", "\\x2d"),
        ("(empty)", "\\x28empty)"),
        ("--", "--"),
        ("a\tb", "a\\x09b"),
        ("a\\b", "a\\\\b"),
        ("a\nb", "a\\x0ab"),
        ("a,b", "a,b"),
        ("\\,\\", "\\\\,\\\\"),
        ("gr\u00fc\u00df", "gr\u00fc\u00df"),
        ("gr\u00fc\x07", "gr\\xc3\\xbc\\x07"),
        ("\u00fc\t\x07\u00fc", "\u00fc\\x09\\x07\\xc3\\xbc"),
        ("\u0085", "\\xc2\\x85"),
        ("\ue000", "\\xee\\x80\\x80"),
        ("\ufffd", "\\xef\\xbf\\xbd"),
        (b"a\x00\xff\xc3\xa6", "a\\x00\\xff\\xc3\\xa6"),
        (b"\xc3\xa6", "\u00e6"),
    ],
)
def test_tsv_fields(text: str | bytes, field: str) -> None:
    assert tsv_text(text) == field


def test_in_a_container_the_set_separator_is_escaped() -> None:
    assert tsv_text("a,b", in_container=True) == "a\\x2cb"
    assert tsv_text("", in_container=True) == "(empty)"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ('plain \\ "', 'plain \\ "'),
        ("a\tb\nc", "a\tb\nc"),
        ("gr\u00fc", "gr\u00fc"),
        ("gr\u00fc\x07\n", "gr\\xc3\\xbc\\x07\n"),
        ("\x7f", "\\x7f"),
        (b"\xff", "\\xff"),
        ("", ""),
    ],
)
def test_json_hex_policy(text: str | bytes, kept: str) -> None:
    assert json_text(text) == kept


@given(text=_TEXTS, in_container=st.booleans())
def test_tsv_escaping_can_be_undone(text: str, in_container: bool) -> None:
    assert unescape_tsv(tsv_text(text, in_container=in_container)) == text.encode()


@given(data=st.binary(max_size=20), in_container=st.booleans())
def test_tsv_escaping_of_bytes_can_be_undone(data: bytes, in_container: bool) -> None:
    assert unescape_tsv(tsv_text(data, in_container=in_container)) == data


@given(text=_TEXTS)
def test_a_field_never_holds_what_separates_or_controls(text: str) -> None:
    field = tsv_text(text, in_container=True)
    assert field not in ("", "-")
    assert field != "(empty)" or text == ""
    assert not set(field) & {"\t", ",", *map(chr, range(0x20)), "\x7f", *map(chr, range(0x80, 0xA0))}


def test_the_unset_marker_stands_for_nothing() -> None:
    assert unescape_tsv("-") is None


@pytest.mark.parametrize("code_point", [0xD800, 0xDCFF, 0xDFFF])
def test_lone_surrogates_become_escapes_instead_of_errors(code_point: int) -> None:
    surrogate = f"a{chr(code_point)}"
    assert tsv_text(surrogate).isascii()
    assert json_text(surrogate).isascii()
