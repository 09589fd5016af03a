"""What users test their own programs with; Rapini's own tests use it too.

`ThrowawayAuthority` makes certificates, right and wrong ones; `joined_pair` joins two session links in memory, with a
clock that the test moves.
"""

from rapini.testing.authority import ThrowawayAuthority
from rapini.testing.links import LinkEnd, LinkPair, ManualClock, greeting_of, joined_pair, settle

__all__ = ["LinkEnd", "LinkPair", "ManualClock", "ThrowawayAuthority", "greeting_of", "joined_pair", "settle"]
