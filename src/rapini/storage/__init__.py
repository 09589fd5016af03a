"""What survives the process: the spool of durable events, receivers' positions, and stores in SQLite.

Beside `logs` and `transport`; `node` is above.

- `spool`: one node's durable stream, and who is owed what of it. Below it `log` (group commit), `reading`, `finding`
  (opening after a crash), `segments`, `records`, `state`, and `files`, the seam to the operating system. On `errors`
  and `limits` alone.
- `spill`: reliable events that memory has no room for, while the process lives.
- `checkpoint`, `filecheckpoint`: a receiver's positions, committed together with its output.
- `sqlite_store`: the table of a store's master (`rapini.stores` has the seam).
"""

from rapini.storage.checkpoint import SqliteCheckpoint
from rapini.storage.filecheckpoint import FileCheckpoint
from rapini.storage.files import REAL, FileSystem
from rapini.storage.log import FsyncPolicy
from rapini.storage.reading import Damage, Hole, HoleReason, Record
from rapini.storage.spill import SpillFiles
from rapini.storage.spool import SEGMENT_BYTES, Spool
from rapini.storage.state import ConsumerState

__all__ = [
    "REAL",
    "SEGMENT_BYTES",
    "ConsumerState",
    "Damage",
    "FileCheckpoint",
    "FileSystem",
    "FsyncPolicy",
    "Hole",
    "HoleReason",
    "Record",
    "SpillFiles",
    "Spool",
    "SqliteCheckpoint",
]
