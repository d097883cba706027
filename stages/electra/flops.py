"""Arithmetic of a pretraining step, for the share of the hardware's peak that it reaches (MFU)."""

from stages.electra.config import ElectraConfig
from stages.electra.objectives.objective import ObjectiveKind


def encoder_flops(config: ElectraConfig, *, tokens: int, sequence_length: int) -> float:
    """Matrix FLOPs of one forward pass of an encoder over `tokens` tokens in rows of `sequence_length`."""
    D, E, F = config.hidden_size, config.embedding_size, config.intermediate_size
    projection = 2 * E * D if E != D else 0
    layer = 8 * D * D + 4 * D * F + 4 * sequence_length * D
    return float(tokens) * (projection + config.num_hidden_layers * layer)


def pretraining_step_flops(
    discriminator: ElectraConfig | None,
    generator: ElectraConfig | None,
    *,
    batch_size: int,
    sequence_length: int,
    num_masked: int,
    kind: ObjectiveKind = ObjectiveKind.REPLACED_TOKEN_DETECTION,
) -> float:
    """FLOPs of one step: three forwards' worth (one forward, two for the backward pass).

    Attention is counted, gathers are not, and logits of words only where they are computed: at the `num_masked`
    positions a row, or at all. A network that is None is not trained.
    """
    traits = kind.traits
    all_tokens, masked_tokens = batch_size * sequence_length, batch_size * num_masked
    forward = 0.0
    if discriminator is not None:
        D = discriminator.hidden_size
        forward += encoder_flops(discriminator, tokens=all_tokens, sequence_length=sequence_length)
        if traits.restores:
            forward += (all_tokens if traits.copies else masked_tokens) * _word_flops(D, discriminator)
        if traits.detects:
            forward += all_tokens * (2 * D * D + 2 * D)
    if generator is not None:
        towers = traits.generator_towers
        guessed = all_tokens + masked_tokens if traits.has_towers else masked_tokens
        forward += towers * encoder_flops(generator, tokens=all_tokens, sequence_length=sequence_length)
        forward += guessed * _word_flops(towers * generator.hidden_size, generator)
    return 3.0 * forward


def _word_flops(num_inputs: int, config: ElectraConfig) -> int:
    """Of the logits of all words at one token."""
    return 2 * num_inputs * config.embedding_size + 2 * config.embedding_size * config.vocab_size
