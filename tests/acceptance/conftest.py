"""A system per test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.acceptance.system import System


@pytest.fixture
def system(tmp_path: Path, broker_url: str, postgres_url: str) -> Iterator[System]:
    """A migrated database, an empty broker, nothing running."""
    system = System(tmp_path, broker_url, postgres_url)
    system.flow("db", "migrate")
    yield system
    system.close()
