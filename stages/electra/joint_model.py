"""ELECTRA: a generator and a discriminator over one set of embeddings.

A module holds arrays only while it is built or called. Between, its parameters are a plain nested dictionary:

    graphdef, params = split(Electra(discriminator, generator, key=jax.random.key(0)))
    logits = merge(graphdef, params).discriminate(ids_BT, mask_BT, types_BT)

Shapes: `B` batch, `T` tokens, `P` masked positions, `D` model width, `E` embedding width, `V` vocabulary.
`mask_BT` is true at real tokens; `types_BT` is 0 in the first segment and 1 in the second; positions count from 0
where they are not given; `text_BT` is the number of each token's text where rows hold several.
`key_B` are keys of dropout, one a row; without them there is none. `dtype` is what the matrix products take in;
they add up in float32.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from stages.electra.config import ElectraConfig, Rematerialize
from stages.electra.encoder import Embeddings, Encoder
from stages.electra.heads import DiscriminatorHead, GeneratorHead
from stages.electra.layers import Dense, glorot_uniform, split_keys
from stages.electra.objectives.objective import ObjectiveKind
from stages.electra.sizes import EmbeddingSharing
from stages.electra.towers import TwoTowers

Params = dict[str, Any]  # nested, of arrays


def split(module: nnx.Module) -> tuple[nnx.GraphDef, Params]:
    """The module's structure, and its parameters in nested dictionaries; lists have keys '0', '1', …"""
    # Tree mode refuses a module or array held twice, which jax.jit would silently untie.
    graphdef, state = nnx.split(module, graph=False)
    return graphdef, _rename_keys(nnx.to_pure_dict(state), str)


def merge(graphdef: nnx.GraphDef, params: Params) -> Any:
    """The module again, around `params`."""
    return nnx.merge(graphdef, _rename_keys(params, lambda key: int(key) if key.isdecimal() else key))


def _rename_keys(tree: Any, rename: Callable[[Any], Any]) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {rename(key): _rename_keys(value, rename) for key, value in tree.items()}


