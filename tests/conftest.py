"""What several tests share."""

import logging
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

# Before anything imports jax or ray. Compiled programs are kept between runs of the tests.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path("~/.cache/electra-pipeline/jax-tests").expanduser()))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
# Compiling takes most of the tests' time, and little of it makes what runs for milliseconds faster. What compares with
# other implementations (`tests/parity`) is compiled as for users.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# Arrays of different rank are an error, rather than lined up from the right.
os.environ.setdefault("JAX_NUMPY_RANK_PROMOTION", "raise")
# Ray's workers otherwise wait while any other test computes: they are made nicer than all else on the machine.
os.environ.setdefault("RAY_worker_niceness", "0")
# A cluster of somebody else on this machine is none of the tests' business.
os.environ["RAY_ADDRESS"] = "local"


@pytest.fixture(scope="session")
def ray_cluster() -> Iterator[None]:
    """A Ray cluster of two cores for the length of the tests."""
    import ray

    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
    yield
    ray.shutdown()
