"""Stages on Ray: what runs when, what a failure stops, what is left behind."""

import json
import logging
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from fake_stages import FakeConfig, stage
from ray import cloudpickle
from upath import UPath

from cluster.config import ClusterConfig
from pipeline.node import Stage
from pipeline.plan import Status, make_plan
from pipeline.results import StageResult, State
from pipeline.runner import empty_folder, run_plan
from stages.context import Group, StageContext

# Workers cannot import this file; its functions travel as code.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.usefixtures("ray_cluster")


def run(stages: Sequence[Stage], output: UPath, *, only: set[str] | None = None) -> dict[str, StageResult]:
    plan = make_plan(stages, output=output)
    names = {made.name for made in stages} if only is None else only
    return run_plan(plan, names=names, cluster=ClusterConfig(max_failures=0))


def states(results: dict[str, StageResult]) -> dict[str, str]:
    return {name: result.state.value for name, result in results.items()}


@pytest.fixture
def output(tmp_path) -> UPath:
    return UPath(tmp_path / "out")


def test_a_stage_reads_what_it_needs_and_leaves_a_record(output):
    results = run([stage("a", text="one "), stage("b", text="two", needs=("a",))], output)
    assert states(results) == {"a": "finished", "b": "finished"}
    folder = results["b"].folder
    assert (folder / "out.txt").read_text() == "one two"
    identity = json.loads((folder / "config.json").read_text())
    assert identity["needs"] == {"a": results["a"].folder.name}
    assert json.loads((folder / "manifest.json").read_text())["identity"] == identity
    assert "b is done" in results["b"].log.read_text()


def test_what_a_stage_warns_of_is_handed_to_the_end_of_the_run(output):
    results = run([replace(stage("a"), run=warn), stage("b")], output)
    assert (results["a"].warnings, results["b"].warnings) == (("20 % of the text is left out",), ())
    assert "WARNING" in results["a"].log.read_text()


def warn(config: FakeConfig, context: StageContext) -> None:
    logging.getLogger(warn.__module__).warning("%d %% of the text is left out", 20)
    logging.getLogger(warn.__module__).info("the rest is read")


def test_a_stage_finds_the_inputs_of_a_group_however_they_are_named(output):
    stages = [
        stage("a", group=Group.FINETUNE),
        stage("finetune/b"),
        stage("c", group=Group.PROBE),
        replace(stage("d", needs=("a", "finetune/b", "c")), run=write_groups),
    ]
    folder = run(stages, output)["d"].folder
    assert json.loads((folder / "groups.json").read_text()) == {"examples": [], "finetune": ["a"], "probe": ["c"]}


def write_groups(config: object, context: StageContext) -> None:
    groups = {group: list(context.of_group(group)) for group in Group}
    (context.output / "groups.json").write_text(json.dumps(groups))


def test_what_is_done_does_not_run_again(output, tmp_path):
    log = tmp_path / "calls"
    for _ in range(2):
        results = run([stage("a", log=str(log))], output)
    assert states(results) == {"a": "done"}
    assert log.read_text().count("begin") == 1


def test_siblings_run_side_by_side(output, tmp_path):
    log = tmp_path / "calls"
    siblings = [stage(name, log=str(log), meet=2) for name in ("x", "y")]
    assert states(run(siblings, output)) == {"x": "finished", "y": "finished"}


def test_a_stage_starts_before_what_it_needs_has_ended_where_it_may(output, tmp_path):
    log = tmp_path / "calls"
    # `a` ends when `b` has begun.
    stages = [
        stage("a", log=str(log), meet=2),
        replace(stage("b", needs=("a",), log=str(log)), early=has_begun, early_need="a"),
    ]
    assert states(run(stages, output)) == {"a": "finished", "b": "finished"}


def test_and_not_where_it_may_not_yet(output, tmp_path):
    log = tmp_path / "calls"
    stages = [stage("a", log=str(log)), replace(stage("b", needs=("a",), log=str(log)), early=never, early_need="a")]
    assert states(run(stages, output)) == {"a": "finished", "b": "finished"}
    assert [line.rsplit(" ", 1)[0] for line in log.read_text().splitlines()] == ["a begin", "a end", "b begin", "b end"]


def test_all_that_a_stage_needs_but_the_one_that_it_judges_must_be_done(output, tmp_path):
    log = tmp_path / "calls"
    # `a` ends when `b` has begun, `other` takes its time.
    stages = [
        stage("a", log=str(log), meet=3),
        stage("other", log=str(log), seconds=1.0),
        replace(stage("b", needs=("a", "other"), log=str(log)), early=has_begun, early_need="a"),
    ]
    assert states(run(stages, output)) == {"a": "finished", "other": "finished", "b": "finished"}
    lines = [line.rsplit(" ", 1)[0] for line in log.read_text().splitlines()]
    assert lines.index("other end") < lines.index("b begin") < lines.index("a end")


def has_begun(folders: Mapping[str, UPath]) -> bool:
    return (folders["a"] / "config.json").exists()


def never(folders: Mapping[str, UPath]) -> bool:
    return False


def test_stages_whose_processes_do_not_fit_beside_each_other_take_turns(output, tmp_path):
    log = tmp_path / "calls"
    both_cores = [stage(name, log=str(log), seconds=0.2) for name in ("a", "b", "c")]
    results = run([replace(made, num_processes=2) for made in both_cores], output)
    assert set(states(results).values()) == {"finished"}
    assert [line.split()[1] for line in log.read_text().splitlines()] == ["begin", "end"] * 3


