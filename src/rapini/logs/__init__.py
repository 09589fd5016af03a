"""Log files: event types become columns, each log has a thread that writes it, in Zeek's formats.

On `threads` and `events`, below the node and the programs. `LogManager` is what most callers need::

    logs = LogManager(Path("logs"), format=LogFormat.TSV)
    logs.add_stream(Connection, zeek_schema(Connection, path="conn"))
    logs.log(events)
    report = logs.close(deadline_s=10)
"""

from rapini.logs.formats import JsonFormatter, LogFormat, RenderedBatch, RowFormatter, TsvFormatter
from rapini.logs.manager import LogManager, LogReport
from rapini.logs.schema import Column, LogSchema, zeek_schema
from rapini.logs.writer import JsonWriter, LogFailure, LogStatistics, LogWriter, LossCause, TsvWriter

__all__ = [
    "Column",
    "JsonFormatter",
    "JsonWriter",
    "LogFailure",
    "LogFormat",
    "LogManager",
    "LogReport",
    "LogSchema",
    "LogStatistics",
    "LogWriter",
    "LossCause",
    "RenderedBatch",
    "RowFormatter",
    "TsvFormatter",
    "TsvWriter",
    "zeek_schema",
]
