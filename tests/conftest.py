"""One small phantom for all tests; a machine without data sets and GPU for those of the study."""

from pathlib import Path

import pytest
import torch

from prr.data import write_phantom
from prr.study.datasets import VARIABLES


@pytest.fixture(scope="session")
def phantom_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """acdc/, t1/ and rvsc/ of a few patients each; read it, never write to it."""
    return write_phantom(tmp_path_factory.mktemp("data") / "phantom", {"acdc": 4, "t1": 7, "rvsc": 4}, seed=0)


@pytest.fixture(scope="module")
def phantoms_only():
    """No data set is named, no GPU is there, and one job runs at a time, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name in VARIABLES:
            patch.delenv(name, raising=False)
        patch.setattr(torch.cuda, "is_available", lambda: False)
        patch.setattr(torch.backends.mps, "is_available", lambda: False)
        patch.setenv("PRR_JOBS", "1")
        yield
