"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Engines remember nothing from, or for, the user's own runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("WANDER_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
