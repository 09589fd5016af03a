"""Events to bytes and back. Knows nothing of networks, sessions or keys."""

from rapini.codec.batch import (
    BadEvent,
    Codec,
    DecodedRun,
    EncodedRun,
    EncodeFailure,
    Transit,
    join_runs,
    split_into_batches,
)
from rapini.codec.strings import StringTable

__all__ = [
    "BadEvent",
    "Codec",
    "DecodedRun",
    "EncodeFailure",
    "EncodedRun",
    "StringTable",
    "Transit",
    "join_runs",
    "split_into_batches",
]
