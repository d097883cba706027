"""ELECTRA with the classes, arguments and outputs of transformers.

    model = ElectraForPreTraining.from_pretrained("google/electra-small-discriminator")
    logits = model(**tokenizer("a text", return_tensors="np")).logits

A model holds its parameters as `model.params`, a nested dictionary; a call takes others as `params=…`, so that a
loss can be differentiated: `jax.grad(lambda params: model(**inputs, labels=labels, params=params).loss)(model.params)`.
A call is compiled once for each shape of its inputs, for all models of the same class and configuration.

Shapes: `B` batch, `T` tokens, `N` choices, `C` classes, `V` vocabulary, `D` model width.
"""

from abc import abstractmethod
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

from stages.electra.attention.attention import Cache, Source
from stages.electra.config import ElectraConfig
from stages.electra.files.huggingface import Architecture
from stages.electra.joint_model import Params
from stages.electra.models.generation import generate
from stages.electra.models.head_losses import (
    mean_cross_entropy,
    next_word_loss,
    replaced_token_loss,
    sequence_loss,
    span_loss,
)
from stages.electra.models.outputs import (
    BaseModelOutput,
    CausalLMOutput,
    GenerateOutput,
    HeadOutput,
    ModelOutput,
    QuestionAnsweringOutput,
)
from stages.electra.models.pretrained_model import ElectraPreTrainedModel, Inputs, typed_key
from stages.electra.network import (
    ChoiceClassifier,
    Discriminator,
    LanguageModel,
    Network,
    SequenceClassifier,
    SpanPredictor,
    TokenClassifier,
)

_CROSS = ("encoder_hidden_states", "encoder_attention_mask")


