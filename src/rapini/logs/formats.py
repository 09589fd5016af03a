r"""Log records as bytes: Zeek's TSV and JSON lines, quick enough for a hundred thousand events a second.

Above `schema` and `escape`, below the writer; knows nothing of files or threads. Byte for byte what Zeek's ASCII writer
makes of the same values (`zeek-interop.md` 5.2 to 5.4; `tests/interop/test_zeek_logs.py`).

*How it is quick.* For each schema two row renderers are compiled, a *quick* and a *careful* one. The quick one escapes
nothing. It renders a whole batch, and then a few passes in C over the bytes prove that nothing needed escaping:

* TSV: deleting all clean printable ASCII from the batch must leave the tabs and line ends of the columns, exactly.
* JSON (encoded by msgspec): there is no backslash, no DEL, and nothing but ASCII.

If the proof fails, the batch is rendered again by the careful renderer; if a value has the wrong type, row by row, and
a row that cannot be rendered costs that row alone.

*Compiled* means that source text is put together from a schema and given to `exec`. Nothing but names of our own
helpers and the field names of a Python class (checked to be identifiers) enters it; column names and data never do.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import Enum
from typing import Any, Final

import msgspec

from rapini.events import Event
from rapini.logs import rows
from rapini.logs.schema import LogSchema

__all__ = ["JsonFormatter", "LogFormat", "RenderedBatch", "RowFormatter", "TsvFormatter"]


class LogFormat(Enum):
    """How a log's records look."""

    TSV = "tsv"
    JSON = "json"


@dataclass(frozen=True, slots=True, kw_only=True)
class RenderedBatch:
    """Events as bytes. Every record is one line."""

    data: bytes
    rows: int
    """Records in `data`."""
    failed: int
    """Events that could not be rendered, because a field's value is not of the declared type."""


class RowFormatter(ABC):
    """Turns events of one schema into the bytes of a log file. Not thread-safe: one for each writer."""

    def __init__(self, schema: LogSchema) -> None:
        self.schema = schema

    def header(self, opened: datetime) -> bytes:
        """What precedes the records; `opened` in local time."""
        return b""

    def footer(self, closed: datetime) -> bytes:
        """What follows the last record after an orderly close."""
        return b""

    def render(self, events: Sequence[Event]) -> RenderedBatch:
        """Render events in order. Never raises for a bad value."""
        data = _or_none(self._quick, events)
        if data is None or not self._is_clean(data, len(events)):
            data = _or_none(self._careful, events)
        if data is not None:
            return RenderedBatch(data=data, rows=len(events), failed=0)
        lines = [line for event in events if (line := _or_none(self._careful, (event,))) is not None]
        return RenderedBatch(data=b"".join(lines), rows=len(lines), failed=len(events) - len(lines))

    @abstractmethod
    def _quick(self, events: Sequence[Event]) -> bytes: ...

    @abstractmethod
    def _careful(self, events: Sequence[Event]) -> bytes: ...

    @abstractmethod
    def _is_clean(self, data: bytes, count: int) -> bool: ...


def _or_none(render: Callable[[Sequence[Event]], bytes], events: Sequence[Event]) -> bytes | None:
    try:
        return render(events)
    except Exception:  # noqa: BLE001 - a wrongly typed value raises whatever it likes; the row is counted as failed
        return None


_HASH: Final = re.compile("^#", re.MULTILINE)
_TSV_CLEAN: Final = bytes(b for b in range(0x20, 0x7F) if b != ord("\\"))


class TsvFormatter(RowFormatter):
    """Zeek's default: tab-separated values under `#` lines that say what they are."""

    def __init__(self, schema: LogSchema) -> None:
        super().__init__(schema)
        self._quick_rows: Callable[[Iterable[Event]], str] = rows.compile_tsv(schema, careful=False)
        self._careful_rows: Callable[[Iterable[Event]], str] = rows.compile_tsv(schema, careful=True)
        self._skeleton = b"\t" * (len(schema.columns) - 1) + b"\n"

    def header(self, opened: datetime) -> bytes:
        """Zeek's eight header lines."""
        names = "\t".join(column.name for column in self.schema.columns)
        types = "\t".join(column.type_name for column in self.schema.columns)
        return (
            "#separator \\x09\n#set_separator\t,\n#empty_field\t(empty)\n#unset_field\t-\n"
            f"#path\t{self.schema.path}\n#open\t{opened:%Y-%m-%d-%H-%M-%S}\n#fields\t{names}\n#types\t{types}\n"
        ).encode()

    def footer(self, closed: datetime) -> bytes:
        """The line that tells an orderly close from a crash."""
        return f"#close\t{closed:%Y-%m-%d-%H-%M-%S}\n".encode()

    def _quick(self, events: Sequence[Event]) -> bytes:
        return self._quick_rows(events).encode("ascii")  # UnicodeEncodeError is a proof that failed

    def _careful(self, events: Sequence[Event]) -> bytes:
        # All line ends in it are ours, and a record that begins with # would be read as a comment.
        return _HASH.sub(r"\\x23", self._careful_rows(events)).encode()

    def _is_clean(self, data: bytes, count: int) -> bool:
        return (
            data.translate(None, _TSV_CLEAN) == self._skeleton * count
            and not data.startswith(b"#")
            and b"\n#" not in data
        )


class JsonFormatter(RowFormatter):
    """Zeek's JSON lines: one object a line, unset fields left out, times as seconds since the epoch."""

    def __init__(self, schema: LogSchema) -> None:
        super().__init__(schema)
        row = rows.json_row_type(schema)
        self._quick_rows: Callable[[Iterable[Event]], list[Any]] = rows.compile_json(schema, row, careful=False)
        self._careful_rows: Callable[[Iterable[Event]], list[Any]] = rows.compile_json(schema, row, careful=True)
        self._encode_lines = msgspec.json.Encoder().encode_lines

    def _quick(self, events: Sequence[Event]) -> bytes:
        return self._encode_lines(self._quick_rows(events))

    def _careful(self, events: Sequence[Event]) -> bytes:
        return self._encode_lines(self._careful_rows(events))

    def _is_clean(self, data: bytes, count: int) -> bool:
        return data.isascii() and b"\\" not in data and b"\x7f" not in data
