"""What stands in MLflow after a run, in a real database."""

import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import mlflow
import pytest
from fake_stages import stage
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST
from upath import UPath

from cluster.config import ClusterConfig
from pipeline.config.sections import TrackingConfig
from pipeline.plan import make_plan
from pipeline.results import StageResult
from pipeline.runner import run_plan
from pipeline.screen.progress import Progress
from pipeline.tracking.driver import Recording
from pipeline.tracking.messages import Dataset, Metrics, OpenRun, Params, WriterSettings
from pipeline.tracking.mlflow_writer import MAX_PARAM_CHARACTERS, MlflowWriter, flatten
from pipeline.tracking.recorder import Recorder
from pipeline.tracking.tracker import StageTracker
from stages.context import Group

TRACKING = TrackingConfig(experiment="tests", system_metrics_seconds=0.5)


def record(
    stages: list, output: UPath, *, fresh: frozenset[str] = frozenset(), keeps_examples: bool = True
) -> list[str]:
    """Runs stages as the command does; returns what could not be written."""
    plan = make_plan(stages, output=output)
    recording = Recording(
        plan,
        tracking=TRACKING,
        output=output,
        name="quickstart",
        config_yaml="seed: 0\n",
        params={"steps": 10, "init_from": None},
        keeps_examples=keeps_examples,
        fresh=fresh,
    )
    latest: Mapping[str, StageResult] = {}
    progress: dict[str, Progress] = {}

    def watch(results: Mapping[str, StageResult]) -> None:
        nonlocal latest
        latest = results
        progress.update(recording.watch(results))

    names = {planned.name for planned in plan}
    run_plan(plan, names=names, cluster=ClusterConfig(max_failures=0), tracker_of=recording.tracker_of, watch=watch)
    return recording.close(latest)


def runs(output: UPath) -> dict[str, Any]:
    client = mlflow.MlflowClient(TRACKING.uri_for(output))
    experiment = client.get_experiment_by_name("tests")
    newest_last = reversed(client.search_runs([experiment.experiment_id], max_results=100))
    return {run.info.run_name: run for run in newest_last}


@pytest.fixture(scope="module")
def output(ray_cluster, tmp_path_factory) -> UPath:
    output = UPath(tmp_path_factory.mktemp("tracking") / "out")
    lost = record(
        [
            stage("pretrain", seconds=2.0, options={"k": 1}),
            stage("finetune/cola/seed-0", group=Group.FINETUNE, needs=("pretrain",), points=(60, 30)),
            stage("finetune/cola/seed-1", group=Group.FINETUNE, needs=("pretrain",), fail="value"),
        ],
        output,
    )
    assert lost == []
    return output


def test_runs_are_nested_pipeline_stage_seed(output):
    found = runs(output)
    assert set(found) == {"quickstart", "pretrain", "finetune", "finetune/cola/seed-0", "finetune/cola/seed-1"}
    parents = {name: run.data.tags.get("mlflow.parentRunId") for name, run in found.items()}
    assert parents["quickstart"] is None
    assert parents["pretrain"] == parents["finetune"] == found["quickstart"].info.run_id
    assert parents["finetune/cola/seed-0"] == found["finetune"].info.run_id


def test_runs_end_as_their_stages_did(output):
    found = runs(output)
    assert {name: run.info.status for name, run in found.items()} == {
        "quickstart": "FAILED",
        "pretrain": "FINISHED",
        "finetune": "FAILED",
        "finetune/cola/seed-0": "FINISHED",
        "finetune/cola/seed-1": "FAILED",
    }
    assert found["finetune/cola/seed-1"].data.tags["error"] == "corpus.txt:3: expected 2 columns, found 1"


def test_the_config_is_flattened_into_params(output):
    params = runs(output)["pretrain"].data.params
    assert params["options.k"] == "1"
    assert params["rate"] == "0.001"
    assert params["num_texts"] == "0"


