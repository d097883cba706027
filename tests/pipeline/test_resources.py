"""A run that asks for more than there is says so instead of waiting in silence."""

import json
from dataclasses import replace
from functools import partial

import pytest
from fake_stages import stage

from cluster.config import ClusterConfig, Platform
from pipeline.config.sections import load_config
from pipeline.dag import build_stages
from pipeline.fitting import fit
from pipeline.resources import find_shortages, is_own_cluster, task_resources


def test_training_processes_count_together():
    cluster = ClusterConfig(num_processes=4, cpus_per_process=2)
    pretrain = replace(stage("pretrain"), num_processes=4)
    found = find_shortages([pretrain, stage("export")], cluster, available={"CPU": 6.0})
    assert found == [
        "pretrain asks for 8 CPU (cluster.num_processes = 4 x cluster.cpus_per_process = 2), the cluster has 6 CPU"
    ]


def test_enough_is_no_shortage():
    pretrain = replace(stage("pretrain"), num_processes=2)
    assert find_shortages([pretrain], ClusterConfig(num_processes=2), available={"CPU": 2.0}) == []


def test_accelerators_are_asked_for_where_a_stage_computes_on_them():
    tuning = replace(stage("finetune/cola/seed-0"), accelerated=True)
    cuda = ClusterConfig(platform=Platform.CUDA, accelerators_per_process=4)
    assert task_resources(tuning, cuda) == {"CPU": 1, "GPU": 1}
    assert task_resources(stage("vocab"), cuda) == {"CPU": 1}
    assert task_resources(replace(tuning, num_processes=2), cuda) == {"CPU": 0}
    assert find_shortages([tuning], cuda, available={"CPU": 8.0}) == [
        "finetune/cola/seed-0 asks for 1 GPU, the cluster has 0 GPU"
    ]


def test_a_cluster_of_its_own_is_told_from_one_that_is_joined(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert is_own_cluster(ClusterConfig())
    assert not is_own_cluster(ClusterConfig(address="auto"))
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert not is_own_cluster(ClusterConfig())


def _load(further, *, folder, cluster, batch_size=8):
    """Loads a small pipeline with further overrides, as the command does."""
    values = {
        "output": "out",
        "cluster": cluster,
        "ingest": {"sources": ["x.txt"]},
        "vocab": {"size": 200},
        "pretrain": {"model": {"size": "tiny"}, "steps": 10, "batch_size": batch_size}
        | {"learning_rate": 0.001, "warmup_steps": 2},
    }
    path = folder / "config.yaml"
    path.write_text(json.dumps(values))
    return load_config(path, overrides=further)


@pytest.mark.parametrize(
    ("wanted", "batch_size", "available", "expected"),
    [
        ({"num_processes": 4, "cpus_per_process": 4}, 8, {"CPU": 8.0}, ["cpus_per_process=2"]),
        # Three processes would not divide the batch.
        ({"num_processes": 4}, 8, {"CPU": 3.0}, ["num_processes=2"]),
        (
            {"platform": "cuda", "accelerators_per_process": 8, "cpus_per_process": 16, "mesh": {"fsdp": 8}},
            16,
            {"CPU": 2.0},
            ["cpus_per_process=2", "platform=cpu", "accelerators_per_process=0", "mesh.fsdp=1"],
        ),
        (
            {"platform": "cuda", "accelerators_per_process": 8, "cpus_per_process": 4},
            16,
            {"CPU": 16.0, "GPU": 1.0},
            ["accelerators_per_process=1"],
        ),
    ],
)
def test_a_machine_that_lacks_something_is_told_the_overrides_that_run_there(
    tmp_path, wanted, batch_size, available, expected
):
    load = partial(_load, folder=tmp_path, cluster=wanted, batch_size=batch_size)
    before = load([])
    names = {stage.name for stage in build_stages(before)}
    assert find_shortages(build_stages(before), before.cluster, available=available)
    found = fit(load, before.cluster, chosen=names, available=available)
    assert found == [f"cluster.{override}" for override in expected]
    config = load(found)
    assert find_shortages(build_stages(config), config.cluster, available=available) == []


def test_nothing_is_advised_where_nothing_helps(tmp_path):
    load = partial(_load, folder=tmp_path, cluster={})
    assert fit(load, ClusterConfig(num_processes=2), chosen={"pretrain"}, available={"CPU": 0.0}) == []
