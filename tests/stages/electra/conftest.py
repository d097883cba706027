"""Fixtures around `electra_miniature`, which the tests of this folder import by its name."""

import sys
from pathlib import Path

import jax
import pytest

from stages.electra.objectives.objective import ObjectiveConfig

sys.path.insert(0, str(Path(__file__).parent))

from electra_miniature import NUM_TOKENS, build_electra, make_batch


@pytest.fixture(scope="session")
def electra() -> tuple[object, dict]:
    """Structure and parameters of a tiny ELECTRA."""
    return build_electra()


@pytest.fixture(scope="session")
def shallow() -> tuple[object, dict]:
    """The same with one layer, where more would only be compiled longer."""
    return build_electra(num_hidden_layers=1)


@pytest.fixture
def objective() -> ObjectiveConfig:
    return ObjectiveConfig(mask_fraction=0.25)


@pytest.fixture
def batch() -> dict[str, jax.Array]:
    return make_batch([NUM_TOKENS, 17, 9, 3, 2, 1, 0, NUM_TOKENS])
