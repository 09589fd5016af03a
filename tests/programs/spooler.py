"""A child program that appends to a spool for as long as it lives, and says what is durable, a line each.

    python -m tests.programs.spooler FOLDER SEED [MAX_BYTES]

Prints `ready NEXT`, and after every sync `synced SEQUENCE`; at a `StoreError` `failed CODE SYNCED`, and then it waits
for a line on its stdin: `end`, or anything else to go on. What run `first` of the seed has is `contents(seed, first)`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from random import Random

from rapini.errors import StoreError
from rapini.storage import Spool

__all__ = ["SEGMENT_BYTES", "contents"]

SEGMENT_BYTES = 64 * 1024


def contents(seed: int, first: int) -> tuple[int, str, bytes]:
    """Count, topic and data of the run that begins with a number."""
    random = Random(seed * 1_000_003 + first)
    return random.randrange(1, 20), f"log/{random.randrange(3)}", random.randbytes(random.randrange(3000))


def _main() -> None:
    folder, seed = Path(sys.argv[1]), int(sys.argv[2])
    max_bytes = int(sys.argv[3]) if len(sys.argv) > 3 else 1 << 30
    random = Random(seed)
    with Spool.open(folder, max_bytes=max_bytes, segment_bytes=SEGMENT_BYTES) as spool:
        print(f"ready {spool.next_sequence}", flush=True)
        while True:
            try:
                for _ in range(random.randrange(1, 8)):
                    spool.append(*contents(seed, spool.next_sequence))
                print(f"synced {spool.sync()}", flush=True)
            except StoreError as failure:
                print(f"failed {failure.code} {spool.synced_sequence}", flush=True)
                if sys.stdin.readline() in {"end\n", ""}:
                    return


if __name__ == "__main__":
    _main()
