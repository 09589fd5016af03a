"""What users test their own programs with; Rapini's own tests use it too.

`ThrowawayAuthority` makes certificates, right and wrong ones; `joined_pair` joins two session links in memory, with a
clock that the test moves; `CrashableDisk` is a disk that loses power.
"""

from rapini.testing.authority import ThrowawayAuthority
from rapini.testing.disk import CrashableDisk
from rapini.testing.links import LinkEnd, LinkPair, ManualClock, greeting_of, joined_pair, settle

__all__ = [
    "CrashableDisk",
    "LinkEnd",
    "LinkPair",
    "ManualClock",
    "ThrowawayAuthority",
    "greeting_of",
    "joined_pair",
    "settle",
]
