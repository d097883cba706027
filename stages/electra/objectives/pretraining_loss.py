"""The pretraining objectives, and their metrics: those of `ObjectiveKind`.

Shapes: `B` batch, `T` tokens, `P` masked positions, `E` embedding width, `V` vocabulary, `S` score bins.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from stages.electra.joint_model import Electra, Params, merge
from stages.electra.layers import split_keys
from stages.electra.losses import WordPredictions, binary_cross_entropy, guess_evenly, predict_words, word_losses
from stages.electra.objectives.corruption import Masked, mask_tokens, replace_tokens
from stages.electra.objectives.objective import ObjectiveConfig, ObjectiveKind

# The AUC is computed from counts of logits in equal bins between these bounds, since counts can be added up.
# Scores in one bin count as ties.
_NUM_SCORE_BINS = 2048
_SCORE_BOUND = 16.0
# [UNK] may be masked; it is a word to guess like any other.
_UNMASKABLE = ("pad", "cls", "sep", "mask")

Batch = Mapping[str, jax.Array]
Sums = dict[str, jax.Array]
Total = Callable[[jax.Array], jax.Array]


class Cloze(NamedTuple):
    """What Electric's generator says of every token from all others of the text.

    Attributes:
      loss_BT: Cross-entropy of the text's own token.
      is_best_BT: Whether no token is likelier.
      log_noise_BT: Log of the probability, in its place, of the token that the discriminator sees. No gradient.
    """

    loss_BT: jax.Array
    is_best_BT: jax.Array
    log_noise_BT: jax.Array


class Corrupted(NamedTuple):
    """A batch as the two networks see it.

    Attributes:
      masked: What the generator sees and must guess.
      ids_BT: What the discriminator sees.
      replaced_BT: True where that differs from the text; for Electric, wherever it was drawn.
      loss_BP: The generator's cross-entropy; slots without weight are to be ignored.
      is_best_BP: Whether the right token was the likeliest.
      samples_BP: The tokens drawn from it.
      cloze: For Electric.
    """

    masked: Masked
    ids_BT: jax.Array
    replaced_BT: jax.Array
    loss_BP: jax.Array
    is_best_BP: jax.Array
    samples_BP: jax.Array
    cloze: Cloze | None


def segments(batch: Batch) -> tuple[jax.Array, jax.Array]:
    """Which tokens are real, and their token types, from the lengths."""
    position_1T = jnp.arange(batch["ids"].shape[1])[None]
    mask_BT = position_1T < batch["length"][:, None]
    types_BT = (mask_BT & (position_1T >= batch["first_length"][:, None])).astype(jnp.int32)
    return mask_BT, types_BT


def lay_out(batch: Batch, *, packed_by: int | None = None) -> tuple[jax.Array, jax.Array, jax.Array | None]:
    """What a network is told of a batch beside its tokens: the mask, the token types, the positions.

    Where several texts are packed into a row, each begins with the token `packed_by`, sees itself alone and counts
    its positions from 0.
    """
    mask_BT, types_BT = segments(batch)
    if packed_by is None:
        return mask_BT, types_BT, None
    begins_BT = batch["ids"] == packed_by
    text_BT = jnp.cumsum(begins_BT, axis=1)
    mask_BTT = (text_BT[:, :, None] == text_BT[:, None]) & mask_BT[:, None]
    place_1T = jnp.arange(begins_BT.shape[1])[None]
    return mask_BTT, types_BT, place_1T - jax.lax.cummax(jnp.where(begins_BT, place_1T, 0), axis=1)


def corrupt(
    model: Electra,
    batch: Batch,
    *,
    mask_key_B: jax.Array,
    sample_key_B: jax.Array,
    dropout_key_B: jax.Array | None,
    objective: ObjectiveConfig,
    special_ids: Mapping[str, int],
    packed: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Corrupted:
    """Masks the batch, lets the generator guess, writes a sample of its guesses into the text."""
    layout = lay_out(batch, packed_by=special_ids["cls"] if packed else None)
    masked = mask_tokens(
        mask_key_B,
        batch["ids"],
        batch["length"],
        unmaskable_ids=tuple(special_ids[name] for name in _UNMASKABLE),
        mask_id=special_ids["mask"],
        mask_fraction=objective.resolved_mask_fraction,
        mask_probability=objective.mask_probability,
        masking=objective.masking,
    )
    words: WordPredictions
    is_electric = objective.kind is ObjectiveKind.ELECTRIC
    if objective.uniform_generator:
        keys_BP = jax.vmap(lambda key: jax.random.split(key, masked.targets_BP.shape[1]))(sample_key_B)
        words = guess_evenly(
            keys_BP.reshape(-1),
            masked.targets_BP.reshape(-1),
            num_words=len(model.embeddings.word.embedding),
            disallow_correct=objective.disallow_correct,
        )
    else:
        # Two towers never see the token itself, and so need no [MASK].
        shown_BT = batch["ids"] if is_electric else masked.ids_BT
        x_BTD = model.generator_hidden(shown_BT, *layout, key_B=dropout_key_B, dtype=dtype)
        x_BPE = model.generator_head.transform(_at(x_BTD, masked.positions_BP), dtype=dtype)
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
    cloze: Cloze | None = None
    if is_electric:
        cloze = _cloze(model, x_BTD, batch["ids"], masked, samples_BP, dtype=dtype)
        place = (jnp.arange(len(ids_BT))[:, None], masked.positions_BP)
        replaced_BT = jnp.zeros_like(replaced_BT).at[place].set(masked.weights_BP > 0)
    return Corrupted(masked, ids_BT, replaced_BT, loss_BP, is_best_BP, samples_BP, cloze)


def _cloze(
    model: Electra,
    x_BTD: jax.Array,
    ids_BT: jax.Array,
    masked: Masked,
    samples_BP: jax.Array,
    *,
    dtype: DTypeLike,
) -> Cloze:
    head, table_VE = model.generator_head, model.embeddings_of_generator.word.embedding[...]
    x_BTE, bias_V = head.transform(x_BTD, dtype=dtype), head.bias[...]
    loss_BT, is_best_BT = word_losses(x_BTE, table_VE, bias_V, ids_BT, dtype=dtype)
    # The sample's log-probability is that of the text's own token and the difference of their logits.
    rise_BP = bias_V[samples_BP] - bias_V[masked.targets_BP]
    rise_BP += jnp.sum(_at(x_BTE, masked.positions_BP) * (table_VE[samples_BP] - table_VE[masked.targets_BP]), axis=-1)
    place = (jnp.arange(len(ids_BT))[:, None], masked.positions_BP)
    log_noise_BT = (-loss_BT).at[place].add(masked.weights_BP * rise_BP)
    return Cloze(loss_BT, is_best_BT, jax.lax.stop_gradient(log_noise_BT))


def _at(x_BTD: jax.Array, positions_BP: jax.Array) -> jax.Array:
    return jnp.take_along_axis(x_BTD, positions_BP[..., None], axis=1)


def make_pretraining_loss(
    graphdef: Any,
    *,
    objective: ObjectiveConfig,
    special_ids: Mapping[str, int],
    vocab_size: int,
    packed: bool = False,
    dtype: DTypeLike = jnp.float32,
) -> Callable[..., tuple[jax.Array, Sums]]:
    """Makes a `stages.training.state.LossFn`.

    Args:
      graphdef: Structure of an `Electra` with the networks that the objective trains, from `split`.
      objective: Resolved for the model's size.
      special_ids: Ids of `pad`, `unk`, `cls`, `sep` and `mask`.
      vocab_size: What every id must be below.
      packed: Whether a row holds several texts, each beginning with [CLS].
      dtype: What matrix products take in.

    Returns:
      A loss of batches with `ids` int32 [B, T], `length` and `first_length` int32 [B]. `train` turns dropout on;
      masks and samples are drawn either way. Each network's loss is a mean over all predictions of the global
      batch. `summarize` makes metrics of its sums.
    """
    for name, token_id in special_ids.items():
        if not 0 <= token_id < vocab_size:
            raise ValueError(f"special token {name} has id {token_id}, the vocabulary has {vocab_size} ids")
    if packed and objective.kind is ObjectiveKind.ELECTRIC:
        raise ValueError("the rows are packed, and electric reads one text a row: set shard.packing to pairs")
    unmaskable_ids = jnp.array([special_ids[name] for name in _UNMASKABLE])

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
            packed=packed,
            dtype=dtype,
        )
        mask_BT, _ = segments(batch)
        # Of the text, not of what the generator wrote into it: that may be a [CLS].
        layout = lay_out(batch, packed_by=special_ids["cls"] if packed else None)
        is_word_BT = mask_BT & ~jnp.isin(batch["ids"], unmaskable_ids)
        sums = _generator_sums(corrupted, mask_BT, is_word_BT)
        weights = {"generator": objective.generator_weight}
        dropout_key_B = discriminator_key_B if train else None
        if objective.kind.detects:
            logits_BT = model.discriminate(corrupted.ids_BT, *layout, key_B=dropout_key_B, dtype=dtype)
            if corrupted.cloze is not None:
                fraction = objective.resolved_mask_fraction
                logits_BT += corrupted.cloze.log_noise_BT + np.log(fraction / (1 - fraction))
            sums |= _discriminator_sums(corrupted, mask_BT, logits_BT)
            weights["discriminator"] = objective.discriminator_weight
        elif objective.kind.restores:
            x_BTD = model.discriminator_hidden(corrupted.ids_BT, *layout, key_B=dropout_key_B, dtype=dtype)
            sums |= _restoration_sums(model, batch, corrupted, mask_BT, x_BTD, dtype=dtype)
            weights["restoration"] = 1.0
        # A batch without a maskable token has no generator loss, rather than one of 0/0.
        counts = jnp.maximum(over_devices(jnp.stack([sums[f"{name}/tokens"] for name in weights])), 1)
        losses = zip(weights.items(), counts, strict=True)
        loss = sum(weight * (sums[f"{name}/loss"] / count) for (name, weight), count in losses)
        # The total of many batches is that of their predictions, not a mean of means: so carry the weights.
        num_rows = jnp.float32(len(batch["ids"]))
        sums["total/rows"] = num_rows
        sums |= {f"total/{name}_weight": num_rows * weight for name, weight in weights.items()}
        return jnp.asarray(loss), jax.lax.stop_gradient(sums)

    return loss_fn


def _count(condition: jax.Array) -> jax.Array:
    return jnp.sum(condition, dtype=jnp.float32)


def _generator_sums(corrupted: Corrupted, mask_BT: jax.Array, is_word_BT: jax.Array) -> Sums:
    """Of its guesses at the masked positions; Electric's guesses every word."""
    masked, cloze = corrupted.masked, corrupted.cloze
    used_BP = masked.weights_BP > 0
    guessed, losses, is_best = used_BP, corrupted.loss_BP, corrupted.is_best_BP
    if cloze is not None:
        guessed, losses, is_best = is_word_BT, cloze.loss_BT, cloze.is_best_BT
    return {
        "batch/tokens": _count(mask_BT),
        "generator/loss": jnp.sum(jnp.where(guessed, losses, 0)),
        "generator/tokens": _count(guessed),
        "generator/best_correct": _count(guessed & is_best),
        "masked/tokens": _count(used_BP),
        "masked/sample_correct": _count(used_BP & (corrupted.samples_BP == masked.targets_BP)),
    }


