"""Who may import whom. The layers: pipeline -> stages -> cluster, and what each keeps to itself."""

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pytest

from pipeline import dag

ROOT = Path(__file__).parents[1]
LAYERS = ("pipeline", "stages", "cluster")
HEAVY = {
    "ray", "mlflow", "jax", "flax", "optax", "orbax", "pyarrow", "torch", "transformers", "tokenizers", "matplotlib",
    "scipy", "sklearn", "pandas", "huggingface_hub", "safetensors", "tensorflow",
}  # fmt: skip


# Every circle of imports that there may be, by its files, and why.
CIRCLES = {
    frozenset(
        f"stages/electra/{name}.py"
        for name in ("config", "files/config_json", "files/huggingface", "files/locate", "files/weights")
    ): "`ElectraConfig.from_pretrained` reads a folder, as transformers' interface asks; reading one makes a config"
}
# File names that stand for the same thing in several folders.
ROOMS_CONFIG = "config"  # light, in any folder
COUNTERPARTS = {"stage", "worker", "sharding"}  # in folders side by side
# What a stage takes from another one besides its config: never its `run`.
BORROWED = {
    ("finetune", "examples"): "reads the examples that the other has checked",
    ("probe", "finetune"): "is a fine-tuning of an earlier checkpoint",
}


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


def test_stages_know_neither_ray_nor_mlflow():
    assert not offenders(imports_under("stages"), "ray", "mlflow")


def test_the_model_needs_jax_flax_and_numpy_and_its_files_a_little_more():
    standard = set(sys.stdlib_module_names)
    allowed = {"jax", "flax", "numpy", "safetensors", "tokenizers", "huggingface_hub", "upath", "yaml", "tensorflow"}
    strange = [
        str(entry)
        for entry in imports_under("stages/electra")
        if entry.module.split(".")[0] not in standard | allowed
        and not is_in(entry.module, "stages.electra", "cluster.storage", "cluster.nearest", "cluster.credentials")
    ]
    assert not strange


def test_training_and_data_do_not_know_electra():
    assert not offenders(imports_under("stages/training", "stages/data"), "stages.electra", "stages.tasks")


def test_stages_reach_the_pipeline_by_their_context_only():
    assert not offenders(imports_under("stages", "cluster"), "pipeline")


def wired_stages() -> dict[str, ModuleType]:
    """The modules of `pipeline.dag` that are stages, by the name of their file or folder below `stages`."""
    modules = [value for value in vars(dag).values() if isinstance(value, ModuleType)]
    return {
        module.__name__.split(".")[1]: module
        for module in modules
        if is_in(module.__name__, "stages") and not is_in(module.__name__, "stages.training")
    }


def test_every_stage_has_a_run_and_a_version():
    stages = wired_stages()
    assert {"sample", "ingest", "shard", "pretrain", "finetune", "report"} <= stages.keys()
    for name, module in stages.items():
        assert callable(module.run), name
        assert type(module.VERSION) is int, name
        assert list(inspect.signature(module.run).parameters) == ["config", "context"], name


def borrowings(found: list[Import], stages: Collection[str]) -> list[str]:
    """What a stage imports of another one, but for its config and what it may borrow."""
    wrong = []
    for entry in found:
        own = Path(entry.file).with_suffix("").parts[1]
        layer, other, *rest = [*entry.module.split("."), "", ""]
        if layer != "stages" or other == own or other not in stages:
            continue
        is_config = rest[:1] == [ROOMS_CONFIG] or rest[0].endswith("Config")
        if not is_config and ((own, other) not in BORROWED or rest[0] in ("run", "stage")):
            wrong.append(str(entry))
    return wrong


def test_stages_do_not_import_one_another_but_for_their_configs():
    assert not borrowings(imports_under("stages"), wired_stages().keys())


def sources(root: Path = ROOT) -> list[Path]:
    return [path for layer in LAYERS for path in sorted((root / layer).rglob("*.py"))]


def import_graph(root: Path = ROOT) -> dict[str, set[str]]:
    """The files that each file imports, at its top or inside a function."""
    files = {path.relative_to(root).as_posix(): path for path in sources(root)}

    def file_of(module: str) -> str | None:
        path = module.replace(".", "/")
        return next((name for name in (f"{path}.py", f"{path}/__init__.py") if name in files), None)

    graph: dict[str, set[str]] = {}
    for name, path in files.items():
        # `from a import b` is of the module a.b, or of a's own b.
        found = (file_of(i.module) or file_of(i.module.rpartition(".")[0]) for i in find_imports(path, root=root))
        graph[name] = {target for target in found if target is not None and target != name}
    return graph


