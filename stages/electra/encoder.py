"""The embeddings and the transformer encoder of BERT, as ELECTRA uses them (arXiv 2003.10555, section 3.1).

Shapes: `B` batch, `T` tokens, `S` tokens attended to, `E` embedding width, `D` model width, `H` heads,
`F` feed-forward width, `V` vocabulary, `L` layers.
"""

from typing import Any, NamedTuple

import jax
from flax import nnx
from jax.typing import DTypeLike

from stages.electra.attention.attention import Attention, Cache, CrossAttention, Memory, Source
from stages.electra.attention.sight import Sight
from stages.electra.config import ElectraConfig, Rematerialize
from stages.electra.layers import (
    PRODUCT,
    WEIGHTS,
    Dense,
    Embedding,
    LayerNorm,
    activate,
    dropout,
    key_array,
    truncated_normal,
)

# What the forward pass keeps of a layer. All else is cheaper to compute again than to write and to read: kept as well,
# it made a step of small a quarter slower on CPUs.
_KEPT = {Rematerialize.NONE: (PRODUCT, WEIGHTS), Rematerialize.DOTS: (PRODUCT,), Rematerialize.LAYERS: ()}


def _dense(key: jax.Array, config: ElectraConfig, num_inputs: int, num_outputs: int) -> Dense:
    return Dense(truncated_normal(key, (num_inputs, num_outputs), stddev=config.initializer_range))


class Embeddings(nnx.Module):
    """Word, position and token type vectors, added and normalised."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        width, stddev = config.embedding_size, config.initializer_range
        self.word = Embedding(truncated_normal(keys[0], (config.vocab_size, width), stddev=stddev))
        self.position = Embedding(truncated_normal(keys[1], (config.max_position_embeddings, width), stddev=stddev))
        self.token_type = Embedding(truncated_normal(keys[2], (config.type_vocab_size, width), stddev=stddev))
        self.layer_norm = LayerNorm(width, eps=config.layer_norm_eps)
        self.dropout_rate = config.hidden_dropout_prob

    def __call__(
        self, ids_BT: jax.Array, types_BT: jax.Array, *, key_B: jax.Array | None, positions_BT: jax.Array | None = None
    ) -> jax.Array:
        return self.combine(self.word(ids_BT), types_BT, key_B=key_B, positions_BT=positions_BT)

    def combine(
        self,
        word_BTE: jax.Array,
        types_BT: jax.Array,
        *,
        key_B: jax.Array | None,
        positions_BT: jax.Array | None = None,
    ) -> jax.Array:
        """Adds position and token type vectors to word vectors. Positions count from 0 if they are not given."""
        num_tokens, num_positions = word_BTE.shape[1], self.position.embedding.shape[0]
        if positions_BT is not None:
            position_BTE = self.position(positions_BT)
        elif num_tokens <= num_positions:
            position_BTE = self.position.embedding[...][:num_tokens][None]
        else:
            raise ValueError(f"a sequence has {num_tokens} tokens, the model max_position_embeddings {num_positions}")
        x_BTE = word_BTE + position_BTE + self.token_type(types_BT)
        return dropout(self.layer_norm(x_BTE), self.dropout_rate, key_B)


class Layer(nnx.Module):
    """Attention and feed-forward, each followed by dropout, the residual sum and LayerNorm ('post-LN')."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.attention = Attention(config, key=keys[0])
        self.attention_layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.cross = CrossAttention(config, key=jax.random.fold_in(key, 3)) if config.add_cross_attention else None
        self.intermediate = _dense(keys[1], config, config.hidden_size, config.intermediate_size)
        self.output = _dense(keys[2], config, config.intermediate_size, config.hidden_size)
        self.layer_norm = LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.activation = config.hidden_act
        self.dropout_rate = config.hidden_dropout_prob

    def __call__(
        self,
        x_BTD: jax.Array,
        sight: Sight,
        *,
        keys: list[jax.Array] | list[None],
        dtype: DTypeLike,
        source: Source | None = None,
        memory: Memory | None = None,
        place: jax.Array | None = None,
        with_attentions: bool = False,
    ) -> tuple[jax.Array, jax.Array | None, jax.Array | None, Memory | None]:
        """The next states, the weights of self- and of cross-attention, and the memory.

        `keys` are three keys [B] of dropout: of the attention weights, and before each of the two residual sums.
        """
        found = self.attention(
            x_BTD, x_BTD, sight, key_B=keys[0], dtype=dtype, with_weights=with_attentions, memory=memory, place=place
        )
        x_BTD = self.attention_layer_norm(x_BTD + dropout(found.x_BTD, self.dropout_rate, keys[1]))
        crossed_BHTS = None
        if self.cross is not None and source is not None:
            key_B = None if keys[1] is None else jax.vmap(jax.random.fold_in, (0, None))(keys[1], 0)
            x_BTD, crossed_BHTS = self.cross(x_BTD, source, key_B=key_B, dtype=dtype, with_weights=with_attentions)
        y_BTF = activate(self.intermediate(x_BTD, dtype=dtype), self.activation)
        y_BTD = self.output(y_BTF, dtype=dtype)
        x_BTD = self.layer_norm(x_BTD + dropout(y_BTD, self.dropout_rate, keys[2]))
        return x_BTD, found.weights_BHTS, crossed_BHTS, found.memory


