"""A run that asks for more than there is says so instead of waiting in silence."""

from dataclasses import replace

from fake_stages import stage

from cluster.config import ClusterConfig, Platform
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
