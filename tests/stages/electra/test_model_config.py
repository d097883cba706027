"""Sizes are the paper's, and a wrong field says so with its numbers."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from stages.electra.config import ElectraConfig
from stages.electra.objectives.objective import ObjectiveConfig, ObjectiveKind
from stages.electra.sizes import EmbeddingSharing, ModelConfig, Size


@pytest.mark.parametrize(
    ("size", "discriminator", "generator", "mask_fraction"),
    [
        (Size.SMALL, (12, 256, 1024, 4, 128), (12, 64, 256, 1, 128), 0.15),
        (Size.BASE, (12, 768, 3072, 12, 768), (12, 256, 1024, 4, 768), 0.15),
        (Size.LARGE, (24, 1024, 4096, 16, 1024), (24, 256, 1024, 4, 1024), 0.25),
    ],
)
def test_sizes_are_those_of_the_paper(size, discriminator, generator, mask_fraction):
    def numbers(config: ElectraConfig) -> tuple[int, ...]:
        return (
            config.num_hidden_layers,
            config.hidden_size,
            config.intermediate_size,
            config.num_attention_heads,
            config.embedding_size,
        )

    resolved = ModelConfig(size=size).resolve(30522)
    assert tuple(map(numbers, resolved)) == (discriminator, generator)
    assert ObjectiveConfig().resolve(size).mask_fraction == mask_fraction


def test_generator_multiplier_one_gives_the_released_small_model():
    discriminator, generator = ModelConfig(size=Size.SMALL, generator_multiplier=1.0).resolve(30522)
    assert generator == discriminator


def test_own_mask_fraction_wins_over_the_size():
    assert ObjectiveConfig(mask_fraction=0.4).resolve(Size.LARGE).mask_fraction == 0.4


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"hidden_size": 100, "num_attention_heads": 3}, "hidden_size 100 .* num_attention_heads 3"),
        ({"num_hidden_layers": 0}, "num_hidden_layers is 0"),
        ({"hidden_dropout_prob": 1.0}, "hidden_dropout_prob is 1.0"),
        ({"generator_multiplier": 1.5}, "generator_multiplier is 1.5"),
        ({"hidden_size": 200, "num_attention_heads": 4, "generator_multiplier": 0.515}, "2 heads do not divide"),
        ({"hidden_act": "swish"}, "swish"),
    ],
)
def test_wrong_model_fields_are_refused_with_their_numbers(fields, message):
    with pytest.raises(ValueError, match=message):
        ModelConfig(**fields)


@pytest.mark.parametrize("field", ["mask_fraction", "mask_probability", "temperature", "generator_weight"])
def test_wrong_objective_fields_are_refused(field):
    with pytest.raises(ValueError, match=f"{field} is -0.1"):
        ObjectiveConfig(**{field: -0.1})


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"uniform_generator": True}, "uniform_generator is True, which means nothing to masked_language_modeling"),
        ({"disallow_correct": True}, "disallow_correct is True"),
        ({"temperature": 0.5}, "temperature is 0.5"),
    ],
)
def test_masked_language_modeling_has_no_samples_to_configure(fields, message):
    with pytest.raises(ValueError, match=message):
        ObjectiveConfig(kind=ObjectiveKind.MASKED_LANGUAGE_MODELING, **fields)


def test_a_uniform_generator_has_no_temperature():
    with pytest.raises(ValueError, match=r"temperature is 0.5, but a uniform generator"):
        ObjectiveConfig(uniform_generator=True, temperature=0.5)


def test_each_objective_trains_its_own_networks():
    discriminator, generator = ModelConfig(size=Size.BASE).resolve(30522)
    mlm = ObjectiveConfig(kind=ObjectiveKind.MASKED_LANGUAGE_MODELING)
    assert ObjectiveConfig().networks(discriminator, generator) == (discriminator, generator)
    assert ObjectiveConfig(uniform_generator=True).networks(discriminator, generator) == (discriminator, None)
    # The network that is compared with a discriminator has its size.
    assert mlm.networks(discriminator, generator) == (None, discriminator)


def test_untied_embeddings_are_as_wide_as_the_generator():
    discriminator, generator = ModelConfig(size=Size.BASE, embedding_sharing=EmbeddingSharing.UNTIED).resolve(30522)
    assert (discriminator.embedding_size, generator.embedding_size) == (768, 256)


def test_a_shared_encoder_has_one_configuration_and_contradicts_a_smaller_generator():
    discriminator, generator = ModelConfig(size=Size.BASE, shared_encoder=True).resolve(30522)
    assert generator == discriminator
    for contradiction in ({"generator_multiplier": 0.5}, {"embedding_sharing": EmbeddingSharing.UNTIED}):
        with pytest.raises(ValueError, match="then generator_multiplier must be 1, and embedding_sharing shared"):
            ModelConfig(shared_encoder=True, **contradiction)


def test_the_generators_heads_are_as_wide_as_the_discriminators():
    _, generator = ModelConfig(size=Size.TINY, num_attention_heads=4).resolve(30522)
    assert (generator.hidden_size, generator.num_attention_heads) == (64, 2)


def test_config_survives_a_dictionary():
    config = ModelConfig(size=Size.BASE).resolve(30522)[1]
    assert ElectraConfig.from_dict(config.to_dict()) == config
    with pytest.raises(ValueError, match="hiden_size"):
        ElectraConfig.from_dict({**config.to_dict(), "hiden_size": 3})


def test_configurations_load_without_jax():
    code = (
        "import sys, stages.electra, stages.electra.config, stages.export; "
        "print([name for name in ('jax', 'flax', 'numpy', 'safetensors') if name in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def compared_kinds(code: str) -> list[int]:
    """The lines that compare or match a member of `ObjectiveKind`."""
    return [
        node.lineno
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.Compare | ast.MatchValue)
        and any(isinstance(part, ast.Name) and part.id == "ObjectiveKind" for part in ast.walk(node))
    ]


def test_objectives_are_told_apart_in_the_table_of_their_traits_alone():
    root = Path(__file__).parents[3]
    files = [file for room in ("pipeline", "stages", "cluster") for file in (root / room).rglob("*.py")]
    assert not {file.name: lines for file in files if (lines := compared_kinds(file.read_text()))}


def test_a_comparison_of_kinds_is_found_and_a_default_is_none():
    assert compared_kinds("a = 1\nif kind is ObjectiveKind.ELECTRIC: pass") == [2]
    assert compared_kinds("if kind in (ObjectiveKind.ELECTRIC, None): pass") == [1]
    assert compared_kinds("match kind:\n  case ObjectiveKind.ELECTRIC: pass") == [2]
    assert compared_kinds("def f(kind: ObjectiveKind = ObjectiveKind.ELECTRIC): pass") == []


@pytest.mark.parametrize("kind", ObjectiveKind)
def test_every_objective_has_traits_that_name_fields_and_fit_together(kind):
    traits = kind.traits
    assert set(traits.meaningless) <= ObjectiveConfig.__dataclass_fields__.keys()
    assert traits.restores or not traits.copies
    discriminator, generator = ObjectiveConfig(kind=kind).networks(*ModelConfig(size=Size.TINY).resolve(100))
    assert generator is not None
    assert (discriminator is None) == traits.trains_one_network
