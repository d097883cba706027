"""The YAML section `finetune`: what can be set for all tasks or for one, and the runs that it unfolds into."""

from dataclasses import fields, replace
from typing import Any

import pytest

from stages.finetune.config import FinetuneConfig, FinetuneSection, Init, Overrides, TaskSection
from stages.finetune.runs import expand
from stages.tasks.named import TaskName


def test_every_setting_of_a_run_can_be_set_for_all_tasks_or_for_one() -> None:
    of_one_task = {"task", "data", "train_file", "eval_file", "seed", "init"}
    settings = {item.name for item in fields(FinetuneConfig)} - of_one_task
    assert {item.name for item in fields(Overrides)} == settings | {"seeds"}


def test_a_section_unfolds_into_tasks_seeds_and_starts() -> None:
    section = FinetuneSection(
        seeds=(3, 4),
        from_random=True,
        epochs=5,
        tasks={
            TaskName.COLA: TaskSection(data="a"),
            TaskName.SQUAD_V1: TaskSection(data="b", seeds=(7,), epochs=1, max_length=384),
        },
    )
    runs = expand(section)
    assert list(runs) == [
        *("finetune/cola/seed-3", "finetune/cola/seed-4", "finetune/cola/random-3", "finetune/cola/random-4"),
        *("finetune/squad_v1/seed-7", "finetune/squad_v1/random-7"),
    ]
    cola, squad = runs["finetune/cola/seed-3"], runs["finetune/squad_v1/random-7"]
    assert (cola.epochs, cola.max_length, cola.seed, cola.init) == (5, 128, 3, Init.PRETRAINED)
    assert (squad.epochs, squad.max_length, squad.seed, squad.init) == (1, 384, 7, Init.RANDOM)
    assert cola.model == "{export}/discriminator"


def test_pretrained_and_random_runs_have_the_same_configuration_but_for_the_start() -> None:
    runs = expand(FinetuneSection(from_random=True, tasks={TaskName.MRPC: TaskSection(data="a")}), seed=5)
    assert replace(runs["finetune/mrpc/random-5"], init=Init.PRETRAINED) == runs["finetune/mrpc/seed-5"]


def test_published_settings_are_the_defaults() -> None:
    section = FinetuneSection(tasks={name: TaskSection(data="a") for name in TaskName})
    epochs = {config.task: config.epochs for config in expand(section).values()}
    assert {task for task, number in epochs.items() if number == 10} == {"rte", "stsb"}
    answers = {"squad_v1", "squad_v2", "newsqa", "naturalqs", "triviaqa", "searchqa"}
    assert {task for task, number in epochs.items() if number == 2} == answers
    assert set(epochs.values()) == {2, 3, 10}
    assert {config.max_length for config in expand(section).values() if config.task in answers} == {512}
    config = expand(section)["finetune/cola/seed-0"]
    assert (config.batch_size, config.warmup_fraction, config.weight_decay) == (32, 0.1, 0.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("epochs", 0), ("batch_size", 0), ("layer_decay", 1.5), ("layer_decay_offset", 3), ("warmup_fraction", 2.0)],
)
def test_a_value_out_of_range_is_named_wherever_it_is_given(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{field} is {value}, must be"):
        FinetuneSection(**{field: value})
    with pytest.raises(ValueError, match=f"{field} is {value}, must be"):
        TaskSection(data="a", **{field: value})


def test_the_same_seed_twice_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"seeds are \[1, 1\]"):
        FinetuneSection(seeds=(1, 1))
