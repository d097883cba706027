"""What a decoder remembers, and what it writes."""

import jax
import numpy as np
import pytest

from stages.electra import ElectraConfig, ElectraForCausalLM

CONFIG = ElectraConfig(
    vocab_size=40,
    embedding_size=12,
    hidden_size=16,
    num_hidden_layers=2,
    num_attention_heads=2,
    intermediate_size=24,
    max_position_embeddings=20,
    initializer_range=0.5,
    is_decoder=True,
)


def test_tokens_read_one_by_one_give_what_all_at_once_give():
    model = ElectraForCausalLM(CONFIG)
    ids = np.random.default_rng(0).integers(0, 40, (2, 7))
    expected = model(ids).logits
    cache = model.init_cache(2, 9)
    first = model(ids[:, :3], past_key_values=cache)
    np.testing.assert_allclose(first.logits, expected[:, :3], atol=1e-5)
    cache = first.past_key_values
    for place in range(3, 7):
        output = model(ids[:, place : place + 1], past_key_values=cache)
        np.testing.assert_allclose(output.logits[:, 0], expected[:, place], atol=1e-5)
        cache = output.past_key_values
    assert int(cache.num_tokens) == 7


def test_what_follows_does_not_depend_on_padding_before_the_prompt():
    model = ElectraForCausalLM(CONFIG)
    prompt = np.array([[7, 8, 9, 10]])
    alone = model.generate(prompt, max_new_tokens=8).sequences
    assert alone.shape == (1, 12)
    padded = np.concatenate([np.array([[0, 0, 7, 8, 9, 10]]), np.array([[1, 2, 3, 4, 5, 6]])])
    mask = np.array([[0, 0, 1, 1, 1, 1], [1] * 6])
    both = model.generate(padded, mask, max_new_tokens=8).sequences
    np.testing.assert_array_equal(both[0, 6:], alone[0, 4:])


def test_samples_follow_the_key_and_the_most_likely_of_one_is_the_greedy_choice():
    model = ElectraForCausalLM(CONFIG)
    prompt = np.array([[7, 8, 9, 10]])
    greedy = model.generate(prompt, max_length=16).sequences
    draws = [
        model.generate(prompt, max_length=16, do_sample=True, temperature=5.0, prng_key=jax.random.key(n)).sequences
        for n in (0, 0, 1)
    ]
    np.testing.assert_array_equal(draws[0], draws[1])
    assert (draws[0] != draws[2]).any()
    only = model.generate(prompt, max_length=16, do_sample=True, top_k=1, prng_key=jax.random.key(0)).sequences
    np.testing.assert_array_equal(only, greedy)


def test_a_sequence_ends_at_its_end_token():
    model = ElectraForCausalLM(CONFIG)
    prompt = np.array([[7, 8, 9, 10]])
    greedy = model.generate(prompt, max_length=16).sequences[0].tolist()
    end = greedy[6]
    place = greedy.index(end, 4)
    found = model.generate(prompt, max_length=16, eos_token_id=end, pad_token_id=3).sequences[0].tolist()
    assert found == greedy[: place + 1] + [3] * (16 - place - 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_length": 4}, "prompts have 4 tokens already"),
        ({"max_length": 21}, "the model has positions for 20"),
        ({"do_sample": True}, "needs prng_key"),
        ({"temperature": 0}, "must be above 0"),
        ({"attention_mask": [[1, 1, 1, 0]]}, "pad on the left"),
        ({"encoder_hidden_states": np.zeros((1, 2, 16))}, "add_cross_attention is false"),
    ],
)
def test_generation_refuses_what_makes_no_sense(arguments, message):
    with pytest.raises(ValueError, match=message):
        ElectraForCausalLM(CONFIG).generate(np.array([[7, 8, 9, 10]]), **arguments)


def test_a_model_that_sees_all_at_once_has_no_cache():
    model = ElectraForCausalLM(CONFIG.change(is_decoder=False))
    with pytest.raises(ValueError, match="is_decoder is false"):
        model.init_cache(1, 4)