class Electra(nnx.Module):
    """Both networks. The embeddings exist once, here, and are lent to each by argument.

    Word, position and token type tables and the embedding LayerNorm are shared, unless `embedding_sharing` says
    otherwise; the projection of the embeddings to the model width is each network's own. With `shared_encoder` that
    and all layers are one as well, and only the heads differ.

    Without a configuration a network is left out: a masked language model has no discriminator, and an ELECTRA
    that draws its samples evenly no generator. The traits of the objective's `kind` decide about the rest: how many
    towers the generator has, and whether the discriminator's head detects or predicts words. `rematerialize` says what
    the layers' backward pass computes anew.
    """

    def __init__(
        self,
        discriminator: ElectraConfig | None,
        generator: ElectraConfig | None,
        *,
        kind: ObjectiveKind = ObjectiveKind.REPLACED_TOKEN_DETECTION,
        embedding_sharing: EmbeddingSharing = EmbeddingSharing.SHARED,
        shared_encoder: bool = False,
        rematerialize: Rematerialize = Rematerialize.NONE,
        key: jax.Array,
    ) -> None:
        traits = kind.traits
        is_untied = embedding_sharing is EmbeddingSharing.UNTIED
        if discriminator is not None and generator is not None:
            shared = ("vocab_size", "max_position_embeddings", "type_vocab_size")
            for name in shared if is_untied else (*shared, "embedding_size"):
                ours, theirs = getattr(discriminator, name), getattr(generator, name)
                if ours != theirs:
                    raise ValueError(
                        f"{name} is {ours} in the discriminator and {theirs} in the generator: they share it"
                    )
            if shared_encoder and discriminator != generator:
                raise ValueError("discriminator and generator are configured differently, and are to share an encoder")
        first = discriminator or generator
        if first is None:
            raise ValueError("neither a discriminator nor a generator is configured")
        # The order of initialisation: embeddings, generator, its head, discriminator, its head; last what only some
        # models have.
        keys = jax.random.split(key, 5)
        self.embeddings = Embeddings(first, key=keys[0])
        # Any, not `Encoder | None`: a caller of a network knows that it exists.
        is_shared = shared_encoder and discriminator is not None
        encoder = partial(Encoder, rematerialize=rematerialize)
        generator_encoder = partial(TwoTowers, rematerialize=rematerialize) if traits.has_towers else encoder
        self.generator: Any = generator_encoder(generator, key=keys[1]) if generator and not is_shared else None
        self.generator_head: Any = (
            GeneratorHead(generator, num_inputs=traits.generator_towers * generator.hidden_size, key=keys[2])
            if generator
            else None
        )
        self.discriminator: Any = encoder(discriminator, key=keys[3]) if discriminator else None
        head = GeneratorHead if traits.restores else DiscriminatorHead
        self.discriminator_head: Any = head(discriminator, key=keys[4]) if discriminator else None
        own_key = jax.random.fold_in(key, 5)
        has_own = is_untied and discriminator
        self.generator_embeddings: Any = Embeddings(generator, key=own_key) if generator and has_own else None
        is_disentangled = embedding_sharing is EmbeddingSharing.DISENTANGLED and discriminator and generator
        self.difference: Any = jax.tree.map(jnp.zeros_like, self.embeddings) if is_disentangled else None
        self.copy_head: Any = (
            Dense(glorot_uniform(jax.random.fold_in(key, 6), (discriminator.hidden_size, 1)))
            if traits.copies and discriminator
            else None
        )

    @property
    def embeddings_of_generator(self) -> Embeddings:
        """The shared embeddings, or the generator's own where they are untied."""
        own: Embeddings | None = self.generator_embeddings
        return self.embeddings if own is None else own

    @property
    def embeddings_of_discriminator(self) -> Embeddings:
        """The shared embeddings; where they are disentangled, their values plus the discriminator's difference."""
        if self.difference is None:
            return self.embeddings
        return jax.tree.map(lambda shared, own: jax.lax.stop_gradient(shared) + own, self.embeddings, self.difference)

    @property
    def encoder_of_generator(self) -> Any:
        """The discriminator's where it is shared."""
        return self.discriminator if self.generator is None else self.generator

    def generator_hidden(
        self,
        ids_BT: jax.Array,
        mask_BT: jax.Array,
        types_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        text_BT: jax.Array | None = None,
        *,
        key_B: jax.Array | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> jax.Array:
        """The generator's last hidden states, [B, T, D]; of two towers, [B, T, 2 D]."""
        keys = split_keys(key_B, 2)
        x_BTE = self.embeddings_of_generator(ids_BT, types_BT, key_B=keys[0], positions_BT=positions_BT)
        return self.encoder_of_generator(x_BTE, mask_BT, text_BT, key_B=keys[1], dtype=dtype).last_BTD

    def discriminator_hidden(
        self,
        ids_BT: jax.Array,
        mask_BT: jax.Array,
        types_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        text_BT: jax.Array | None = None,
        *,
        key_B: jax.Array | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> jax.Array:
        """The discriminator's last hidden states, [B, T, D]."""
        keys = split_keys(key_B, 2)
        x_BTE = self.embeddings_of_discriminator(ids_BT, types_BT, key_B=keys[0], positions_BT=positions_BT)
        return self.discriminator(x_BTE, mask_BT, text_BT, key_B=keys[1], dtype=dtype).last_BTD

    def generate(
        self,
        ids_BT: jax.Array,
        mask_BT: jax.Array,
        types_BT: jax.Array,
        *,
        key_B: jax.Array | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> jax.Array:
        """The generator's logits at every token, [B, T, V]."""
        hidden = self.generator_hidden(ids_BT, mask_BT, types_BT, key_B=key_B, dtype=dtype)
        return self.generator_head(hidden, self.embeddings_of_generator.word.embedding[...], dtype=dtype)

    def discriminate(
        self,
        ids_BT: jax.Array,
        mask_BT: jax.Array,
        types_BT: jax.Array,
        positions_BT: jax.Array | None = None,
        text_BT: jax.Array | None = None,
        *,
        key_B: jax.Array | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> jax.Array:
        """Logits for 'this token was replaced', [B, T]."""
        x_BTD = self.discriminator_hidden(ids_BT, mask_BT, types_BT, positions_BT, text_BT, key_B=key_B, dtype=dtype)
        return self.discriminator_head(x_BTD, dtype=dtype)
