"""Killed in mid-run, started again with the same command: the result has the bits of an uninterrupted run.

Through the real command line, in processes of its own; and between two hosts, through `ray job submit`.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
import psutil
import pytest
from etils import epath

CONFIG = Path(__file__).with_name("tiny.yaml")
ROOT = Path(__file__).parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("resume")]


def start(output: Path, *arguments: str) -> subprocess.Popen:
    output.mkdir(parents=True, exist_ok=True)
    log = (output.parent / f"{output.name}.log").open("ab")
    # MLflow has tests of its own, and takes as long to begin as all that is tested here.
    settings = ("--set", f"output={output}", "--set", "tracking=null")
    command = [sys.executable, "-m", "pipeline.run", str(CONFIG), *settings, *arguments]
    environment = os.environ | {"RAY_ADDRESS": "local"}
    return subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=environment)


def finish(output: Path, *arguments: str) -> None:
    process = start(output, *arguments)
    assert process.wait(timeout=900) == 0, (output.parent / f"{output.name}.log").read_text()[-4000:]


def wait_for(condition: Callable[[], bool], *, seconds: float, process: subprocess.Popen, output: Path) -> None:
    until = time.monotonic() + seconds
    while not condition():
        log = output.parent / f"{output.name}.log"
        assert process.poll() is None, f"ended before it could be killed:\n{log.read_text()[-4000:]}"
        assert time.monotonic() < until, f"did not come so far in {seconds} s:\n{log.read_text()[-4000:]}"
        time.sleep(0.05)


def stage_folder(output: Path, stage: str) -> Path:
    (folder,) = (entry for entry in (output / stage).iterdir() if entry.is_dir())
    return folder


def has_checkpoint(output: Path, step: int) -> bool:
    return any((output / "pretrain").glob(f"*/checkpoints/{step}/commit_success.txt"))


def losses(output: Path) -> list[dict[str, float]]:
    """Rows of metrics without those that measure time."""
    lines = (stage_folder(output, "pretrain") / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if not k.startswith("throughput/")} for line in lines]


def parameters(output: Path) -> bytes:
    return (stage_folder(output, "pretrain") / "model" / "parameters.safetensors").read_bytes()


def assert_same_end(output: Path, whole: Path) -> None:
    """The same losses, parameters and optimizer state, bit for bit."""
    assert losses(output) == losses(whole)
    assert parameters(output) == parameters(whole)
    ours, theirs = (jax.tree.leaves_with_path(last_state(folder)) for folder in (output, whole))
    assert len(ours) > 3 * 20  # parameters and two moments
    for (path, mine), (_, its) in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(mine, its, err_msg=jax.tree_util.keystr(path))


def last_state(output: Path) -> Any:
    """What the checkpoint of the last step holds."""
    handler, path = (
        ocp.PyTreeCheckpointHandler(),
        epath.Path(stage_folder(output, "pretrain") / "checkpoints/120/state"),
    )
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), handler.metadata(path).tree)
    return handler.restore(path, args=ocp.args.PyTreeRestore(restore_args=kinds))


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """Output of a run that nothing disturbed."""
    output = tmp_path_factory.mktemp("resume") / "whole"
    finish(output, "--until", "pretrain")
    return output


def with_shards_of(whole: Path, output: Path) -> Path:
    """An output in which all before pretraining is done."""
    for stage in ("sample", "ingest", "vocab", "shard"):
        shutil.copytree(whole / stage, output / stage)
    return output


def is_training_process(pid: int) -> bool:
    try:
        return "TrainWorker" in " ".join(psutil.Process(pid).cmdline())
    except psutil.Error:
        return False


def training_processes(driver: subprocess.Popen) -> list[psutil.Process]:
    found = [p for p in psutil.Process(driver.pid).children(recursive=True) if is_training_process(p.pid)]
    assert len(found) == 2, [p.cmdline() for p in psutil.Process(driver.pid).children(recursive=True)]
    return found


@pytest.fixture(scope="module")
def killed(whole, tmp_path_factory) -> Path:
    """Output of a run of which a training process was killed, and when that was replaced the driver."""
    output = with_shards_of(whole, tmp_path_factory.mktemp("resume") / "killed")
    process = start(output, "--until", "pretrain")
    wait_for(lambda: has_checkpoint(output, 20), seconds=600, process=process, output=output)
    training_processes(process)[1].kill()
    # Replaced, it goes on.
    wait_for(lambda: has_checkpoint(output, 60), seconds=600, process=process, output=output)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (stage_folder(output, "pretrain") / "result.json").exists()
    return output


def test_after_kill_9_of_a_training_process_and_of_the_driver_the_bits_are_the_same(whole, killed, tmp_path):
    output = Path(shutil.copytree(killed, tmp_path / "resumed"))
    finish(output, "--until", "pretrain")
    result = json.loads((stage_folder(output, "pretrain") / "result.json").read_text())
    assert result["resumed_from_step"] >= 60
    assert_same_end(output, whole)


def test_from_two_processes_to_one_and_back_they_read_the_same_batches_and_lose_the_same(whole, killed, tmp_path):
    output = Path(shutil.copytree(killed, tmp_path / "changed"))
    alone = start(output, "--until", "pretrain", "--set", "cluster.num_processes=1")
    wait_for(lambda: has_checkpoint(output, 100), seconds=600, process=alone, output=output)
    alone.send_signal(signal.SIGKILL)
    alone.wait()
    finish(output, "--until", "pretrain")
    result = json.loads((stage_folder(output, "pretrain") / "result.json").read_text())
    assert result["num_processes"] == 2
    assert result["resumed_from_step"] >= 100
    for changed, same in zip(losses(output), losses(whole), strict=True):
        for name in ("loss/total", "loss/generator", "loss/discriminator"):
            np.testing.assert_allclose(changed[name], same[name], rtol=1e-4, err_msg=f"{name} at step {same['step']}")


def test_a_training_process_told_to_end_has_all_save_first_and_the_run_ends_with_the_same_bits(whole, tmp_path):
    output = with_shards_of(whole, tmp_path / "preempted")
    # No checkpoint after that of step 12 but the one that SIGTERM asks for.
    settings = ("--set", "pretrain.milestones=[10]", "--set", "pretrain.checkpoint_every=1000")
    process = start(output, "--until", "pretrain", *settings)
    wait_for(lambda: has_checkpoint(output, 12), seconds=600, process=process, output=output)
    training_processes(process)[1].terminate()
    assert process.wait(timeout=900) == 0, (tmp_path / "preempted.log").read_text()[-4000:]
    result = json.loads((stage_folder(output, "pretrain") / "result.json").read_text())
    assert result["resumed_from_step"] > 12
    assert_same_end(output, whole)


def test_two_hosts_whose_link_is_cut_and_mended_go_on_to_the_same_bits(whole, hosts, tmp_path):
    output = with_shards_of(whole, tmp_path / "hosts")
    log = output.parent / "hosts.log"

    def trains(number: int) -> bool:
        return any(is_training_process(pid) for pid in hosts.processes(number))

    with log.open("wb") as file:
        run = (sys.executable, "-m", "pipeline.run", str(CONFIG), "--set", f"output={output}", "--until", "pretrain")
        command, environment = hosts.command(0, ["ray", "job", "submit", "--working-dir", str(ROOT), "--", *run])
        job = subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)
    wait_for(lambda: has_checkpoint(output, 20), seconds=600, process=job, output=output)
    assert trains(0)
    assert trains(1)
    hosts.cut()
    # The host that is left gives the other one up, and waits for it.
    wait_for(lambda: not trains(0), seconds=100, process=job, output=output)
    hosts.mend()
    assert job.wait(timeout=900) == 0, log.read_text()[-4000:]
    result = json.loads((stage_folder(output, "pretrain") / "result.json").read_text())
    assert result["resumed_from_step"] >= 20
    assert_same_end(output, whole)
