"""The file that maps what a run is of to its id in MLflow, so that a later command goes on in it."""

import logging

from upath import UPath

from cluster.credentials import redact
from cluster.storage import read_json, write_json

# Where the experiment's id stands among the runs' keys, all of which have a slash.
_EXPERIMENT = "experiment"

logger = logging.getLogger(__name__)


def ledger_file(output: UPath) -> UPath:
    """Its place in the output folder."""
    return output / "mlflow-runs.json"


def read_ledger(file: UPath) -> dict[str, dict[str, str]]:
    """Ids by tracking server, then by key; a damaged ledger is passed over, and runs begin anew."""
    if not file.exists():
        return {}
    try:
        ledger = read_json(file)
        if not (isinstance(ledger, dict) and all(isinstance(ids, dict) for ids in ledger.values())):
            raise ValueError(f"{file}: expected ids of runs by tracking server")
    except ValueError as error:
        logger.warning("MLflow: %s; stages begin new runs", error)
        return {}
    return ledger


def write_ledger(file: UPath, uri: str, key: str, run_id: str, *, experiment: str) -> None:
    """Adds a run's id."""
    ledger = read_ledger(file)
    ledger.setdefault(redact(uri), {}).update({_EXPERIMENT: experiment, key: run_id})
    write_json(file, ledger)


def find_experiment(output: UPath, uri: str) -> str | None:
    """The id of the experiment in which an output's runs are, if one was written."""
    return read_ledger(ledger_file(output)).get(redact(uri), {}).get(_EXPERIMENT)
