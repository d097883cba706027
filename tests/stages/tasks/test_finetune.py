"""Whole runs of fine-tuning on a few examples, and the section that unfolds into them."""

import atexit
import json
import re
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from upath import UPath

from cluster.config import ClusterConfig
from stages.context import StageContext, Tracker
from stages.electra.config import HeadKind
from stages.electra.files.card import read_metadata
from stages.electra.files.huggingface import flatten
from stages.electra.files.model_folder import load_pretrained
from stages.finetune.config import FinetuneConfig, Init
from stages.finetune.inputs import evenly
from stages.finetune.stage import run
from stages.tasks.base import TaskOptions
from stages.tasks.named import TaskName
from stages.tasks.predictor import Predictor
from stages.tasks.registry import make_task
from stages.training.loop import NonFiniteError

_COMPILATIONS = tempfile.mkdtemp(prefix="electra-pipeline-tests-")
atexit.register(shutil.rmtree, _COMPILATIONS, ignore_errors=True)

PREDICTIONS = {
    TaskName.COLA: "predictions.tsv",
    TaskName.MRPC: "predictions.tsv",
    TaskName.STSB: "predictions.tsv",
    TaskName.MNLI: "predictions_mismatched.tsv",
    TaskName.SQUAD_V1: "predictions.json",
    TaskName.SQUAD_V2: "null_odds.json",
    TaskName.CONLL2000: "predictions.txt",
}


class Recorded(Tracker):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.found: dict[str, list[Any]] = {"metrics": [], "progress": [], "model": [], "dataset": [], "artifact": []}

    def metrics(self, metrics, *, step=None) -> None:
        self.found["metrics"].append((step, dict(metrics)))

    def progress(self, done, total, *, unit, **fields) -> None:
        self.found["progress"].append((done, total, unit))

    def model(self, path, *, name) -> None:
        self.found["model"].append((str(path), name))

    def dataset(self, *, name, source, context) -> None:
        self.found["dataset"].append((name, context))

    def artifact(self, path, *, folder="", has_examples=False) -> None:
        self.found["artifact"].append(Path(path).name)


def _config(task: TaskName, data: Path, model: UPath, **changes: Any) -> FinetuneConfig:
    return FinetuneConfig(
        **{
            "task": task,
            "data": str(data / task),
            "model": str(model),
            "epochs": 60,
            "max_length": 48,
            "batch_size": 8,
            "learning_rate": 5e-3,
            "layer_decay": 1.0,
        }
        | changes
    )


def _run(config: FinetuneConfig, output: Path, tracker: Any = None, **cluster_changes: Any) -> dict[str, Any]:
    folder = UPath(output)
    folder.mkdir(parents=True, exist_ok=True)
    cluster = ClusterConfig(compilation_cache=_COMPILATIONS, **cluster_changes)
    context = StageContext(output=folder, cluster=cluster, tracker=tracker or Tracker())
    run(config, context)
    return json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize("task", list(PREDICTIONS))
def test_a_few_examples_are_learnt_by_heart(
    task: TaskName, task_data: Path, model_folder: UPath, tmp_path: Path
) -> None:
    tracker, output = Recorded(), tmp_path / "out"
    epochs = 120 if task is TaskName.STSB else 60  # one pair in the wrong order of five costs a tenth of the score
    result = _run(_config(task, task_data, model_folder, epochs=epochs), output, tracker)
    assert result["scores"][result["primary"]] > 95, result
    assert result["warnings"] == []
    assert result["task"] == task
    assert result["init"] == "pretrained"
    assert (output / PREDICTIONS[task]).exists()
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    train_rows = [row for row in rows if row["split"] == "train"]
    assert train_rows[-1]["step"] == result["steps"]
    assert train_rows[-1]["loss/total"] < train_rows[0]["loss/total"] / 2
    assert rows[-1] == {"step": result["steps"], "split": "dev"} | result["scores"]
    assert tracker.found["progress"][-1] == (result["steps"], result["steps"], "steps")
    assert tracker.found["model"] == [(str(UPath(output) / "model"), f"{task}-pretrained-0")]
    assert [context for _, context in tracker.found["dataset"]] == ["training", "validation"]
    assert {PREDICTIONS[task], "metrics.jsonl", "result.json"} <= set(tracker.found["artifact"])
    (index,) = read_metadata((output / "model" / "README.md").read_text())["model-index"]
    assert index["results"][0]["dataset"]["type"] == task
    saved = load_pretrained(UPath(output / "model"))
    labels = list(saved.config.id2label.values())
    assert labels[0] in ("unacceptable", "not_equivalent", "similarity", "entailment", "O", "LABEL_0")


