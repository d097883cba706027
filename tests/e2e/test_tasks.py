"""Every built-in task, and four of the user's own, from one config file in one command.

On cuts of the published files where these lie beside the repository (../shared/data), else on files of their form.
"""

import gzip
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.electra import ElectraConfig, ElectraForPreTraining, ElectraTokenizer
from stages.electra.tokenizer import build_tokenizer
from stages.tasks.named import TaskName

ROOT = Path(__file__).parents[2]
WORDS = "the cat dog fox sat ran who where mat house red big . ?".split()  # noqa: SIM905
GLUE = {  # folder, columns of the texts and of the label, labels
    "cola": ("CoLA", (), "", ("0", "1")),
    "sst2": ("SST-2", ("sentence",), "label", ("0", "1")),
    "mrpc": ("MRPC", ("#1 String", "#2 String"), "Quality", ("0", "1")),
    "stsb": ("STS-B", ("sentence1", "sentence2"), "score", ("0.5", "4.75")),
    "qqp": ("QQP", ("question1", "question2"), "is_duplicate", ("0", "1")),
    "mnli": ("MNLI", ("sentence1", "sentence2"), "gold_label", ("entailment", "neutral", "contradiction")),
    "qnli": ("QNLI", ("question", "sentence"), "label", ("entailment", "not_entailment")),
    "rte": ("RTE", ("sentence1", "sentence2"), "label", ("entailment", "not_entailment")),
    "wnli": ("WNLI", ("sentence1", "sentence2"), "label", ("0", "1")),
}
ROWS = 12
PUBLISHED = ROOT.parent / "shared" / "data"
PUBLISHED_ROWS = 24

pytestmark = pytest.mark.slow


def _text(number: int) -> str:
    return " ".join(WORDS[(number * step) % 12] for step in (1, 3, 5, 7))


def _table(texts: tuple[str, ...], label: str, labels: tuple[str, ...], *, separator: str = "\t") -> str:
    lines = [separator.join(["index", *texts, *([label] if labels else [])])]
    for n in range(ROWS):
        values = [str(n), *(_text(n + column) for column in range(len(texts)))]
        lines.append(separator.join([*values, *([labels[n % len(labels)]] if labels else [])]))
    return "\n".join(lines) + "\n"


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def _glue(root: Path) -> dict[str, Any]:
    for name, (folder, texts, label, labels) in GLUE.items():
        table = _table(texts, label, labels)
        if name == "cola":
            table = "".join(f"x\t{n % 2}\t\t{_text(n)}\n" for n in range(ROWS))
        parts = ("_matched", "_mismatched") if name == "mnli" else ("",)
        _write(root / folder / "train.tsv", table)
        for part in parts:
            _write(root / folder / f"dev{part}.tsv", table)
            _write(root / folder / f"test{part}.tsv", _table(texts or ("sentence",), "", ()))
    mnli = GLUE["mnli"]
    _write(root / "diagnostic/diagnostic.tsv", _table(mnli[1], "", ()))
    _write(root / "diagnostic/diagnostic-full.tsv", _table(("Premise", "Hypothesis"), "Label", mnli[3]))
    tasks: dict[str, Any] = {name: {"data": str(root / folder)} for name, (folder, *_) in GLUE.items()}
    # Started from MNLI's model, as the leaderboard's entries are.
    tasks["rte"]["model"] = "{finetune/mnli/seed-0}/model"
    tasks = {"mnli": tasks.pop("mnli")} | tasks
    return tasks | {"ax": {"data": str(root / "diagnostic"), "train_file": str(root / "MNLI/train.tsv")}}


def _answers(root: Path) -> dict[str, Any]:
    context = "the cat sat . the dog ran . the fox sat in the house ."
    items = [
        {"id": f"q{n}", "question": f"who {verb} ?", "answers": [{"text": text, "answer_start": context.index(text)}]}
        for n, (verb, text) in enumerate((("sat", "the cat"), ("ran", "the dog"), ("sat", "the fox")))
    ]
    none = [{"id": "none", "question": "where ?", "answers": [], "is_impossible": True}]
    lines = [json.dumps({"header": {"dataset": "x"}})]
    for item in items:
        answer = item["answers"][0]
        detected = {"text": answer["text"], "char_spans": [[answer["answer_start"], answer["answer_start"] + 6]]}
        qas = [{"qid": item["id"], "question": "who ?", "answers": [answer["text"]], "detected_answers": [detected]}]
        lines.append(json.dumps({"context": context, "qas": qas}))
    for part in ("train", "dev"):
        for version, more in (("1.1", []), ("2.0", none)):
            content = {"data": [{"paragraphs": [{"context": context, "qas": items + more}]}]}
            _write(root / f"squad/{part}-v{version}.json", json.dumps(content))
        _write(root / f"mrqa/{part}.jsonl", "\n".join(lines))
    names = ("newsqa", "naturalqs", "triviaqa", "searchqa")
    return {name: {"data": str(root / "squad")} for name in ("squad_v1", "squad_v2")} | {
        name: {"data": str(root / "mrqa")} for name in names
    }


def _tagged(root: Path) -> dict[str, Any]:
    chunks = "".join(f"the DT B-NP\n{WORDS[1 + n % 3]} NN I-NP\nsat VBD B-VP\n. . O\n\n" for n in range(ROWS))
    for part in ("train", "test"):
        _write(root / f"conll/{part}.txt", chunks)
    return {"conll2000": {"data": str(root / "conll")}}


