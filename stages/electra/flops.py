"""Arithmetic of a pretraining step, for the share of the hardware's peak that it reaches (MFU)."""

from stages.electra.config import ElectraConfig


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
) -> float:
    """FLOPs of one step: three forwards' worth (one forward, two for the backward pass).

    Attention is counted, gathers are not, and the generator's logits only at the `num_masked` positions a row. A
    network that is None is not trained.
    """
    tokens, forward = batch_size * sequence_length, 0.0
    if discriminator is not None:
        D = discriminator.hidden_size
        forward += encoder_flops(discriminator, tokens=tokens, sequence_length=sequence_length)
        forward += tokens * (2 * D * D + 2 * D)
    if generator is not None:
        D, E = generator.hidden_size, generator.embedding_size
        forward += encoder_flops(generator, tokens=tokens, sequence_length=sequence_length)
        forward += batch_size * num_masked * (2 * D * E + 2 * E * generator.vocab_size)
    return 3.0 * forward
