"""One JAX process among several: its settings, and the arrays that all processes share."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from cluster.config import ClusterConfig, Platform

if TYPE_CHECKING:
    import jax
    import numpy as np
    from jax.sharding import Mesh


def process_environment(cluster: ClusterConfig) -> dict[str, str]:
    """Environment that a JAX process of this cluster needs before it imports jax."""
    environment = {"JAX_PLATFORMS": str(cluster.platform), "TF_CPP_MIN_LOG_LEVEL": "2"}
    if cluster.platform is Platform.CPU:
        # XLA's thread pool otherwise takes every core of the machine in each of its processes.
        environment["NPROC"] = str(cluster.cpus_per_process)
        # Large pages: without them a fifth of a small model's step goes to page faults. Read by libc at start only.
        environment["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
    return environment | cluster.env


def configure(cluster: ClusterConfig) -> None:
    """Prepares this process to compute with JAX. Call it before the first computation."""
    for name, value in process_environment(cluster).items():
        os.environ.setdefault(name, value)
    import jax

    if cluster.compilation_cache:
        jax.config.update("jax_compilation_cache_dir", str(Path(cluster.compilation_cache).expanduser()))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
        jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)


def global_batch(mesh: "Mesh", local: Mapping[str, "np.ndarray"]) -> dict[str, "jax.Array"]:
    """Joins the rows that each process holds into one array, split over the mesh as `batch_sharding` says.

    Args:
      mesh: Mesh of all processes' devices.
      local: This process's rows [B / processes, ...] of the global batch; process 0 has the first ones.
    """
    import jax

    from cluster.mesh import batch_sharding

    sharding = batch_sharding(mesh)
    return {name: jax.make_array_from_process_local_data(sharding, rows) for name, rows in local.items()}
