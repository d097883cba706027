"""Texts to tokens to a trained model, as v4's examples for GLUE, tagging and question answering do it."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from electra_miniature import make_model, tiny
from flax.training.train_state import TrainState
from flax.traverse_util import flatten_dict, unflatten_dict

from stages.electra import ElectraConfig, ElectraTokenizer
from stages.electra import ElectraForPreTraining as FlaxElectraForPreTraining
from stages.electra import ElectraForQuestionAnswering as FlaxElectraForQuestionAnswering
from stages.electra import ElectraForSequenceClassification as FlaxElectraForSequenceClassification
from stages.electra import ElectraForTokenClassification as FlaxElectraForTokenClassification
from stages.electra.tokenizer import SPECIAL_TOKENS

CONFIG = replace(tiny(num_hidden_layers=1)[0], vocab_size=50)
WORDS = ["hello", ",", "my", "dog", "is", "cute", "##st", "a", "good", "bad", "film"]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> ElectraTokenizer:
    words = tmp_path_factory.mktemp("words") / "vocab.txt"
    words.write_text("\n".join([*SPECIAL_TOKENS.values(), *WORDS]) + "\n")
    return ElectraTokenizer.from_vocabulary(words, max_length=16)


# The tokenizer.


def test_the_snippet_of_v4s_documentation_runs(tokenizer, tmp_path, monkeypatch):
    from stages.electra import ElectraTokenizer as AutoTokenizer

    monkeypatch.chdir(tmp_path)
    name = "google/electra-small-discriminator"  # a folder comes before the hub
    make_model(FlaxElectraForPreTraining, CONFIG).save_pretrained(name, tokenizer=tokenizer)

    tokenizer = AutoTokenizer.from_pretrained(name)
    model = FlaxElectraForPreTraining.from_pretrained(name)
    inputs = tokenizer("Hello, my dog is cute", return_tensors="jax")
    outputs = model(**inputs)
    prediction_logits = outputs.logits

    assert prediction_logits.shape == (1, 8)
    assert all(isinstance(value, jax.Array) for value in inputs.values())
    assert inputs["input_ids"].tolist() == [[2, 5, 6, 7, 8, 9, 10, 3]]


def test_padding_is_to_the_longest_to_a_length_or_none(tokenizer):
    texts = ["my dog", "dog"]
    assert tokenizer(texts)["input_ids"] == tokenizer(texts, padding=True)["input_ids"] == [[2, 7, 8, 3], [2, 8, 3, 0]]
    assert tokenizer(texts, padding="longest")["attention_mask"] == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert tokenizer(texts, padding="max_length", max_length=6)["input_ids"][1] == [2, 8, 3, 0, 0, 0]
    assert tokenizer(texts, padding=False)["input_ids"] == [[2, 7, 8, 3], [2, 8, 3]]
    assert tokenizer("my dog", padding="max_length", return_tensors="np")["input_ids"].shape == (1, 16)
    assert tokenizer("my dog", add_special_tokens=False)["input_ids"] == [7, 8]
    with pytest.raises(ValueError, match="several lengths"):
        tokenizer(texts, padding=False, return_tensors="np")
    with pytest.raises(ValueError, match="padding is 'left'"):
        tokenizer(texts, padding="left")
    with pytest.raises(ValueError, match="return_tensors is 'pt'"):
        tokenizer(texts, return_tensors="pt")


def test_tokens_say_which_word_and_text_they_are_of(tokenizer):
    rows = tokenizer([["my", "cutest", "dog"], ["film"]], is_split_into_words=True)
    assert rows.word_ids(0) == [None, 0, 1, 1, 2, None]
    assert rows.word_ids(batch_index=1) == [None, 0, None, None, None, None]
    assert tokenizer(["my", "dog"], is_split_into_words=True)["input_ids"] == [2, 7, 8, 3]
    pair = tokenizer("my dog", "a cute film", return_offsets_mapping=True)
    assert pair.sequence_ids() == [None, 0, 0, None, 1, 1, 1, None]
    assert pair["offset_mapping"][4:7] == [(0, 1), (2, 6), (7, 11)]


# Loops, as v4's examples have them: a TrainState whose `apply_fn` is the model, decay by name, `pmap`.


def decays(params: dict) -> dict:
    """As in v4's examples: biases and norms are not decayed."""
    paths = flatten_dict(params)
    norms = {path[-2:] for path in paths if "layernorm" in "".join(path).lower()}
    return unflatten_dict({path: path[-1] != "bias" and path[-2:] not in norms for path in paths})