def test_metrics_are_curves_by_step(output):
    client = mlflow.MlflowClient(TRACKING.uri_for(output))
    curve = client.get_metric_history(runs(output)["pretrain"].info.run_id, "loss/total")
    assert [(point.step, point.value) for point in curve] == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3)), (4, 0.25)]


def test_points_that_a_groups_stages_draw_together_are_in_the_groups_run_in_whatever_order_they_come(output):
    client = mlflow.MlflowClient(TRACKING.uri_for(output))
    curve = client.get_metric_history(runs(output)["finetune"].info.run_id, "score")
    assert {(point.step, point.value) for point in curve} == {(30, 3.0), (60, 6.0)}


def test_the_pipelines_run_has_what_runs_are_compared_by_and_fingerprints_as_tags(output):
    run = runs(output)["quickstart"]
    assert run.data.params == {"steps": "10", "hardware": "CPU"}
    assert run.data.metrics == {"scores/cola/median": 44.5, "hours": 0.5}
    assert run.data.tags["mlflow.note.content"] == "| task |"
    own = runs(output)["pretrain"].data.tags
    assert len({run.data.tags["fingerprint"], own["fingerprint"]}) == 2
    assert [name for name in run.data.tags if "/" in name] == []  # every stage's run has its own
    assert own["mlflow.source.name"] == run.data.tags["mlflow.source.name"] == "pipeline.run quickstart"
    assert own["mlflow.note.content"] == "went well"
    assert "stage" not in own  # its name says it


def test_texts_of_the_data_stay_out_where_they_must(ray_cluster, tmp_path):
    output = UPath(tmp_path / "out")
    assert record([stage("a")], output, keeps_examples=False) == []
    client = mlflow.MlflowClient(TRACKING.uri_for(output))
    assert {item.path for item in client.list_artifacts(runs(output)["a"].info.run_id)} == {"config.json"}


def test_use_of_the_machine_is_recorded_as_mlflow_does(output):
    metrics = runs(output)["pretrain"].data.metrics
    assert 0 <= metrics["system/cpu_utilization_percentage"] <= 100
    assert metrics["system/system_memory_usage_megabytes"] > 0


def test_inputs_and_artifacts_are_kept(output):
    found = runs(output)
    (entry,) = found["pretrain"].inputs.dataset_inputs
    assert entry.dataset.name == "texts"
    assert entry.tags[0].value == "training"
    client = mlflow.MlflowClient(TRACKING.uri_for(output))
    run_id = found["pretrain"].info.run_id
    assert {item.path for item in client.list_artifacts(run_id)} == {"config.json", "texts"}
    assert [item.path for item in client.list_artifacts(run_id, "texts")] == ["texts/out.txt"]
    assert {item.path for item in client.list_artifacts(found["quickstart"].info.run_id)} == {
        "config.yaml",
        "plan.jsonl",
    }
    assert str(output) in found["pretrain"].info.artifact_uri


def test_a_resumed_stage_goes_on_in_its_run_and_a_rerun_one_gets_a_new_one(ray_cluster, tmp_path):
    output = UPath(tmp_path / "out")
    bad = [stage("a", fail="value")]
    assert record(bad, output) == []
    first = runs(output)
    assert record(bad, output) == []
    again = runs(output)
    assert {name: run.info.run_id for name, run in again.items()} == {
        name: run.info.run_id for name, run in first.items()
    }
    assert record(bad, output, fresh=frozenset({"a"})) == []
    assert runs(output)["a"].info.run_id != first["a"].info.run_id
    assert runs(output)["quickstart"].info.run_id == first["quickstart"].info.run_id


@pytest.mark.parametrize("name", ["feature%2Flogin", "50% of what? #1"])
def test_the_output_may_have_any_name(ray_cluster, tmp_path, name):
    output = UPath(tmp_path / name)
    assert record([stage("a")], output) == []
    assert (output / "mlflow.db").is_file()
    run_id = runs(output)["a"].info.run_id
    client = mlflow.MlflowClient(TRACKING.uri_for(output))
    assert {item.path for item in client.list_artifacts(run_id)} >= {"config.json"}
    assert list((output / "mlflow-artifacts").rglob("config.json"))


