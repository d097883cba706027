"""How much memory a pretraining step takes, by arithmetic alone: what is known before anything is compiled.

The parameters are exact. What the backward pass keeps is what the layers keep by name (`stages.electra.encoder`), in
float32, and the logits of the words three times: themselves, their softmax and its gradient.
"""

from dataclasses import dataclass

from stages.electra.config import ElectraConfig, Rematerialize
from stages.electra.objectives.objective import ObjectiveKind
from stages.electra.sizes import EmbeddingSharing

_NUMBER = 4  # bytes of a float32
_LOGIT_COPIES = 3
# Whole layers that exist at once while a backward pass computes one anew.
_LAYERS_AT_WORK = 2


@dataclass(frozen=True, kw_only=True)
class Footprint:
    """Bytes of one device.

    Attributes:
      state: Parameters and the optimizer's two moments.
      gradients: Of all parameters, and the parameters that `fsdp` gathers.
      activations: What the forward pass keeps, and what the backward pass works with.
    """

    state: float
    gradients: float
    activations: float

    @property
    def total(self) -> float:
        return self.state + self.gradients + self.activations


def encoder_parameters(config: ElectraConfig) -> int:
    """Of the layers, and of the projection before them."""
    D, E, F = config.hidden_size, config.embedding_size, config.intermediate_size
    projection = E * D + D if E != D else 0
    attention, feed_forward, norms = 4 * (D * D + D), 2 * D * F + F + D, 4 * D
    return projection + config.num_hidden_layers * (attention + feed_forward + norms)


def model_parameters(
    discriminator: ElectraConfig | None,
    generator: ElectraConfig | None,
    *,
    kind: ObjectiveKind = ObjectiveKind.REPLACED_TOKEN_DETECTION,
    embedding_sharing: EmbeddingSharing = EmbeddingSharing.SHARED,
    shared_encoder: bool = False,
) -> int:
    """Numbers in the parameters of an `Electra` of these networks; one that is None is left out."""
    traits, total = kind.traits, 0
    first = discriminator or generator
    if first is not None:
        total += _embeddings(first)
    if discriminator is not None:
        D = discriminator.hidden_size
        total += encoder_parameters(discriminator)
        total += _words_head(discriminator, D) if traits.restores else D * D + 2 * D + 1
        total += D + 1 if traits.copies else 0
    if generator is not None:
        towers = traits.generator_towers
        if discriminator is None or not shared_encoder:
            total += towers * encoder_parameters(generator)
        total += _words_head(generator, towers * generator.hidden_size)
        if discriminator is not None and embedding_sharing is EmbeddingSharing.UNTIED:
            total += _embeddings(generator)
        if discriminator is not None and embedding_sharing is EmbeddingSharing.DISENTANGLED:
            total += _embeddings(discriminator)
    return total


def _embeddings(config: ElectraConfig) -> int:
    rows = config.vocab_size + config.max_position_embeddings + config.type_vocab_size
    return (rows + 2) * config.embedding_size


def _words_head(config: ElectraConfig, num_inputs: int) -> int:
    E = config.embedding_size
    return num_inputs * E + E + 2 * E + config.vocab_size


def pretraining_footprint(
    discriminator: ElectraConfig | None,
    generator: ElectraConfig | None,
    *,
    num_parameters: int,
    rows_per_device: int,
    sequence_length: int,
    num_masked: int,
    rematerialize: Rematerialize,
    writes_weights: bool,
    fsdp: int = 1,
    tensor: int = 1,
) -> Footprint:
    """Bytes that one device needs for a step.

    Args:
      num_parameters: Of the whole model.
      rows_per_device: Rows that it works through at once, with those it shares over `tensor`.
      num_masked: Masked positions a row.
      writes_weights: Whether attention writes its weights to memory: where it has no kernel.
      fsdp: Devices that share the state.
      tensor: Devices that share each layer.
    """
    own = num_parameters * _NUMBER / (fsdp * tensor)
    gathered = num_parameters * _NUMBER / tensor if fsdp > 1 else 0.0
    activations = 0.0
    for config in (discriminator, generator):
        if config is not None:
            tokens = rows_per_device * sequence_length
            D, F = config.hidden_size, config.intermediate_size / tensor
            weights = config.num_attention_heads / tensor * sequence_length if writes_weights else 0.0
            whole = 3 * D + 4 * D / tensor + F + weights  # of a token: what enters, and what `none` keeps
            kept = {Rematerialize.NONE: whole, Rematerialize.DOTS: whole - weights, Rematerialize.LAYERS: float(D)}[
                rematerialize
            ]
            activations += tokens * (config.num_hidden_layers * kept + _LAYERS_AT_WORK * whole)
    if (words := generator or discriminator) is not None:
        activations += _LOGIT_COPIES * rows_per_device * num_masked * words.vocab_size
    return Footprint(state=3 * own, gradients=own + gathered, activations=activations * _NUMBER)
