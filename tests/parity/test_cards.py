"""Exported and fine-tuned models in transformers: snippets of their cards as printed, and texts that are too long."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from upath import UPath

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

sys.path.insert(0, str(Path(__file__).parents[1] / "stages"))

from pretrained_run import make_inputs  # noqa: E402

from stages.context import StageContext  # noqa: E402
from stages.electra.files.model_folder import load_backbone  # noqa: E402
from stages.electra.tokenizer import SPECIAL_TOKENS  # noqa: E402
from stages.export import ExportConfig, run  # noqa: E402
from stages.finetune.artifacts import write_results  # noqa: E402
from stages.finetune.config import DeclaredConfig  # noqa: E402
from stages.finetune.inputs import find_task  # noqa: E402
from stages.tasks.base import Evaluation, TaskData  # noqa: E402
from stages.tasks.classification import Example  # noqa: E402
from stages.tasks.form import TaskForm  # noqa: E402
from stages.tasks.kinds import KINDS, TaskKind  # noqa: E402
from stages.tasks.model import init_model  # noqa: E402

pytestmark = pytest.mark.parity

TEXT = "the quick brown fox jumps over lazy dog who ? . a text fake first second"
WORDS = [*SPECIAL_TOKENS.values(), *TEXT.split()]
NUM_POSITIONS = 64
LONG = "the quick brown fox jumps over the lazy dog . " * 200  # 2,000 words
FORMS = {
    "classification": TaskForm(kind=TaskKind.CLASSIFICATION, texts=("a",), label="b", labels=("no", "yes")),
    "pairs": TaskForm(kind=TaskKind.CLASSIFICATION, texts=("a", "c"), label="b", labels=("no", "yes")),
    "multi_label": TaskForm(kind=TaskKind.MULTI_LABEL, texts=("a",), label="b", labels=("x", "y", "z")),
    "regression": TaskForm(kind=TaskKind.REGRESSION, texts=("a",), label="b", range=(0.0, 5.0)),
    "tagging": TaskForm(kind=TaskKind.TAGGING, columns=("word", "tag")),
    "question_answering": TaskForm(kind=TaskKind.QUESTION_ANSWERING),
    "answerability": TaskForm(kind=TaskKind.ANSWERABILITY),
}


@pytest.fixture(scope="module")
def export(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    inputs = make_inputs(folder, words=WORDS, num_positions=NUM_POSITIONS)
    (folder / "export").mkdir()
    run(ExportConfig(language=("en",), license="mit"), StageContext(output=UPath(folder / "export"), inputs=inputs))
    return folder / "export"


@pytest.fixture
def tuned(export: Path, tmp_path: Path) -> Callable[..., Path]:
    """Makes the folder of a fine-tuned model of a kind, with a random head."""

    def make(name: str) -> Path:
        form, model = FORMS[name], UPath(export / "discriminator")
        config = DeclaredConfig(
            task=name, data=".", epochs=1, max_length=32, learning_rate=1e-3, model=str(model), form=form
        )
        labels = {"regression": ("score",), "tagging": ("O", "B-x", "I-x")}.get(name, form.labels)
        task, (network, backbone) = find_task(config), load_backbone(model)
        _, params = init_model(
            task.kind, config=network, num_labels=len(labels), seed=0, backbone=backbone, head=config.head
        )
        examples = [Example(texts=("a text",) * len(form.texts), label=0)] if form.texts else []
        write_results(
            config,
            StageContext(output=UPath(tmp_path / "out")),
            task=task,
            data=TaskData(train=examples, dev=examples, labels=labels, train_file="train", dev_file="dev"),
            network=network,
            folder=model,
            params=params,
            evaluation=Evaluation(scores={KINDS[task.kind].metrics[0]: 50.0}, files={}),
            warnings=[],
            result={"steps": 3},
        )
        return tmp_path / "out" / "model"

    return make


@pytest.fixture
def run_snippet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[[Path], str]:
    """Runs the Python of a folder's card as it is printed, in that folder; returns what it prints."""

    def run_it(folder: Path) -> str:
        (code,) = (block.split("```")[0] for block in (folder / "README.md").read_text().split("```python\n")[1:])
        monkeypatch.chdir(folder)
        capsys.readouterr()
        exec(code, {})
        return capsys.readouterr().out

    return run_it


def metadata(folder: Path) -> dict[str, Any]:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_the_discriminators_snippet_prints_each_token_and_how_likely_it_was_replaced(export, run_snippet):
    lines = run_snippet(export / "discriminator").splitlines()
    tokens = "[CLS] the quick brown fox fake over the lazy dog [SEP]"
    assert " ".join(line.split()[1] for line in lines) == tokens
    assert all(0 <= float(line.split()[0]) <= 1 for line in lines)


def test_the_generators_snippet_prints_guesses(export, run_snippet):
    assert len(run_snippet(export / "generator").splitlines()) == 5


def test_long_texts_go_through_both(export):
    read = transformers.pipeline("feature-extraction", model=str(export / "discriminator"))
    assert len(read(LONG, truncation=True)[0]) == NUM_POSITIONS
    fill = transformers.pipeline("fill-mask", model=str(export / "generator"))
    assert len(fill(f"the [MASK] fox {LONG}", tokenizer_kwargs={"truncation": True})) == 5


@pytest.mark.parametrize("name", FORMS)
def test_the_snippet_of_a_task_prints_an_answer_and_its_card_is_whole(name, tuned, run_snippet):
    folder = tuned(name)
    printed = run_snippet(folder)
    expected = {
        "classification": "'label': ",
        "pairs": "'label': ",
        "multi_label": "'label': 'z'",
        "regression": "'label': 'score'",
        "question_answering": "",
        "answerability": "answer",
        "tagging": "",
    }[name]
    assert expected in printed
    found = metadata(folder)
    assert found["base_model"] == "electra-discriminator"
    assert (found["language"], found["license"]) == (["en"], "mit")
    assert found["pipeline_tag"] == KINDS[FORMS[name].kind].pipeline
    (result,) = found["model-index"][0]["results"]
    assert result["task"]["type"] == found["pipeline_tag"]
    assert [metric["value"] for metric in result["metrics"]] == [0.5]


@pytest.mark.parametrize("name", ["classification", "pairs", "multi_label", "regression"])
def test_a_long_text_is_classified(name, tuned):
    classify = transformers.pipeline("text-classification", model=str(tuned(name)))
    text = {"text": LONG, "text_pair": LONG} if name == "pairs" else LONG
    found = classify(text, truncation=True)
    assert "score" in str(found)


def test_a_tokenizer_that_does_not_say_where_to_cut_crashes(tuned):
    """A negative control."""
    path = tuned("classification") / "tokenizer_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": None}))
    classify = transformers.pipeline("text-classification", model=str(path.parent))
    with pytest.raises((RuntimeError, IndexError)):
        classify(LONG, truncation=True)


def test_a_long_text_is_tagged(tuned):
    tag = transformers.pipeline("token-classification", model=str(tuned("tagging")))
    assert all(one["index"] < NUM_POSITIONS for one in tag(LONG))


def test_a_long_context_is_asked_in_windows(tuned, run_snippet):
    folder = tuned("question_answering")
    card = (folder / "README.md").read_text()
    short = "The quick brown fox jumps over the lazy dog."
    assert short in card
    (folder / "README.md").write_text(card.replace(short, LONG))
    answer = run_snippet(folder).strip()
    assert answer
    assert answer in LONG
