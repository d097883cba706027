"""The runs and the examples that the YAML section `finetune` asks for, by stage name."""

from dataclasses import fields
from typing import Any

from stages.examples import ExamplesConfig
from stages.finetune.config import DeclaredConfig, FinetuneConfig, FinetuneSection, Init
from stages.stage_names import examples_name, finetune_name
from stages.tasks.files.published import PUBLISHED
from stages.tasks.kinds import KINDS
from stages.tasks.named import TASKS, TaskName


def expand(section: FinetuneSection, *, seed: int = 0) -> dict[str, FinetuneConfig]:
    """The runs of a section by stage name: `finetune/cola/seed-0`, and `finetune/cola/random-0` from random weights.

    Args:
      seed: The one seed of tasks for which none is configured.

    Raises:
      ValueError: A task's values do not go with the section's.
    """
    runs: dict[str, FinetuneConfig] = {}
    for name, task in section.tasks.items():
        defaults = KINDS[task.form.kind] if task.form else TASKS[TaskName(name)]
        settings: dict[str, Any] = {
            "epochs": defaults.epochs,
            "max_length": defaults.max_length,
            "data": "." if task.names_both_files else f"{{{examples_name(name)}}}",
        }
        for source in (section, task):
            for item in fields(FinetuneConfig):
                value = getattr(source, item.name, None)
                if value is not None:
                    settings[item.name] = value
        if task.model is not None:
            settings["revision"] = task.revision  # the section's is of the section's model
        seeds = next(found for found in (task.seeds, section.seeds, (seed,)) if found is not None)
        inits = [Init.PRETRAINED, *([Init.RANDOM] if section.from_random else [])]
        for init in inits:
            for number in seeds:
                settings |= {"task": str(name), "seed": number, "init": init}
                try:
                    run = DeclaredConfig(**settings, form=task.form) if task.form else FinetuneConfig(**settings)
                except ValueError as error:  # about values that meet only here
                    raise ValueError(f"tasks.{name}: {error}") from error
                runs[finetune_name(run)] = run
    return runs


def expand_examples(section: FinetuneSection) -> dict[str, ExamplesConfig]:
    """The examples of a section's tasks by stage name: `examples/cola`."""
    examples: dict[str, ExamplesConfig] = {}
    for name, task in section.tasks.items():
        fetched = task.data is None and not task.names_both_files
        examples[examples_name(name)] = ExamplesConfig(
            task=str(name),
            data=None if fetched else task.data or ".",
            published=PUBLISHED[TaskName(name)] if fetched else (),
            train_file=task.train_file,
            eval_file=task.eval_file,
            form=task.form,
        )
    return examples
