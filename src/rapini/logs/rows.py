"""Compiles a schema into functions that turn events into TSV text or into JSON rows.

The inside of `formats`, which says why and how this is safe. Each function below that returns a string of source makes
an expression for one column; `v` in it is the column's value.
"""

from __future__ import annotations

import keyword
from collections.abc import Callable, Iterable
from enum import Enum
from typing import Any, Final

import msgspec

from rapini.errors import LogError
from rapini.events import Address, Event, Port
from rapini.logs import escape
from rapini.logs.schema import Column, Container, LogSchema, ZeekType

__all__ = ["compile_cost", "compile_json", "compile_tsv", "json_double", "json_row_type", "tsv_double"]


def tsv_double(value: float) -> str:
    """A double as Zeek writes it: at most 6 decimals, no trailing zeros, `.0` after what is an integer within 1e-9."""
    text = f"{value:.6f}"
    if "." not in text:  # inf and nan
        return text
    text = text.rstrip("0").rstrip(".")
    return f"{text}.0" if "." not in text and abs(value - round(value)) < 1e-9 else text


def json_double(value: float | None) -> float | msgspec.Raw | None:
    """What to give msgspec so that it writes a double as Zeek does: plain notation for 1e-6 <= |x| < 1e21.

    msgspec changes to exponents at 1e-5 and 1e16; the digits are the same, the shortest that read back as `value`.
    """
    if value is None:
        return None
    value = float(value)
    size = abs(value)
    if 1e-6 <= size < 1e-5:
        digits, _, exponent = repr(size).partition("e-")
        sign = "-" if value < 0 else ""
        return msgspec.Raw(f"{sign}0.{'0' * (int(exponent) - 1)}{digits.replace('.', '')}".encode())
    if 1e16 <= size < 1e21:
        return msgspec.Raw(f"{int(value)}.0".encode())
    return value


class _AddressTexts(dict[bytes, str]):
    """Texts of addresses by their 16 bytes: a dictionary's look-up is a third of a call. Bounded."""

    _LIMIT: Final = 65536

    def __missing__(self, mapped: bytes) -> str:
        if len(self) >= self._LIMIT:
            self.clear()
        text = self[mapped] = str(Address(mapped))
        return text


_STRUCT_BYTES: Final = 64
_FIELD_BYTES: Final = 40
"""A reference and what it refers to, rather too much: tracemalloc finds 824 bytes for a decoded connection of 22
fields, where this says 975."""

_QUICK_TEXT: Final = {None: escape.UNSET, "": escape.EMPTY, escape.UNSET: "\\x2d", escape.EMPTY: "\\x28empty)"}


def _enum_text(value: object) -> str:
    if isinstance(value, Enum):
        return value.value if isinstance(value.value, str) else value.name
    return escape.to_text(value)  # type: ignore[arg-type] # raises TypeError for what is no text


def _quick_text(value: str) -> str:
    return _QUICK_TEXT.get(value, value)


def _tsv_element(value: str | bytes | None) -> str:
    return escape.UNSET if value is None else escape.tsv_text(value, in_container=True)


def _tsv_text_or_unset(value: str | bytes | None) -> str:
    return escape.UNSET if value is None else escape.tsv_text(value)


# --- Source text ----------------------------------------------------------------------------------------------------


def _value(column: Column) -> str:
    """An expression for the column's value; `None` where a record on the way is unset."""
    for name in column.source:
        if not name.isidentifier() or keyword.iskeyword(name):
            raise LogError("bad_schema", f"{name!r} is not a field's name")
    expression = f"e.{column.source[0]}"
    for name in column.source[1:]:
        expression = f"(None if (r := {expression}) is None else r.{name})"
    return expression


def _is_plain_text(column: Column) -> bool:
    is_enum = isinstance(column.python_type, type) and issubclass(column.python_type, Enum)
    return column.zeek_type in (ZeekType.STRING, ZeekType.ENUM) and not is_enum


def _is_port_object(column: Column) -> bool:
    return column.python_type is Port


