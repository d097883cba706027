"""What the tests run under: mistakes that would pass in silence are errors."""

import warnings

import jax.numpy as jnp
import pytest


def warn_in(module: str) -> None:
    warnings.warn_explicit("old", DeprecationWarning, filename="file.py", lineno=1, module=module)


@pytest.mark.parametrize("module", ["stages.electra.layers", "pipeline.run", "cluster.mesh"])
def test_a_warning_of_our_own_code_is_an_error(module):
    with pytest.raises(DeprecationWarning, match="old"):
        warn_in(module)


@pytest.mark.parametrize("module", ["optax", "pipelines.other", "their.stages.electra"])
def test_a_warning_inside_another_package_is_none(module):
    with pytest.warns(DeprecationWarning, match="old"):
        warn_in(module)


def test_arrays_of_different_rank_are_not_lined_up_in_silence():
    with pytest.raises(ValueError, match="rank_promotion"):
        jnp.ones((2, 3)) + jnp.ones(3)
    assert (jnp.ones((2, 3)) + jnp.ones(3)[None]).shape == (2, 3)
