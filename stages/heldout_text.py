"""What the pretrained networks make of a little held-out text: for the report, where a reader sees what was learnt.

Some words are masked as in training, the generator fills them in, and the discriminator says of every token how likely
it was replaced. The draws have a seed of their own, so the same networks always show the same.

Shapes: `B` rows, `T` tokens, `V` vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from stages.data.shards import ShardReader
from stages.electra.config import ElectraConfig
from stages.electra.joint_model import Params, merge, split
from stages.electra.layout import lay_out
from stages.electra.network import Discriminator, LanguageModel, Network

_SHOWN_TOKENS, _MOST_ROWS = 256, 6
_GUESSES, _PLACES = 5, 2  # the likeliest words that are shown, and at how many places of a row

Trained = tuple[ElectraConfig, Params]


def show_networks(
    reader: ShardReader,
    tokens: Sequence[str],
    *,
    generator: Trained,
    discriminator: Trained | None,
    mask_fraction: float,
    temperature: float,
) -> list[list[dict[str, Any]]]:
    """A list of tokens for each row, without padding and special tokens.

    Args:
      reader: The held-out rows.
      tokens: The vocabulary, by id.
      generator: Configuration and parameters of the masked language model.
      discriminator: Of what tells replaced tokens, if there is one.
      mask_fraction: Share of the tokens that are masked.
      temperature: Of the generator's draws.

    Returns:
      Of each token `text`, as the discriminator sees it; `probability`, that it was replaced in its opinion; of a
      masked one `original`; of some of these `guesses`, the generator's likeliest words with their probabilities.
    """
    special_ids = reader.index.special_ids
    count = max(1, min(reader.num_rows, _MOST_ROWS, _SHOWN_TOKENS // reader.sequence_length))
    rows = reader.rows(np.linspace(0, reader.num_rows - 1, count).astype(np.int64))
    ids_BT = rows["ids"]
    draw = np.random.default_rng(0)
    unmaskable = [special_ids[name] for name in ("pad", "cls", "sep", "mask")]
    is_word_BT = (np.arange(ids_BT.shape[1]) < rows["length"][:, None]) & ~np.isin(ids_BT, unmaskable)
    is_masked_BT = np.zeros_like(is_word_BT)
    for row, is_word_T in enumerate(is_word_BT):
        words = np.flatnonzero(is_word_T)
        num_masked = min(len(words), max(1, round(len(words) * mask_fraction)))
        is_masked_BT[row, draw.choice(words, num_masked, replace=False)] = True
    masked_BT = np.where(is_masked_BT, special_ids["mask"], ids_BT)
    logits_BTV = _ask(LanguageModel, generator, rows | {"ids": masked_BT}).astype(np.float64)
    noise_BTV = draw.gumbel(size=logits_BTV.shape)  # the largest sum of logit and noise is a sample
    sampled_BT = (logits_BTV / temperature + noise_BTV).argmax(-1)
    corrupted_BT = np.where(is_masked_BT, sampled_BT, ids_BT).astype(np.int32)
    replaced_BT = None
    if discriminator is not None:
        replaced_BT = 1 / (1 + np.exp(-_ask(Discriminator, discriminator, rows | {"ids": corrupted_BT})))
    found: list[list[dict[str, Any]]] = []
    for row, is_word_T in enumerate(is_word_BT):
        with_guesses = np.flatnonzero(is_masked_BT[row])[:: max(1, is_masked_BT[row].sum() // _PLACES)][:_PLACES]
        found.append([])
        for place in np.flatnonzero(is_word_T):
            token: dict[str, Any] = {"text": tokens[corrupted_BT[row, place]]}
            if replaced_BT is not None:
                token["probability"] = round(float(replaced_BT[row, place]), 4)
            if is_masked_BT[row, place]:
                token["original"] = tokens[ids_BT[row, place]]
            if place in with_guesses:
                token["guesses"] = _likeliest(logits_BTV[row, place], tokens)
            found[-1].append(token)
    return found


def count_words(reader: ShardReader, tokens: Sequence[str]) -> tuple[int, int]:
    """Tokens and words of (at most a thousand rows of) the held-out text: how finely the vocabulary cuts."""
    rows = reader.rows(np.arange(min(reader.num_rows, 1000)))
    is_real_BT = np.arange(reader.sequence_length) < rows["length"][:, None]
    ids = rows["ids"][is_real_BT]
    ids = ids[~np.isin(ids, [number for name, number in reader.index.special_ids.items() if name != "unk"])]
    continues = np.array([token.startswith("##") for token in tokens])
    return len(ids), int((~continues[ids]).sum())


def _likeliest(logits_V: np.ndarray, tokens: Sequence[str]) -> list[list[Any]]:
    shares_V = np.exp(logits_V - logits_V.max())
    shares_V /= shares_V.sum()
    return [[tokens[number], round(float(shares_V[number]), 4)] for number in np.argsort(-shares_V)[:_GUESSES]]


def _ask(network: type[Network], trained: Trained, rows: Mapping[str, np.ndarray]) -> np.ndarray:
    """The network's logits for all rows."""
    config, params = trained
    graphdef, _ = jax.eval_shape(lambda: split(network(config, key=jax.random.key(0))))

    @jax.jit
    def logits(params: Params, batch: Mapping[str, jax.Array]) -> Any:
        mask_BT, types_BT, positions_BT, text_BT = lay_out(batch)
        model = merge(graphdef, params)
        encoded = model.encode(
            batch["ids"], mask_BT, types_BT, positions_BT=positions_BT, text_BT=text_BT, key_B=None, dtype=jnp.float32
        )
        return model.logits(encoded.last_BTD, mask_BT, key_B=None, dtype=jnp.float32)

    return np.asarray(logits(jax.tree.map(jnp.asarray, params), {name: jnp.asarray(x) for name, x in rows.items()}))
