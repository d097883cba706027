"""CoNLL's files and inputs: every word keeps its tag."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer
from upath import UPath

from stages.electra.config import IGNORED
from stages.run_warning import RunWarning, WarningKind
from stages.tasks.base import Features, Split, TaskOptions
from stages.tasks.named import TaskName
from stages.tasks.registry import make_task
from stages.tasks.tagging import Sentence, Tagging, pack
from stages.tasks.tokens import WordPiece

Write = Callable[[str, str], UPath]
LABELS = ("O", "B-NP", "I-NP")


def _task(max_length: int = 32, *, bioes: bool = False) -> Tagging:
    task = make_task(TaskName.CONLL2000, TaskOptions(max_length=max_length, bioes=bioes))
    assert isinstance(task, Tagging)
    return task


def _sentence(words: str, tags: str) -> Sentence:
    pairs = list(zip(words.split(" "), tags.split(" "), strict=True))
    return Sentence(
        words=tuple(word for word, _ in pairs),
        tags=tuple(tag for _, tag in pairs),
        lines=tuple(f"{word} X {tag}" for word, tag in pairs),
    )


def _answers(features: Features, labels: tuple[str, ...]) -> list[np.ndarray]:
    """Logits that say the gold label wherever there is one."""
    return [np.eye(len(labels))[np.maximum(row, 0)] for row in features.labels["labels"]]


def test_sentences_end_at_empty_lines(write: Write) -> None:
    folder = write("train.txt", "\n\nHe PRP B-NP\r\nran VBD B-VP\r\n \n\nWe PRP B-NP").parent
    write("test.txt", "a\u00a0b\tNN\tI-NP\n")
    data = _task().load(folder)
    assert [sentence.words for sentence in data.train] == [("He", "ran"), ("We",)]
    assert data.dev[0].words == ("a\u00a0b",)
    assert data.labels == ("O", "B-NP", "B-VP")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "He PRP B-NP\nran VBD\n",
            r"train.txt:2: expected 3 columns \(word, part of speech, chunk tag\), found 2: 'ran VBD'",
        ),
        ("He PRP NP\n", "train.txt:1: column 'chunk tag' holds 'NP', expected O, B-TYPE"),
        ("\n\n", "train.txt: no sentences"),
    ],
)
def test_a_wrong_line_is_named(write: Write, text: str, message: str) -> None:
    folder = write("train.txt", text).parent
    write("test.txt", "He PRP B-NP\n")
    with pytest.raises(ValueError, match=message):
        _task().load(folder)


def test_only_the_first_token_of_a_word_has_its_tag(tokenizer: WordPiece) -> None:
    sentence = _sentence("the jumping cat", "B-NP I-NP I-NP")
    features = _task().features([sentence], tokenizer, labels=LABELS, split=Split.TRAIN)
    assert features.labels["labels"][0].tolist() == [IGNORED, 1, 2, IGNORED, 2, IGNORED]


def test_a_word_of_no_tokens_does_not_shift_the_others(tokenizer: WordPiece) -> None:
    sentence = _sentence("the \u200b cat", "B-NP O B-NP")
    assert tokenizer.encode(["\u200b"]) == [[]]
    features = _task().features([sentence], tokenizer, labels=LABELS, split=Split.DEV)
    assert features.ids[0][2] == tokenizer.unk
    found = _task().evaluate([sentence], features, _answers(features, LABELS))
    assert found.files["predictions.txt"] == "the X B-NP B-NP\n\u200b X O O\ncat X B-NP B-NP\n\n"


def test_a_sentence_longer_than_a_row_loses_no_word(tokenizer: WordPiece) -> None:
    sentence = _sentence(" ".join(["cat", "jumping"] * 30), " ".join(["B-NP", "I-NP"] * 30))
    task = _task(max_length=16)
    features = task.features([sentence], tokenizer, labels=LABELS, split=Split.DEV)
    assert features.num_rows > 1
    assert features.lengths.max() <= 16
    assert features.counts == {"split": 1}
    assert sum(int((row != IGNORED).sum()) for row in features.labels["labels"]) == 60
    found = task.evaluate([sentence], features, _answers(features, LABELS))
    assert found.scores["f1"] == 100.0


def test_a_word_longer_than_a_row_is_cut(tokenizer: WordPiece) -> None:
    sentence = _sentence("the " + "q" * 60 + " cat", "B-NP I-NP I-NP")
    features = _task(max_length=16).features([sentence], tokenizer, labels=LABELS, split=Split.DEV)
    assert [len(row) for row in features.ids] == [3, 16, 3]


def test_words_are_packed_in_order_and_never_parted() -> None:
    assert pack([2, 3, 3, 1], room=5) == [(0, 2), (2, 4)]
    assert pack([5, 5], room=5) == [(0, 1), (1, 2)]


def test_a_tag_that_training_has_not_is_missed_and_reported(tokenizer: WordPiece) -> None:
    sentence = _sentence("the cat", "B-NP B-LST")
    features = _task().features([sentence], tokenizer, labels=LABELS, split=Split.DEV)
    found = _task().evaluate([sentence], features, _answers(features, LABELS))
    assert found.scores["recall"] == 50.0
    assert found.scores["precision"] == 100.0
    text = "1 scored words have tags that training has not: B-LST"
    assert found.warnings == (RunWarning(WarningKind.OUT_OF_REACH, text),)


def test_the_same_tag_everywhere_is_reported(tokenizer: WordPiece) -> None:
    sentence = _sentence("the cat", "B-NP I-NP")
    features = _task().features([sentence], tokenizer, labels=LABELS, split=Split.DEV)
    logits = [np.tile(np.eye(3)[0], (len(row), 1)) for row in features.ids]
    found = _task().evaluate([sentence], features, logits)
    assert found.warnings == (RunWarning(WarningKind.DEGENERATE, "all 2 words are tagged O"),)
    assert found.scores["f1"] == 0.0


def test_tags_may_mark_ends_too_and_are_written_as_the_files_have_them(write: Write, tokenizer: WordPiece) -> None:
    text = "the DT B-NP\ncat NN I-NP\nsat VBD B-VP\non IN O\nmat NN I-NP\nbig JJ B-NP\nhouse NN I-NP\nred JJ I-NP\n"
    folder = write("train.txt", text).parent
    write("test.txt", text)
    task = _task(bioes=True)
    data = task.load(folder)
    assert data.labels == ("O", "B-NP", "I-NP", "E-NP", "S-NP", "B-VP", "I-VP", "E-VP", "S-VP")
    assert data.dev[0].tags == ("B-NP", "E-NP", "S-VP", "O", "S-NP", "B-NP", "I-NP", "E-NP")
    features = task.features(data.dev, tokenizer, labels=data.labels, split=Split.DEV)
    found = task.evaluate(data.dev, features, _answers(features, data.labels))
    assert found.scores == {"precision": 100.0, "recall": 100.0, "f1": 100.0, "accuracy": 100.0}
    written = [line.split(" ")[-1] for line in found.files["predictions.txt"].split("\n") if line]
    assert written == ["B-NP", "I-NP", "B-VP", "O", "B-NP", "B-NP", "I-NP", "I-NP"]
    # A last word that the model does not mark as one: the chunk is there all the same.
    wrong = _answers(features, data.labels)
    wrong[0][2] = np.eye(9)[2]
    assert task.evaluate(data.dev, features, wrong).scores["accuracy"] == 100.0


@pytest.mark.parametrize("bioes", [False, True])
def test_every_published_word_keeps_its_tag(real_data: Path, real_tokenizer: WordPiece, bioes: bool) -> None:
    task = _task(max_length=64, bioes=bioes)
    data = task.load(UPath(real_data / "conll2000"))
    assert (len(data.train), len(data.dev)) == (8936, 2012)
    assert sum(len(sentence.words) for sentence in data.train) == 211_727
    # Two words of one test sentence are I-LST, which no training sentence has.
    unknown = [set(s.tags) - set(data.labels) for s in data.dev if set(s.tags) - set(data.labels)]
    assert unknown == ([] if bioes else [{"I-LST"}])
    for examples in (data.train, data.dev):
        known = [s for s in examples if set(s.tags) <= set(data.labels)]
        features = task.features(known, real_tokenizer, labels=data.labels, split=Split.DEV)
        found = task.evaluate(known, features, _answers(features, data.labels))
        assert found.scores["f1"] == found.scores["accuracy"] == 100.0
        lines = [line for line in found.files["predictions.txt"].split("\n") if line]
        assert len(lines) == sum(len(sentence.words) for sentence in known)


def test_a_special_token_that_a_task_spells_out_is_text_unless_its_model_says_otherwise(
    model_folder: UPath, raw_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    text = "farm [SEP] farm"
    letters, token = (WordPiece(raw_tokenizer, split_special_tokens=split) for split in (True, False))
    assert letters.sep not in letters.encode([text])[0]
    assert token.encode([text])[0].count(token.sep) == 1
    shutil.copytree(str(model_folder), tmp_path / "model")
    path = UPath(tmp_path / "model" / "tokenizer.json")
    assert WordPiece.from_file(path).encode([text]) == letters.encode([text])
    (tmp_path / "model" / "tokenizer_config.json").write_text('{"split_special_tokens": false}')
    assert WordPiece.from_file(path).encode([text]) == token.encode([text])