@pytest.mark.parametrize(
    "task", [TaskName.MRPC, TaskName.STSB, TaskName.SQUAD_V1, TaskName.SQUAD_V2, TaskName.CONLL2000]
)
def test_the_originals_heads_learn_too_and_their_exports_predict_the_same(
    task: TaskName, task_data: Path, model_folder: UPath, tmp_path: Path
) -> None:
    config = _config(task, task_data, model_folder, head=HeadKind.ORIGINAL, learning_rate=2e-3, epochs=120)
    result = _run(config, tmp_path / "out")
    assert result["scores"][result["primary"]] > 95, result
    predictor = Predictor(tmp_path / "out" / "model")
    card = (tmp_path / "out" / "model" / "README.md").read_text()
    if config.task.startswith("squad"):
        predicted = json.loads((tmp_path / "out" / "predictions.json").read_text())
        rows = [
            {"question": qa["question"], "context": paragraph["context"]}
            for path in (task_data / task).glob("dev*")
            for paragraph in json.loads(path.read_text())["data"][0]["paragraphs"]
            for qa in paragraph["qas"]
        ]
        assert [answer["answer"] for answer in predictor.answers(rows)] == list(predicted.values())
        assert "head.safetensors" in card
        assert result["head"] == "original"
    elif task is TaskName.CONLL2000:
        assert predictor.answers(["the cat sat on the mat ."])[0]["labels"] == [
            "B-NP",
            "E-NP",
            "S-VP",
            "S-PP",
            "B-NP",
            "E-NP",
            "O",
        ]
    else:
        lines = [line.split("\t") for line in (tmp_path / "out" / "predictions.tsv").read_text().splitlines()[1:]]
        data = make_task(task, TaskOptions(max_length=48)).load(UPath(task_data / task)).dev
        answers = predictor.answers([dict(zip(("text", "text_pair"), each.texts, strict=True)) for each in data])
        if task is TaskName.STSB:
            found = [float(line[-1]) for line in lines]
            values = np.clip([answer["value"] for answer in answers], 0, 5)  # as the file has them
            np.testing.assert_allclose(values, found, atol=2e-3)
        else:
            names = {"0": "not_equivalent", "1": "equivalent"}
            assert [answer["label"] for answer in answers] == [names[line[-1]] for line in lines]
        assert "head.safetensors" not in card


def test_the_same_run_twice_gives_the_same_bits_and_another_seed_others(
    task_data: Path, model_folder: UPath, tmp_path: Path
) -> None:
    config = _config(TaskName.COLA, task_data, model_folder, epochs=2)
    files = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        _run(replace(config, seed=seed), tmp_path / name)
        files.append((tmp_path / name / "model" / "model.safetensors").read_bytes())
    assert files[0] == files[1]
    assert files[0] != files[2]


@pytest.mark.slow
def test_two_processes_train_as_one(task_data: Path, model_folder: UPath, tmp_path: Path, ray_cluster: None) -> None:
    config = _config(TaskName.SQUAD_V2, task_data, model_folder, epochs=4, learning_rate=1e-3)
    found = {}
    for processes in (1, 2):
        output = tmp_path / str(processes)
        result = _run(config, output, finetune_processes=processes)
        assert (output / "predictions.json").exists()
        found[processes] = (result, flatten(load_pretrained(UPath(output / "model")).params))
    (alone, weights), (together, others) = found[1], found[2]
    start = flatten(load_pretrained(model_folder).params)
    assert max(np.abs(weights[name] - start[name]).max() for name in start if "head" not in name) > 1e-3
    assert together["steps"] == alone["steps"] == 4
    assert together["last_loss"] == pytest.approx(alone["last_loss"], rel=1e-4)
    for name, value in weights.items():
        np.testing.assert_allclose(others[name], value, atol=1e-5, err_msg=name)


