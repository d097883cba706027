"""A fine-tuning that is interrupted goes on where it was, to the bits of one that nothing disturbed."""

import json
import os
import random
import shutil
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from killed_runs import finetune_with_many_checkpoints, recorded, run_killed_at
from ray import cloudpickle
from upath import UPath

from cluster.config import ClusterConfig
from cluster.storage import remove_half_written
from stages.context import StageContext, Tracker
from stages.finetune.config import FinetuneConfig
from stages.finetune.stage import run
from stages.tasks.buckets import epoch_batches, training_batches
from stages.tasks.named import TaskName
from stages.training.checkpoint_folder import saved_step
from stages.training.loop import PreemptedError

cloudpickle.register_pickle_by_value(sys.modules[__name__])  # workers cannot import it

NOT_OF_THE_RESULT = ("seconds", "examples_per_second", "resumed_from_step")


class Terminating(Tracker):
    """Sends SIGTERM to its own process once, in the attempt and after the step that are given.

    From there on it takes its time: several processes need some to agree on where they end.
    """

    def __init__(self, marker: Path, *, step: int, attempt: int = 1, pause: float = 0.0) -> None:
        self.marker, self.step, self.pause = marker, step, pause
        self.attempts_to_come, self.before = attempt, sys.maxsize

    def progress(self, done: int, total: int, *, unit: str, **fields: float) -> None:
        if done <= self.before:
            self.attempts_to_come -= 1
        self.before = done
        if self.attempts_to_come <= 0 and done >= self.step and not self.marker.exists():
            self.marker.touch()
            os.kill(os.getpid(), signal.SIGTERM)
        if self.marker.exists():
            time.sleep(self.pause)


@pytest.fixture(scope="module")
def compilations(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("compilations"))