class ElectraModel(ElectraPreTrainedModel):
    """The encoder alone: `last_hidden_state` [B, T, D]. A decoder may cross to `encoder_hidden_states`."""

    architecture = Architecture.MODEL
    _network = Network
    _extra = _CROSS

    @classmethod
    def _output(cls, logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> ModelOutput:
        return BaseModelOutput(last_hidden_state=logits)


class _HeadModel(ElectraPreTrainedModel):
    """One tensor of logits, and a loss where there are `labels`."""

    @classmethod
    def _output(cls, logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> ModelOutput:
        return HeadOutput(loss=cls._loss(logits, inputs, config) if "labels" in inputs else None, logits=logits)

    @staticmethod
    @abstractmethod
    def _loss(logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> jax.Array: ...


class ElectraForPreTraining(_HeadModel):
    """The discriminator: logits [B, T], above 0 where a token was replaced. Labels [B, T] are 1 there."""

    architecture = Architecture.PRETRAINING
    _network = Discriminator

    @staticmethod
    def _loss(logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> jax.Array:
        mask_BT = inputs.get("attention_mask", jnp.ones(logits.shape, jnp.int32))
        return replaced_token_loss(logits, inputs["labels"], mask_BT)


class ElectraForMaskedLM(_HeadModel):
    """The generator: logits [B, T, V] of the word at each token. Labels [B, T] are -100 where there is none."""

    architecture = Architecture.MASKED_LM
    _network = LanguageModel

    @staticmethod
    def _loss(logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> jax.Array:
        return mean_cross_entropy(logits, inputs["labels"])


class ElectraForCausalLM(ElectraPreTrainedModel):
    """Logits [B, T, V] of the next word. Labels [B, T] are the tokens themselves: each predicts the one after it.

    With `is_decoder` in its config a token sees what came before it; without, everything, as transformers has it.
    """

    architecture = Architecture.CAUSAL_LM
    _network = LanguageModel
    _extra = ("labels", *_CROSS)

    @classmethod
    def _output(cls, logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> ModelOutput:
        loss = next_word_loss(logits, inputs["labels"]) if "labels" in inputs else None
        return CausalLMOutput(loss=loss, logits=logits)

    def init_cache(self, batch_size: int, max_length: int) -> Cache:
        """`past_key_values` of no tokens yet, with room for so many.

        Raises:
          ValueError: The config's `is_decoder` is false, or there are fewer positions.
        """
        if not self.config.is_decoder:
            raise ValueError("the config's is_decoder is false: such a model sees all tokens at once, and has no cache")
        if max_length > self.config.max_position_embeddings:
            raise ValueError(
                f"max_length is {max_length}, the model has positions for {self.config.max_position_embeddings}"
            )
        return Cache.empty(self.config, batch_size=batch_size, max_length=max_length)

    def generate(
        self,
        input_ids: ArrayLike,
        attention_mask: ArrayLike | None = None,
        *,
        max_length: int | None = None,
        max_new_tokens: int | None = None,
        do_sample: bool = False,
        temperature: float = 1.0,
        top_k: int | None = None,
        prng_key: jax.Array | None = None,
        eos_token_id: int | None = None,
        pad_token_id: int | None = None,
        params: Params | None = None,
        encoder_hidden_states: ArrayLike | None = None,
        encoder_attention_mask: ArrayLike | None = None,
    ) -> GenerateOutput:
        """Goes on from prompts, token by token, each computed once.

        Args:
          input_ids: The prompts [B, T]; shorter ones are padded on the left.
          attention_mask: 1 at real tokens; without it all are.
          max_length: Tokens of a sequence in all; 20 where nothing is said.
          max_new_tokens: Tokens after the prompt, in its place.
          do_sample: Draw each token, from `prng_key`, instead of taking the likeliest.
          temperature: Divides the logits that are drawn from.
          top_k: Draw among so many of the likeliest only.
          eos_token_id: Ends a sequence, which is then filled with `pad_token_id`.
          params: In the place of the model's own.
          encoder_hidden_states: What a decoder crosses to, with its mask.

        Raises:
          ValueError: An argument is out of range, or the prompts are padded on the right.
        """
        ids_BT = np.asarray(input_ids, np.int32)
        mask_BT = np.ones_like(ids_BT) if attention_mask is None else np.asarray(attention_mask, np.int32)
        prompt = ids_BT.shape[1]
        length = max_length or 20 if max_new_tokens is None else prompt + max_new_tokens
        if length <= prompt:
            raise ValueError(f"the prompts have {prompt} tokens already, max_length is {length}")
        if not mask_BT[:, -1].all():
            raise ValueError("a prompt ends with padding: pad on the left (tokenizer.padding_side = 'left')")
        if do_sample and prng_key is None:
            raise ValueError("do_sample=True needs prng_key, a key of jax.random")
        if temperature <= 0:
            raise ValueError(f"temperature is {temperature}, must be above 0")
        source = None
        if encoder_hidden_states is not None:
            if not self.config.add_cross_attention:
                raise ValueError("encoder_hidden_states are given, but the config's add_cross_attention is false")
            x_BSD = jnp.asarray(encoder_hidden_states)
            mask_BS = jnp.ones(x_BSD.shape[:2]) if encoder_attention_mask is None else encoder_attention_mask
            source = Source(x_BSD, jnp.asarray(mask_BS).astype(bool))
        sequences = generate(
            self.from_v4_params(self.params if params is None else params),
            jnp.asarray(ids_BT),
            jnp.asarray(mask_BT),
            self.init_cache(len(ids_BT), length),
            source,
            typed_key(prng_key) if do_sample and prng_key is not None else None,
            jnp.float32(temperature),
            model=type(self),
            config=self.config,
            dtype=self.dtype,
            top_k=top_k,
            eos_token_id=eos_token_id,
            pad_token_id=self.config.pad_token_id if pad_token_id is None else pad_token_id,
        )
        return GenerateOutput(sequences=sequences)


class ElectraForSequenceClassification(_HeadModel):
    """Logits [B, C] of a text or pair; `problem_type` in the config says what labels are (see `sequence_loss`)."""

    architecture = Architecture.SEQUENCE_CLASSIFICATION
    _network = SequenceClassifier

    @staticmethod
    def _loss(logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> jax.Array:
        return sequence_loss(logits, inputs["labels"], config.problem_type)


class ElectraForMultipleChoice(_HeadModel):
    """Logits [B, N] of the choices; inputs are [B, N, T], labels [B] the number of the right choice."""

    architecture = Architecture.MULTIPLE_CHOICE
    _network = ChoiceClassifier
    _has_choices: ClassVar[bool] = True

    @classmethod
    def _output(cls, logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> ModelOutput:
        words = inputs["input_ids"] if "input_ids" in inputs else inputs["inputs_embeds"]
        return super()._output(logits.reshape(words.shape[:2]), inputs, config)

    @staticmethod
    def _loss(logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> jax.Array:
        return mean_cross_entropy(logits, inputs["labels"])


class ElectraForTokenClassification(_HeadModel):
    """Logits [B, T, C] of the tokens. Labels [B, T] are -100 where there is none."""

    architecture = Architecture.TOKEN_CLASSIFICATION
    _network = TokenClassifier

    @staticmethod
    def _loss(logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> jax.Array:
        return mean_cross_entropy(logits, inputs["labels"])


class ElectraForQuestionAnswering(ElectraPreTrainedModel):
    """Logits [B, T] of the first and of the last token of the answer, labelled by their places [B]."""

    architecture = Architecture.QUESTION_ANSWERING
    _network = SpanPredictor
    _extra = ("start_positions", "end_positions")

    @classmethod
    def _output(cls, logits: jax.Array, inputs: Inputs, config: ElectraConfig) -> ModelOutput:
        has_labels = "start_positions" in inputs and "end_positions" in inputs
        loss = span_loss(logits, inputs["start_positions"], inputs["end_positions"]) if has_labels else None
        return QuestionAnsweringOutput(loss=loss, start_logits=logits[..., 0], end_logits=logits[..., 1])
