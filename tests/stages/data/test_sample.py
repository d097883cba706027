"""The small world: always the same, in the official formats, and true to its own grammar."""

import json
from collections import Counter
from pathlib import Path

import pytest
from upath import UPath

from stages.context import StageContext
from stages.sample import stories, task_files
from stages.sample.config import SampleConfig
from stages.sample.grammar import World
from stages.sample.stage import run

SMALL = {"words": 20_000, "cola_train": 200, "mrpc_train": 200, "squad_train": 100, "conll2000_train": 100, "dev": 60}


def _sample(folder: Path, **config: int) -> Path:
    folder.mkdir()
    run(SampleConfig(**(SMALL | config)), StageContext(output=UPath(folder)))
    return folder


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> Path:
    return _sample(tmp_path_factory.mktemp("world") / "sample")


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _rows(path: Path) -> list[list[str]]:
    return [line.split("\t") for line in path.read_text().splitlines()]


def test_equal_seeds_make_equal_worlds_and_other_seeds_others(sample, tmp_path) -> None:
    assert _tree(_sample(tmp_path / "again")) == _tree(sample)
    assert _tree(_sample(tmp_path / "other", seed=1)) != _tree(sample)


def test_documents_hold_the_words_asked_and_end_in_blank_lines(sample) -> None:
    text = "".join(path.read_text() for path in sorted((sample / "documents").iterdir()))
    assert 20_000 <= len(text.split()) < 21_500
    assert len(text.split("\n\n")) > 20
    assert all(line[0].isupper() and line[-1] in ".?" for line in text.splitlines() if line)


def test_cola_has_the_official_columns_and_both_labels(sample) -> None:
    for split, size in (("train", 200), ("dev", 60)):
        rows = _rows(sample / f"tasks/CoLA/{split}.tsv")
        assert {len(row) for row in rows} == {4}
        assert len(rows) == size
        assert {(row[1], row[2]) for row in rows} == {("1", ""), ("0", "*")}
        assert 0.3 < sum(row[1] == "1" for row in rows) / size < 0.7
    header, *rows = _rows(sample / "tasks/CoLA/test.tsv")
    assert header == ["index", "sentence"]
    assert [row[0] for row in rows] == [str(index) for index in range(60)]


def test_mrpc_has_the_official_columns_and_both_labels(sample) -> None:
    for split, size in (("train", 200), ("dev", 60), ("test", 60)):
        header, *rows = _rows(sample / f"tasks/MRPC/{split}.tsv")
        assert header == ["index" if split == "test" else "Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"]
        assert len(rows) == size
        assert all(row[3] != row[4] for row in rows)
        if split != "test":
            assert 0.3 < sum(row[0] == "1" for row in rows) / size < 0.7


def test_no_example_of_one_split_is_in_another(sample) -> None:
    texts: Counter[str] = Counter()
    for split in ("train", "dev", "test"):
        rows = _rows(sample / f"tasks/CoLA/{split}.tsv")
        texts.update(row[-1] for row in (rows[1:] if split == "test" else rows))
    assert max(texts.values()) == 1


def test_squad_answers_are_where_they_are_said_to_be(sample) -> None:
    for split, size in (("train", 100), ("dev", 60)):
        data = json.loads((sample / f"tasks/SQuAD/{split}-v1.1.json").read_text())["data"]
        questions = [(one["context"], qa) for article in data for one in article["paragraphs"] for qa in one["qas"]]
        assert len(questions) == len({qa["id"] for _, qa in questions}) == size
        for context, qa in questions:
            (answer,) = qa["answers"]
            begin, end = answer["answer_start"], answer["answer_start"] + len(answer["text"])
            assert context[begin:end] == answer["text"]
            assert not context[end].isalnum()
            assert begin == 0 or not context[begin - 1].isalnum()
            assert qa["question"].endswith("?")


def test_a_question_cannot_be_answered_by_the_kind_of_thing_alone(sample) -> None:
    """Each paragraph tells the same of two people, so the right one has to be found."""
    data = json.loads((sample / "tasks/SQuAD/dev-v1.1.json").read_text())["data"]
    people = set(World(0).people)
    for article in data:
        words = article["paragraphs"][0]["context"].replace(".", "").split()
        assert len(people & set(words)) >= 2


def test_conll2000_is_word_tag_chunk_with_well_formed_chunks(sample) -> None:
    for split, size in (("train", 100), ("test", 60)):
        sentences = (sample / f"tasks/CoNLL-2000/{split}.txt").read_text().strip().split("\n\n")
        assert len(sentences) == size
        for sentence in sentences:
            before = "O"
            for line in sentence.splitlines():
                word, pos, tag = line.split(" ")
                assert word
                assert pos
                if tag.startswith("I-"):
                    assert before[2:] == tag[2:]
                before = tag
            assert before == "O"


def test_faulty_sentences_are_none_that_the_documents_would_tell() -> None:
    """A misfit's verb takes neither its subject's nor its object's class together."""
    world = World(0)
    for _ in range(300):
        event = task_files._misfit(world, world.event())
        fits = event.subject.kind in event.verb.subjects and (
            event.object is None or event.object.kind in event.verb.objects
        )
        assert not fits


def test_paraphrases_keep_the_event_and_near_misses_change_two_things() -> None:
    world = World(0)
    for _ in range(300):
        event = world.event()
        other = task_files._altered(world, event)
        changed = [name for name in ("verb", "subject", "object") if getattr(event, name) != getattr(other, name)]
        # Nothing but a building collapses: some verbs without an object have no other to put in their place.
        assert len(changed) == 2 or (event.object is None and changed == ["subject"])


def test_a_story_comes_back_to_its_cast() -> None:
    """Most words of a story come again, of unrelated sentences few: there is something to learn from context."""
    world = World(0)

    def repeated(section) -> float:
        words = seen = 0
        for _ in range(100):
            counts = Counter(word.strip(".,?") for line in section(world) for word in line.lower().split())
            words += len(counts)
            seen += sum(count > 1 for count in counts.values())
        return seen / words

    assert repeated(stories._story) > 0.45
    assert repeated(stories._observations) < 0.25


def test_a_wrong_value_is_refused() -> None:
    with pytest.raises(ValueError, match="words is 0, must be at least 1"):
        SampleConfig(words=0)
