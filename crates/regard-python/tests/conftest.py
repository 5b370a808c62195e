"""What tests share."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

DATA = Path(os.environ.get("REGARD_TEST_DATA", Path(__file__).parents[3] / "target" / "test-data"))


@pytest.fixture
def rng(request):
    """Other numbers in each test, the same in each run."""
    return np.random.default_rng(list(request.node.name.encode()))


@pytest.fixture
def data():
    """The folder of models and texts that ``scripts/fetch-test-data`` fetches."""
    return DATA
