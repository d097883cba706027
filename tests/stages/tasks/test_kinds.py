"""The table of kinds: whole, light, and the only place that tells kinds apart."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from stages.electra.config import ElectraConfig, HeadKind
from stages.electra.files.huggingface import Architecture
from stages.finetune.config import TaskSection
from stages.tasks.base import TaskOptions, load_work
from stages.tasks.form import TaskForm
from stages.tasks.kinds import KINDS, TaskKind
from stages.tasks.model import init_model
from stages.tasks.named import TASKS
from stages.tasks.registry import make_task

ROOT = Path(__file__).parents[3]
CONFIG = ElectraConfig(
    vocab_size=20,
    embedding_size=8,
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    intermediate_size=8,
    max_position_embeddings=16,
)
KEYS = {"texts": ("a",), "label": "b", "labels": ("x", "y"), "range": (0.0, 1.0), "columns": ("a", "b")}


def _form(kind: TaskKind, **more: str) -> TaskForm:
    return TaskForm(kind=kind, **{name: KEYS[name] for name in KINDS[kind].needs[0]}, **more)


def test_every_kind_has_a_row_and_a_module_that_does_its_work() -> None:
    assert list(KINDS) == list(TaskKind)
    assert {kind for row in KINDS.values() for kind in import_module(row.module).WORK} == set(TaskKind)


@pytest.mark.parametrize("kind", list(TaskKind))
def test_a_form_with_the_keys_that_a_kind_needs_makes_a_task_of_it(kind: TaskKind) -> None:
    form = _form(kind)
    task = make_task("mine", TaskOptions(max_length=32), form=form)
    assert (task.name, task.kind, task.primary) == ("mine", kind, KINDS[kind].metrics[0])
    for metric in form.metrics:
        assert make_task("mine", TaskOptions(max_length=32), form=_form(kind, metric=metric)).primary == metric


@pytest.mark.parametrize("kind", list(TaskKind))
def test_a_key_that_a_kind_has_not_is_refused_with_the_kinds_that_have_it(kind: TaskKind) -> None:
    for name in KEYS.keys() - KINDS[kind].keys:
        with pytest.raises(ValueError, match=f"{name} belongs to .*, not to {kind}"):
            TaskSection(kind=kind, **{key: KEYS[key] for key in {name, *KINDS[kind].needs[0]}})


def test_built_in_tasks_rank_by_a_score_of_their_kind() -> None:
    for name, task in TASKS.items():
        spec = KINDS[task.kind]
        assert task.primary.removeprefix("matched/") in (*spec.metrics, *spec.binary_metrics), name


@pytest.mark.parametrize("head", list(HeadKind))
@pytest.mark.parametrize("kind", list(TaskKind))
def test_a_head_is_exported_unless_transformers_has_none(kind: TaskKind, head: HeadKind) -> None:
    assert KINDS[kind].architecture in list(Architecture)
    _, params = init_model(kind, config=CONFIG, num_labels=1, seed=0, head=head)
    task = make_task("mine", TaskOptions(max_length=32), form=_form(kind))
    exported = load_work(kind).exported_head(task, params["head"])
    is_joint = head is HeadKind.ORIGINAL and head in KINDS[kind].own_heads
    assert (exported is None) == is_joint
    if exported is not None:
        assert exported.keys() <= params["head"].keys()


def test_who_reads_the_examples_of_a_task_imports_no_jax() -> None:
    code = (
        "import sys, stages.tasks.registry as r; from stages.tasks.kinds import KINDS; import importlib;"
        "[importlib.import_module(row.module) for row in KINDS.values()]; print('jax' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


def _told_apart(source: str, enum: str) -> Iterator[int]:
    """Lines that compare with a member of the enum, match on one, or look something up by one."""
    for node in ast.walk(ast.parse(source)):
        parts: list[ast.AST] = []
        if isinstance(node, ast.Compare):
            parts = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            parts = [node.value]
        elif isinstance(node, ast.Dict):
            parts = [key for key in node.keys if key is not None]
        inner = [child for part in parts for child in ast.walk(part)]
        if any(isinstance(child, ast.Attribute) and ast.unparse(child.value) == enum for child in inner):
            yield node.lineno


def test_nothing_but_the_table_and_the_modules_of_kinds_tells_kinds_apart() -> None:
    own = {"stages.tasks.kinds", *(row.module for row in KINDS.values())}
    paths = [path for layer in ("pipeline", "stages", "cluster") for path in sorted((ROOT / layer).rglob("*.py"))]
    found = [
        f"{path.relative_to(ROOT)}:{line}"
        for path in paths
        if ".".join(path.relative_to(ROOT).with_suffix("").parts) not in own
        for line in _told_apart(path.read_text(), "TaskKind")
    ]
    assert not found


@pytest.mark.parametrize(
    "source",
    [
        "if task.kind is TaskKind.TAGGING: ...",
        "match kind:\n  case TaskKind.TAGGING: ...",
        "kind in (TaskKind.TAGGING, TaskKind.REGRESSION)",
        "{TaskKind.TAGGING: 1}[kind]",
    ],
)
def test_a_comparison_of_kinds_is_seen(source: str) -> None:
    """A negative control."""
    assert list(_told_apart(source, "TaskKind"))
    assert not list(_told_apart(source, "TaskName"))
