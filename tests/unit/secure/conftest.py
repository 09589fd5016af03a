"""Fixtures of the channel tests."""

from __future__ import annotations

import pytest

from tests.unit.secure.pairs import World


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return World(tmp_path_factory.mktemp("secure"))