@pytest.fixture(scope="module")
def dropping_model(model_folder: UPath, tmp_path_factory: pytest.TempPathFactory) -> UPath:
    """The model with dropout: what a step draws shows in its result."""
    folder = UPath(shutil.copytree(model_folder, tmp_path_factory.mktemp("dropping") / "model"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def config_of(task: TaskName, data: Path, model: UPath, **changes: Any) -> FinetuneConfig:
    settings = {"epochs": 15, "max_length": 48, "batch_size": 2, "learning_rate": 1e-3, "layer_decay": 1.0}
    return FinetuneConfig(task=task, data=str(data / task), model=str(model), **settings | changes)


def context_of(output: Path, compilations: str, tracker: Any = None, **cluster: Any) -> StageContext:
    output.mkdir(exist_ok=True)
    cluster = {"compilation_cache": compilations} | cluster
    return StageContext(output=UPath(output), cluster=ClusterConfig(**cluster), tracker=tracker or Tracker())


def result(output: Path) -> dict[str, Any]:
    return json.loads((output / "result.json").read_text())


def assert_same_run(found: Path, expected: Path) -> None:
    assert recorded(found) == recorded(expected)
    ours, theirs = ({**result(folder), **dict.fromkeys(NOT_OF_THE_RESULT)} for folder in (found, expected))
    assert ours == theirs
    files = [{str(path.relative_to(folder)) for path in folder.rglob("*")} for folder in (found, expected)]
    assert files[0] == files[1]
    for name in files[1]:
        if (expected / name).is_file() and name not in ("metrics.jsonl", "result.json"):
            assert (found / name).read_bytes() == (expected / name).read_bytes(), name


def test_batches_from_any_step_are_those_of_a_run_from_the_start() -> None:
    lengths = np.random.default_rng(0).integers(3, 40, 23)
    shape: Mapping[str, Any] = {"buckets": (16, 40), "batch_size": 4, "seed": 5}
    whole = [batch for epoch in range(3) for batch in epoch_batches(lengths, **shape, epoch=epoch)]
    for start in range(len(whole)):
        batches: Iterator[np.ndarray] = training_batches(lengths, **shape, start_step=start)
        for expected in whole[start:]:
            np.testing.assert_array_equal(next(batches), expected)


@pytest.mark.parametrize(
    ("changes", "step", "attempt"),
    [
        ({}, 29, 1),
        ({"evaluations": 10, "patience": 5}, 29, 1),
        pytest.param({"evaluations": 10, "patience": 2, "learning_rate": 1e-12}, 14, 1, marks=pytest.mark.slow),
        pytest.param({"epochs": 5, "learning_rate": 1e-12, "retries": 2}, 7, 2, marks=pytest.mark.slow),
    ],
    ids=["plain", "with a best evaluation", "before its patience is over", "in its second attempt"],
)
def test_sigterm_saves_and_ends_a_run_and_the_next_one_ends_with_the_same_bits(
    changes: dict[str, Any],
    step: int,
    attempt: int,
    task_data: Path,
    dropping_model: UPath,
    tmp_path: Path,
    compilations: str,
) -> None:
    config = config_of(TaskName.COLA, task_data, dropping_model, **changes)
    run(config, context_of(tmp_path / "whole", compilations))
    whole = result(tmp_path / "whole")
    tracker = Terminating(tmp_path / "marker", step=step, attempt=attempt)
    with pytest.raises(PreemptedError, match=rf"step \d+ of {whole['steps']} is saved"):
        run(config, context_of(tmp_path / "cut", compilations, tracker))
    saved = saved_step(UPath(tmp_path / "cut"))
    assert saved is not None
    assert step <= saved <= step + 2
    run(config, context_of(tmp_path / "cut", compilations))
    assert result(tmp_path / "cut")["resumed_from_step"] == saved
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
    assert not (tmp_path / "cut" / "checkpoints").exists()


def test_a_checkpoint_of_other_rows_is_refused(
    task_data: Path, dropping_model: UPath, tmp_path: Path, compilations: str
) -> None:
    config = config_of(TaskName.COLA, task_data, dropping_model)
    with pytest.raises(PreemptedError):
        run(config, context_of(tmp_path / "out", compilations, Terminating(tmp_path / "marker", step=10)))
    train = task_data / "cola" / "train.tsv"
    train.write_text(train.read_text().replace("cat", "dog"))
    with pytest.raises(
        ValueError, match=r"the checkpoint is of other data: expected .* found .*; give the run another"
    ):
        run(config, context_of(tmp_path / "out", compilations))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "changes"),
    [
        (TaskName.COLA, {"epochs": 250, "evaluations": 10, "patience": 9}),
        (TaskName.CONLL2000, {"epochs": 500, "batch_size": 1}),
        (TaskName.SQUAD_V2, {"epochs": 500}),
    ],
)
def test_killed_at_five_random_steps_it_ends_with_the_same_bits(
    task: TaskName, changes: dict[str, Any], task_data: Path, dropping_model: UPath, tmp_path: Path, compilations: str
) -> None:
    config = config_of(task, task_data, dropping_model, **changes)
    run(config, context_of(tmp_path / "whole", compilations))
    killed = tmp_path / "killed"
    chance, steps = random.Random(str(task)), result(tmp_path / "whole")["steps"]
    places = chance.sample(range(40, steps - 100), 5)
    given = (config, context_of(killed, compilations))
    run_killed_at(places, finetune_with_many_checkpoints, *given, output=killed, chance=chance)
    assert result(killed)["resumed_from_step"] > 0
    remove_half_written(UPath(killed))  # as the pipeline does
    assert_same_run(killed, tmp_path / "whole")


@pytest.mark.slow
def test_sigterm_to_a_task_of_ray_saves_too(
    task_data: Path, dropping_model: UPath, tmp_path: Path, compilations: str, ray_cluster: None
) -> None:
    import ray

    config = config_of(TaskName.COLA, task_data, dropping_model)
    task = ray.remote(max_retries=0)(run)
    tracker = Terminating(tmp_path / "marker", step=10)
    with pytest.raises(PreemptedError, match="is saved"):
        ray.get(task.remote(config, context_of(tmp_path / "out", compilations, tracker)))
    ray.get(task.remote(config, context_of(tmp_path / "out", compilations)))
    assert 10 <= result(tmp_path / "out")["resumed_from_step"] <= 12


@pytest.mark.slow
def test_sigterm_to_one_of_two_processes_makes_both_save_and_go_on(
    task_data: Path, dropping_model: UPath, tmp_path: Path, compilations: str, ray_cluster: None
) -> None:
    config = config_of(TaskName.SQUAD_V2, task_data, dropping_model, epochs=60)
    run(config, context_of(tmp_path / "whole", compilations, finetune_processes=2))
    tracker = Terminating(tmp_path / "marker", step=20, pause=0.3)
    run(config, context_of(tmp_path / "cut", compilations, tracker, finetune_processes=2))
    assert result(tmp_path / "cut")["resumed_from_step"] >= 20
    for folder in ("cut", "whole"):
        shutil.rmtree(tmp_path / folder / "ray")
    assert_same_run(tmp_path / "cut", tmp_path / "whole")
