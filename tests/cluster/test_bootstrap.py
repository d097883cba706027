"""Where Ray keeps its sockets: their paths are short enough wherever temporary files lie."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cluster.bootstrap import _short_folder

ROOT = Path(__file__).parents[2]
SESSION = "/session_2026-11-28_07-51-50_997102_4194304/sockets/plasma_store"
RUN = """
import ray
from cluster.bootstrap import connect
from cluster.config import ClusterConfig
connect(ClusterConfig(), verbose=False)
print(ray.get(ray.remote(lambda: "done").remote()))
"""


@pytest.mark.parametrize("length", [4, 30, 36, 37, 39, 40, 80, 200])
@pytest.mark.parametrize("variable", ["TMPDIR", "RAY_TMPDIR"])
def test_every_socket_has_a_path_that_fits(monkeypatch: pytest.MonkeyPatch, variable: str, length: int) -> None:
    for name in ("TMPDIR", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    folder = "/" + "x" * (length - 1)
    monkeypatch.setenv(variable, folder)
    assert len((_short_folder() or f"{folder}/ray") + SESSION) <= 107
    if length <= 36:
        assert _short_folder() is None


@pytest.mark.slow
def test_ray_starts_where_the_path_of_temporary_files_has_eighty_characters(tmp_path: Path) -> None:
    folder = str(tmp_path / "a").ljust(80, "a")
    Path(folder).mkdir()
    environment = os.environ | {"TMPDIR": folder, "RAY_ADDRESS": "local"}
    found = subprocess.run([sys.executable, "-c", RUN], env=environment, cwd=ROOT, capture_output=True, text=True)
    assert found.stdout == "done\n", found.stderr
