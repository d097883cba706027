"""MLflow: the only file that imports it. One writer, used by one thread."""

import os
import re
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from upath import UPath

from cluster.credentials import redact
from cluster.storage import local_copy
from pipeline.tracking.ledger import read_ledger, write_ledger
from pipeline.tracking.messages import (
    CloseRun,
    Dataset,
    Description,
    Files,
    Message,
    Metrics,
    Model,
    OpenRun,
    Params,
    WriterSettings,
)

# MLflow reads these when it is imported. Each try is short: the recorder decides how often to retry.
os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "30")
os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")

MAX_METRICS, MAX_PARAMS, MAX_PARAM_CHARACTERS = 1000, 100, 6000
_MAX_TAG_CHARACTERS = 5000

_ROOT = Path(__file__).resolve().parents[2]
# What a logged model needs to predict.
_NEEDED: tuple[str, ...] = ("jax", "flax", "numpy", "pandas", "safetensors", "scikit-learn", "scipy", "tokenizers")
_NEEDED += ("huggingface-hub", "universal-pathlib")
# Errors of the request itself: a retry cannot help.
_FINAL_ERRORS = {"INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "RESOURCE_ALREADY_EXISTS", "BAD_REQUEST"}
_FINAL_ERRORS |= {"PERMISSION_DENIED", "UNAUTHENTICATED", "NOT_IMPLEMENTED"}


class MlflowWriter:
    """Writes messages to MLflow. Connects at the first one, so that the recorder's retries wait for the server."""

    def __init__(self, settings: WriterSettings) -> None:
        self._settings = settings
        self._connection: Any = None
        self._experiment_id = ""
        self._run_ids: dict[str, str] = {}
        self._params: dict[str, dict[str, str]] = {}
        self._began: dict[str, float] = {}
        self._steps: dict[str, dict[str, set[int]]] = {}

    def may_pass(self, error: Exception) -> bool:
        """Whether a retry may help: a lost connection, a busy database, a restarting server."""
        from mlflow.exceptions import MlflowException

        if isinstance(error, MlflowException):
            return error.error_code not in _FINAL_ERRORS
        return isinstance(error, OSError) and not isinstance(error, FileNotFoundError)

    def write(self, batch: Sequence[Message]) -> None:
        """Writes a message, or several metrics of one run."""
        match batch[0]:
            case OpenRun() as message:
                self._open(message)
            case Metrics():
                self._write_metrics([message for message in batch if isinstance(message, Metrics)])
            case Params() as message:
                self._write_params(message.key, message.values)
            case Description() as message:
                self._client.set_tag(self._run_ids[message.key], "mlflow.note.content", message.text)
            case Files() as message:
                self._write_files(message.key, message.files)
            case Dataset() as message:
                self._write_dataset(message)
            case Model() as message:
                self._write_model(message)
            case CloseRun() as message:
                self._close(message)

    @property
    def _client(self) -> Any:
        if self._connection is None:
            import mlflow

            mlflow.set_tracking_uri(self._settings.uri)
            client = mlflow.MlflowClient(tracking_uri=self._settings.uri)
            experiment = client.get_experiment_by_name(self._settings.experiment)
            if experiment is None:
                name, artifacts = self._settings.experiment, self._settings.artifacts
                self._experiment_id = client.create_experiment(name, artifact_location=artifacts)
            else:
                self._experiment_id = experiment.experiment_id
                if experiment.lifecycle_stage == "deleted":
                    client.restore_experiment(self._experiment_id)
            mlflow.set_experiment(experiment_id=self._experiment_id)  # where logged models go
            self._connection = client
        return self._connection

    def _open(self, message: OpenRun) -> None:
        from mlflow.exceptions import MlflowException

        if message.key in self._run_ids:
            return  # several stages open the runs that they share
        client = self._client
        tags = {"mlflow.runName": message.name, **message.tags}
        if message.parent is not None:
            tags["mlflow.parentRunId"] = self._run_ids[message.parent]
        run = None
        known = {} if message.is_new else read_ledger(self._settings.ledger).get(redact(self._settings.uri), {})
        if message.key in known:
            try:
                run = client.get_run(known[message.key])
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise
        if run is not None and run.info.lifecycle_stage == "active":
            client.update_run(run.info.run_id, status="RUNNING")
            for name, value in tags.items():
                client.set_tag(run.info.run_id, name, value)
        else:
            run = client.create_run(self._experiment_id, tags=tags, run_name=message.name)
            write_ledger(
                self._settings.ledger, self._settings.uri, message.key, run.info.run_id, experiment=self._experiment_id
            )
        self._run_ids[message.key] = run.info.run_id
        self._params[message.key] = dict(run.data.params)
        self._began[message.key] = run.info.start_time / 1000
        histories = {name: client.get_metric_history(run.info.run_id, name) for name in run.data.metrics}
        self._steps[message.key] = {name: {point.step for point in points} for name, points in histories.items()}
        self._write_params(message.key, message.params)
        self._write_files(message.key, message.files)

    def _close(self, message: CloseRun) -> None:
        run_id = self._run_ids.get(message.key)
        if run_id is None:
            return  # the stage ended before its process began
        if message.error is not None:
            self._client.set_tag(run_id, "error", message.error[:_MAX_TAG_CHARACTERS])
        self._client.set_terminated(run_id, status=message.status)

    def _write_metrics(self, messages: Sequence[Metrics]) -> None:
        """Leaves out points that the run has: a stage that resumes from a checkpoint repeats steps."""
        from mlflow.entities import Metric

        key = messages[0].key
        began = self._began.get(key, messages[0].time)
        steps = self._steps.setdefault(key, {})
        metrics = [
            Metric(
                key=_clean(name),
                value=value,
                timestamp=int(message.time * 1000),
                step=max(0, int(message.time - began)) if message.step is None else message.step,
            )
            for message in messages
            for name, value in message.values.items()
            if message.step is None or message.step not in steps.get(_clean(name), ())
        ]
        for start in range(0, len(metrics), MAX_METRICS):
            written = metrics[start : start + MAX_METRICS]
            self._client.log_batch(self._run_ids[key], metrics=written)
            for metric in written:
                steps.setdefault(metric.key, set()).add(metric.step)

    def _write_params(self, key: str, values: Mapping[str, object]) -> None:
        """MLflow refuses to change a parameter: one that a resumed run changes becomes a tag of the same name."""
        from mlflow.entities import Param

        known = self._params[key]
        flat = {_clean(name)[:250]: _cut(value, MAX_PARAM_CHARACTERS) for name, value in flatten(values).items()}
        new = {name: value for name, value in flat.items() if name not in known}
        params = [Param(name, value) for name, value in new.items()]
        for start in range(0, len(params), MAX_PARAMS):
            self._client.log_batch(self._run_ids[key], params=params[start : start + MAX_PARAMS])
        for name, value in flat.items():
            if name in known and known[name] != value:
                self._client.set_tag(self._run_ids[key], name, _cut(value, _MAX_TAG_CHARACTERS))
        known.update(new)

    def _write_files(self, key: str, files: Mapping[str, bytes]) -> None:
        if not files:
            return
        with tempfile.TemporaryDirectory() as folder:
            for name, content in files.items():
                path = Path(folder, name)
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(content)
            self._client.log_artifacts(self._run_ids[key], folder)

    def _write_dataset(self, message: Dataset) -> None:
        import mlflow.data
        from mlflow.data.meta_dataset import MetaDataset
        from mlflow.entities import DatasetInput, InputTag
        from mlflow.utils.mlflow_tags import MLFLOW_DATASET_CONTEXT

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MLflow warns that it registers a class twice
            source: Any = mlflow.data.dataset_source_registry.resolve_dataset_source(message.source)
        dataset = MetaDataset(source, name=message.name)  # type: ignore[abstract]
        entry = DatasetInput(dataset._to_mlflow_entity(), tags=[InputTag(MLFLOW_DATASET_CONTEXT, message.context)])
        self._client.log_inputs(self._run_ids[message.key], datasets=[entry])

    def _write_model(self, message: Model) -> None:
        """Logs the folder with the code that predicts, so that it loads where this project is not installed."""
        import mlflow

        with local_copy(UPath(message.path)) as folder:
            card = Path(folder, "README.md")
            logged = mlflow.models.Model.log(
                artifact_path=None,
                name=re.sub(r"""[/:.%"']""", "-", message.name),
                flavor=mlflow.pyfunc,
                run_id=self._run_ids[message.key],
                loader_module="stages.tasks.predictor",
                data_path=str(folder),
                code_paths=[str(_ROOT / package) for package in ("stages", "cluster")],
                pip_requirements=[f"{name}=={metadata.version(name)}" for name in _NEEDED],
            )
            if card.is_file() and logged.model_id:
                # Without the lines between two rules at its top, which are for the hub.
                text = re.sub(r"\A---\n.*?\n---\n", "", card.read_text(encoding="utf-8"), flags=re.DOTALL)
                tags = {"mlflow.note.content": _cut(text.strip(), _MAX_TAG_CHARACTERS)}
                self._client.set_logged_model_tags(logged.model_id, tags)


def flatten(values: Mapping[str, object], prefix: str = "") -> dict[str, str]:
    """`{"model": {"size": "small"}}` to `{"model.size": "small"}`; what is None or empty is left out."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        elif value is not None and value not in ((), [], {}):
            flat[f"{prefix}{name}"] = redact(str(list(value) if isinstance(value, tuple) else value))
    return flat


def _clean(name: str) -> str:
    """MLflow allows letters, digits and `_-. :/` in names."""
    return re.sub(r"[^\w\-. :/]", "_", name, flags=re.ASCII)


def _cut(text: str, limit: int) -> str:
    """MLflow refuses longer values; config.json among the artifacts has all of it."""
    return text if len(text) <= limit else text[: limit - 1] + "…"