def test_a_failure_stops_its_dependants_and_not_its_siblings(output):
    results = run(
        [
            stage("a"),
            stage("bad", needs=("a",), fail="value"),
            stage("good", needs=("a",)),
            stage("child", needs=("bad",)),
            stage("grandchild", needs=("child", "good")),
        ],
        output,
    )
    assert states(results) == {
        "a": "finished",
        "bad": "failed",
        "good": "finished",
        "child": "blocked",
        "grandchild": "blocked",
    }
    assert results["grandchild"].blocked_by == "bad"
    log = (results["grandchild"].folder / "log.txt").read_text()
    assert f"grandchild failed: it needs bad, which failed: {results['bad'].error}" in log
    assert not (results["bad"].folder / "manifest.json").exists()
    for name in ("bad", "child", "grandchild"):
        failure = json.loads((results[name].folder / "failure.json").read_text())
        assert failure["error"].endswith("corpus.txt:3: expected 2 columns, found 1")


def test_a_stage_that_shows_failures_runs_without_them_and_again_when_they_are_mended(output, tmp_path):
    def stages(seconds: float) -> list[Stage]:
        return [
            stage("a", text="a"),
            stage("early", needs=("a",), fail="value"),
            stage("bad", needs=("early",), text="bad"),
            stage("good", needs=("a",), text="good", seconds=seconds),
            stage("report", needs=("a", "early", "bad", "good"), may_lack=("early", "bad"), text="report"),
        ]

    results = run(stages(1.0), output)
    assert states(results) == {
        "a": "finished", "early": "failed", "bad": "blocked", "good": "finished", "report": "finished",
    }  # fmt: skip
    assert (results["report"].folder / "out.txt").read_text() == "aaaagoodreport"
    again = make_plan(stages(1.0), output=output)
    assert [planned.status for planned in again] == [
        Status.DONE, Status.PARTIAL, Status.NEW, Status.DONE, Status.PARTIAL,
    ]  # fmt: skip


def test_a_failure_is_told_in_the_users_words_and_its_log_has_the_rest(output):
    result = run([stage("a", fail="value")], output)["a"]
    assert result.error == "corpus.txt:3: expected 2 columns, found 1"
    log = Path(str(result.log)).read_text()
    assert "Traceback" in log
    assert "corpus.txt:3" in log


def test_an_error_of_a_task_of_the_stage_is_told_without_rays_wrapping(output):
    assert run([stage("a", fail="task")], output)["a"].error == "the batch of a remote task is wrong"


def test_no_space_left_says_where_and_that_it_goes_on(output):
    error = run([stage("a", fail="space")], output)["a"].error
    assert error is not None
    assert error.startswith(f"no space left for {output}")
    assert "GiB are free" in error
    assert "then run the same command" in error


def test_a_process_that_dies_fails_its_stage_only(output):
    results = run([stage("a", fail="die"), stage("b")], output)
    assert states(results) == {"a": "failed", "b": "finished"}
    assert "died" in json.loads((results["a"].folder / "failure.json").read_text())["error"]
    assert not (results["b"].folder / "failure.json").exists()


def test_a_failure_is_recorded_until_the_stage_succeeds(output, tmp_path):
    mendable = replace(stage("a", text=str(tmp_path / "mended")), run=fail_until_mended)
    folder = run([mendable], output)["a"].folder
    assert json.loads((folder / "failure.json").read_text()) == {"error": "not mended"}
    (tmp_path / "mended").touch()
    assert states(run([mendable], output)) == {"a": "finished"}
    assert not (folder / "failure.json").exists()


def fail_until_mended(config: FakeConfig, context: StageContext) -> None:
    if not Path(config.text).exists():
        raise ValueError("not mended")


def test_a_failed_stage_goes_on_in_the_folder_it_left(output):
    folder = run([stage("a", fail="value")], output)["a"].folder
    (folder / "left").write_text("over")
    assert make_plan([stage("a", fail="value")], output=output)[0].status is Status.PARTIAL
    assert run([stage("a", fail="value")], output)["a"].folder == folder
    assert (folder / "left").exists()
    assert (folder / "log.txt").read_text().count("a starts") == 2


def test_what_a_killed_try_left_of_a_file_is_no_part_of_the_result(output):
    folder = make_plan([stage("a")], output=output)[0].folder
    (folder / "model").mkdir(parents=True)
    (folder / "model" / ".weights.12ab34cd.tmp").write_text("half")
    assert run([stage("a")], output)["a"].folder == folder
    assert not list(folder.rglob("*.tmp"))
    assert "weights" not in (folder / "manifest.json").read_text()


def test_an_emptied_folder_is_new(output):
    folder = run([stage("a")], output)["a"].folder
    empty_folder(folder)
    assert make_plan([stage("a")], output=output)[0].status is Status.NEW


def test_a_stage_that_is_not_chosen_does_not_run(output):
    results = run([stage("a"), stage("b", needs=("a",)), stage("c")], output, only={"a", "b"})
    assert states(results) == {"a": "finished", "b": "finished"}


def test_an_interrupt_stops_what_runs_and_loses_nothing(output):
    plan = make_plan([stage("a"), stage("b", needs=("a",), seconds=60.0)], output=output)
    latest: dict[str, StageResult] = {}

    def watch(results: dict[str, StageResult]) -> None:
        latest.update(results)
        if results["b"].state is State.QUEUED and (results["b"].folder / "log.txt").exists():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_plan(plan, names={"a", "b"}, cluster=ClusterConfig(), watch=lambda found: watch(dict(found)))
    again = make_plan([stage("a"), stage("b", needs=("a",), seconds=60.0)], output=output)
    assert [planned.status for planned in again] == [Status.DONE, Status.PARTIAL]