def test_a_batch_that_processes_cannot_share_is_refused(
    task_data: Path, model_folder: UPath, tmp_path: Path, ray_cluster: None
) -> None:
    config = _config(TaskName.COLA, task_data, model_folder, batch_size=3)
    with pytest.raises(ValueError, match=r"finetune.tasks.cola.batch_size is 3, must be a multiple of the 2 devices"):
        _run(config, tmp_path / "out", finetune_processes=2)


def test_rows_of_work_that_was_lost_are_dropped(task_data: Path, model_folder: UPath, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "metrics.jsonl").write_text('{"step": 1, "split": "train", "loss/total": 7}\n')
    result = _run(_config(TaskName.COLA, task_data, model_folder, epochs=2), tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [*range(1, result["steps"] + 1), result["steps"]]
    assert rows[0]["loss/total"] != 7


def test_a_random_start_does_not_read_the_weights(task_data: Path, model_folder: UPath, tmp_path: Path) -> None:
    config = _config(TaskName.COLA, task_data, model_folder, epochs=0.1, learning_rate=1e-12)
    weights = {}
    for init in Init:
        _run(replace(config, init=init), tmp_path / init)
        weights[init] = load_pretrained(UPath(tmp_path / init / "model")).params
    pretrained = load_pretrained(model_folder).params
    word = [params["embeddings"]["word"]["embedding"] for params in (*weights.values(), pretrained)]
    np.testing.assert_allclose(word[0], word[2], atol=1e-6)
    assert np.abs(word[1] - word[2]).max() > 1e-2
    heads = [params["head"]["prediction"]["kernel"] for params in weights.values()]
    np.testing.assert_allclose(heads[0], heads[1], atol=1e-6)


def test_a_run_that_learns_nothing_says_so(task_data: Path, model_folder: UPath, tmp_path: Path) -> None:
    text = "".join(f"x\t{label}\t\tthe cat .\n" for label in (0, 1) * 4)  # one text, two labels
    (task_data / "cola" / "train.tsv").write_text(text)
    (task_data / "cola" / "dev.tsv").write_text(text)
    result = _run(_config(TaskName.COLA, task_data, model_folder, epochs=5), tmp_path / "out")
    assert {warning["kind"] for warning in result["warnings"]} == {"degenerate"}
    texts = " ".join(warning["text"] for warning in result["warnings"])
    assert "flat loss" in texts
    assert "all 8 predictions are" in texts


def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(
    task_data: Path, model_folder: UPath, tmp_path: Path
) -> None:
    config = _config(TaskName.COLA, task_data, model_folder, learning_rate=1e30, warmup_fraction=0.0)
    with pytest.raises(NonFiniteError, match=r"step \d+ of 60: not finite: .*training examples of this batch"):
        _run(config, tmp_path / "out")
    assert not (tmp_path / "out" / "result.json").exists()


def test_dev_is_scored_as_often_as_asked(task_data: Path, model_folder: UPath, tmp_path: Path) -> None:
    config = _config(TaskName.COLA, task_data, model_folder, epochs=6, evaluations=3)
    _run(config, tmp_path / "out")
    rows = [json.loads(line) for line in (tmp_path / "out" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if row["split"] == "dev"] == [2, 4, 6]


def test_patience_ends_a_run_that_gets_no_better_and_keeps_the_best(
    task_data: Path, model_folder: UPath, tmp_path: Path
) -> None:
    # Nothing changes at this rate, so no score is better than the first.
    still = _config(TaskName.COLA, task_data, model_folder, epochs=10, learning_rate=1e-12, evaluations=5)
    result = _run(replace(still, patience=2), tmp_path / "still")
    rows = [json.loads(line) for line in (tmp_path / "still" / "metrics.jsonl").read_text().splitlines()]
    dev = [row["step"] for row in rows if row["split"] == "dev"]
    assert len(dev) == 3
    assert result["scored_step"] == dev[0]
    assert rows[-1]["step"] < result["steps"]
    # What gets better is trained to its end, and its scores are the best of all evaluations.
    better = replace(still, epochs=60, learning_rate=5e-3, patience=4)
    result = _run(better, tmp_path / "better")
    rows = [json.loads(line) for line in (tmp_path / "better" / "metrics.jsonl").read_text().splitlines()]
    scores = {row["step"]: row[result["primary"]] for row in rows if row["split"] == "dev"}
    assert result["scores"][result["primary"]] == max(scores.values()) == scores[result["scored_step"]]
    with pytest.raises(ValueError, match="patience is 5, must be below evaluations = 5"):
        replace(still, patience=5)


def test_a_run_that_learns_nothing_starts_over_and_says_so(
    task_data: Path, model_folder: UPath, tmp_path: Path
) -> None:
    still = _config(TaskName.COLA, task_data, model_folder, epochs=1, learning_rate=1e-12, retries=2)
    result = _run(still, tmp_path / "still")
    assert result["attempts"] == 3
    assert result["warnings"][0]["kind"] == "degenerate"
    retried = result["warnings"][-1]
    assert retried["kind"] == "retried"
    reason = r"(all 8 predictions are|flat loss, )[^;]*(;[^;]*)?"
    assert re.fullmatch(f"attempt 3, with other draws; before it: {reason}; {reason}", retried["text"])
    assert _run(_config(TaskName.COLA, task_data, model_folder, retries=2), tmp_path / "learns")["attempts"] == 1


def test_fewer_examples_can_be_asked_for(task_data: Path, model_folder: UPath, tmp_path: Path) -> None:
    config = _config(TaskName.MRPC, task_data, model_folder, epochs=1, max_train_examples=3, max_eval_examples=4)
    result = _run(config, tmp_path / "out")
    assert (result["train_examples"], result["train_rows"], result["dev_examples"]) == (3, 6, 4)
    texts = [warning["text"] for warning in result["warnings"] if warning["kind"] == "few_examples"]
    assert texts == ["scored on 4 examples only: not comparable to published scores"]


def test_examples_are_taken_evenly() -> None:
    assert evenly(range(10), 4) == [0, 2, 5, 7]
    assert evenly(range(3), 4) == range(3)


def test_a_model_that_is_too_short_is_refused(task_data: Path, model_folder: UPath, tmp_path: Path) -> None:
    config = _config(TaskName.COLA, task_data, model_folder, max_length=128)
    with pytest.raises(ValueError, match=r"max_length is 128, the model .* has positions for 64"):
        _run(config, tmp_path / "out")


def test_a_model_that_is_not_there_is_named(task_data: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no such folder"):
        _run(_config(TaskName.COLA, task_data, UPath(tmp_path / "nowhere")), tmp_path / "out")


def test_a_folder_with_no_more_than_a_tokenizer_json_is_enough(
    task_data: Path, model_folder: UPath, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(model_folder, model)
    (model / "vocab.txt").unlink()
    (model / "tokenizer_config.json").unlink()
    _run(_config(TaskName.COLA, task_data, UPath(model), epochs=0.1), tmp_path / "out")
    assert (tmp_path / "out" / "model" / "tokenizer.json").read_bytes() == (model / "tokenizer.json").read_bytes()
    (model / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"no tokenizer.json; a model is fine-tuned with its own tokenizer"):
        _run(_config(TaskName.COLA, task_data, UPath(model)), tmp_path / "out")


def test_answers_that_are_not_where_they_say_are_listed_with_where_they_are(
    task_data: Path, model_folder: UPath, tmp_path: Path
) -> None:
    for path in (task_data / "squad_v1").iterdir():
        content = json.loads(path.read_text())
        content["data"][0]["paragraphs"][0]["qas"][1]["answers"][0]["answer_start"] = 0
        path.write_text(json.dumps(content))
    result = _run(_config(TaskName.SQUAD_V1, task_data, model_folder, epochs=1), tmp_path / "out")
    fault = "question 'q2': the answer 'the house' is not at 0, but at 40"
    assert result["faults"] == {"train": [fault], "dev": []}
    text = f"1 of 3 training examples cannot be trained on: {fault}"
    assert {"kind": "skipped", "text": text} in result["warnings"]


def test_texts_that_are_cut_are_told(task_data: Path, model_folder: UPath, tmp_path: Path) -> None:
    for path in (task_data / "cola").iterdir():
        path.write_text(path.read_text().replace("cat", " ".join(["cat"] * 30)))
    result = _run(_config(TaskName.COLA, task_data, model_folder, epochs=1, max_length=16), tmp_path / "out")
    text = "8 of 8 training texts were cut at max_length = 16 tokens"
    assert {"kind": "truncated", "text": text} in result["warnings"]