def _tsv_scalar(column: Column, v: str, *, careful: bool) -> tuple[str, str]:
    """An expression for the text of the variable `v`, which is not `None`, and a format for it."""
    match column.zeek_type:
        case ZeekType.BOOL:
            return f"('T' if {v} is True else 'F' if {v} is False else fail({v}))", ""
        case ZeekType.INT | ZeekType.COUNT:
            return v, "d"
        case ZeekType.PORT:
            return f"{v}.number" if _is_port_object(column) else v, "d"
        case ZeekType.TIME | ZeekType.INTERVAL:
            return v, ".6f"
        case ZeekType.DOUBLE:
            return f"double({v})", ""
        case ZeekType.ADDR:
            return f"address[{v}.mapped]", ""
        case ZeekType.SUBNET:
            return f"str({v})", ""
        case ZeekType.STRING | ZeekType.ENUM:
            if not _is_plain_text(column):
                return f"text(enum({v}))", ""
            # The dictionary knows the markers; a value that cannot be hashed is no text, and raises.
            return (f"text({v})" if careful or column.python_type is bytes else f"quick({v}, {v})"), ""


def _tsv_field(column: Column, v: str, *, careful: bool) -> str:
    """A replacement field of the row's f-string."""
    expression, spec = _tsv_scalar(column, v, careful=careful)
    if not column.optional:
        return f"{{{expression}:{spec}}}" if spec else f"{{{expression}}}"
    text = f"f'{{{expression}:{spec}}}'" if spec else expression
    return f"{{'-' if {v} is None else {text}}}"


def _join(column: Column, text_of: Callable[[Any], str], *, careful: bool) -> Callable[[Any], str]:
    """A function for the text of a container."""
    is_set = column.container is Container.SET

    def joined(values: Any) -> str:
        if values is None:
            return escape.UNSET
        texts = [text_of(value) for value in values]
        if not texts:
            return escape.EMPTY
        if is_set and not isinstance(values, (list, tuple)):
            texts.sort()  # Zeek's own order is its hash table's; ours should at least be the same every time
        text = ",".join(texts)
        if not careful and text.count(",") >= len(texts):
            raise ValueError("a set separator inside an element")
        return text

    return joined


def _element_text(column: Column, helpers: dict[str, Any], *, careful: bool) -> Callable[[Any], str]:
    if _is_plain_text(column):
        return _tsv_element if careful or column.python_type is bytes else _quick_text
    if column.zeek_type is ZeekType.ENUM:
        return lambda v: _tsv_element(None if v is None else _enum_text(v))
    expression, spec = _tsv_scalar(column, "v", careful=careful)
    text = f"f'{{{expression}:{spec}}}'" if spec else expression
    function: Callable[[Any], str] = eval(f"lambda v: '-' if v is None else {text}", dict(helpers))  # noqa: S307 - see `formats`: our own names only
    return function


def compile_tsv(schema: LogSchema, *, careful: bool) -> Callable[[Iterable[Event]], str]:
    """A function from events to the text of their lines.

    Args:
        schema: The columns.
        careful: Whether it escapes; otherwise the caller must prove that nothing needed it.
    """
    names: dict[str, Any] = {
        "address": _AddressTexts(),
        "double": tsv_double,
        "enum": _enum_text,
        "fail": _fail,
        "quick": _QUICK_TEXT.get,
        "text": _tsv_text_or_unset,
    }
    values, fields = [], []
    for number, column in enumerate(schema.columns):
        values.append(f"v{number} = {_value(column)}")
        if column.container is None:
            fields.append(_tsv_field(column, f"v{number}", careful=careful))
        else:
            names[f"join{number}"] = _join(column, _element_text(column, names, careful=careful), careful=careful)
            fields.append(f"{{join{number}(v{number})}}")
    # One f-string a row: no list of 22 texts, no join of them.
    row = r"\t".join(fields) + r"\n"
    return _compile(values, f'f"""{row}"""', "''.join(out)", names)


