"""Keys for the tests that talk to real nodes, made once."""

from __future__ import annotations

import pytest

from tests.integration.node.support import Keys

__all__ = ["keys"]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """One authority and its nodes."""
    return Keys(tmp_path_factory.mktemp("keys"))
