"""How devices are arranged, and what is refused before and after JAX knows how many there are."""

import pytest

from cluster.config import ClusterConfig, MeshConfig, Platform
from cluster.mesh import is_split, make_mesh


def test_what_is_left_of_the_devices_splits_the_batch():
    assert MeshConfig(fsdp=2, tensor=2).shape(num_devices=8, num_processes=1) == (2, 2, 2)
    assert MeshConfig().shape(num_devices=8, num_processes=2) == (8, 1, 1)
    assert MeshConfig(fsdp=8).shape(num_devices=8, num_processes=8) == (1, 8, 1)
    assert not is_split(make_mesh())


@pytest.mark.parametrize(
    ("mesh", "num_processes", "message"),
    [
        ({"fsdp": 3, "tensor": 2}, 1, r"cluster.mesh has fsdp 3 x tensor 2 = 6, must divide the 8 devices"),
        ({"tensor": 4}, 4, r"cluster.mesh.tensor is 4, must divide the 2 devices of a process"),
    ],
)
def test_what_does_not_divide_the_devices_is_refused(mesh, num_processes, message):
    with pytest.raises(ValueError, match=message):
        MeshConfig(**mesh).shape(num_devices=8, num_processes=num_processes)
    with pytest.raises(ValueError, match=message):
        ClusterConfig(
            platform=Platform.CUDA,
            num_processes=num_processes,
            accelerators_per_process=8 // num_processes,
            mesh=MeshConfig(**mesh),
        )


def test_an_axis_has_at_least_one_device():
    with pytest.raises(ValueError, match="tensor is 0, must be at least 1"):
        MeshConfig(tensor=0)
