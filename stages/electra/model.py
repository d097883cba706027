"""ELECTRA: a generator and a discriminator over one set of embeddings.

A module holds arrays only while it is built or called. Between, its parameters are a plain nested dictionary:

    graphdef, params = split(Electra(discriminator, generator, rngs_key=jax.random.key(0)))
    logits = merge(graphdef, params).discriminate(ids_BT, mask_BT, types_BT)

Shapes: `B` batch, `T` tokens, `P` masked positions, `D` model width, `E` embedding width, `V` vocabulary.
`mask_BT` is true at real tokens, `types_BT` is 0 in the first segment and 1 in the second.
`key_B` are keys of dropout, one a row; without them there is none. `dtype` is what the matrix products take in;
they add up in float32.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from stages.electra.config import ElectraConfig
from stages.electra.encoder import Embeddings, Encoder
from stages.electra.heads import DiscriminatorHead, GeneratorHead
from stages.electra.layers import split_keys

Params = dict[str, Any]


def split(module: nnx.Module) -> tuple[Any, Params]:
    """The module's structure, and its parameters in nested dictionaries; lists have keys '0', '1', …"""
    # Tree mode refuses a module or array held twice, which jax.jit would silently untie.
    graphdef, state = nnx.split(module, graph=False)
    return graphdef, _rename_keys(nnx.to_pure_dict(state), str)


def merge(graphdef: Any, params: Params) -> Any:
    """The module again, around `params`."""
    return nnx.merge(graphdef, _rename_keys(params, lambda key: int(key) if key.isdecimal() else key))


def _rename_keys(tree: Any, rename: Any) -> Any:
    if not isinstance(tree, dict):
        return tree
    return {rename(key): _rename_keys(value, rename) for key, value in tree.items()}


class Electra(nnx.Module):
    """Both networks. The embeddings exist once, here, and are lent to each by argument.

    Word, position and token type tables and the embedding LayerNorm are shared, unless `untied_embeddings` gives
    the generator its own; the projection of the embeddings to the model width is each network's own. With
    `shared_encoder` that and all layers are one as well, and only the heads differ.

    Without a configuration a network is left out: a masked language model has no discriminator, and an ELECTRA
    that draws its samples evenly no generator.
    """

    def __init__(
        self,
        discriminator: ElectraConfig | None,
        generator: ElectraConfig | None,
        *,
        untied_embeddings: bool = False,
        shared_encoder: bool = False,
        rngs_key: jax.Array,
    ) -> None:
        if discriminator is not None and generator is not None:
            shared = ("vocab_size", "max_position_embeddings", "type_vocab_size")
            for name in shared if untied_embeddings else (*shared, "embedding_size"):
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
        # The order of initialisation: embeddings, generator, its head, discriminator, its head; last the generator's
        # own embeddings.
        keys = jax.random.split(rngs_key, 5)
        self.embeddings = Embeddings(first, rngs_key=keys[0])
        # Any, not `Encoder | None`: who calls a network knows that it is there.
        is_shared = shared_encoder and discriminator is not None
        self.generator: Any = Encoder(generator, rngs_key=keys[1]) if generator and not is_shared else None
        self.generator_head: Any = GeneratorHead(generator, rngs_key=keys[2]) if generator else None
        self.discriminator: Any = Encoder(discriminator, rngs_key=keys[3]) if discriminator else None
        self.discriminator_head: Any = DiscriminatorHead(discriminator, rngs_key=keys[4]) if discriminator else None
        self.generator_embeddings = (
            Embeddings(generator, rngs_key=jax.random.fold_in(rngs_key, 5))
            if untied_embeddings and generator and discriminator
            else None
        )

    @property
    def embeddings_of_generator(self) -> Embeddings:
        """The shared ones, or its own where they are untied."""
        return self.embeddings if self.generator_embeddings is None else self.generator_embeddings

    @property
    def encoder_of_generator(self) -> Encoder:
        """The discriminator's where it is shared."""
        encoder: Encoder = self.discriminator if self.generator is None else self.generator
        return encoder

    def generator_hidden(
        self,
        ids_BT: jax.Array,
        mask_BT: jax.Array,
        types_BT: jax.Array,
        positions_BP: jax.Array,
        *,
        key_B: jax.Array | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> jax.Array:
        """The generator's vectors at these positions, to be multiplied by the word table, [B, P, E]."""
        x_BTD = _encode(
            self.embeddings_of_generator,
            self.encoder_of_generator,
            ids_BT,
            mask_BT,
            types_BT,
            key_B=key_B,
            dtype=dtype,
        )
        x_BPD = jnp.take_along_axis(x_BTD, positions_BP[..., None], axis=1)
        return self.generator_head.transform(x_BPD, dtype=dtype)

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
        embeddings = self.embeddings_of_generator
        x_BTD = _encode(embeddings, self.encoder_of_generator, ids_BT, mask_BT, types_BT, key_B=key_B, dtype=dtype)
        return self.generator_head(x_BTD, embeddings.word.embedding[...], dtype=dtype)

    def discriminate(
        self,
        ids_BT: jax.Array,
        mask_BT: jax.Array,
        types_BT: jax.Array,
        *,
        key_B: jax.Array | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> jax.Array:
        """Logits for 'this token was replaced', [B, T]."""
        x_BTD = _encode(self.embeddings, self.discriminator, ids_BT, mask_BT, types_BT, key_B=key_B, dtype=dtype)
        return self.discriminator_head(x_BTD, dtype=dtype)


def _encode(
    embeddings: Embeddings,
    encoder: Encoder,
    ids_BT: jax.Array,
    mask_BT: jax.Array,
    types_BT: jax.Array,
    *,
    key_B: jax.Array | None,
    dtype: DTypeLike,
) -> jax.Array:
    keys = split_keys(key_B, 2)
    x_BTE = embeddings(ids_BT, types_BT, key_B=keys[0])
    return encoder(x_BTE, mask_BT, key_B=keys[1], dtype=dtype).last_BTD
