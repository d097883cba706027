"""GLUE's tasks: the layout of their published TSVs, their labels and their official scores.

Reference: Wang et al., GLUE, 2019 (arXiv 1804.07461).
"""

from stages.tasks import scores
from stages.tasks.base import TaskOptions
from stages.tasks.classification import Classification, Table
from stages.tasks.config import TASKS, TaskName


def make_cola(options: TaskOptions) -> Classification:
    """Acceptability of a sentence. Train and dev have no header: source, label, author's mark, sentence."""
    return Classification(
        name=TaskName.COLA,
        table=Table(columns=("source", "label", "mark", "sentence"), texts=("sentence",), label="label", header=False),
        labels={"0": "unacceptable", "1": "acceptable"},
        scores={"matthews": scores.matthews, "accuracy": scores.accuracy},
        primary=TASKS[TaskName.COLA].primary,
        options=options,
    )


def make_mrpc(options: TaskOptions) -> Classification:
    """Whether two sentences are paraphrases."""
    return Classification(
        name=TaskName.MRPC,
        table=Table(
            columns=("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
            texts=("#1 String", "#2 String"),
            label="Quality",
            header=True,
        ),
        labels={"0": "not_equivalent", "1": "equivalent"},
        scores={"accuracy": scores.accuracy, "f1": scores.binary_f1},
        primary=TASKS[TaskName.MRPC].primary,
        options=options,
        unordered=True,
    )
