"""One encoder over its own embeddings, with one head: what is fine-tuned, exported and loaded.

Parameters are `{"embeddings": …, "encoder": …, "head": …}`, between calls a plain nested dictionary (see
`stages.electra.joint_model`, also for the arguments).

Shapes: `B` batch, `T` tokens, `S` tokens of another encoder, `D` model width, `V` vocabulary, `C` classes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from stages.electra.attention.attention import Cache, Source
from stages.electra.config import ElectraConfig, HeadKind
from stages.electra.encoder import Embeddings, Encoded, Encoder
from stages.electra.heads import ChoiceHead, ClassificationHead, DiscriminatorHead, GeneratorHead, TokenHead
from stages.electra.layers import split_keys


class Network(nnx.Module):
    """Embeddings and encoder. A subclass adds `head`, made from the third key, and the logits that it gives."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array) -> None:
        keys = jax.random.split(key, 3)
        self.embeddings = Embeddings(config, key=keys[0])
        self.encoder = Encoder(config, key=keys[1])

    def __call__(
        self,
        ids_BT: jax.Array,
        mask_BT: jax.Array,
        types_BT: jax.Array,
        *,
        key_B: jax.Array | None = None,
        dtype: DTypeLike = jnp.float32,
    ) -> jax.Array:
        """The logits."""
        keys = split_keys(key_B, 2)
        x_BTD = self.encode(ids_BT, mask_BT, types_BT, key_B=keys[0], dtype=dtype).last_BTD
        return self.logits(x_BTD, mask_BT, key_B=keys[1], dtype=dtype)

    def encode(
        self,
        words: jax.Array,
        mask_BT: jax.Array,
        types_BT: jax.Array,
        *,
        positions_BT: jax.Array | None = None,
        text_BT: jax.Array | None = None,
        source: Source | None = None,
        key_B: jax.Array | None,
        dtype: DTypeLike,
        cache: Cache | None = None,
        with_hidden_states: bool = False,
        with_attentions: bool = False,
    ) -> Encoded:
        """Hidden states of `words`: token ids [B, T], or word vectors [B, T, E]."""
        keys = split_keys(key_B, 2)
        embed = self.embeddings if words.ndim == 2 else self.embeddings.combine
        x_BTE = embed(words, types_BT, key_B=keys[0], positions_BT=positions_BT)
        return self.encoder(
            x_BTE,
            mask_BT,
            text_BT,
            key_B=keys[1],
            dtype=dtype,
            source=source,
            cache=cache,
            with_hidden_states=with_hidden_states,
            with_attentions=with_attentions,
        )

    def logits(self, x_BTD: jax.Array, mask_BT: jax.Array, *, key_B: jax.Array | None, dtype: DTypeLike) -> Any:
        """The head's logits for the last hidden states; without a head, the hidden states."""
        return x_BTD


class Discriminator(Network):
    """Logits for 'this token was replaced', [B, T]."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array) -> None:
        super().__init__(config, key=key)
        self.head = DiscriminatorHead(config, key=jax.random.split(key, 3)[2])

    def logits(self, x_BTD: jax.Array, mask_BT: jax.Array, *, key_B: jax.Array | None, dtype: DTypeLike) -> jax.Array:
        return self.head(x_BTD, dtype=dtype)


class LanguageModel(Network):
    """Logits of every word at every token, [B, T, V]: a generator, or a decoder's next words."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array) -> None:
        super().__init__(config, key=key)
        self.head = GeneratorHead(config, key=jax.random.split(key, 3)[2])

    def logits(self, x_BTD: jax.Array, mask_BT: jax.Array, *, key_B: jax.Array | None, dtype: DTypeLike) -> jax.Array:
        return self.head(x_BTD, self.embeddings.word.embedding[...], dtype=dtype)


class SequenceClassifier(Network):
    """Logits of a whole text, [B, C]; regression with one label."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array, head: HeadKind = HeadKind.HUGGINGFACE) -> None:
        super().__init__(config, key=key)
        self.head = ClassificationHead(config, num_labels=config.num_labels, kind=head, key=jax.random.split(key, 3)[2])

    def logits(self, x_BTD: jax.Array, mask_BT: jax.Array, *, key_B: jax.Array | None, dtype: DTypeLike) -> jax.Array:
        return self.head(x_BTD, key_B=key_B, dtype=dtype)


class TokenClassifier(Network):
    """Logits of every token, [B, T, C]."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array) -> None:
        super().__init__(config, key=key)
        self.head = TokenHead(
            config, num_labels=config.num_labels, dropout_rate=config.head_dropout, key=jax.random.split(key, 3)[2]
        )

    def logits(self, x_BTD: jax.Array, mask_BT: jax.Array, *, key_B: jax.Array | None, dtype: DTypeLike) -> jax.Array:
        return self.head(x_BTD, key_B=key_B)


class SpanPredictor(Network):
    """Logits of every token as the first and as the last of an answer, [B, T, 2]."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array) -> None:
        super().__init__(config, key=key)
        # No dropout before the head, in the original as in Hugging Face's.
        self.head = TokenHead(config, num_labels=2, dropout_rate=0.0, key=jax.random.split(key, 3)[2])

    def logits(self, x_BTD: jax.Array, mask_BT: jax.Array, *, key_B: jax.Array | None, dtype: DTypeLike) -> jax.Array:
        return self.head(x_BTD, key_B=None)


class ChoiceClassifier(Network):
    """A logit for each text, [B]; the choice with the highest wins."""

    def __init__(self, config: ElectraConfig, *, key: jax.Array) -> None:
        super().__init__(config, key=key)
        self.head = ChoiceHead(config, key=jax.random.split(key, 3)[2])

    def logits(self, x_BTD: jax.Array, mask_BT: jax.Array, *, key_B: jax.Array | None, dtype: DTypeLike) -> jax.Array:
        return self.head(x_BTD, key_B=key_B, dtype=dtype)
