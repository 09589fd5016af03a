"""What survives the process: the spool of durable events, and receivers' positions.

Beside `logs` and `transport`; `node` is above. On `errors` and `limits` alone.

- `spool`: one node's durable stream, and who is owed what of it. Below it `log` (group commit), `reading`, `finding`
  (opening after a crash), `segments`, `records`, `state`, and `files`, the seam to the operating system.
- `checkpoint`, `filecheckpoint`: a receiver's positions, committed together with its output.
"""

from rapini.storage.checkpoint import SqliteCheckpoint
from rapini.storage.filecheckpoint import FileCheckpoint
from rapini.storage.files import REAL, FileSystem
from rapini.storage.reading import Damage, Hole, Record
from rapini.storage.spool import Spool
from rapini.storage.state import ConsumerState

__all__ = [
    "REAL",
    "ConsumerState",
    "Damage",
    "FileCheckpoint",
    "FileSystem",
    "Hole",
    "Record",
    "Spool",
    "SqliteCheckpoint",
]
