"""Replicated key-value tables: one master, many clones, as machines without sockets, threads or clocks. Sans-IO.

`master` changes the table and counts versions; `clone` follows; `messages` is what they say; `log` keeps deltas for who
lags; `writers` makes a clone's repeated write happen once; `backend` is where a master keeps the table, in memory here
and in SQLite in `rapini.storage.sqlite_store`. `docs/design/stores.md` is the essay.
"""

from rapini.stores.backend import Backend, MemoryBackend
from rapini.stores.clone import CloneStore
from rapini.stores.master import MasterStore
from rapini.stores.messages import answer_unknown_untrusted
from rapini.stores.operations import Cause, Operation, make_operation
from rapini.stores.outcomes import EntryChanged, WriteDone, WriteResult
from rapini.stores.values import Key

__all__ = [
    "Backend",
    "Cause",
    "CloneStore",
    "EntryChanged",
    "Key",
    "MasterStore",
    "MemoryBackend",
    "Operation",
    "WriteDone",
    "WriteResult",
    "answer_unknown_untrusted",
    "make_operation",
]
