"""The loss of pretraining, whatever the objective, and its metrics.

The generator's part is here. What the network of full size learns is in `detection` and `restoration`; `electric` has
what Electric does differently.

Shapes: `B` batch, `T` tokens, `P` masked positions, `E` embedding width, `V` vocabulary.
"""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from stages.electra.joint_model import Electra, Params, merge
from stages.electra.layers import split_keys
from stages.electra.layout import lay_out, real_tokens
from stages.electra.losses import WordPredictions, guess_evenly, predict_words
from stages.electra.objectives.corruption import Corrupted, Guesses, mask_tokens, replace_tokens, vectors_at
from stages.electra.objectives.detection import detection_metrics, detection_sums
from stages.electra.objectives.electric import with_known_noise
from stages.electra.objectives.objective import ObjectiveConfig
from stages.electra.objectives.restoration import restoration_metrics, restoration_sums
from stages.electra.objectives.sums import Sums, count, ratio

# [UNK] may be masked; it is a word to guess like any other.
_UNMASKABLE = ("pad", "cls", "sep", "mask")

Batch = Mapping[str, jax.Array]
Total = Callable[[jax.Array], jax.Array]


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
    ids_BT = batch["ids"]
    unmaskable_ids = tuple(special_ids[name] for name in _UNMASKABLE)
    has_towers = objective.kind.traits.has_towers
    masked = mask_tokens(
        mask_key_B,
        ids_BT,
        batch["length"],
        unmaskable_ids=unmaskable_ids,
        mask_id=special_ids["mask"],
        mask_fraction=objective.resolved_mask_fraction,
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
        # Two towers never see the token itself, and so need no [MASK].
        shown_BT = ids_BT if has_towers else masked.ids_BT
        layout = lay_out(batch)
        x_BTD = model.generator_hidden(shown_BT, *layout, key_B=dropout_key_B, dtype=dtype)
        x_BPE = model.generator_head.transform(vectors_at(x_BTD, masked.positions_BP), dtype=dtype)
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
    guesses = Guesses(counted=masked.weights_BP > 0, losses=loss_BP, is_best=is_best_BP)
    corrupted = Corrupted(masked, guesses, samples_BP, *replace_tokens(ids_BT, masked, samples_BP))
    if not has_towers:
        return corrupted
    return with_known_noise(
        corrupted,
        model,
        ids_BT,
        x_BTD,
        is_word_BT=real_tokens(batch) & ~jnp.isin(ids_BT, jnp.array(unmaskable_ids)),
        noise_fraction=objective.resolved_mask_fraction,
        dtype=dtype,
    )


def make_pretraining_loss(
    graphdef: nnx.GraphDef,
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
      A loss of batches with `ids` int32 [B, T], `length` and `first_length` int32 [B] and, where rows hold several
      texts, `begins` bool [B, T], true at the first token of each. `train` turns dropout on; masks and samples are
      drawn either way. Each network's loss is a mean over all predictions of the global batch. `summarize` makes
      metrics of its sums.
    """
    for name, token_id in special_ids.items():
        if not 0 <= token_id < vocab_size:
            raise ValueError(f"special token {name} has id {token_id}, the vocabulary has {vocab_size} ids")
    traits = objective.kind.traits

    def loss_fn(
        params: Params, batch: Batch, key_B: jax.Array, *, train: bool, over_devices: Total = lambda value: value
    ) -> tuple[jax.Array, Sums]:
        if "begins" in batch and traits.has_towers:
            raise ValueError(
                f"the rows are packed, and {objective.kind} reads one text a row: set shard.packing to pairs"
            )
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
        mask_BT = real_tokens(batch)
        sums = _generator_sums(corrupted, mask_BT)
        weights = {"generator": objective.generator_weight}
        if not traits.trains_one_network:
            layout = lay_out(batch)
            dropout_key_B = discriminator_key_B if train else None
            x_BTD = model.discriminator_hidden(corrupted.ids_BT, *layout, key_B=dropout_key_B, dtype=dtype)
        if traits.detects:
            sums |= detection_sums(model, corrupted, mask_BT, x_BTD, dtype=dtype)
            weights["discriminator"] = objective.discriminator_weight
        if traits.restores:
            sums |= restoration_sums(model, batch["ids"], corrupted, mask_BT, x_BTD, dtype=dtype)
            weights["restoration"] = 1.0
        # A batch without a maskable token has no generator loss, rather than one of 0/0.
        counts = jnp.maximum(over_devices(jnp.stack([sums[f"{name}/tokens"] for name in weights])), 1)
        losses = zip(weights.items(), counts, strict=True)
        loss = sum(weight * (sums[f"{name}/loss"] / count) for (name, weight), count in losses)
        # `summarize` weighs the losses of many batches by predictions, not by batches: so the weights are sums too.
        num_rows = jnp.float32(len(batch["ids"]))
        sums["total/rows"] = num_rows
        sums |= {f"total/{name}_weight": num_rows * weight for name, weight in weights.items()}
        return jnp.asarray(loss), jax.lax.stop_gradient(sums)

    return loss_fn


def _generator_sums(corrupted: Corrupted, mask_BT: jax.Array) -> Sums:
    masked, guesses = corrupted.masked, corrupted.guesses
    used_BP = masked.weights_BP > 0
    return {
        "batch/tokens": count(mask_BT),
        "generator/loss": jnp.sum(jnp.where(guesses.counted, guesses.losses, 0)),
        "generator/tokens": count(guesses.counted),
        "generator/best_correct": count(guesses.counted & guesses.is_best),
        "masked/tokens": count(used_BP),
        "masked/sample_correct": count(used_BP & (corrupted.samples_BP == masked.targets_BP)),
    }


def summarize(sums: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Metrics of the batches whose sums were added up.

    Networks that an objective does not train have no metrics.
    """
    total = {name: np.asarray(value, np.float64) for name, value in sums.items()}
    parts = [name for name in ("generator", "discriminator", "restoration") if f"{name}/loss" in total]
    losses = {f"loss/{name}": ratio(total, f"{name}/loss", f"{name}/tokens") for name in parts}
    weighted = [ratio(total, f"total/{name}_weight", "total/rows") * losses[f"loss/{name}"] for name in parts]
    metrics = {
        "loss/total": sum(weighted),
        **losses,
        "masked/accuracy": ratio(total, "generator/best_correct", "generator/tokens"),
        "masked/share": ratio(total, "masked/tokens", "batch/tokens"),
    }
    if len(parts) > 1:
        metrics["sampled/accuracy"] = ratio(total, "masked/sample_correct", "masked/tokens")
    if "restoration" in parts:
        metrics |= restoration_metrics(total)
    if "discriminator" in parts:
        metrics |= detection_metrics(total)
    return metrics
