r"""Zeek's escaping of text in log files, exactly: TSV's and JSON's HEX policy.

Below the formats; knows nothing of columns. Log text comes from the network, so it may hold what separates fields or
lines, terminal control sequences, or no text at all. The rules (`zeek-interop.md` 5.3 and 5.4, observed on Zeek 9.1):

* TSV: backslash doubled, separators as ``\xHH``. Each run between those is kept if it is *clean* (valid UTF-8 without
  control, private-use or special code points), else all of its bytes that are not printable ASCII become ``\xHH``.
* JSON: a string that is clean (``\b \f \n \r \t`` allowed) is kept, else all its bytes that are not printable ASCII
  become the four characters ``\xHH``. A backslash in it is not doubled first, so this cannot be undone; Zeek is so.

These functions are the careful path; `formats` proves for most batches that nothing needs escaping at all.
"""

from __future__ import annotations

import re
from typing import Final

__all__ = ["EMPTY", "UNSET", "json_text", "tsv_text", "unescape_tsv"]

EMPTY: Final = "(empty)"
UNSET: Final = "-"

_SPECIAL_RANGES: Final = "\x80-\x9f\ue000-\uf8ff\ufff0-\uffff"
_UNCLEAN: Final = re.compile(f"[\x00-\x1f\x7f{_SPECIAL_RANGES}\ud800-\udfff]")
_UNCLEAN_JSON: Final = re.compile(f"[\x00-\x07\x0b\x0e-\x1f\x7f{_SPECIAL_RANGES}\ud800-\udfff]")
"""As above without \\b \\t \\n \\f \\r. Lone surrogates cannot be UTF-8."""

_HEX: Final = [chr(b) if 0x20 <= b < 0x7F else f"\\x{b:02x}" for b in range(256)]
_HEX_JSON: Final = [chr(b) if chr(b) in "\b\t\n\f\r" else text for b, text in enumerate(_HEX)]

_TSV_CUT: Final = re.compile(r"([\\\t])")
_TSV_CUT_IN_CONTAINER: Final = re.compile(r"([\\\t,])")
_TSV_CUTS: Final = {"\\": "\\\\", "\t": "\\x09", ",": "\\x2c"}
_MARKERS: Final = {EMPTY: "\\x28empty)", UNSET: "\\x2d", "": EMPTY}

_ESCAPE: Final = re.compile(rb"\\(?:\\|x([0-9a-f]{2}))")


def to_text(value: str | bytes) -> str:
    """Text of a string value: bytes that are not UTF-8 are kept as lone surrogates, which no escaping lets pass."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "surrogateescape")
    if isinstance(value, str):
        return value
    raise TypeError(f"{type(value).__name__} where text belongs")


def _bytes_of(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # a surrogate that does not stand for a byte
        return text.encode("utf-8", "surrogatepass")


def tsv_text(value: str | bytes, *, in_container: bool = False) -> str:
    """Escape one string for a TSV field, markers included; in a container the set separator too. Any thread."""
    text = to_text(value)
    marked = _MARKERS.get(text)
    if marked is not None:
        return marked
    if text.isascii() and text.isprintable() and "\\" not in text and not (in_container and "," in text):
        return text
    parts = (_TSV_CUT_IN_CONTAINER if in_container else _TSV_CUT).split(text)
    parts[1::2] = [_TSV_CUTS[cut] for cut in parts[1::2]]  # re.split puts what it cut at between the runs
    parts[::2] = [_clean_run(run) for run in parts[::2]]
    return "".join(parts)


def _clean_run(run: str) -> str:
    if not _UNCLEAN.search(run):
        return run
    return "".join([_HEX[byte] for byte in _bytes_of(run)])


def json_text(value: str | bytes) -> str:
    """Apply the HEX policy to one string; JSON's own escaping comes after. Any thread."""
    text = to_text(value)
    if not _UNCLEAN_JSON.search(text):
        return text
    return "".join([_HEX_JSON[byte] for byte in _bytes_of(text)])


def unescape_tsv(field: str) -> bytes | None:
    """The bytes that a TSV string field stands for; `None` for an unset one. The inverse of `tsv_text`."""
    if field == UNSET:
        return None
    if field == EMPTY:
        return b""
    return _ESCAPE.sub(_unescape, field.encode("utf-8", "surrogateescape"))


def _unescape(match: re.Match[bytes]) -> bytes:
    return bytes.fromhex(match[1].decode("ascii")) if match[1] else b"\\"
