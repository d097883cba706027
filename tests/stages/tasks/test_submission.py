"""The archive for GLUE's site: its files, checked against the facts that the site publishes."""

import json
import shutil
import zipfile
from pathlib import Path
from typing import Any

import jax
import pytest
from upath import UPath

from stages.context import Group, StageContext
from stages.electra.files.model_folder import load_backbone, save_pretrained
from stages.submission.archive import find_problems
from stages.submission.config import SubmissionConfig
from stages.submission.stage import run
from stages.tasks.base import TaskOptions
from stages.tasks.glue import GLUE
from stages.tasks.model import init_model
from stages.tasks.named import TASKS, TaskName

WORDS = {"MNLI-m": "neutral", "MNLI-mm": "entailment", "AX": "contradiction", "QNLI": "entailment"}
WORDS |= {"RTE": "not_entailment", "STS-B": "4.250"}
ROWS = {"CoLA": 1063, "SST-2": 1821, "MRPC": 1725, "STS-B": 1379, "QQP": 390_965, "MNLI-m": 9796, "MNLI-mm": 9847}
ROWS |= {"QNLI": 5463, "RTE": 3000, "WNLI": 146, "AX": 1104}


@pytest.fixture(scope="module")
def archive() -> dict[str, str]:
    """Eleven files that the site takes."""
    return {
        f"{name}.tsv": "index\tprediction\n" + "".join(f"{n}\t{WORDS.get(name, '1')}\n" for n in range(rows))
        for name, rows in ROWS.items()
    }


def test_an_archive_as_published_has_no_problem(archive: dict[str, str]) -> None:
    assert find_problems(archive) == []


@pytest.mark.parametrize(
    ("name", "change", "problem"),
    [
        ("RTE.tsv", None, "RTE.tsv is missing"),
        ("WNLI.tsv", ("index\tprediction", "id\tlabel"), "WNLI.tsv begins with 'id\\tlabel'"),
        ("WNLI.tsv", ("145\t1\n", ""), "WNLI.tsv has 145 rows, its published test set 146"),
        ("WNLI.tsv", ("\n3\t", "\n4\t"), "WNLI.tsv: the indices do not count up from 0"),
        ("CoLA.tsv", ("\n7\t1", "\n7\tacceptable"), "CoLA.tsv: row 7 is ['7', 'acceptable'], no label of cola"),
        ("AX.tsv", ("\n7\tcontradiction", "\n7\t2"), "AX.tsv: row 7 is ['7', '2'], no label of mnli"),
        ("STS-B.tsv", ("\n7\t4.250", "\n7\t5.1"), "STS-B.tsv: row 7 is ['7', '5.1'], no label of stsb"),
        ("STS-B.tsv", ("\n7\t4.250", "\n7\tnan"), "STS-B.tsv: row 7 is ['7', 'nan'], no label of stsb"),
    ],
)
def test_what_the_site_would_refuse_is_found(
    archive: dict[str, str], name: str, change: tuple[str, str] | None, problem: str
) -> None:
    changed = dict(archive)
    if change is None:
        del changed[name]
    else:
        assert change[0] in changed[name]
        changed[name] = changed[name].replace(*change)
    assert any(found.startswith(problem) for found in find_problems(changed))


def test_a_file_too_many_is_found(archive: dict[str, str]) -> None:
    assert find_problems(archive | {"SNLI.tsv": ""}) == ["SNLI.tsv is no file of GLUE's"]