def circles(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """Groups of files each of which imports, perhaps by way of others, all others of its group."""

    def reach(start: str) -> set[str]:
        seen: set[str] = set()
        queue = [start]
        while queue:
            for target in graph[queue.pop()] - seen:
                seen.add(target)
                queue.append(target)
        return seen

    reached = {name: reach(name) for name in graph}
    return {
        frozenset(other for other in reached[name] if name in reached[other]) for name in graph if name in reached[name]
    }


def test_imports_go_round_in_no_circle_but_those_listed():
    assert circles(import_graph()) == CIRCLES.keys()
    assert len(CIRCLES) <= 2


def test_no_file_is_a_drawer_for_everything_or_very_long():
    for path in sources():
        assert path.stem not in ("utils", "util", "helpers", "common", "misc"), path
        assert len(path.read_text().splitlines()) <= 400, f"{path} is long: cut it where the subject changes"


def test_no_folder_is_crowded():
    for layer in (*LAYERS, "tests"):
        for folder in (ROOT / layer, *(path for path in (ROOT / layer).rglob("*") if path.is_dir())):
            files = [path for path in folder.iterdir() if path.is_file() and path.name != "__init__.py"]
            assert len(files) <= 20, f"{folder} holds {len(files)} files: make a room of those that belong together"


def shared_names(paths: Collection[Path]) -> list[str]:
    """Files of the same name that are not counterparts of one another."""
    by_name: dict[str, list[Path]] = {}
    for path in paths:
        if path.stem not in ("__init__", ROOMS_CONFIG):
            by_name.setdefault(path.stem, []).append(path)
    return [
        " ".join(map(str, same))
        for name, same in by_name.items()
        if len(same) > 1 and (name not in COUNTERPARTS or len({path.parent.parent for path in same}) > 1)
    ]


def test_no_two_files_share_a_name_but_counterparts():
    assert not shared_names(sources())


def test_a_folders_config_is_light():
    """No config imports, at its top, what takes long to import."""
    configs = [path for path in sources() if path.stem == ROOMS_CONFIG]
    assert len(configs) > 5
    found = [entry for path in configs for entry in find_imports(path) if not entry.lazy]
    assert not offenders(found, *HEAVY)


def folders_of(picture: str) -> set[str]:
    """The folders that a picture names: those of a line are side by side, below the line of less indentation."""
    found: set[str] = set()
    above: list[tuple[int, str]] = []  # indentation and path of the folders around the line
    for line in picture.splitlines():
        indent = len(line) - len(line.lstrip())
        names = re.match(r"(?:[\w]+/ +)*[\w]+/(?= |$)", line.strip())
        if names is None:
            continue
        above = [(depth, path) for depth, path in above if depth < indent]
        parent = above[-1][1] + "/" if above else ""
        paths = [parent + name.removesuffix("/") for name in names.group().split()]
        above.append((indent, paths[0]))
        found.update(paths)
    return found


def test_the_readmes_picture_is_what_is_there():
    text = (ROOT / "README.md").read_text()
    (picture,) = (block for block in text.split("```")[1::2] if block.startswith("\nconfigs/"))
    there = {"configs", "tests", *LAYERS}
    there |= {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / "tests").glob("*/*") if path.is_file()}
    for layer in LAYERS:
        there |= {path.parent.relative_to(ROOT).as_posix() for path in (ROOT / layer).rglob("*.*") if path.is_file()}
    there = {folder for folder in there if "__pycache__" not in folder}
    assert folders_of(picture) == there


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


def test_circles_crossings_and_shared_names_are_seen(tmp_path):
    """A negative control on a made-up tree: a circle through a function, none through a type checker's import."""
    files = {
        "pipeline/__init__.py": "",
        "pipeline/plan.py": "from stages.one import run",
        "stages/one.py": "from stages.two.stage import run\nfrom stages.two.config import TwoConfig",
        "stages/two/stage.py": "def run():\n    import stages.two.worker",
        "stages/two/worker.py": "from stages.two import stage",
        "stages/two/config.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import stages.two.stage",
        "stages/two/deep/stage.py": "from stages.two import config",
        "stages/two/plan.py": "import stages.two.plan",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (tmp_path / "cluster").mkdir()
    graph = import_graph(tmp_path)
    assert graph["stages/one.py"] == {"stages/two/stage.py", "stages/two/config.py"}
    assert circles(graph) == {frozenset({"stages/two/stage.py", "stages/two/worker.py"})}
    crossing = borrowings(find_imports(tmp_path / "stages/one.py", root=tmp_path), {"one", "two"})
    assert crossing == ["stages/one.py:1 imports stages.two.stage.run"]
    plans, stages = shared_names([path.relative_to(tmp_path) for path in sources(tmp_path)])
    assert plans == "pipeline/plan.py stages/two/plan.py"
    assert stages == "stages/two/deep/stage.py stages/two/stage.py"


def test_a_pictures_folders_are_read_as_they_are_drawn():
    picture = "a/        words/of all kinds\n  b/  c/    more\n          and more\n    d/\ne/  f.py and g\n"
    assert folders_of(picture) == {"a", "a/b", "a/c", "a/b/d", "e"}
