"""One small phantom for all tests; a machine without data sets and GPU for those of the study."""

import os
import re
from pathlib import Path

import pytest
import torch

from prr.data import write_phantom
from prr.study.datasets import VARIABLES

collect_ignore = [] if "PRR_BOOK" in os.environ else ["book"]  # tests of a built book, of the one that is named


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


@pytest.fixture(scope="session")
def sentences():
    """Splits what a page says into its sentences, and holds them to what a reader can take in."""

    def split(words: str) -> list[str]:
        plain = re.sub(r"\*\*|^- ", "", words, flags=re.MULTILINE)
        found = [each for line in plain.splitlines() for each in re.split(r"(?<=[.!?])\s+", line.strip()) if each]
        assert found, "expected a sentence, found none"
        long = [each for each in found if len(each.split()) > 25]
        assert not long, f"expected 25 words at most: {long}"
        assert not any("nan" in each.split() for each in found), found
        return found

    return split