def train(model, batch: dict, loss_of, *, steps: int = 8) -> tuple[list[float], TrainState]:
    optimizer = optax.adamw(1e-2, weight_decay=0.01, mask=decays)
    state = TrainState.create(apply_fn=model.__call__, params=model.to_v4_params(), tx=optimizer)

    def step(state, batch, key):
        key, new_key = jax.random.split(key)
        targets = batch.pop("labels")

        def loss(params):
            logits = state.apply_fn(**batch, params=params, dropout_rng=key, train=True)
            return loss_of(logits, targets)

        value, grads = jax.value_and_grad(loss)(state.params)
        grads = jax.lax.pmean(grads, "batch")
        return state.apply_gradients(grads=grads), jax.lax.pmean(value, axis_name="batch"), new_key

    run = jax.pmap(step, axis_name="batch", donate_argnums=(0,))
    state = jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], state)  # flax's `replicate` fails with jax 0.10
    keys, losses = jax.random.split(jax.random.PRNGKey(0), 1), []
    batch = {name: jnp.asarray(value)[None] for name, value in batch.items()}
    for _ in range(steps):
        state, value, keys = run(state, dict(batch), keys)
        losses.append(float(value[0]))
    return losses, jax.tree.map(lambda leaf: leaf[0], state)


def test_a_glue_loop_trains_and_saves_what_it_trained(tokenizer, tmp_path):
    config = ElectraConfig(**CONFIG.to_dict() | {"num_labels": 2}).change(finetuning_task="sst2")
    model = make_model(FlaxElectraForSequenceClassification, config)
    batch = tokenizer(["a good film", "a bad film"] * 2, padding="max_length", max_length=9, truncation=True)

    def loss(outputs, labels):
        return optax.softmax_cross_entropy(outputs[0], jax.nn.one_hot(labels, 2)).mean()

    losses, state = train(model, {**batch, "labels": [1, 0, 1, 0]}, loss)
    assert losses[-1] < losses[0]
    model.save_pretrained(tmp_path, params=jax.device_get(state.params), push_to_hub=False)
    ids = np.array(batch["input_ids"])
    again = FlaxElectraForSequenceClassification.from_pretrained(tmp_path)
    np.testing.assert_allclose(again(ids).logits, model(ids, params=state.params).logits, atol=1e-6)
    assert again.config.finetuning_task == "sst2"


def test_a_tagging_loop_trains(tokenizer):
    rows = tokenizer([["my", "cutest", "dog"], ["a", "film"]], is_split_into_words=True, padding=True)
    tags, labels = [[0, 1, 2], [0, 2]], []
    for number, its_tags in enumerate(tags):
        words = rows.word_ids(batch_index=number)
        firsts = [word if word is not None and word not in words[:place] else None for place, word in enumerate(words)]
        labels.append([-100 if word is None else its_tags[word] for word in firsts])
    assert labels[0] == [-100, 0, 1, -100, 2, -100]

    def loss(outputs, labels):
        losses = optax.softmax_cross_entropy(outputs.logits, jax.nn.one_hot(labels, 3))
        return jnp.sum(jnp.where(labels >= 0, losses, 0)) / jnp.sum(labels >= 0)

    losses, _ = train(
        make_model(FlaxElectraForTokenClassification, CONFIG.change(num_labels=3)), {**rows, "labels": labels}, loss
    )
    assert losses[-1] < losses[0]


def test_a_question_answering_loop_trains(tokenizer):
    questions, contexts, answers = ["my dog", "a film"], ["dog is cute", "a good film"], ["cute", "good film"]
    rows = tokenizer(questions, contexts, return_offsets_mapping=True)
    offsets, places = rows.pop("offset_mapping"), []
    for number, (context, answer) in enumerate(zip(contexts, answers, strict=True)):
        start = context.index(answer)
        of_context = [sequence == 1 for sequence in rows.sequence_ids(number)]
        begins = [one and span[0] == start for one, span in zip(of_context, offsets[number], strict=True)]
        ends = [one and span[1] == start + len(answer) for one, span in zip(of_context, offsets[number], strict=True)]
        places.append((begins.index(True), ends.index(True)))
    assert places == [(6, 6), (5, 6)]

    def loss(outputs, labels):
        logits = jnp.stack([outputs.start_logits, outputs.end_logits], axis=1)
        return optax.softmax_cross_entropy(logits, jax.nn.one_hot(labels, logits.shape[-1])).mean()

    losses, _ = train(make_model(FlaxElectraForQuestionAnswering, CONFIG), {**rows, "labels": places}, loss)
    assert losses[-1] < losses[0]
