"""Images of three classes that a small network learns in seconds, and small networks."""

from __future__ import annotations

import pytest

from swingkd.vision import Images
from tests.harness import coloured


@pytest.fixture(autouse=True)
def own_precision(fresh_accelerate):
    """Each test says which precision it wants."""


@pytest.fixture
def public() -> Images:
    return coloured(96, seed=0)


@pytest.fixture
def unseen() -> Images:
    return coloured(60, seed=1)