def json_row_type(schema: LogSchema) -> type[msgspec.Struct]:
    """A struct whose fields are called as the columns: msgspec writes the objects, and leaves out what is unset."""
    fields: list[tuple[str, Any, Any]] = [(f"c{i}", Any, None) for i in range(len(schema.columns))]
    keys = {f"c{i}": column.name for i, column in enumerate(schema.columns)}
    return msgspec.defstruct("Row", fields, rename=keys, omit_defaults=True, gc=False)


def _json_scalar(column: Column, v: str, *, careful: bool) -> str:
    """An expression for what msgspec gets for the variable `v`; `None` stays `None`."""
    unset = f"None if {v} is None else"
    match column.zeek_type:
        case ZeekType.BOOL | ZeekType.INT | ZeekType.COUNT:
            return v
        case ZeekType.PORT:
            return f"{unset} {v}.number" if _is_port_object(column) else v
        case ZeekType.TIME | ZeekType.INTERVAL | ZeekType.DOUBLE:
            return f"{v} if {v}.__class__ is float and 1e-5 <= {v} < 1e16 else double({v})"
        case ZeekType.ADDR:
            return f"{unset} address[{v}.mapped]"
        case ZeekType.SUBNET:
            return f"{unset} str({v})"
        case ZeekType.STRING | ZeekType.ENUM:
            if not _is_plain_text(column):
                return f"{unset} text(enum({v}))"
            return f"{unset} text({v})" if careful or column.python_type is bytes else v


def compile_json(
    schema: LogSchema, row: type[msgspec.Struct], *, careful: bool
) -> Callable[[Iterable[Event]], list[Any]]:
    """A function from events to rows of type `row`; `careful` as in `compile_tsv`."""
    names: dict[str, Any] = {
        "Row": row,
        "address": _AddressTexts(),
        "double": json_double,
        "enum": _enum_text,
        "text": escape.json_text,
        "sort": _in_order,
    }
    values, arguments = [], []
    for number, column in enumerate(schema.columns):
        value = _value(column)
        if column.container is not None:
            value = (
                f"None if (s := {value}) is None else [{_json_scalar(column, 'v', careful=careful)} for v in sort(s)]"
            )
            arguments.append(value)
        elif (scalar := _json_scalar(column, f"v{number}", careful=careful)) == f"v{number}":
            arguments.append(value)
        else:
            values.append(f"v{number} = {value}")
            arguments.append(scalar)
    return _compile(values, f"Row({', '.join(arguments)})", "out", names)


def compile_cost(schema: LogSchema) -> Callable[[Iterable[Event]], int]:
    """A function from events to an estimate of the memory that they hold, in bytes: what a queue counts.

    A struct with its numbers by the number of columns, texts by their length (which is exact for ASCII).
    """
    terms = [str(_STRUCT_BYTES + _FIELD_BYTES * len(schema.columns))]
    for column in schema.columns:
        if column.container is not None:
            text = (
                f"sum([{_FIELD_BYTES} + len(v) for v in s])" if _is_plain_text(column) else f"len(s) * {_FIELD_BYTES}"
            )
            terms.append(f"({text} if (s := {_value(column)}) else 0)")
        elif _is_plain_text(column):
            terms.append(f"(len(v) if (v := {_value(column)}) else 0)")
    return _compile([], " + ".join(terms), "sum(out)", {})


def _in_order(values: Any) -> Any:
    return sorted(values, key=str) if isinstance(values, (set, frozenset)) else values


def _fail(value: object) -> str:
    raise TypeError(f"{type(value).__name__} where another type belongs")


def _compile(values: list[str], row: str, result: str, names: dict[str, Any]) -> Callable[[Iterable[Event]], Any]:
    lines = [
        "def render(events):",
        "    out = []",
        "    for e in events:",
        *[f"        {value}" for value in values],
        f"        out.append({row})",
        f"    return {result}",
    ]
    namespace = dict(names)
    exec("\n".join(lines), namespace)  # noqa: S102 - see `formats`: our own names only
    compiled: Callable[[Iterable[Event]], Any] = namespace["render"]
    return compiled
