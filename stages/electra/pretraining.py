"""The pretraining objectives, and their metrics.

Replaced-token detection (arXiv 2003.10555, section 3.1), and masked language modeling, its first half.

Shapes: `B` batch, `T` tokens, `P` masked positions, `E` embedding width, `V` vocabulary, `S` score bins.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from stages.electra.config import ObjectiveConfig, ObjectiveKind
from stages.electra.corruption import Masked, mask_tokens, replace_tokens
from stages.electra.layers import split_keys
from stages.electra.losses import WordPredictions, binary_cross_entropy, guess_evenly, predict_words
from stages.electra.model import Electra, Params, merge

# The AUC is computed from counts of logits in equal bins between these bounds, since counts can be added up.
# Scores in one bin count as ties.
_NUM_SCORE_BINS = 2048
_SCORE_BOUND = 16.0

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]
Total = Callable[[jax.Array], jax.Array]


class Corrupted(NamedTuple):
    """A batch as the two networks see it.

    Attributes:
      masked: What the generator sees and must guess.
      ids_BT: What the discriminator sees.
      replaced_BT: True where that differs from the text.
      loss_BP: The generator's cross-entropy; slots without weight are to be ignored.
      is_best_BP: Whether the right token was the likeliest.
      samples_BP: The tokens drawn from it.
    """

    masked: Masked
    ids_BT: jax.Array
    replaced_BT: jax.Array
    loss_BP: jax.Array
    is_best_BP: jax.Array
    samples_BP: jax.Array


def segments(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Which tokens are real, and their token types, from the lengths."""
    position_1T = jnp.arange(batch["ids"].shape[1])[None]
    mask_BT = position_1T < batch["length"][:, None]
    types_BT = (mask_BT & (position_1T >= batch["first_length"][:, None])).astype(jnp.int32)
    return mask_BT, types_BT


def corrupt(
    model: Electra,
    batch: Batch,
    *,
    mask_key_B: jax.Array,
    sample_key_B: jax.Array,
    dropout_key_B: jax.Array | None,
    objective: ObjectiveConfig,
    special_ids: Mapping[str, int],
    dtype: DTypeLike = jnp.float32,
) -> Corrupted:
    """Masks the batch, lets the generator guess, writes a sample of its guesses into the text."""
    if objective.mask_fraction is None:
        raise ValueError("mask_fraction is not set: resolve the objective for the model's size first")
    mask_BT, types_BT = segments(batch)
    masked = mask_tokens(
        mask_key_B,
        batch["ids"],
        batch["length"],
        # [UNK] may be masked; it is a word to guess like any other.
        unmaskable_ids=tuple(special_ids[name] for name in ("pad", "cls", "sep", "mask")),
        mask_id=special_ids["mask"],
        mask_fraction=objective.mask_fraction,
        mask_probability=objective.mask_probability,
        masking=objective.masking,
    )
    words: WordPredictions
    if objective.uniform_generator:
        keys_BP = jax.vmap(lambda key: jax.random.split(key, masked.targets_BP.shape[1]))(sample_key_B)
        words = guess_evenly(
            keys_BP.reshape(-1),
            masked.targets_BP.reshape(-1),
            num_words=len(model.embeddings.word.embedding),
            disallow_correct=objective.disallow_correct,
        )
    else:
        x_BPE = model.generator_hidden(
            masked.ids_BT, mask_BT, types_BT, masked.positions_BP, key_B=dropout_key_B, dtype=dtype
        )
        uniform_BP2 = jax.vmap(lambda key: jax.random.uniform(key, (x_BPE.shape[1], 2)))(sample_key_B)
        words = predict_words(
            x_BPE.reshape(-1, x_BPE.shape[-1]),
            model.embeddings_of_generator.word.embedding[...],
            model.generator_head.bias[...],
            masked.targets_BP.reshape(-1),
            uniform_N2=uniform_BP2.reshape(-1, 2),
            temperature=objective.temperature,
            disallow_correct=objective.disallow_correct,
            dtype=dtype,
        )
    loss_BP, is_best_BP, samples_BP = (value.reshape(masked.positions_BP.shape) for value in words)
    ids_BT, replaced_BT = replace_tokens(batch["ids"], masked, samples_BP)
    return Corrupted(masked, ids_BT, replaced_BT, loss_BP, is_best_BP, samples_BP)


