"""Arithmetic of a pretraining step, for the share of the hardware's peak that it reaches (MFU)."""

from stages.electra.config import ElectraConfig


def encoder_flops(config: ElectraConfig, *, tokens: int, sequence_length: int) -> float:
    """Matrix FLOPs of one forward pass of an encoder over `tokens` tokens in rows of `sequence_length`."""
    D, E, F = config.hidden_size, config.embedding_size, config.intermediate_size
    projection = 2 * E * D if E != D else 0
    layer = 8 * D * D + 4 * D * F + 4 * sequence_length * D
    return float(tokens) * (projection + config.num_hidden_layers * layer)


def pretraining_step_flops(
    discriminator: ElectraConfig,
    generator: ElectraConfig,
    *,
    batch_size: int,
    sequence_length: int,
    num_masked: int,
) -> float:
    """FLOPs of one step: three forwards' worth (one forward, two for the backward pass).

    Attention is counted, gathers are not, and the generator's logits only at the `num_masked` positions a row.
    """
    tokens = batch_size * sequence_length
    forward = encoder_flops(discriminator, tokens=tokens, sequence_length=sequence_length)
    forward += encoder_flops(generator, tokens=tokens, sequence_length=sequence_length)
    D, E = discriminator.hidden_size, generator.embedding_size
    forward += tokens * (2 * D * D + 2 * D)
    forward += batch_size * num_masked * (2 * generator.hidden_size * E + 2 * E * generator.vocab_size)
    return 3.0 * forward
