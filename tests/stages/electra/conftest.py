"""Fixtures around `electra_miniature`, which the tests of this folder import by its name."""

import sys
from pathlib import Path

import jax
import pytest

from stages.electra.config import ObjectiveConfig
from stages.electra.model import Electra, split

sys.path.insert(0, str(Path(__file__).parent))

from electra_miniature import NUM_TOKENS, make_batch, perturb, tiny


@pytest.fixture(scope="session")
def electra() -> tuple[object, dict]:
    """Structure and perturbed parameters of a tiny ELECTRA."""
    graphdef, params = split(Electra(*tiny(), rngs_key=jax.random.key(0)))
    return graphdef, perturb(params)


@pytest.fixture
def objective() -> ObjectiveConfig:
    return ObjectiveConfig(mask_fraction=0.25)


@pytest.fixture
def batch() -> dict[str, jax.Array]:
    return make_batch([NUM_TOKENS, 17, 9, 3, 2, 1, 0, NUM_TOKENS])
