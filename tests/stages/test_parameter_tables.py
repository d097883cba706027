"""Every parameter of the published sizes, as text: path, shape, decay, factor on the learning rate, initial values.

`python tests/stages/test_parameter_tables.py` writes the files anew; their diff shows what a change does.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from stages.electra.files.huggingface import flatten
from stages.electra.joint_model import Electra, split
from stages.electra.network import SequenceClassifier
from stages.electra.sizes import ModelConfig, Size
from stages.tasks.model import make_layer_scale
from stages.training.optimizer import parameter_table

GOLDEN = Path(__file__).parents[1] / "golden"
KEY = jax.random.key(0)


def pretraining(size: Size) -> str:
    networks = ModelConfig(size=size).resolve(30522)
    return table(lambda: Electra(*networks, key=KEY))


def finetuning(size: Size) -> str:
    discriminator, _ = ModelConfig(size=size).resolve(30522)
    scale = make_layer_scale(num_layers=discriminator.num_hidden_layers, decay=0.8, offset=1)
    return table(lambda: SequenceClassifier(discriminator.change(num_labels=2), key=KEY), lr_scale=scale)


TABLES: dict[str, Callable[[], str]] = {
    "parameters-small.txt": lambda: pretraining(Size.SMALL),
    "parameters-base.txt": lambda: pretraining(Size.BASE),
    "parameters-small-classification.txt": lambda: finetuning(Size.SMALL),
}


def table(make: Callable[[], Any], *, lr_scale: Callable[[str], float] | None = None) -> str:
    params = split(make())[1]  # compiled as a whole it takes longer
    header, *lines = parameter_table(params, lr_scale=lr_scale).splitlines()
    values = flatten(params)
    rows = [f"{line:<120} {initializer_of(values[line.split()[0]])}" for line in lines]
    return "\n".join([f"{header:<120} init", *rows]) + "\n"


def initializer_of(values: np.ndarray) -> str:
    """The distribution that the values are of, by their largest and their standard deviation."""
    if not values.any():
        return "zeros"
    if np.all(values == 1):
        return "ones"
    glorot = np.sqrt(6 / sum(values.shape))
    # A normal distribution cut at two standard deviations has 0.88 of its standard deviation left.
    for name, limit, deviation in (
        ("truncated normal 0.02", 0.04, 0.88 * 0.02),
        ("glorot uniform", glorot, glorot / np.sqrt(3)),
    ):
        if 0.9 * limit < np.abs(values).max() <= limit and abs(values.std() / deviation - 1) < 0.1:
            return name
    return f"unknown: largest {np.abs(values).max():.4g}, standard deviation {values.std():.4g}"


@pytest.mark.parametrize("name", TABLES)
def test_parameters_are_those_of_the_golden_table(name):
    found, expected = TABLES[name](), (GOLDEN / name).read_text()
    message = f"the parameters changed; if that is meant, run {Path(__file__).name} and review the diff of {name}"
    assert found.splitlines() == expected.splitlines(), message


@pytest.mark.parametrize("scale", [0.5, 2.0])
def test_another_scale_of_the_initial_values_is_noticed(scale):
    values = 0.02 * np.asarray(jax.random.truncated_normal(KEY, -2, 2, (128, 64)))
    assert initializer_of(values) == "truncated normal 0.02"
    assert initializer_of(scale * values).startswith("unknown")


if __name__ == "__main__":
    GOLDEN.mkdir(exist_ok=True)
    for file, make_table in TABLES.items():
        (GOLDEN / file).write_text(make_table())
