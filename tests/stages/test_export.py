"""The stage `export`: two folders, what their cards say, what a config must say, and the upload."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
import yaml
from huggingface_hub import ModelCard as HubCard
from loopback_hub import Hub
from pretrained_run import make_inputs
from upath import UPath

from stages.context import StageContext, Tracker
from stages.electra.files.model_folder import load_pretrained
from stages.electra.tokenizer import SPECIAL_TOKENS
from stages.export import ExportConfig, run
from stages.run_warning import WarningKind, read_warnings

WORDS = [*SPECIAL_TOKENS.values(), "a", "fox"]
NUM_POSITIONS = 40
STATED = {"language": ("en",), "license": "apache-2.0"}


class Recorder(Tracker):
    def __init__(self) -> None:
        self.models: dict[str, str] = {}

    def model(self, path, *, name) -> None:
        self.models[name] = str(path)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, UPath]:
    return make_inputs(tmp_path_factory.mktemp("run"), words=WORDS, num_positions=NUM_POSITIONS)


def export(inputs: dict[str, UPath], output: Path, tracker: Tracker | None = None, **fields: object) -> dict:
    output.mkdir()
    context = StageContext(output=UPath(output), inputs=inputs, tracker=tracker or Tracker())
    run(ExportConfig(**fields), context)
    return json.loads((output / "result.json").read_text())


def metadata(folder: Path) -> dict:
    return yaml.safe_load((folder / "README.md").read_text().split("---\n")[1])


def test_both_networks_are_written_with_the_embeddings_they_share(inputs, tmp_path):
    tracker = Recorder()
    assert export(inputs, tmp_path / "export", tracker, **STATED) == {"uploads": {}, "warnings": []}
    assert tracker.models == {name: str(UPath(tmp_path / "export" / name)) for name in ("discriminator", "generator")}
    models = {name: load_pretrained(tmp_path / "export" / name) for name in tracker.models}
    jax.tree.map(np.testing.assert_array_equal, *(model.params["embeddings"] for model in models.values()))
    assert models["discriminator"].architecture == "ElectraForPreTraining"
    assert models["generator"].architecture == "ElectraForMaskedLM"
    for name in models:
        assert (tmp_path / "export" / name / "vocab.txt").read_text() == "\n".join(WORDS) + "\n"


def test_the_tokenizer_says_where_texts_are_to_be_cut(inputs, tmp_path):
    export(inputs, tmp_path / "export", **STATED)
    for name in ("discriminator", "generator"):
        settings = json.loads((tmp_path / "export" / name / "tokenizer_config.json").read_text())
        assert settings["model_max_length"] == NUM_POSITIONS
        assert settings["tokenizer_class"] == "BertTokenizer"


def test_a_damaged_tokenizer_is_named(inputs, tmp_path):
    (tmp_path / "vocab").mkdir()
    (tmp_path / "vocab" / "tokenizer.json").write_text("damaged")
    with pytest.raises(ValueError, match=r"vocab/tokenizer\.json: not a tokenizer.json of the tokenizers library"):
        export(inputs | {"vocab": UPath(tmp_path / "vocab")}, tmp_path / "export")


def test_the_cards_say_what_is_known(inputs, tmp_path):
    export(inputs, tmp_path / "export", name="my model", tags=("legal",), datasets=("some/text",), **STATED)
    card = (tmp_path / "export" / "discriminator" / "README.md").read_text()
    for line in (
        "# my model discriminator",
        "| objective | replaced token detection |",
        "| documents | 1,234 |",
        "| tokens of the corpus | 500,000 |",
        "| steps | 1,000 |",
        "| batch | 64 rows of 32 tokens |",
        "| tokens seen | 1,000,000 |",
        "| passes over the corpus | 2 |",
        "| hardware | 2 processes on cpu |",
        "| code | commit abc123 |",
        "| replaced/auc | 0.8125 |",
        "- The model has positions for 40 tokens; the tokenizer cuts longer texts there.",
        "- It was trained on rows of 32 tokens: positions after them were never trained.",
    ):
        assert line in card.splitlines(), line
    assert "is uncased: text is lower-cased, and accents are kept." in card
    assert "title = {{ELECTRA}" in card
    found = metadata(tmp_path / "export" / "discriminator")
    assert found["language"] == ["en"]
    assert found["license"] == "apache-2.0"
    assert found["datasets"] == ["some/text"]
    assert found["tags"] == ["electra", "legal"]
    (index,) = found["model-index"]
    assert index["name"] == "my-model-discriminator"
    (result,) = index["results"]
    assert {metric["type"]: metric["value"] for metric in result["metrics"]} == {"loss": 0.25, "roc_auc": 0.8125}
    (result,) = metadata(tmp_path / "export" / "generator")["model-index"][0]["results"]
    assert [(metric["type"], metric["value"]) for metric in result["metrics"]] == [("accuracy", 0.5)]
    assert result["task"]["type"] == metadata(tmp_path / "export" / "generator")["pipeline_tag"] == "fill-mask"


def test_what_nobody_said_is_left_out_and_warned_of(inputs, tmp_path, caplog):
    result = export(inputs, tmp_path / "export")
    warnings = read_warnings(result["warnings"], file="result.json")
    assert [warning.kind for warning in warnings] == [WarningKind.UNSTATED] * 2
    assert [str(warning) for warning in warnings] == [record.message for record in caplog.records]
    assert str(warnings[0]) == ("unstated: export.language is not set (as [en]): the model cards name no language")
    found = metadata(tmp_path / "export" / "discriminator")
    assert not {"language", "license"} & found.keys()


def test_records_that_are_not_there_are_not_made_up(inputs, tmp_path):
    bare = UPath(tmp_path / "pretrain")
    (bare / "model").mkdir(parents=True)
    networks = json.loads((inputs["pretrain"] / "model/config.json").read_text())
    (bare / "model/config.json").write_text(json.dumps({"discriminator": networks["discriminator"]}))
    parameters = (inputs["pretrain"] / "model/parameters.safetensors").read_bytes()
    (bare / "model/parameters.safetensors").write_bytes(parameters)
    (bare / "result.json").write_text("{}")
    export({"vocab": inputs["vocab"], "pretrain": bare}, tmp_path / "export", **STATED)
    card = (tmp_path / "export" / "discriminator" / "README.md").read_text()
    assert "model-index" not in card
    assert "None" not in card
    assert "| steps" not in card


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"name": " "}, "name is empty"),
        ({"language": ("English",)}, r"language has 'English', must be ISO 639-1 codes, as \[en\]"),
        ({"license": "Apache 2.0"}, "license is 'Apache 2.0', must be one of the hub's names, as apache-2.0"),
        ({"push_to_hub": "a/b/c"}, "push_to_hub is 'a/b/c', must be a name on the hub: owner/name"),
    ],
)
def test_a_wrong_config_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        ExportConfig(**fields)


def test_both_networks_go_to_the_hub(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with Hub({}).serving(cache=tmp_path / "cache") as hub:
        result = export(inputs, tmp_path / "export", push_to_hub="some/electra", **STATED)
        HubCard.load(tmp_path / "export" / "discriminator" / "README.md").validate()
    assert hub.uploads.keys() == {"some/electra-discriminator", "some/electra-generator"}
    for repository, files in hub.uploads.items():
        folder = tmp_path / "export" / repository.rpartition("-")[2]
        assert files == {path.name: path.read_bytes() for path in folder.iterdir()}
        assert metadata(folder)["model-index"][0]["name"] == repository
    assert result["uploads"]["generator"].startswith(f"{hub.address}/some/electra-generator/commit/")
    assert "Bearer hf_secret" in hub.tokens


def test_a_hub_that_does_not_answer_is_said_with_what_to_do(inputs, tmp_path):
    with Hub({}).serving(cache=tmp_path / "cache") as hub:
        hub.server.server_close()
        with pytest.raises(
            ConnectionError, match=r"cannot be uploaded to mine-discriminator of the Hugging Face hub"
        ) as e:
            export(inputs, tmp_path / "export", push_to_hub="mine", **STATED)
    assert "HF_TOKEN" in str(e.value)
