"""Several JAX processes as one program: they compute together, come back when lost, and stop on errors."""

import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from ray import cloudpickle
from upath import UPath

from cluster.config import ClusterConfig
from cluster.launch import launch

# The workers cannot import this file; its functions travel as code.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

TWO = ClusterConfig(num_processes=2, max_failures=2)


def write_sum(folder: Path) -> None:
    import jax
    import numpy as np

    from cluster.distributed import global_batch
    from cluster.mesh import make_mesh, replicated

    mesh = make_mesh()
    rank = jax.process_index()
    batch = global_batch(mesh, {"x": np.array([[1.0 + rank], [10.0 + rank]])})
    assert batch["x"].shape == (4, 1)
    total = jax.jit(lambda x: x[:, 0] @ np.array([1.0, 100.0, 1e4, 1e6]), out_shardings=replicated(mesh))(batch["x"])
    (folder / f"sum-{rank}").write_text(str(float(total.addressable_data(0))))


def die_once(folder: Path) -> None:
    import jax
    import numpy as np
    from jax.experimental.multihost_utils import process_allgather

    tries = folder / f"tries-{jax.process_index()}"
    tries.write_text(tries.read_text() + "x" if tries.exists() else "x")
    for call in range(100):
        process_allgather(np.ones(3), tiled=True)
        if jax.process_index() == 0 and len(tries.read_text()) == 1 and call == 20:
            os.kill(os.getpid(), signal.SIGKILL)
    write_sum(folder)


def refuse(folder: Path) -> None:
    with (folder / "calls").open("a") as file:
        file.write("x")
    raise ValueError("batch_size is 3, must be a multiple of 2 devices")


def refuse_beside_others(folder: Path) -> None:
    import jax

    with (folder / f"calls-{jax.process_index()}").open("a") as file:
        file.write("x")
    if jax.process_index() == 1:
        raise FileNotFoundError("data/MRPC is not on this machine")
    write_sum(folder)


def run(worker, tmp_path: Path) -> None:
    launch(worker, {"folder": tmp_path}, cluster=TWO, storage=UPath(tmp_path) / "ray")


def write_sum_and_folder(folder: Path) -> None:
    import jax

    write_sum(folder)
    (folder / f"cwd-{jax.process_index()}").write_text(os.getcwd())


@pytest.fixture(scope="module")
def launched(ray_cluster, tmp_path_factory) -> Path:
    """What two processes wrote, started in a folder of its own, past a proxy that is set for all else."""
    folder = tmp_path_factory.mktemp("launched")
    proxies = dict.fromkeys(("http_proxy", "https_proxy"), "http://127.0.0.1:9") | {"no_proxy": "localhost,127.0.0.1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        cluster = replace(TWO, env=proxies)
        launch(write_sum_and_folder, {"folder": folder}, cluster=cluster, storage=UPath(folder) / "ray")
    return folder


def test_processes_find_each_other_and_compute_over_the_rows_of_all_in_order(launched):
    expected = 1.0 + 10.0 * 100 + 2.0 * 1e4 + 11.0 * 1e6
    assert [float((launched / f"sum-{rank}").read_text()) for rank in (0, 1)] == [expected, expected]


def test_processes_work_in_the_folder_that_relative_paths_are_relative_to(launched):
    assert [(launched / f"cwd-{rank}").read_text() for rank in (0, 1)] == [str(launched)] * 2


@pytest.mark.slow
def test_a_killed_process_is_replaced_and_all_start_again(ray_cluster, tmp_path):
    """Its peer, in a small collective that jax runs at once, gets a ValueError: no error of the work."""
    run(die_once, tmp_path)
    assert [(tmp_path / f"tries-{rank}").read_text() for rank in (0, 1)] == ["xx", "xx"]
    assert (tmp_path / "sum-0").exists()


@pytest.mark.slow
def test_an_error_in_the_work_is_raised_as_it_is_and_not_tried_again(ray_cluster, tmp_path):
    with pytest.raises(ValueError, match="batch_size is 3, must be a multiple of 2 devices"):
        run(refuse, tmp_path)
    assert len((tmp_path / "calls").read_text()) <= 2


@pytest.mark.slow
def test_an_error_of_one_process_is_raised_as_it_is_and_not_taken_for_a_lost_peer(ray_cluster, tmp_path):
    with pytest.raises(FileNotFoundError, match="data/MRPC is not on this machine"):
        run(refuse_beside_others, tmp_path)
    assert (tmp_path / "calls-1").read_text() == "x"
