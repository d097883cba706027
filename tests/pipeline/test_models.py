"""Models that a run logs predict where they are loaded, each in the way of its kind."""

import subprocess
import sys
from pathlib import Path

import mlflow
import pandas as pd
import pytest
from upath import UPath

from pipeline.tracking.messages import Model, OpenRun, WriterSettings
from pipeline.tracking.mlflow_writer import MlflowWriter
from stages.electra import (
    ElectraConfig,
    ElectraForMaskedLM,
    ElectraForPreTraining,
    ElectraForQuestionAnswering,
    ElectraForSequenceClassification,
    ElectraForTokenClassification,
    ElectraTokenizer,
)
from stages.electra.models.pretrained_model import ElectraPreTrainedModel
from stages.electra.tokenizer import build_tokenizer
from stages.tasks.predictor import Predictor

TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "dog", "sat", "who", "here", "?", "##s"]
CONFIG = ElectraConfig(
    vocab_size=len(TOKENS),
    embedding_size=8,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    max_position_embeddings=16,
)
TOKENIZER = ElectraTokenizer(build_tokenizer(TOKENS, lowercase=True))


@pytest.fixture
def export(tmp_path):
    def export(model: ElectraPreTrainedModel) -> Path:
        model.save_pretrained(tmp_path / "model", tokenizer=TOKENIZER)
        return tmp_path / "model"

    return export


@pytest.fixture
def classifier(export) -> Path:
    return export(ElectraForSequenceClassification(CONFIG.change(id2label={0: "no", 1: "yes"})))


def test_a_classifier_gives_labels_with_probabilities_whatever_the_batch(classifier):
    predictor = Predictor(classifier)
    texts = ["the cat sat", "the dog", "the cat sat here the cat sat here the cat sat here the cat"] * 7
    together = predictor.predict(texts)
    alone = predictor.predict([texts[0]])
    assert set(together["label"]) <= {"no", "yes"}
    assert together["probability"].between(0.5, 1).all()
    assert together.iloc[0]["label"] == alone.iloc[0]["label"]
    assert together.iloc[0]["probability"] == pytest.approx(alone.iloc[0]["probability"], abs=1e-6)


def test_a_classifier_of_pairs_takes_two_columns(classifier):
    table = pd.DataFrame({"text": ["the cat"], "text_pair": ["the dog"]})
    assert len(Predictor(classifier).predict(table)) == 1


def test_a_wrong_column_is_named_with_those_expected(classifier):
    with pytest.raises(ValueError, match="row 0: expected text and perhaps text_pair, found sentence"):
        Predictor(classifier).predict(pd.DataFrame({"sentence": ["the cat"]}))


def test_a_tagger_gives_each_word_a_label(export):
    model = ElectraForTokenClassification(CONFIG.change(id2label={0: "O", 1: "B-NP", 2: "I-NP"}))
    answer = Predictor(export(model)).predict(["the cats sat"]).iloc[0]
    assert answer["words"] == ["the", "cats", "sat"]
    assert len(answer["labels"]) == 3


def test_a_tagger_gives_every_word_of_a_text_a_label_however_long_and_none_to_an_empty_one(export):
    model = ElectraForTokenClassification(CONFIG.change(id2label={0: "O", 1: "B-NP", 2: "I-NP"}))
    long, short, empty = Predictor(export(model)).answers(["the cats sat here " * 10, "the cats", " "])
    assert len(long["labels"]) == len(long["words"]) == 40
    assert len(short["labels"]) == 2
    assert (empty["words"], empty["labels"]) == ([], [])


def test_an_answer_is_a_part_of_its_context_however_long(export):
    predictor = Predictor(export(ElectraForQuestionAnswering(CONFIG)))
    context = "the cat sat here " * 10
    answer = predictor.predict({"question": "who sat here ?", "context": context}).iloc[0]
    assert answer["answer"]
    assert context[answer["start"] :].startswith(answer["answer"])


def test_a_discriminator_judges_every_token(export):
    answer = Predictor(export(ElectraForPreTraining(CONFIG))).predict("the cats sat").iloc[0]
    assert answer["tokens"] == ["the", "cat", "##s", "sat"]
    assert all(0 < share < 1 for share in answer["replaced"])


def test_a_generator_fills_masks_and_leaves_the_rest(export):
    answer = Predictor(export(ElectraForMaskedLM(CONFIG))).predict(["the [MASK] sat"]).iloc[0]
    assert "[MASK]" not in answer["text"]
    assert answer["text"].startswith("the ")


def test_a_logged_model_predicts_where_this_project_is_not_on_the_path(classifier, tmp_path):
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    settings = WriterSettings(
        uri=uri, artifacts=str(tmp_path / "artifacts"), experiment="e", ledger=UPath(tmp_path / "l")
    )
    writer = MlflowWriter(settings)
    writer.write([OpenRun(key="k", name="finetune/cola/seed-0")])
    writer.write([Model(key="k", path=str(classifier), name="cola-pretrained-0")])
    client = mlflow.MlflowClient(uri)
    (model,) = client.search_logged_models([client.get_experiment_by_name("e").experiment_id])
    assert model.name == "cola-pretrained-0"
    assert model.source_run_id == writer._run_ids["k"]
    code = (
        "import mlflow, sys; mlflow.set_tracking_uri(sys.argv[1]);"
        "print(mlflow.pyfunc.load_model(sys.argv[2]).predict(['the cat sat']).iloc[0]['label']);"
        "import stages; print(list(stages.__path__)[0])"
    )
    command = [sys.executable, "-c", code, uri, model.model_uri]
    found = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert found.returncode == 0, found.stderr
    label, place = found.stdout.split()[-2:]
    assert label in ("no", "yes")
    assert place.startswith(str(tmp_path))