class Encoded(NamedTuple):
    """The results of the layers.

    Attributes:
      last_BTD: Hidden states of the last layer.
      hidden_states: What enters the first layer, then what each layer gives: L + 1 times [B, T, D]; empty unless they
        were asked for.
      attentions: Weights [B, H, T, T] of each layer, after dropout; empty unless they were asked for.
      cross_attentions: Likewise [B, H, T, S] of each layer of a decoder that was given a source.
      cache: What a decoder remembers from here on, where it was given one.
    """

    last_BTD: jax.Array
    hidden_states: tuple[jax.Array, ...]
    attentions: tuple[jax.Array, ...]
    cross_attentions: tuple[jax.Array, ...]
    cache: Cache | None


class Encoder(nnx.Module):
    """The layers, after a projection where the embedding width is not the model's.

    All layers are one `Layer` whose parameters have a leading axis of `L`. One program runs them in turn, so that
    compiling takes as long as for one.
    """

    def __init__(
        self, config: ElectraConfig, *, key: jax.Array, rematerialize: Rematerialize = Rematerialize.NONE
    ) -> None:
        keys = jax.random.split(key, config.num_hidden_layers + 1)
        self.embeddings_project = (
            None
            if config.embedding_size == config.hidden_size
            else _dense(keys[0], config, config.embedding_size, config.hidden_size)
        )
        self.layers = jax.vmap(lambda key: Layer(config, key=key))(keys[1:])
        self.num_layers = config.num_hidden_layers
        self.is_causal = config.is_decoder
        self.kept = _KEPT[rematerialize]

    def __call__(
        self,
        x_BTE: jax.Array,
        mask_BT: jax.Array,
        text_BT: jax.Array | None = None,
        *,
        key_B: jax.Array | None,
        dtype: DTypeLike,
        source: Source | None = None,
        cache: Cache | None = None,
        with_hidden_states: bool = False,
        with_attentions: bool = False,
    ) -> Encoded:
        """Runs the layers.

        Args:
          mask_BT: True at real tokens; with a cache [B, S], of all tokens that it has room for.
          text_BT: Where rows hold several texts, the number of each token's; a token sees its own text alone.
          source: What a decoder crosses to.
          cache: The tokens before these. A decoder sees only what came before, and itself.
          with_hidden_states: Whether to keep what each layer gives.
          with_attentions: Whether to keep the weights of attention.
        """
        project = self.embeddings_project
        x_BTD = x_BTE if project is None else project(x_BTE, dtype=dtype)
        place = None if cache is None else cache.num_tokens
        sight = Sight(real_BS=mask_BT.astype(bool), text_BT=text_BT, is_causal=self.is_causal, place=place)

        def run(x_BTD: jax.Array, each: tuple[Layer, Any, Memory | None]) -> tuple[jax.Array, Any]:
            layer, keys, memory = each
            x_BTD, *more = layer(
                x_BTD,
                sight,
                keys=[None] * 3 if keys is None else list(keys),
                dtype=dtype,
                source=source,
                memory=memory,
                place=place,
                with_attentions=with_attentions,
            )
            return x_BTD, (x_BTD if with_hidden_states else None, *more)

        keys_L3B = None if key_B is None else key_array(key_B, self.num_layers, 3)
        memory = None if cache is None else cache.memory
        # Inside a loop nothing would be shared between the passes anyway, so nothing need prevent it.
        policy = jax.checkpoint_policies.save_only_these_names(*self.kept)
        run = jax.checkpoint(run, policy=policy, prevent_cse=False)
        last_BTD, (hidden, weights, crossed, memory) = jax.lax.scan(run, x_BTD, (self.layers, keys_L3B, memory))
        return Encoded(
            last_BTD=last_BTD,
            hidden_states=() if hidden is None else (x_BTD, *hidden),
            attentions=() if weights is None else tuple(weights),
            cross_attentions=() if crossed is None else tuple(crossed),
            cache=None if cache is None or memory is None else Cache(memory, cache.num_tokens + x_BTD.shape[1]),
        )
