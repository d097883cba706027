"""What the networks make of held-out text is what they would say of it, and shows where they were right."""

from typing import Any

import jax
import numpy as np
import pytest
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from upath import UPath

from stages.data.builders import Packing
from stages.data.rows import Rows
from stages.data.shard_index import ShardIndex
from stages.data.shards import ShardReader, write_shard
from stages.electra.config import ElectraConfig
from stages.electra.joint_model import split
from stages.electra.network import Discriminator, LanguageModel
from stages.heldout_text import count_words, show_networks
from stages.pieces import as_pieces

VOCAB_SIZE = 60
SPECIAL_IDS = {"pad": 0, "unk": 1, "cls": 2, "sep": 3, "mask": 4}


@pytest.fixture(params=[Packing.PAIRS, Packing.PACKED])
def reader(tmp_path, request) -> ShardReader:
    """Forty rows of up to 32 tokens."""
    draw = np.random.default_rng(0)
    length_N = draw.integers(10, 33, size=40).astype(np.uint16)
    ids_NT = draw.integers(5, VOCAB_SIZE, size=(40, 32))
    first_length_N = (length_N // 2).astype(np.uint16)
    ids_NT[:, 0] = SPECIAL_IDS["cls"]
    ids_NT[np.arange(40), length_N - 1] = ids_NT[np.arange(40), first_length_N - 1] = SPECIAL_IDS["sep"]
    ids_NT[np.arange(32) >= length_N[:, None]] = SPECIAL_IDS["pad"]
    begins_NT = None
    if request.param is Packing.PACKED:
        begins_NT = (np.arange(32) == 0) | (np.arange(32) == first_length_N[:, None])
    rows = Rows(ids_NT=ids_NT.astype(np.uint16), length_N=length_N, first_length_N=first_length_N, begins_NT=begins_NT)
    folder = UPath(tmp_path)
    shard = write_shard(folder, file="heldout.arrow", rows=rows)
    ShardIndex(
        sequence_length=32,
        packing=request.param,
        vocab_size=VOCAB_SIZE,
        tokenizer_sha256="ab",
        special_ids=SPECIAL_IDS,
        counts={},
        train=(),
        heldout=(shard,),
    ).write(folder)
    return ShardReader(folder, "heldout")


def tokens_of(reader: ShardReader) -> list[str]:
    return [f"##t{number}" if number % 3 == 0 else f"t{number}" for number in range(reader.index.vocab_size)]


def networks(reader: ShardReader) -> dict[str, Any]:
    config = ElectraConfig(
        vocab_size=reader.index.vocab_size,
        embedding_size=8,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        max_position_embeddings=32,
    )
    found = {}
    for name, network in (("generator", LanguageModel), ("discriminator", Discriminator)):
        found[name] = (config, split(network(config, key=jax.random.key(0)))[1])
    return found


def test_masked_words_have_their_original_and_a_few_the_generators_guesses(reader):
    rows = show_networks(reader, tokens_of(reader), **networks(reader), mask_fraction=0.25, temperature=1.0)
    assert 1 <= len(rows) <= 6
    for row in rows:
        masked = [token for token in row if "original" in token]
        assert len(masked) == max(1, round(0.25 * len(row)))
        assert all(0 < token["probability"] < 1 for token in row)
        guessed = [token["guesses"] for token in row if "guesses" in token]
        assert len(guessed) == min(2, len(masked))
        for guesses in guessed:
            shares = [share for _, share in guesses]
            assert len(shares) == 5
            assert shares == sorted(shares, reverse=True)
            assert sum(shares) <= 1
    again = show_networks(reader, tokens_of(reader), **networks(reader), mask_fraction=0.25, temperature=1.0)
    assert again == rows


def test_a_sure_generator_and_a_sure_discriminator_are_seen_to_be_so(reader):
    found = networks(reader)
    config, params = found["generator"]
    wanted = reader.index.vocab_size - 1
    bias = np.zeros(reader.index.vocab_size, np.float32)
    bias[wanted] = 50.0
    found["generator"] = (config, params | {"head": params["head"] | {"bias": bias}})
    tokens = tokens_of(reader)
    rows = show_networks(reader, tokens, **found, mask_fraction=0.25, temperature=1.0)
    masked = [token for row in rows for token in row if "original" in token]
    assert {token["text"] for token in masked} == {tokens[wanted]}
    assert all(token["guesses"][0] == [tokens[wanted], 1.0] for token in masked if "guesses" in token)
    shown = {token["text"] for row in rows for token in row if "original" not in token}
    assert not shown & {tokens[number] for number in SPECIAL_IDS.values()}


def test_without_a_discriminator_there_are_guesses_alone(reader):
    found = networks(reader) | {"discriminator": None}
    rows = show_networks(reader, tokens_of(reader), **found, mask_fraction=0.15, temperature=1.0)
    assert not any("probability" in token for row in rows for token in row)
    assert any("guesses" in token for row in rows for token in row)


def test_words_are_counted_by_the_tokens_that_begin_one(reader):
    num_tokens, num_words = count_words(reader, tokens_of(reader))
    rows = reader.rows(np.arange(reader.num_rows))
    ids = [row[:length].tolist() for row, length in zip(rows["ids"], rows["length"], strict=True)]
    special = {reader.index.special_ids[name] for name in ("pad", "cls", "sep", "mask")}
    real = [number for row in ids for number in row if number not in special]
    assert num_tokens == len(real)
    assert num_words == sum(number % 3 != 0 for number in real)


def test_tokens_of_every_kind_of_vocabulary_are_written_alike():
    assert as_pieces(["[PAD]", "the", "##s"]) == ["[PAD]", "the", "##s"]
    assert as_pieces(["[PAD]", "▁the", "s", "▁"]) == ["[PAD]", "the", "##s", ""]
    made = Tokenizer(BPE())
    made.pre_tokenizer = ByteLevel(add_prefix_space=True)
    made.train_from_iterator(["the naïve fox, the foxes"] * 9, BpeTrainer(vocab_size=300, show_progress=False))
    tokens = made.encode("the naïve foxes").tokens
    assert "".join(as_pieces(tokens)).replace("##", "") == "thenaïvefoxes"
    assert as_pieces(tokens)[0] == "the"
