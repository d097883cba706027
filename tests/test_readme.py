"""The README and the pages that it leads to: their commands, configs and code run as printed."""

import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from pipeline.estimate import main as estimate
from pipeline.predict import main as predict
from pipeline.run import main as run
from stages.electra.files.convert import main as convert

ROOT = Path(__file__).parents[1]
PAGES = ("README.md", "configs/README.md", "cluster/README.md", "stages/electra/README.md")
WORDS = "the old fox painted door who it ? a text good bad film subject fake brown"


def blocks(language: str = "") -> list[tuple[str, str]]:
    """Page and content of each code block in this language; of none, those without a name."""
    found = []
    for page in PAGES:
        for name, content in re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE):
            if name == language:
                found.append((page, content))
    return found


def commands() -> list[str]:
    """Each command line of the pages, without comments; the README's picture is none."""
    lines = []
    for _, content in blocks():
        for line in content.replace("\\\n", " ").splitlines():
            command = re.split(r" +# ", line)[0].strip()
            if " -m " in command:
                lines.append(command)
    return lines


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user's folder with all that the commands name: text, a vocabulary, models."""
    from stages.electra import ElectraConfig, ElectraForMaskedLM, ElectraForPreTraining, ElectraForQuestionAnswering
    from stages.electra.tokenizer import SPECIAL_TOKENS, ElectraTokenizer

    folder = tmp_path_factory.mktemp("user")
    (folder / "configs").symlink_to(ROOT / "configs")
    tokens = [*SPECIAL_TOKENS.values(), *WORDS.split()]
    for name in ("vocab.txt", "data/vocab.txt", "notes/a.txt", "text/a.txt", "data/text/a.txt"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("\n".join(tokens) + "\n")
    config = ElectraConfig(
        vocab_size=len(tokens),
        embedding_size=16,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=512,
    )
    tokenizer = ElectraTokenizer.from_vocabulary(folder / "vocab.txt")
    for kind, names in (
        (ElectraForPreTraining, ("outputs/quickstart/latest/discriminator", "google/electra-small-discriminator")),
        (ElectraForMaskedLM, ("google/electra-small-generator",)),
        (ElectraForQuestionAnswering, ("outputs/quickstart/latest/finetune/squad_v1/seed-0",)),
    ):
        for name in names:
            kind(config).save_pretrained(folder / name, tokenizer=tokenizer)
    (folder / "my-model").symlink_to(folder / "outputs/quickstart/latest/discriminator")
    (folder / "my-answers").symlink_to(folder / "outputs/quickstart/latest/finetune/squad_v1/seed-0")
    (folder / "CONFIG").symlink_to(ROOT / "configs" / "quickstart.yaml")
    return folder


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text().split()) <= 1300


def test_every_page_that_the_readme_names_is_there() -> None:
    links = re.findall(r"\]\((?!http)([^)]+)\)", (ROOT / "README.md").read_text())
    assert {page for page in PAGES if page != "README.md"} <= set(links)
    assert all((ROOT / link).exists() for link in links)


@pytest.mark.parametrize("command", commands())
def test_every_command_runs_as_printed(folder: Path, command: str, monkeypatch: Any, capsys: Any) -> None:
    """Runs of a pipeline are planned and not run: quickstart.yaml runs in CI, and the others take days."""
    monkeypatch.chdir(folder)
    name, *arguments = shlex.split(command.rpartition("python -m ")[2])
    match name:
        case "pipeline.run":
            light = {"--plan", "--print-config", "--explain", "--verify"}
            assert run(arguments if light & set(arguments) else [*arguments, "--plan"]) == 0, capsys.readouterr().err
        case "pipeline.estimate":
            assert estimate(arguments) == 0
            assert "fits" in capsys.readouterr().out
        case "pipeline.predict":
            assert predict(arguments) == 0
            assert capsys.readouterr().out
        case "pipeline.compare":
            assert arguments == ["outputs/a", "outputs/b"]  # tests/stages/report/test_comparison.py
        case "stages.electra.files.convert":
            assert convert(arguments) == 1  # understood; tests/stages/electra/test_convert.py has checkpoints
            assert "model.ckpt-1000000" in capsys.readouterr().err
        case "pytest":
            assert "not slow" in arguments  # the command that runs this
        case _:
            pytest.fail(f"no test runs {command}")


@pytest.mark.parametrize(("page", "content"), blocks("yaml"))
def test_every_piece_of_a_config_is_one(folder: Path, page: str, content: str, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.chdir(folder)
    piece = yaml.safe_load(content)
    config = {"output": "out", "tracking": None} | piece
    if "finetune" in piece:
        config["finetune"] = {"model": "my-model"} | piece["finetune"]
    else:
        config["extends"] = "CONFIG"
    (folder / "piece.yaml").write_text(yaml.safe_dump(config))
    assert run(["piece.yaml", "--print-config"]) == 0, capsys.readouterr().err


def test_the_library_example_runs(folder: Path, monkeypatch: Any, tmp_path: Path) -> None:
    from stages.electra import ElectraForSequenceClassification, ElectraTokenizer

    ((_, code),) = [block for block in blocks("python") if "from stages.electra import" in block[1]]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    (tmp_path / "google").symlink_to(folder / "google")  # also a folder, which comes before the hub
    monkeypatch.chdir(tmp_path)
    exec(code, {})
    model = ElectraForSequenceClassification.from_pretrained("my-model")
    tokenizer = ElectraTokenizer.from_pretrained("my-model")
    assert model(**tokenizer(["a good film"], return_tensors="np")).logits.shape == (1, 2)


@pytest.mark.parity
def test_the_example_in_pytorch_runs(folder: Path, monkeypatch: Any) -> None:
    pytest.importorskip("transformers")
    ((_, code),) = [block for block in blocks("python") if "from transformers import" in block[1]]
    monkeypatch.chdir(folder)
    names: dict[str, Any] = {}
    exec(code, names)
    assert np.isfinite(names["vectors"].detach().numpy()).all()