def make_pretraining_loss(
    graphdef: Any,
    *,
    objective: ObjectiveConfig,
    special_ids: Mapping[str, int],
    vocab_size: int,
    dtype: DTypeLike = jnp.float32,
) -> Callable[..., tuple[jax.Array, Sums]]:
    """Makes a `stages.training.state.LossFn`.

    Args:
      graphdef: Structure of an `Electra` with the networks that the objective trains, from `split`.
      objective: Resolved for the model's size.
      special_ids: Ids of `pad`, `unk`, `cls`, `sep` and `mask`.
      vocab_size: What every id must be below.
      dtype: What matrix products take in.

    Returns:
      A loss of batches with `ids` int32 [B, T], `length` and `first_length` int32 [B]. `train` turns dropout on;
      masks and samples are drawn either way. Each network's loss is a mean over all predictions of the global
      batch. `summarize` makes metrics of its sums.
    """
    for name, token_id in special_ids.items():
        if not 0 <= token_id < vocab_size:
            raise ValueError(f"special token {name} has id {token_id}, the vocabulary has {vocab_size} ids")
    detects = objective.kind is ObjectiveKind.REPLACED_TOKEN_DETECTION

    def loss_fn(
        params: Params, batch: Batch, key_B: jax.Array, *, train: bool, over_devices: Total = lambda value: value
    ) -> tuple[jax.Array, Sums]:
        model: Electra = merge(graphdef, params)
        mask_key_B, sample_key_B, generator_key_B, discriminator_key_B = split_keys(key_B, 4)
        corrupted = corrupt(
            model,
            batch,
            mask_key_B=mask_key_B,
            sample_key_B=sample_key_B,
            dropout_key_B=generator_key_B if train else None,
            objective=objective,
            special_ids=special_ids,
            dtype=dtype,
        )
        mask_BT, types_BT = segments(batch)
        sums = _generator_sums(corrupted, mask_BT)
        if detects:
            logits_BT = model.discriminate(
                corrupted.ids_BT, mask_BT, types_BT, key_B=discriminator_key_B if train else None, dtype=dtype
            )
            sums |= _discriminator_sums(corrupted, mask_BT, logits_BT)
        num_guesses, num_tokens = over_devices(jnp.stack([sums["generator/tokens"], sums["batch/tokens"]]))
        # A batch without a maskable token has no generator loss, rather than one of 0/0.
        loss = objective.generator_weight * (sums["generator/loss"] / jnp.maximum(num_guesses, 1))
        # The total of many batches is that of their predictions, not a mean of means: so carry the weights.
        num_rows = jnp.float32(len(batch["ids"]))
        sums["total/rows"] = num_rows
        sums["total/generator_weight"] = num_rows * objective.generator_weight
        if detects:
            discriminator_loss = sums["discriminator/loss"] / jnp.maximum(num_tokens, 1)
            loss = loss + objective.discriminator_weight * discriminator_loss
            sums["total/discriminator_weight"] = num_rows * objective.discriminator_weight
        return loss, jax.lax.stop_gradient(sums)

    return loss_fn


def _count(condition: jax.Array) -> jax.Array:
    return jnp.sum(condition, dtype=jnp.float32)


def _generator_sums(corrupted: Corrupted, mask_BT: jax.Array) -> Sums:
    masked = corrupted.masked
    used_BP = masked.weights_BP > 0
    return {
        "batch/tokens": _count(mask_BT),
        "generator/loss": jnp.sum(jnp.where(used_BP, corrupted.loss_BP, 0)),
        "generator/tokens": _count(used_BP),
        "generator/best_correct": _count(used_BP & corrupted.is_best_BP),
        "generator/sample_correct": _count(used_BP & (corrupted.samples_BP == masked.targets_BP)),
    }


def _discriminator_sums(corrupted: Corrupted, mask_BT: jax.Array, logits_BT: jax.Array) -> Sums:
    replaced_BT = corrupted.replaced_BT & mask_BT
    flagged_BT = (logits_BT > 0) & mask_BT
    return {
        "discriminator/loss": jnp.sum(mask_BT * binary_cross_entropy(logits_BT, replaced_BT)),
        "discriminator/correct": _count(mask_BT & (flagged_BT == replaced_BT)),
        "replaced/tokens": _count(replaced_BT),
        "replaced/flagged": _count(flagged_BT),
        "replaced/found": _count(flagged_BT & replaced_BT),
        "replaced/scores": _histogram(logits_BT, replaced_BT),
        "original/scores": _histogram(logits_BT, mask_BT & ~replaced_BT),
    }


def _histogram(logits_BT: jax.Array, counted_BT: jax.Array) -> jax.Array:
    share_BT = (logits_BT + _SCORE_BOUND) / (2 * _SCORE_BOUND)
    bin_BT = jnp.clip((share_BT * _NUM_SCORE_BINS).astype(jnp.int32), 0, _NUM_SCORE_BINS - 1)
    zeros_S = jnp.zeros(_NUM_SCORE_BINS, jnp.float32)
    return zeros_S.at[bin_BT.reshape(-1)].add(counted_BT.reshape(-1).astype(jnp.float32))


def summarize(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Metrics of the batches whose sums were added up.

    Where nothing was predicted or nothing replaced, precision and recall are 0, and the AUC is 0.5 unless
    both classes occur. Without a discriminator there are none of its metrics.
    """
    total = {name: np.asarray(value, np.float64) for name, value in sums.items()}

    def ratio(numerator: str, denominator: str) -> float:
        below = float(total[denominator])
        return float(total[numerator]) / below if below else 0.0

    generator_loss = ratio("generator/loss", "generator/tokens")
    metrics = {
        "loss/total": ratio("total/generator_weight", "total/rows") * generator_loss,
        "loss/generator": generator_loss,
        "masked/accuracy": ratio("generator/best_correct", "generator/tokens"),
        "masked/share": ratio("generator/tokens", "batch/tokens"),
    }
    if "discriminator/loss" not in total:
        return metrics
    discriminator_loss = ratio("discriminator/loss", "batch/tokens")
    metrics["loss/total"] += ratio("total/discriminator_weight", "total/rows") * discriminator_loss
    return metrics | {
        "loss/discriminator": discriminator_loss,
        "sampled/accuracy": ratio("generator/sample_correct", "generator/tokens"),
        "discriminator/accuracy": ratio("discriminator/correct", "batch/tokens"),
        "replaced/precision": ratio("replaced/found", "replaced/flagged"),
        "replaced/recall": ratio("replaced/found", "replaced/tokens"),
        "replaced/share": ratio("replaced/tokens", "batch/tokens"),
        "replaced/auc": area_under_curve(total["replaced/scores"], total["original/scores"]),
    }


def area_under_curve(positives_S: np.ndarray, negatives_S: np.ndarray) -> float:
    """Chance that a positive scores above a negative, a tie half, from counts in bins of rising score."""
    num_pairs = positives_S.sum() * negatives_S.sum()
    if num_pairs == 0:
        return 0.5
    below_S = np.cumsum(negatives_S) - negatives_S
    return float(np.sum(positives_S * (below_S + negatives_S / 2)) / num_pairs)
