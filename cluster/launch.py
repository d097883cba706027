"""Runs one function in several JAX processes that form one program, through Ray Train."""

import os
import re
import time
import traceback
from collections.abc import Callable
from typing import Any

from upath import UPath

from cluster.config import ClusterConfig, Platform
from cluster.credentials import keep_out_of_logs
from cluster.distributed import configure, process_environment
from cluster.storage import write_bytes

# How XLA's errors begin when a peer is lost. A jitted call that runs at once (a small one on CPU) raises ValueError.
_STATUS_OF_LOSS = re.compile(r"(ABORTED|CANCELLED|DATA_LOSS|DEADLINE_EXCEEDED|INTERNAL|UNAVAILABLE|UNKNOWN): ")
_SECONDS_FOR_PEERS = 5.0  # an error that is the same in all processes reaches all of them within this time


def launch(worker: Callable[..., None], arguments: dict[str, Any], *, cluster: ClusterConfig, storage: UPath) -> None:
    """Calls `worker(**arguments)` in `cluster.num_processes` processes with `jax.distributed` set up.

    If a worker is lost (killed, unreachable, a peer's failure), it is replaced and all start again, at most
    `cluster.max_failures` times; the worker itself finds where to resume. An error in the work would happen again, so
    it ends all workers and is raised.

    Args:
      worker: A function of a module. It and `arguments` travel to other machines.
      cluster: How many processes, with which resources.
      storage: A folder that all of them reach, for Ray Train's own records.

    Raises:
      Exception: The worker's own error, or a RuntimeError that names the workers that were lost.
    """
    # Ray Train otherwise moves every worker into a folder of its own, and relative paths break.
    os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
    os.environ.setdefault("RAY_TRAIN_METRICS_ENABLED", "0")
    os.environ.setdefault("JAX_DISTRIBUTED_SHUTDOWN_TIMEOUT_S", "5")
    from ray import cloudpickle
    from ray.train.v2.api.config import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.exceptions import TrainingFailedError
    from ray.train.v2.jax import JaxTrainer
    from ray.train.v2.jax.config import JaxConfig

    errors = storage / "errors"
    if errors.exists():
        errors.fs.rm(errors.path, recursive=True)
    accelerator = {Platform.CUDA: "GPU", Platform.TPU: "TPU"}.get(cluster.platform)
    resources: dict[str, float] = {"CPU": cluster.cpus_per_process}
    if accelerator:
        resources[accelerator] = cluster.accelerators_per_process
    work = {"worker": worker, "arguments": arguments, "cluster": cluster, "cwd": os.getcwd(), "errors": errors}
    trainer = JaxTrainer(
        _run_worker,
        train_loop_config=work,
        # A plain JaxConfig on CPU leaves jax.distributed out; `use_gpu` stands for 'set it up'.
        jax_config=JaxConfig(use_tpu=cluster.platform is Platform.TPU, use_gpu=cluster.platform is not Platform.TPU),
        scaling_config=ScalingConfig(
            num_workers=cluster.num_processes,
            use_gpu=cluster.platform is Platform.CUDA,
            use_tpu=cluster.platform is Platform.TPU,
            resources_per_worker=resources,
        ),
        run_config=RunConfig(
            name="workers",
            storage_path=str(storage),
            failure_config=FailureConfig(max_failures=cluster.max_failures),
            worker_runtime_env={"env_vars": _past_proxies() | process_environment(cluster)},
        ),
    )
    lost: Exception | None = None
    try:
        trainer.fit()
    except TrainingFailedError as error:
        lost = error
    if written := _written(errors):
        raise cloudpickle.loads(written[0].read_bytes())
    if lost is not None:
        failures = getattr(lost, "worker_failures", {})
        found = "; ".join(f"process {rank}: {failure}" for rank, failure in sorted(failures.items())) or str(lost)
        raise RuntimeError(f"training processes were lost more than {cluster.max_failures} times: {found}") from lost


def _past_proxies() -> dict[str, str]:
    """JAX's processes reach one another by gRPC, which asks an HTTP proxy for every host that is not listed."""
    import ray

    names = ("no_grpc_proxy", "no_proxy", "NO_PROXY")  # in the order in which gRPC takes the first
    listed = [next(filter(None, map(os.environ.get, names)), "")]
    listed += sorted({node["NodeManagerAddress"] for node in ray.nodes()})
    return {"no_grpc_proxy": ",".join(filter(None, listed))}


def _run_worker(config: dict[str, Any]) -> None:
    """The function that Ray Train runs in each process. It writes errors that a new try would repeat to `errors`."""
    from ray import cloudpickle, train

    if os.path.isdir(config["cwd"]):  # which relative paths are relative to
        os.chdir(config["cwd"])
    errors: UPath = config["errors"]
    if _written(errors):  # in the try before
        return
    configure(config["cluster"])
    keep_out_of_logs()
    try:
        config["worker"](**config["arguments"])
    except RuntimeError:  # jax.errors.JaxRuntimeError among them: a peer was lost
        raise
    except Exception as error:
        if isinstance(error, ValueError) and _STATUS_OF_LOSS.match(str(error)):
            raise
        error.add_note(traceback.format_exc())  # where it happened would not travel with it
        write_bytes(errors / str(train.get_context().get_world_rank()), cloudpickle.dumps(error))
        until = time.monotonic() + _SECONDS_FOR_PEERS
        while len(_written(errors)) < train.get_context().get_world_size():
            if time.monotonic() > until:
                raise  # the peers wait for this process, perhaps for ever: Ray Train ends them
            time.sleep(0.1)


def _written(errors: UPath) -> list[UPath]:
    """The files of errors, in the order of the processes."""
    errors.fs.invalidate_cache()  # what other processes wrote is not in this one's listing
    found = [path for path in errors.iterdir() if path.name.isdigit()] if errors.exists() else []
    return sorted(found, key=lambda path: int(path.name))
