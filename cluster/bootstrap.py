"""Joins or starts the Ray cluster that a run works on."""

import logging
import os
import socket

from cluster.config import ClusterConfig

# Read by Ray's processes when they start, so set before `import ray`.
_QUIET = {
    "RAY_DEDUP_LOGS": "1",
    "RAY_TRAIN_METRICS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_DATA_DISABLE_PROGRESS_BARS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}

_ANSWER_SECONDS = 15.0
# A socket's path has at most 107 bytes (Linux), of which Ray's own part takes up to 68:
# /ray/session_2026-11-28_07-51-50_997102_4194304/sockets/plasma_store
_MAX_TEMPORARY_BYTES = 36


def connect(cluster: ClusterConfig, *, verbose: bool) -> None:
    """Connects this process to Ray, unless it is connected already.

    A submitted job finds its cluster in the environment; else `cluster.address` is joined; else a cluster
    of this machine starts, and ends with this process.

    Args:
      cluster: Where to go.
      verbose: Show Ray's own messages and what its workers print.

    Raises:
      ConnectionError: Nothing answers at the address, or Ray does not start.
    """
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        return
    if not verbose:
        logging.getLogger("ray").setLevel(logging.ERROR)
    address = cluster.address or os.environ.get("RAY_ADDRESS") or "local"
    _require_answer(address, named_by="cluster.address" if cluster.address else "RAY_ADDRESS")
    try:
        ray.init(
            address=address,
            log_to_driver=verbose,
            logging_level=logging.INFO if verbose else logging.ERROR,
            configure_logging=verbose,
            include_dashboard=False if address == "local" else None,
            _temp_dir=_short_folder() if address == "local" else None,
        )
    except Exception as error:  # Ray raises bare ones
        did_not = "start on this machine" if address == "local" else f"let this process join {address}"
        raise ConnectionError(
            f"Ray did not {did_not}: {error}\nTry again if the machine was overloaded; --verbose shows what Ray says."
        ) from error


def _short_folder() -> str | None:
    """Where Ray keeps its sockets and logs: None for the folder of temporary files, unless its path is too long."""
    folder = os.environ.get("RAY_TMPDIR") or os.environ.get("TMPDIR") or ""
    return "/tmp/ray" if len(os.fsencode(folder)) > _MAX_TEMPORARY_BYTES else None


def _require_answer(address: str, *, named_by: str) -> None:
    """Ray itself would try for minutes, and say little."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_ANSWER_SECONDS).close()
    except OSError as error:
        raise ConnectionError(
            f"{named_by} is {address}, and no Ray cluster answers there ({error}). Start one there (ray start --head), "
            "name another, or leave it out to run on this machine alone."
        ) from error


def task_environment() -> dict[str, str]:
    """Environment of tasks that start actors of their own, once connected.

    Ray Train asks Ray's state API whether its controller lives, and that API, without this variable, asks the cluster
    that started last on the machine. If that is another cluster, Ray Train takes the controller for dead and ends the
    training processes (seen with Ray 2.60).
    """
    import ray

    return {"RAY_ADDRESS": ray.get_runtime_context().gcs_address}
