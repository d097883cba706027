"""The optimizer. ELECTRA's: clip, Adam without bias correction, weight decay, warm-up and linear decay to 0.

Parameters of equal layers are one array with a leading axis of layers, below the name `layers`. What is of a layer, a
learning rate or a trust ratio, is of each along that axis.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from stages.training.config import OptimizerConfig, OptimizerName, ScheduleName


class AdamState(NamedTuple):
    """First and second moments of the gradient, shaped as the parameters."""

    mu: optax.Updates
    nu: optax.Updates


def scale_by_uncorrected_adam(*, b1: float, b2: float, eps: float) -> optax.GradientTransformation:
    """m / (sqrt(v) + eps) with m, v running means that start at 0 and are not corrected for it.

    Optax's own corrects for it; BERT's and ELECTRA's AdamWeightDecayOptimizer does not.
    """

    def init(params: optax.Params) -> AdamState:
        return AdamState(mu=jax.tree.map(jnp.zeros_like, params), nu=jax.tree.map(jnp.zeros_like, params))

    def update(updates: optax.Updates, state: AdamState, params: optax.Params | None = None):
        del params
        mu = jax.tree.map(lambda m, g: b1 * m + (1 - b1) * g, state.mu, updates)
        nu = jax.tree.map(lambda v, g: b2 * v + (1 - b2) * jnp.square(g), state.nu, updates)
        return jax.tree.map(lambda m, v: m / (jnp.sqrt(v) + eps), mu, nu), AdamState(mu=mu, nu=nu)

    return optax.GradientTransformation(init, update)


def make_schedule(config: OptimizerConfig) -> Callable[[jax.Array | int], jax.Array]:
    """lr(step) = peak x min(1, step / warmup_steps) x decay(step); step counts finished updates.

    With s = step, n = steps, w = warmup_steps, d = decay_fraction x n, the decay is

        linear  1 - s / n, from step 0 on as in the original
        cosine  (1 + cos(pi p)) / 2, p = (s - w) / (n - w) from 0 to 1 (Loshchilov and Hutter, 2017)
        wsd     1 until n - d, then (n - s) / d (Hu et al., MiniCPM, 2024, section 4)
    """
    steps, warmup_steps = config.steps, config.warmup_steps

    def decay(step: jax.Array) -> jax.Array:
        match config.schedule:
            case ScheduleName.LINEAR:
                return jnp.maximum(0.0, 1.0 - step / steps)
            case ScheduleName.COSINE:
                progress = (step - warmup_steps) / max(1, steps - warmup_steps)
                return (1.0 + jnp.cos(jnp.pi * jnp.clip(progress, 0.0, 1.0))) / 2
            case ScheduleName.WSD:
                return jnp.clip((steps - step) / (steps * config.decay_fraction), 0.0, 1.0)

    def schedule(step: jax.Array | int) -> jax.Array:
        step = jnp.asarray(step, jnp.result_type(float))
        warmup = jnp.minimum(1.0, step / warmup_steps) if warmup_steps else 1.0
        return config.learning_rate * decay(step) * warmup

    return schedule


def parameter_paths(params: optax.Params) -> optax.Params:
    """A tree like `params` of each array's path: `discriminator/layers/attention/query/kernel`."""
    return jax.tree_util.tree_map_with_path(
        lambda path, _: "/".join(str(getattr(key, "key", getattr(key, "idx", key))) for key in path), params
    )


def layer_paths(path: str, num_layers: int) -> list[str] | None:
    """The path of each layer's part of an array, `…/layers/0/attention/…`; None where it is of no layer."""
    above, layers, below = f"/{path}".rpartition("/layers/")
    return [f"{above}{layers}{number}/{below}"[1:] for number in range(num_layers)] if layers else None


def is_decayed(path: str) -> bool:
    """Whether weight decay applies: to all but biases and LayerNorm's scales."""
    return path.rsplit("/", 1)[-1] not in ("bias", "scale") and "layer_norm" not in path.lower()


def make_optimizer(
    config: OptimizerConfig, *, lr_scale: Callable[[str], float] | None = None
) -> optax.GradientTransformation:
    """The whole update as one optax transformation.

    Args:
      config: Hyperparameters.
      lr_scale: Factor on the learning rate of the parameter at a path (layer-wise decay); default 1 for all.

    References:
      Clark et al., ELECTRA, 2020, appendix A; Devlin et al., BERT, 2019, for its Adam.
      You et al., Large Batch Optimization for Deep Learning, 2020, algorithm 2, for LAMB.
    """

    def decayed(params: optax.Params) -> optax.Params:
        return jax.tree.map(is_decayed, parameter_paths(params))

    decay = optax.add_decayed_weights(config.weight_decay, mask=decayed)
    moments = {"b1": config.adam_b1, "b2": config.adam_b2, "eps": config.adam_eps}
    parts = [optax.clip_by_global_norm(config.clip_norm)]
    match config.optimizer:
        case OptimizerName.ADAM:
            parts += [scale_by_uncorrected_adam(**moments), decay]
        case OptimizerName.LAMB:
            # Biases and LayerNorms keep Adam's step, as in the authors' code.
            trust = optax.masked(optax.stateless(_scale_by_trust_ratio), decayed)
            parts += [optax.scale_by_adam(**moments), decay, trust]
    if lr_scale is not None:
        scale_of = lr_scale

        def scale(update: jax.Array, path: str) -> jax.Array:
            paths = layer_paths(path, len(update)) if update.ndim else None
            if paths is None:
                return update * scale_of(path)
            scale_L = jnp.array([scale_of(each) for each in paths], update.dtype)
            return update * scale_L.reshape(-1, *[1] * (update.ndim - 1))

        def scale_layers(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
            del params
            return jax.tree.map(scale, updates, parameter_paths(updates))

        parts.append(optax.stateless(scale_layers))
    parts.append(optax.scale_by_learning_rate(make_schedule(config)))
    return optax.chain(*parts)


def _scale_by_trust_ratio(updates: optax.Updates, params: optax.Params | None = None) -> optax.Updates:
    ratio = optax.scale_by_trust_ratio()

    def scale(update: jax.Array, param: jax.Array, path: str) -> jax.Array:
        def of_one(update: jax.Array, param: jax.Array) -> jax.Array:
            return ratio.update(update, ratio.init(param), param)[0]

        return (of_one if layer_paths(path, 1) is None else jax.vmap(of_one))(update, param)

    return jax.tree.map(scale, updates, params, parameter_paths(updates))


def parameter_table(params: optax.Params, *, lr_scale: Callable[[str], float] | None = None) -> str:
    """One line a parameter: path, shape, decayed or not, factor on the learning rate. For people and reviews."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path, leaf in zip(jax.tree.leaves(parameter_paths(params)), jax.tree.leaves(params), strict=True):
        paths = layer_paths(path, leaf.shape[0]) if leaf.shape else None
        shapes |= {path: leaf.shape} if paths is None else dict.fromkeys(paths, leaf.shape[1:])
    rows = [
        f"{path:<80} {shape!s:<16} {'decay' if is_decayed(path) else '-':<6} {lr_scale(path) if lr_scale else 1.0:g}"
        for path, shape in sorted(shapes.items(), key=lambda item: item[0].split("/"))
    ]
    return "\n".join([f"{'path':<80} {'shape':<16} {'decay':<6} lr scale", *rows]) + "\n"