def _restoration_sums(
    model: Electra, batch: Batch, corrupted: Corrupted, mask_BT: jax.Array, x_BTD: jax.Array, *, dtype: DTypeLike
) -> Sums:
    """Of what the network of full size says that stood at the replaced positions or, where it may copy, anywhere."""
    head, masked = model.discriminator_head, corrupted.masked
    table_VE, bias_V = model.embeddings_of_discriminator.word.embedding[...], head.bias[...]
    if model.copy_head is None:
        used = masked.weights_BP > 0
        x_BPE = head.transform(_at(x_BTD, masked.positions_BP), dtype=dtype)
        losses, is_best = word_losses(x_BPE, table_VE, bias_V, masked.targets_BP, dtype=dtype)
    else:
        used = mask_BT
        losses, is_best = word_losses(head.transform(x_BTD, dtype=dtype), table_VE, bias_V, batch["ids"], dtype=dtype)
        # A share of the probability is that of the token in the input, the rest is spread by the words' logits.
        copy_BT = model.copy_head(x_BTD, dtype=dtype)[..., 0]
        spread_BT, copied_BT = -jax.nn.softplus(copy_BT) - losses, -jax.nn.softplus(-copy_BT)
        is_same_BT = corrupted.ids_BT == batch["ids"]
        losses = -jnp.where(is_same_BT, jnp.logaddexp(copied_BT, spread_BT), spread_BT)
        is_best = jnp.where(copy_BT > 0, is_same_BT, is_best)
    return {
        "restoration/loss": jnp.sum(jnp.where(used, losses, 0)),
        "restoration/tokens": _count(used),
        "restoration/correct": _count(used & is_best),
    }


