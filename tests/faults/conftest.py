"""Keys for all tests of this folder, made once."""

from __future__ import annotations

import pytest

from tests.integration.node.support import Keys

__all__ = ["keys"]


@pytest.fixture(scope="session")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Keys:
    """One authority and its nodes."""
    return Keys(tmp_path_factory.mktemp("keys"))
