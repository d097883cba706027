"""Twenty optimizer steps of ours, and of an independent torch loop over transformers' modules: the same weights.

Dropout is off. Masks and samples are ours in both: torch is given what our generator saw and drew.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

from stages.electra.config import ElectraConfig  # noqa: E402
from stages.electra.files.huggingface import Architecture, to_huggingface  # noqa: E402
from stages.electra.joint_model import Electra, merge, split  # noqa: E402
from stages.electra.layers import split_keys  # noqa: E402
from stages.electra.objectives.objective import ObjectiveConfig  # noqa: E402
from stages.electra.objectives.pretraining_loss import corrupt, make_pretraining_loss  # noqa: E402
from stages.electra.sizes import EmbeddingSharing, ModelConfig, Size  # noqa: E402
from stages.training.config import OptimizerConfig  # noqa: E402
from stages.training.optimizer import make_optimizer  # noqa: E402
from stages.training.state import init_state, make_train_step  # noqa: E402

pytestmark = pytest.mark.parity

VOCAB_SIZE, NUM_TOKENS, NUM_STEPS, SEED = 100, 20, 20, 3
SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}
# Uneven on purpose: a mean of the parts' means would be another number.
LENGTHS = np.array([20, 20, 17, 13, 9, 5, 4, 3])
REAL = np.arange(NUM_TOKENS) < LENGTHS[:, None]
FIRST = (LENGTHS + 1) // 2
TYPES = (REAL & (np.arange(NUM_TOKENS) >= FIRST[:, None])).astype(np.int64)
OBJECTIVE = ObjectiveConfig(mask_fraction=0.25)
OPTIMIZER = OptimizerConfig(learning_rate=1e-3, steps=NUM_STEPS, warmup_steps=5)
TOLERANCE = {"float32": 1e-5, "float64": 1e-9}


def configs(*, untied: bool) -> tuple[ElectraConfig, ElectraConfig]:
    return ModelConfig(
        size=Size.TINY,
        embedding_size=24,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=48,
        max_position_embeddings=24,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        embedding_sharing=EmbeddingSharing.UNTIED if untied else EmbeddingSharing.SHARED,
    ).resolve(VOCAB_SIZE)


def make_batch(step: int) -> dict[str, np.ndarray]:
    ids = np.random.default_rng(step).integers(5, VOCAB_SIZE, REAL.shape)
    ids[:, 0] = SPECIAL_IDS["cls"]
    ids[np.arange(len(ids)), LENGTHS - 1] = SPECIAL_IDS["sep"]
    ids = np.where(REAL, ids, SPECIAL_IDS["pad"])
    return {
        name: value.astype(np.int32) for name, value in {"ids": ids, "length": LENGTHS, "first_length": FIRST}.items()
    }


def start(*, untied: bool, dtype: str) -> tuple[Any, Any]:
    sharing = EmbeddingSharing.UNTIED if untied else EmbeddingSharing.SHARED
    graphdef, shapes = jax.eval_shape(
        lambda: split(Electra(*configs(untied=untied), embedding_sharing=sharing, key=jax.random.key(0)))
    )
    random = np.random.default_rng(1)

    def fill(path: Any, shape: Any) -> np.ndarray:
        return random.normal(1.0 if path[-1].key == "scale" else 0.0, 0.1, shape.shape).astype(dtype)

    return graphdef, jax.tree.map_with_path(fill, shapes)


def our_training(graphdef: Any, params: Any, *, dtype: str, accumulation_steps: int) -> tuple[Any, list[Any]]:
    """The parameters after the last step, and what each step masked and drew."""
    loss_fn = make_pretraining_loss(
        graphdef, objective=OBJECTIVE, special_ids=SPECIAL_IDS, vocab_size=VOCAB_SIZE, dtype=dtype
    )
    optimizer = make_optimizer(OPTIMIZER)
    train_step = make_train_step(loss_fn, optimizer, accumulation_steps=accumulation_steps)

    @jax.jit
    def draws(params: Any, batch: Any, step: int) -> Any:
        key = jax.random.fold_in(jax.random.key(SEED), step)
        key_B = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(len(LENGTHS)))
        mask_key_B, sample_key_B, *_ = split_keys(key_B, 4)
        return corrupt(
            merge(graphdef, params),
            batch,
            mask_key_B=mask_key_B,
            sample_key_B=sample_key_B,
            dropout_key_B=None,
            objective=OBJECTIVE,
            special_ids=SPECIAL_IDS,
            dtype=dtype,
        )

    state, drawn = init_state(jax.tree.map(jnp.array, params), optimizer, key=jax.random.key(SEED)), []
    for step in range(NUM_STEPS):
        batch = make_batch(step)
        drawn.append(jax.device_get(draws(state.params, batch, step)))
        state, _ = train_step(state, batch)
    return jax.device_get(state.params), drawn


def their_names(params: Any, *, untied: bool) -> dict[str, np.ndarray]:
    """Our parameters under transformers' names, the network in front."""
    discriminator, generator = configs(untied=untied)
    named = {}
    for name, config, architecture in (
        ("discriminator", discriminator, Architecture.PRETRAINING),
        ("generator", generator, Architecture.MASKED_LM),
    ):
        parts = {
            "embeddings": params.get(f"{name}_embeddings", params["embeddings"]),
            "encoder": params[name],
            "head": params[f"{name}_head"],
        }
        tensors = to_huggingface(parts, config=config, architecture=architecture)
        named |= {f"{name}.{tensor}": value for tensor, value in tensors.items()}
    return named