def _own(root: Path) -> dict[str, Any]:
    """A task of each form of file: CSV, JSON lines, tab-separated, a word a line."""
    for part in ("train", "dev"):
        _write(root / f"tickets/{part}.csv", _table(("subject", "body"), "queue", ("a", "b", "c"), separator=","))
        lines = [json.dumps({"text": _text(n), "topics": ["x", "y"][: n % 3]}) for n in range(ROWS)]
        _write(root / f"topics/{part}.jsonl", "\n".join(lines))
        _write(root / f"stars/{part}.tsv", _table(("review",), "stars", ("1", "3", "5")))
        _write(root / f"pos/{part}.txt", "the DT\ncat NN\nran VBD\n\n" * ROWS)
    two = {"texts": ["subject", "body"], "label": "queue", "labels": ["a", "b", "c"], "class_weights": "balanced"}
    return {
        "tickets": {"data": str(root / "tickets"), "kind": "classification"} | two,
        "topics": {
            "data": str(root / "topics"),
            "kind": "multi_label",
            "texts": ["text"],
            "label": "topics",
            "labels": ["x", "y"],
        },
        "stars": {
            "data": str(root / "stars"),
            "kind": "regression",
            "texts": ["review"],
            "label": "stars",
            "range": [1, 5],
            "metric": "pearson",
        },
        "pos": {"data": str(root / "pos"), "kind": "tagging", "columns": ["word", "tag"], "metric": "accuracy"},
    }


def _cut_published(data: Path, root: Path) -> None:
    """Puts the first rows of published files in the place of those of their form."""
    for folder in ("CoLA", "SST-2", "MRPC", "RTE"):
        for file in ("train.tsv", "dev.tsv", "test.tsv"):
            lines = (data / "glue" / folder / file).read_bytes().split(b"\n")
            (root / "glue" / folder / file).write_bytes(b"\n".join(lines[:PUBLISHED_ROWS]) + b"\n")
    for version, trained, scored in (("1.1", "partial-merged", ""), ("2.0", "partial-merged", ".reconstructed")):
        for part, form in (("train", f".{trained}"), ("dev", scored)):
            with gzip.open(data / f"squad/{part}-v{version}{form}.json.gz") as file:
                article = json.load(file)["data"][0]
            article["paragraphs"] = article["paragraphs"][:2]
            _write(root / f"squad/{part}-v{version}.json", json.dumps({"version": version, "data": [article]}))
    for part in ("train", "dev"):
        _write(root / f"news/{part}.jsonl", (data / "mrqa/NewsQA_sample.jsonl").read_text())
    for part in ("train", "test"):
        sentences = (data / f"conll2000/{part}.txt").read_text().split("\n\n")
        _write(root / f"conll/{part}.txt", "\n\n".join(sentences[:PUBLISHED_ROWS]) + "\n\n")


def _model(folder: Path) -> str:
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS]
    config = ElectraConfig(
        vocab_size=len(vocabulary),
        embedding_size=8,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=48,
    )
    tokenizer = ElectraTokenizer(build_tokenizer(vocabulary, lowercase=True))
    ElectraForPreTraining(config).save_pretrained(folder, tokenizer=tokenizer)
    return str(folder)


def _run(config: Path, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "pipeline.run", str(config), *arguments]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment, timeout=1500)


def _only(output: Path, stage: str) -> Path:
    (folder,) = (entry for entry in (output / stage).iterdir() if entry.is_dir())
    return folder


def test_all_tasks_run_in_one_command_and_the_second_time_none_does(tmp_path: Path) -> None:
    tasks = _glue(tmp_path / "glue") | _answers(tmp_path) | _tagged(tmp_path) | _own(tmp_path / "own")
    assert set(TaskName) < set(tasks)
    assert len(tasks) == len(TaskName) + 4
    if PUBLISHED.is_dir():
        _cut_published(PUBLISHED, tmp_path)
        tasks["newsqa"]["data"] = str(tmp_path / "news")
    output, config = tmp_path / "out", tmp_path / "all.yaml"
    finetune = {"model": _model(tmp_path / "model"), "epochs": 1, "max_length": 32, "batch_size": 8, "tasks": tasks}
    tree = {"output": str(output), "finetune": finetune, "submission": {"partial": True}, "tracking": None}
    config.write_text(yaml.safe_dump(tree, sort_keys=False))

    first = _run(config)
    assert first.returncode == 0, first.stdout[-4000:] + first.stderr[-4000:]
    scores = json.loads((_only(output, "report") / "scores.json").read_text())
    assert set(scores["tasks"]) == set(tasks)
    assert scores["gaps"] == []
    with zipfile.ZipFile(_only(output, "submission") / "submission.zip") as archive:
        assert len(archive.namelist()) == 11
    latest = output / "latest"
    assert {path.name for path in (latest / "finetune").iterdir()} == set(tasks)
    assert all((path / "seed-0" / "config.json").exists() for path in (latest / "finetune").iterdir())
    assert (latest / "report").resolve() == _only(output, "report")

    (line,) = (line for line in first.stdout.splitlines() if line.startswith("try it"))
    pasted = line.removeprefix("try it").strip()
    tried = subprocess.run(pasted, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert tried.returncode == 0, (pasted, tried.stderr)
    assert tried.stdout.strip()

    again = _run(config)
    assert again.returncode == 0
    assert "Nothing to do" in again.stdout
    assert pasted in again.stdout

    # One task that fails takes nothing else with it.
    _write(tmp_path / "own/stars/dev.tsv", _table(("review",), "stars", ("1", "6")))
    failed = _run(config)
    assert failed.returncode == 1
    gaps = json.loads(max((output / "report").glob("*/scores.json"), key=os.path.getmtime).read_text())["gaps"]
    assert [gap["what"] for gap in gaps] == ["finetune/stars/seed-0"]
    assert {path.name for path in (latest / "finetune").iterdir()} == set(tasks) - {"stars"}
    assert "column 'stars' holds '6', expected a number from 1 to 5" in gaps[0]["reason"]