def _discriminator_sums(corrupted: Corrupted, mask_BT: jax.Array, logits_BT: jax.Array) -> Sums:
    replaced_BT = corrupted.replaced_BT & mask_BT
    flagged_BT = (logits_BT > 0) & mask_BT
    return {
        "discriminator/tokens": _count(mask_BT),
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
    both classes occur. What an objective does not train has no metrics.
    """
    total = {name: np.asarray(value, np.float64) for name, value in sums.items()}

    def ratio(numerator: str, denominator: str) -> float:
        below = float(total[denominator])
        return float(total[numerator]) / below if below else 0.0

    parts = [name for name in ("generator", "discriminator", "restoration") if f"{name}/loss" in total]
    losses = {f"loss/{name}": ratio(f"{name}/loss", f"{name}/tokens") for name in parts}
    weighted = [ratio(f"total/{name}_weight", "total/rows") * losses[f"loss/{name}"] for name in parts]
    metrics = {
        "loss/total": sum(weighted),
        **losses,
        "masked/accuracy": ratio("generator/best_correct", "generator/tokens"),
        "masked/share": ratio("masked/tokens", "batch/tokens"),
    }
    if len(parts) > 1:
        metrics["sampled/accuracy"] = ratio("masked/sample_correct", "masked/tokens")
    if "restoration" in parts:
        metrics["restored/accuracy"] = ratio("restoration/correct", "restoration/tokens")
    if "discriminator" not in parts:
        return metrics
    return metrics | {
        "discriminator/accuracy": ratio("discriminator/correct", "discriminator/tokens"),
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