def torch_networks(params: Any, *, untied: bool, dtype: str) -> Any:
    networks = {}
    for name, config, cls in zip(
        ("discriminator", "generator"),
        configs(untied=untied),
        (transformers.ElectraForPreTraining, transformers.ElectraForMaskedLM),
        strict=True,
    ):
        networks[name] = cls(transformers.ElectraConfig(**config.to_dict(), attn_implementation="eager"))
    both = torch.nn.ModuleDict(networks).to(getattr(torch, dtype))
    if not untied:
        both["generator"].electra.embeddings = both["discriminator"].electra.embeddings
    for network in both.values():
        # Else torch gives [PAD] no gradient where the generator drew it as a word.
        network.electra.embeddings.word_embeddings.padding_idx = None
    both["generator"].generator_lm_head.weight = both["generator"].electra.embeddings.word_embeddings.weight
    tensors = {name: torch.tensor(value) for name, value in their_names(params, untied=untied).items()}
    found = both.load_state_dict(tensors, strict=False)
    assert not found.unexpected_keys
    assert all(
        "position_ids" in key or "token_type_ids" in key or "lm_head.weight" in key for key in found.missing_keys
    )
    return both.train()


def torch_loss(networks: Any, batch: Any, drawn: Any, rows: slice) -> Any:
    def tensor(values: np.ndarray) -> Any:
        return torch.tensor(np.array(values[rows], np.int64))

    inputs = {"attention_mask": tensor(REAL), "token_type_ids": tensor(TYPES)}
    words = networks["generator"](input_ids=tensor(drawn.masked.ids_BT), **inputs).logits
    used = tensor(drawn.masked.weights_BP) > 0
    guesses = words.gather(1, tensor(drawn.masked.positions_BP)[..., None].expand(-1, -1, VOCAB_SIZE))[used]
    generator_loss = torch.nn.functional.cross_entropy(guesses, tensor(drawn.masked.targets_BP)[used])
    logits = networks["discriminator"](input_ids=tensor(drawn.ids_BT), **inputs).logits
    real = tensor(REAL) > 0
    labels = (tensor(drawn.ids_BT) != tensor(batch["ids"])).to(logits.dtype)
    return generator_loss + 50 * torch.nn.functional.binary_cross_entropy_with_logits(logits[real], labels[real])


def torch_training(params: Any, drawn: list[Any], *, untied: bool, dtype: str, num_parts: int = 1) -> dict[str, Any]:
    """The loop of BERT's optimizer, by hand. `num_parts` above 1 takes the mean of the parts' means: wrong."""
    networks = torch_networks(params, untied=untied, dtype=dtype)
    weights = dict(networks.named_parameters())  # each once, however many modules hold it
    m = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    v = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    size = len(LENGTHS) // num_parts
    for step in range(NUM_STEPS):
        networks.zero_grad()
        for part in range(num_parts):
            rows = slice(part * size, (part + 1) * size)
            (torch_loss(networks, make_batch(step), drawn[step], rows) / num_parts).backward()
        with torch.no_grad():
            norm = torch.sqrt(sum(torch.sum(weight.grad**2) for weight in weights.values()))
            rate = 1e-3 * (1 - step / NUM_STEPS) * min(1.0, step / 5)
            for name, weight in weights.items():
                gradient = weight.grad / max(1.0, float(norm))
                m[name] = 0.9 * m[name] + 0.1 * gradient
                v[name] = 0.999 * v[name] + 0.001 * gradient**2
                update = m[name] / (torch.sqrt(v[name]) + 1e-6)
                if not name.endswith("bias") and "LayerNorm" not in name:
                    update = update + 0.01 * weight
                weight -= rate * update
    return {name: value.numpy() for name, value in networks.state_dict().items()}


def largest_difference(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> tuple[float, str]:
    return max((float(np.abs(ours[name] - theirs[name]).max()), name) for name in ours)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(
    ("accumulation_steps", "untied"), [(1, False), (4, False), (1, True)], ids=["tied", "accumulated", "untied"]
)
def test_twenty_steps_end_where_torch_ends(accumulation_steps, untied, dtype):
    with jax.enable_x64(dtype == "float64"):
        graphdef, params = start(untied=untied, dtype=dtype)
        trained, drawn = our_training(graphdef, params, dtype=dtype, accumulation_steps=accumulation_steps)
    ours = their_names(trained, untied=untied)
    assert {str(value.dtype) for value in ours.values()} == {dtype}
    moved, name = largest_difference(ours, their_names(params, untied=untied))
    assert moved > 1e-2, name
    difference, name = largest_difference(ours, torch_training(params, drawn, untied=untied, dtype=dtype))
    assert difference < TOLERANCE[dtype], name


def test_a_mean_of_means_ends_elsewhere():
    graphdef, params = start(untied=False, dtype="float32")
    trained, drawn = our_training(graphdef, params, dtype="float32", accumulation_steps=4)
    wrong = torch_training(params, drawn, untied=False, dtype="float32", num_parts=4)
    assert largest_difference(their_names(trained, untied=False), wrong)[0] > 100 * TOLERANCE["float32"]
