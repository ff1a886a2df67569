"""One small phantom for all tests."""

from pathlib import Path

import pytest

from prr.data import write_phantom


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """acdc/, t1/ and rvsc/ of a few patients each; read it, never write to it."""
    return write_phantom(tmp_path_factory.mktemp("data") / "phantom", {"acdc": 4, "t1": 7, "rvsc": 4}, seed=0)