def _fine_tuned(
    root: Path, task_name: TaskName, *, seed: int, score: float, data: Path, model: UPath, init: str = "pretrained"
) -> UPath:
    """What a fine-tuning run leaves, without the training."""
    folder = UPath(root / task_name / f"{init}-{seed}")
    network, _ = load_backbone(model)
    task = GLUE[task_name](TaskOptions(max_length=32))
    names = task.target.names
    _, params = init_model(task.kind, config=network, num_labels=len(names), seed=seed)
    save_pretrained(
        folder / "model",
        architecture="ElectraForSequenceClassification",
        config=network.change(id2label=dict(enumerate(names))),
        params=jax.device_get(params),
        tokenizer=model,
    )
    config: dict[str, Any] = {"seed": seed, "data": str(data), "max_length": 32, "compute_dtype": "float32"}
    (folder / "config.json").write_text(json.dumps({"config": config}))
    result = {"task": task_name, "init": init, "seed": seed, "scores": {TASKS[task_name].primary: score}}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def test_the_stage_predicts_with_the_best_seed_and_says_so(tmp_path: Path, model_folder: UPath) -> None:
    (tmp_path / "MNLI").mkdir()
    (tmp_path / "diagnostic").mkdir()
    rows = 'index\tsentence1\tsentence2\n0\tthe cat\ta dog\n1\ta "fox\ta mat\n'
    for name in ("MNLI/test_matched.tsv", "MNLI/test_mismatched.tsv", "diagnostic/diagnostic.tsv"):
        (tmp_path / name).write_text(rows)
    inputs = {
        f"finetune/mnli/seed-{seed}": _fine_tuned(
            tmp_path / "runs", TaskName.MNLI, seed=seed, score=score, data=tmp_path / "MNLI", model=model_folder
        )
        for seed, score in ((0, 50.0), (1, 60.0), (2, 60.0))
    }
    inputs["finetune/mnli/random-0"] = _fine_tuned(
        tmp_path / "runs", TaskName.MNLI, seed=0, score=99.0, data=tmp_path, model=model_folder, init="random"
    )
    groups = dict.fromkeys(inputs, Group.FINETUNE)
    context = StageContext(output=UPath(tmp_path / "out"), inputs=inputs, groups=groups)
    context.output.mkdir()
    with pytest.raises(FileNotFoundError, match="cola is not fine-tuned"):
        run(SubmissionConfig(), context)
    run(SubmissionConfig(partial=True), context)
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert archive.namelist() == ["MNLI-m.tsv", "MNLI-mm.tsv", "AX.tsv"]
        lines = archive.read("AX.tsv").decode().splitlines()
    assert lines[0] == "index\tprediction"
    assert [line.split("\t")[0] for line in lines[1:]] == ["0", "1"]
    assert {line.split("\t")[1] for line in lines[1:]} <= {"entailment", "neutral", "contradiction"}
    record = json.loads((tmp_path / "out" / "submission.json").read_text())
    assert record["runs"] == "best on dev"
    assert record["files"]["AX.tsv"]["stage"] == "finetune/mnli/seed-1"
    shutil.rmtree(tmp_path / "diagnostic")
    with pytest.raises(FileNotFoundError, match=r"has no diagnostic.tsv; .*set submission.diagnostics"):
        run(SubmissionConfig(partial=True, seed=0), context)


BINARY, NLI, ENTAILMENT = {"0", "1"}, {"entailment", "neutral", "contradiction"}, {"entailment", "not_entailment"}
TAKEN = {  # whose model predicts it, its test file, the words for its labels
    "CoLA": (TaskName.COLA, "test.tsv", BINARY),
    "SST-2": (TaskName.SST2, "test.tsv", BINARY),
    "MRPC": (TaskName.MRPC, "test.tsv", BINARY),
    "STS-B": (TaskName.STSB, "test.tsv", None),
    "QQP": (TaskName.QQP, "test.tsv", BINARY),
    "MNLI-m": (TaskName.MNLI, "test_matched.tsv", NLI),
    "MNLI-mm": (TaskName.MNLI, "test_mismatched.tsv", NLI),
    "QNLI": (TaskName.QNLI, "test.tsv", ENTAILMENT),
    "RTE": (TaskName.RTE, "test.tsv", ENTAILMENT),
    "WNLI": (TaskName.WNLI, "test.tsv", BINARY),
    "AX": (TaskName.MNLI, "diagnostic.tsv", NLI),
}


@pytest.mark.slow
def test_the_archive_of_a_full_run_is_what_the_site_takes(tmp_path: Path, model_folder: UPath) -> None:
    inputs = {}
    for name, (task, file, _) in TAKEN.items():
        columns = GLUE[task](TaskOptions(max_length=16)).tsv.texts
        lines = ("\t".join([str(n), *["cat" if n % 3 else "the dog"] * len(columns)]) for n in range(ROWS[name]))
        path = tmp_path / task / file
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(["\t".join(["index", *columns]), *lines]) + "\n")
        inputs[f"finetune/{task}/seed-0"] = _fine_tuned(
            tmp_path / "runs", task, seed=0, score=50.0, data=tmp_path / task, model=model_folder
        )
    groups = dict.fromkeys(inputs, Group.FINETUNE)
    context = StageContext(output=UPath(tmp_path / "out"), inputs=inputs, groups=groups)
    context.output.mkdir()
    run(SubmissionConfig(), context)
    with zipfile.ZipFile(tmp_path / "out" / "submission.zip") as archive:
        assert sorted(archive.namelist()) == sorted(f"{name}.tsv" for name in TAKEN)
        texts = {name: archive.read(name).decode() for name in archive.namelist()}
    assert find_problems(texts) == []
    for name, (_, _, words) in TAKEN.items():
        header, *rows = [line.split("\t") for line in texts[f"{name}.tsv"].splitlines()]
        assert header == ["index", "prediction"]
        assert [row[0] for row in rows] == [str(n) for n in range(ROWS[name])]
        if words is None:
            assert all(0.0 <= float(row[1]) <= 5.0 for row in rows)
        else:
            assert {row[1] for row in rows} <= words
