"""The part of a node's public face that keeps tables: `Node.store`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from rapini.errors import (
    ConfigError,
)
from rapini.node.publishing import Publishing
from rapini.node.store import Store
from rapini.secure.identity import check_name

__all__ = ["Keeping"]


class Keeping(Publishing):
    """What `Node` inherits; see there."""

    def store(
        self,
        name: str,
        *,
        master: bool = False,
        path: str | Path | None = None,
        may_write: Callable[[str], bool] | None = None,
    ) -> Store:
        """A replicated key-value table: its master here, or a clone of the one that some peer has.

        Args:
            name: The store's: letters, digits, dots, dashes and underscores.
            master: Whether the table is kept here. One node of those that meet has the master.
            path: Where a master keeps the table in an SQLite file; in memory by default.
            may_write: Asked by a master for each write of a peer, by the peer's name; only `True` lets it. By default
                every peer that was admitted may write. Runs on the I/O thread and must answer at once.

        Returns:
            The store; another call with the same name returns the same one.

        Raises:
            ConfigError: `bad_name`; `path` or `may_write` without `master`.
            LocalError: `store_kind`: the other kind of this name is here; `closed`.
            StoreError: The file cannot be used: `store_in_use`, `not_a_store`, `damaged`, …

        Thread: any.
        """
        check_name(name, what="store")
        if not master and (path is not None or may_write is not None):
            raise ConfigError("bad_option", "a clone has neither path nor may_write", remedy="give master=True")
        with self._lock:
            self._check_open()
            stores = self._core.peers.stores
            backend = None
            if master and path is not None and name not in stores.drivers:
                from rapini.storage.sqlite_store import SqliteBackend

                backend = SqliteBackend(path)
            writers = (may_write or _anybody) if master else None
            return stores.open(name, backend=backend, may_write=writers)


def _anybody(peer: str) -> bool:
    """Every peer that was admitted may write."""
    del peer
    return True
