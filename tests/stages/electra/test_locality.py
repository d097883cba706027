"""First layers that start by looking at the neighbours of each token."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stages.electra.joint_model import Electra, Params, merge, split
from stages.electra.locality import look_at_neighbours
from stages.electra.sizes import EmbeddingSharing, ModelConfig, Size

NUM_TOKENS = 64
OFFSETS = (-1, 1, -2, 2)


def attention_by_offset(graphdef: Any, params: Params, name: str) -> dict[int, np.ndarray]:
    """Mean weights of the first layer's heads, [H], at the tokens so far to the right."""

    @jax.jit
    def weights(params: Params) -> jax.Array:
        model = merge(graphdef, params)
        is_generator = name == "generator"
        encoder = model.encoder_of_generator if is_generator else model.discriminator
        embeddings = model.embeddings_of_generator if is_generator else model.embeddings
        ids_BT = jax.random.randint(jax.random.key(2), (8, NUM_TOKENS), 5, 1000)
        x_BTE = embeddings(ids_BT, jnp.zeros_like(ids_BT), key_B=None)
        mask_BT = jnp.ones(ids_BT.shape, bool)
        return encoder(x_BTE, mask_BT, key_B=None, dtype=jnp.float32, with_attentions=True).attentions[0]

    weights_BHTS = np.asarray(weights(params))
    near = range(-NUM_TOKENS // 2, NUM_TOKENS // 2)
    return {offset: np.diagonal(weights_BHTS, offset, 2, 3).mean((0, 2)) for offset in near}


@pytest.mark.parametrize(
    "changes",
    [
        {},  # embeddings narrower than the discriminator, as wide as the generator
        {"generator_multiplier": 0.25},
        {"embedding_size": 128, "num_attention_heads": 4},
        {"shared_encoder": True},
        {"embedding_sharing": EmbeddingSharing.UNTIED},
        {"size": Size.SMALL},
    ],
    ids=str,
)
def test_each_head_of_a_first_layer_looks_at_its_own_neighbour(changes: dict[str, Any]) -> None:
    config = ModelConfig(**{"size": Size.TINY, "num_hidden_layers": 1, "initializer_range": 0.05, **changes})
    discriminator, generator = config.resolve(1000)
    networks = {"discriminator": discriminator, "generator": generator}
    ties = {"embedding_sharing": config.embedding_sharing, "shared_encoder": config.shared_encoder}
    graphdef, random = split(Electra(discriminator, generator, key=jax.random.key(0), **ties))
    local = look_at_neighbours(random, networks, key=jax.random.key(1))
    for name, network in networks.items():
        everywhere = attention_by_offset(graphdef, random, name)
        assert np.max(list(everywhere.values())) < 2 / NUM_TOKENS
        there = attention_by_offset(graphdef, local, name)
        for head in range(network.num_attention_heads):
            first, second = sorted(there, key=lambda offset: -there[offset][head])[:2]
            assert first == OFFSETS[head], (name, head)
            assert there[first][head] > max(0.3, 5 * there[second][head]), (name, head)


def test_the_waves_tell_all_positions_of_a_long_text_apart() -> None:
    """No two of 512 positions look alike, as those of evenly spaced frequencies do."""
    discriminator, generator = ModelConfig(size=Size.SMALL, num_hidden_layers=1).resolve(10)
    params = split(Electra(discriminator, generator, key=jax.random.key(0)))[1]
    params = look_at_neighbours(params, {"discriminator": discriminator, "generator": generator}, key=jax.random.key(1))
    table_TE = np.asarray(params["embeddings"]["position"]["embedding"])[:, :64]
    similarity_TT = np.corrcoef(table_TE) - np.eye(512)
    assert similarity_TT.max() < 0.6
