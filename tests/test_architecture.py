"""Who may import whom. The layers: pipeline -> stages -> cluster, and what each keeps to itself."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ("pipeline", "stages", "cluster")
HEAVY = {
    "ray", "mlflow", "jax", "flax", "optax", "orbax", "pyarrow", "torch", "transformers", "tokenizers", "matplotlib",
    "scipy", "sklearn", "pandas", "huggingface_hub", "safetensors", "tensorflow",
}  # fmt: skip


@dataclass(frozen=True)
class Import:
    """`module` is imported by `file`, at its top or (`lazy`) inside a function."""

    file: str
    line: int
    module: str
    lazy: bool

    def __str__(self) -> str:
        return f"{self.file}:{self.line} imports {self.module}"


def find_imports(path: Path, *, root: Path = ROOT) -> list[Import]:
    tree = ast.parse(path.read_text())
    name = path.relative_to(root).as_posix()

    def visit(node: ast.AST, *, lazy: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(name, child.lineno, alias.name, lazy)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{name}:{child.lineno}: a relative import"
                for alias in child.names:
                    yield Import(name, child.lineno, f"{child.module}.{alias.name}", lazy)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                for other in child.orelse:
                    yield from visit(other, lazy=lazy)
            elif isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
                yield from visit(child, lazy=True)
            else:
                yield from visit(child, lazy=lazy)

    return list(visit(tree, lazy=False))


def imports_under(*folders: str) -> list[Import]:
    paths = [path for folder in folders for path in sorted((ROOT / folder).rglob("*.py"))]
    assert paths, folders
    return [found for path in paths for found in find_imports(path)]


def is_in(module: str, *packages: str) -> bool:
    return any(module == package or module.startswith(package + ".") for package in packages)


def offenders(found: list[Import], *packages: str, but: tuple[str, ...] = ()) -> list[str]:
    return [str(entry) for entry in found if is_in(entry.module, *packages) and entry.file not in but]


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_those_below_it(layer):
    above = LAYERS[: LAYERS.index(layer)]
    assert not (offenders(imports_under(layer), *above) if above else [])


def test_only_launch_imports_ray_train():
    assert not offenders(imports_under(*LAYERS), "ray.train", but=("cluster/launch.py",))


def test_only_tracking_imports_mlflow():
    assert not offenders(imports_under(*LAYERS), "mlflow", but=("pipeline/tracking/mlflow_writer.py",))


def test_only_parity_tests_and_benchmarks_import_torch_and_transformers():
    found, allowed = imports_under(*LAYERS, "tests"), ("tests/parity/", "tests/benchmarks/torch_")
    assert not [line for line in offenders(found, "torch", "transformers") if not line.startswith(allowed)]


def test_only_the_reader_of_googles_checkpoints_imports_tensorflow():
    found = [entry for entry in imports_under(*LAYERS) if is_in(entry.module, "tensorflow")]
    assert {(entry.file, entry.lazy) for entry in found} == {("stages/electra/files/google_tf.py", True)}


def test_the_work_itself_knows_neither_ray_nor_mlflow():
    found = imports_under("stages/electra", "stages/training", "stages/data", "stages/tasks")
    assert not offenders(found, "ray", "mlflow")


def test_the_model_needs_jax_flax_and_numpy_and_its_files_a_little_more():
    standard = set(sys.stdlib_module_names)
    allowed = {"jax", "flax", "numpy", "safetensors", "tokenizers", "huggingface_hub", "upath", "yaml", "tensorflow"}
    strange = [
        str(entry)
        for entry in imports_under("stages/electra")
        if entry.module.split(".")[0] not in standard | allowed
        and not is_in(entry.module, "stages.electra", "cluster.storage")
    ]
    assert not strange


def test_training_and_data_do_not_know_electra():
    assert not offenders(imports_under("stages/training", "stages/data"), "stages.electra", "stages.tasks")


def test_stages_reach_the_pipeline_by_their_context_only():
    assert not offenders(imports_under("stages", "cluster"), "pipeline")


def test_stages_do_not_import_one_another_but_for_their_configs():
    names = [
        path.stem for path in (ROOT / "stages").glob("*.py") if path.stem not in ("__init__", "context", "parallel")
    ]
    found = imports_under("stages")
    crossing = [
        str(entry)
        for entry in found
        for name in names
        if is_in(entry.module, f"stages.{name}.run") and entry.file != f"stages/{name}.py"
    ]
    assert not crossing


def test_no_file_is_a_drawer_for_everything_or_very_long():
    for layer in LAYERS:
        for path in (ROOT / layer).rglob("*.py"):
            assert path.stem not in ("utils", "util", "helpers", "common", "misc"), path
            assert len(path.read_text().splitlines()) <= 450, f"{path} is long: cut it where the subject changes"


def test_loading_a_config_imports_nothing_heavy():
    code = "import sys, pipeline.command, pipeline.dag; print(*sorted({m.split('.')[0] for m in sys.modules}))"
    found = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not HEAVY & set(found.stdout.split())


def test_the_checks_see_what_they_look_for(tmp_path):
    """A negative control: each kind of import is found, and those for type checkers only are not."""
    path = tmp_path / "bad.py"
    path.write_text(
        "import torch\nfrom typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import mlflow\n"
        "def f():\n    from ray import train\n    class A:\n        import pipeline.run\n"
    )
    found = find_imports(path, root=tmp_path)
    assert offenders(found, "torch", "ray.train", "pipeline") == [
        "bad.py:1 imports torch",
        "bad.py:6 imports ray.train",
        "bad.py:8 imports pipeline.run",
    ]
    assert [entry.lazy for entry in found] == [False, False, True, True]
    assert not offenders(found, "mlflow")
