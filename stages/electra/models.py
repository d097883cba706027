"""ELECTRA with the classes, arguments and outputs of transformers.

    model = ElectraForPreTraining.from_pretrained("google/electra-small-discriminator")
    logits = model(**tokenizer("a text", return_tensors="np")).logits

A model holds its parameters as `model.params`, a nested dictionary; a call takes others as `params=…`, so that a
loss can be differentiated: `jax.grad(lambda params: model(**inputs, labels=labels, params=params).loss)(model.params)`.
A call is compiled once for each shape of its inputs, for all models of the same class and configuration.

Shapes: `B` batch, `T` tokens, `N` choices, `C` classes, `V` vocabulary, `D` model width.
"""

from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from stages.electra.config import ElectraConfig
from stages.electra.encoder import Encoded
from stages.electra.huggingface import Architecture
from stages.electra.modeling import ElectraPreTrainedModel, Inputs
from stages.electra.networks import (
    ChoiceClassifier,
    Discriminator,
    LanguageModel,
    Network,
    SequenceClassifier,
    SpanPredictor,
    TokenClassifier,
)
from stages.electra.outputs import BaseModelOutput, CausalLMOutput, HeadOutput, ModelOutput, QuestionAnsweringOutput
from stages.electra.task_losses import cross_entropy, next_word_loss, replaced_token_loss, sequence_loss, span_loss

_CROSS = ("encoder_hidden_states", "encoder_attention_mask")


class ElectraModel(ElectraPreTrainedModel):
    """The encoder alone: `last_hidden_state` [B, T, D]. A decoder may cross to `encoder_hidden_states`."""

    architecture = Architecture.MODEL
    _extra = _CROSS

    @classmethod
    def _network(cls, config: ElectraConfig, *, rngs_key: jax.Array) -> Network:
        return Network(config, rngs_key=rngs_key)

    @classmethod
    def _output(
        cls,
        network: Network,
        encoded: Encoded,
        inputs: Inputs,
        *,
        config: ElectraConfig,
        key_B: jax.Array | None,
        dtype: DTypeLike,
    ) -> ModelOutput:
        return BaseModelOutput(last_hidden_state=encoded.last_BTD)


class ElectraForPreTraining(ElectraPreTrainedModel):
    """The discriminator: logits [B, T], above 0 where a token was replaced. Labels [B, T] are 1 there."""

    architecture = Architecture.PRETRAINING

    @classmethod
    def _network(cls, config: ElectraConfig, *, rngs_key: jax.Array) -> Network:
        return Discriminator(config, rngs_key=rngs_key)

    @classmethod
    def _loss(cls, logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> jax.Array:
        mask_BT = inputs.get("attention_mask", jnp.ones(logits.shape, jnp.int32))
        return replaced_token_loss(logits, inputs["labels"], mask_BT)


class ElectraForMaskedLM(ElectraPreTrainedModel):
    """The generator: logits [B, T, V] of the word at each token. Labels [B, T] are -100 where there is none."""

    architecture = Architecture.MASKED_LM

    @classmethod
    def _network(cls, config: ElectraConfig, *, rngs_key: jax.Array) -> Network:
        return LanguageModel(config, rngs_key=rngs_key)

    @classmethod
    def _loss(cls, logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> jax.Array:
        return cross_entropy(logits, inputs["labels"])


class ElectraForCausalLM(ElectraPreTrainedModel):
    """Logits [B, T, V] of the next word. Labels [B, T] are the tokens themselves: each predicts the one after it.

    With `is_decoder` in its config a token sees what came before it; without, everything, as transformers has it.
    """

    architecture = Architecture.CAUSAL_LM
    _extra = ("labels", *_CROSS)

    @classmethod
    def _network(cls, config: ElectraConfig, *, rngs_key: jax.Array) -> Network:
        return LanguageModel(config, rngs_key=rngs_key)

    @classmethod
    def _output(
        cls,
        network: Network,
        encoded: Encoded,
        inputs: Inputs,
        *,
        config: ElectraConfig,
        key_B: jax.Array | None,
        dtype: DTypeLike,
    ) -> ModelOutput:
        logits = network.logits(encoded.last_BTD, key_B=key_B, dtype=dtype)
        loss = next_word_loss(logits, inputs["labels"]) if "labels" in inputs else None
        return CausalLMOutput(loss=loss, logits=logits)


class ElectraForSequenceClassification(ElectraPreTrainedModel):
    """Logits [B, C] of a text or pair; `problem_type` in the config says what labels are (see `sequence_loss`)."""

    architecture = Architecture.SEQUENCE_CLASSIFICATION

    @classmethod
    def _network(cls, config: ElectraConfig, *, rngs_key: jax.Array) -> Network:
        return SequenceClassifier(config, num_labels=config.num_labels, rngs_key=rngs_key)

    @classmethod
    def _loss(cls, logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> jax.Array:
        return sequence_loss(logits, inputs["labels"], config.problem_type)


class ElectraForMultipleChoice(ElectraPreTrainedModel):
    """Logits [B, N] of the choices; inputs are [B, N, T], labels [B] the number of the right choice."""

    architecture = Architecture.MULTIPLE_CHOICE
    _has_choices: ClassVar[bool] = True

    @classmethod
    def _network(cls, config: ElectraConfig, *, rngs_key: jax.Array) -> Network:
        return ChoiceClassifier(config, rngs_key=rngs_key)

    @classmethod
    def _output(
        cls,
        network: Network,
        encoded: Encoded,
        inputs: Inputs,
        *,
        config: ElectraConfig,
        key_B: jax.Array | None,
        dtype: DTypeLike,
    ) -> ModelOutput:
        words = inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]
        logits = network.logits(encoded.last_BTD, key_B=key_B, dtype=dtype).reshape(words.shape[:2])
        return HeadOutput(loss=cross_entropy(logits, inputs["labels"]) if "labels" in inputs else None, logits=logits)


class ElectraForTokenClassification(ElectraPreTrainedModel):
    """Logits [B, T, C] of the tokens. Labels [B, T] are -100 where there is none."""

    architecture = Architecture.TOKEN_CLASSIFICATION

    @classmethod
    def _network(cls, config: ElectraConfig, *, rngs_key: jax.Array) -> Network:
        return TokenClassifier(config, num_labels=config.num_labels, rngs_key=rngs_key)

    @classmethod
    def _loss(cls, logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> jax.Array:
        return cross_entropy(logits, inputs["labels"])


class ElectraForQuestionAnswering(ElectraPreTrainedModel):
    """Logits [B, T] of the first and of the last token of the answer, labelled by their places [B]."""

    architecture = Architecture.QUESTION_ANSWERING
    _extra = ("start_positions", "end_positions")

    @classmethod
    def _network(cls, config: ElectraConfig, *, rngs_key: jax.Array) -> Network:
        return SpanPredictor(config, rngs_key=rngs_key)

    @classmethod
    def _output(
        cls,
        network: Network,
        encoded: Encoded,
        inputs: Inputs,
        *,
        config: ElectraConfig,
        key_B: jax.Array | None,
        dtype: DTypeLike,
    ) -> ModelOutput:
        logits = network.logits(encoded.last_BTD, key_B=key_B, dtype=dtype)
        has_labels = "start_positions" in inputs and "end_positions" in inputs
        loss = span_loss(logits, inputs["start_positions"], inputs["end_positions"]) if has_labels else None
        return QuestionAnsweringOutput(loss=loss, start_logits=logits[..., 0], end_logits=logits[..., 1])