@pytest.fixture(scope="module")
def writer(tmp_path_factory) -> MlflowWriter:
    folder = tmp_path_factory.mktemp("writer")
    return MlflowWriter(
        WriterSettings(
            uri=f"sqlite:///{folder / 'mlflow.db'}",
            artifacts=str(folder / "artifacts"),
            experiment="e",
            ledger=UPath(folder / "runs.json"),
        )
    )


@pytest.fixture
def key(writer, request) -> str:
    """A run of the test's own."""
    writer.write([OpenRun(key=request.node.name, name="n", params={"seed": 1})])
    return request.node.name


def run_of(writer: MlflowWriter, key: str) -> Any:
    return writer._client.get_run(writer._run_ids[key])


def test_more_than_mlflow_takes_at_once_is_sent_in_parts(writer, key):
    writer.write([Params(key=key, values={f"p{number}": number for number in range(250)})])
    batch = [Metrics(key=key, values={"m": float(step)}, step=step, time=time.time()) for step in range(2500)]
    writer.write(batch)
    assert len(run_of(writer, key).data.params) == 251
    assert len(writer._client.get_metric_history(writer._run_ids[key], "m")) == 2500


def test_a_param_too_long_for_mlflow_is_cut(writer, key):
    writer.write([Params(key=key, values={"long": "x" * 10_000})])
    assert len(run_of(writer, key).data.params["long"]) == MAX_PARAM_CHARACTERS


def test_a_param_that_changed_becomes_a_tag(writer, key):
    writer.write([Params(key=key, values={"seed": 1, "resumed_from_step": 0})])
    writer.write([Params(key=key, values={"seed": 1, "resumed_from_step": 60})])
    run = run_of(writer, key)
    assert run.data.params["resumed_from_step"] == "0"
    assert run.data.tags["resumed_from_step"] == "60"


def test_a_resumed_run_shows_no_step_twice(writer, key, request):
    def rows(first: int, last: int) -> list[Metrics]:
        return [Metrics(key=key, values={"m": float(step)}, step=step, time=time.time()) for step in range(first, last)]

    writer.write(rows(1, 8))
    resumed = MlflowWriter(writer._settings)
    resumed.write([OpenRun(key=key, name="n")])
    resumed.write(rows(5, 11))  # from the checkpoint of step 4 on
    resumed.write([Metrics(key=key, values={"other": 0.5}, step=2, time=time.time())])
    history = writer._client.get_metric_history(writer._run_ids[key], "m")
    assert [(point.step, point.value) for point in history] == [(step, float(step)) for step in range(1, 11)]
    assert run_of(writer, key).data.metrics["other"] == 0.5


def test_names_that_mlflow_refuses_are_mended(writer, key):
    writer.write([Metrics(key=key, values={"f1[NP]%": 1.0, "nan": math.nan}, step=0, time=0.0)])
    assert run_of(writer, key).data.metrics["f1_NP__"] == 1.0


@pytest.mark.parametrize(
    "source", ["/data/*.txt.gz", "https://example.org/a.txt", "gs://bucket/a/*.parquet", "relative/path"]
)
def test_any_location_can_be_an_input(writer, key, source):
    writer.write([Dataset(key=key, name="corpus", source=source, context="training")])
    (entry,) = run_of(writer, key).inputs.dataset_inputs
    assert source.strip("/") in json.dumps(json.loads(entry.dataset.source))


def test_a_fault_that_may_pass_is_told_from_one_that_stays(writer):
    assert writer.may_pass(MlflowException("connection refused"))
    assert writer.may_pass(ConnectionError())
    assert not writer.may_pass(MlflowException("no such run", error_code=RESOURCE_DOES_NOT_EXIST))
    assert not writer.may_pass(KeyError("x"))


