"""A generator with one seed for every test of this folder."""

import numpy as np
import pytest


@pytest.fixture
def rng():
    return np.random.default_rng(1805)
