"""Names of the stages that a config may have several of. They are built here and taken apart nowhere.

Who needs a run's task, seed or step reads them from its result.json and config.json; who needs all runs of a group
asks `StageContext.of_group`.
"""

from stages.context import Group
from stages.finetune.config import FinetuneConfig, Init


def examples_name(task: str) -> str:
    """`examples/cola`."""
    return f"{Group.EXAMPLES}/{task}"


def finetune_name(run: FinetuneConfig) -> str:
    """`finetune/cola/seed-0`; from random weights `finetune/cola/random-0`."""
    return f"{Group.FINETUNE}/{run.task}/{'seed' if run.init is Init.PRETRAINED else 'random'}-{run.seed}"


def probe_name(task: str, *, step: int) -> str:
    """`probe/cola/step-500`."""
    return f"{Group.PROBE}/{task}/step-{step}"