def test_nested_values_are_flattened_and_nothing_is_called_none():
    found = flatten({"a": {"b": (1, 2), "c": {}}, "d": None, "e": (), "f": False, "g": 0, "h": ""})
    assert found == {"a.b": "[1, 2]", "f": "False", "g": "0", "h": ""}


class Unreachable:
    """Stands for a server that answers only the third time."""

    failures = 2
    written: ClassVar[list[Any]] = []

    def __init__(self, settings: WriterSettings) -> None: ...

    def may_pass(self, error: Exception) -> bool:
        return isinstance(error, ConnectionError)

    def write(self, batch: list[Any]) -> None:
        if Unreachable.failures:
            Unreachable.failures -= 1
            raise ConnectionError("connection refused")
        Unreachable.written.extend(batch)


@pytest.fixture
def unreachable(monkeypatch):
    monkeypatch.setattr("pipeline.tracking.mlflow_writer.MlflowWriter", Unreachable)
    monkeypatch.setattr("pipeline.tracking.recorder._FIRST_RETRY_SECONDS", 0.1)
    Unreachable.written = []
    return Unreachable


SETTINGS = WriterSettings(uri="u", artifacts=None, experiment="e", ledger=UPath("memory://ledger.json"))
METRIC = Metrics(key="k", values={"m": 1.0}, step=0, time=0.0)


def test_a_server_that_comes_back_gets_everything(unreachable):
    unreachable.failures = 2
    recorder = Recorder(SETTINGS)
    started = time.monotonic()
    for _ in range(5):
        recorder.record(METRIC)
    assert time.monotonic() - started < 0.1  # nobody waits for it
    assert recorder.close(seconds=20) == []
    assert len(unreachable.written) == 5


def test_that_nothing_can_be_written_is_known_when_it_begins_and_when_it_is_over(unreachable):
    unreachable.failures = 3
    recorder = Recorder(SETTINGS)
    assert recorder.snapshot().trouble is None
    recorder.record(METRIC)
    until = time.monotonic() + 10
    while recorder.snapshot().trouble is None and time.monotonic() < until:
        time.sleep(0.01)
    assert recorder.snapshot().trouble == "ConnectionError: connection refused"
    assert recorder.close(seconds=20) == []
    assert recorder.snapshot().trouble is None


def test_what_could_not_be_written_is_told_at_the_end(unreachable):
    unreachable.failures = 1000
    recorder = Recorder(SETTINGS)
    for _ in range(5):
        recorder.record(METRIC)
    assert recorder.close(seconds=1.0) == ["5 Metrics of k (ConnectionError: connection refused)"]


def test_without_tracking_there_is_still_progress():
    recorder = Recorder(None)
    recorder.begin("a", [])
    recorder.progress("a", 3, 10, "steps", {"loss": 1.0})
    recorder.record(METRIC)
    assert recorder.snapshot().progress["a"].done == 3
    assert recorder.close(seconds=1.0) == []


def test_a_tracker_never_raises_into_its_stage_when_the_recorder_died(ray_cluster, tmp_path: Path):
    import ray

    actor = ray.remote(Recorder).options(num_cpus=0).remote(None)
    ray.kill(actor)
    tracker = StageTracker(actor, stage="a", opening=(OpenRun(key="k", name="n"),), system_metrics_seconds=0)
    with tracker.running():
        tracker.metrics({"m": 1.0}, step=1)
        tracker.progress(1, 2, unit="steps")
        tracker.params({"a": 1})


def test_a_server_that_is_away_is_a_fault_that_may_pass_and_is_noticed_soon(tmp_path):
    settings = WriterSettings(uri="http://127.0.0.1:9", artifacts=None, experiment="e", ledger=UPath(tmp_path / "l"))
    writer = MlflowWriter(settings)
    started = time.monotonic()
    with pytest.raises(MlflowException) as caught:
        writer.write([OpenRun(key="k", name="n")])
    assert writer.may_pass(caught.value)
    assert time.monotonic() - started < 30
