"""What a run says at its end of its scores."""

import json
import shlex
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
from fake_stages import stage
from upath import UPath

from pipeline.config.sections import PipelineConfig
from pipeline.plan import PlannedStage, Status
from pipeline.results import StageResult, State
from pipeline.screen.summary import print_failures, print_summary
from pipeline.tracking.ledger import ledger_file, write_ledger
from stages.context import Group
from stages.run_warning import RunWarning, WarningKind


def _finished(folder: Path, name: str, *, score: float, warnings: Sequence[RunWarning] = ()) -> PlannedStage:
    folder = folder / name
    folder.mkdir(parents=True)
    result: dict[str, Any] = {
        "task": "cola",
        "primary": "matthews",
        "init": "pretrained",
        "seed": int(name[-1]),
        "scores": {"matthews": score},
    }
    (folder / "result.json").write_text(json.dumps(result | {"warnings": [asdict(warning) for warning in warnings]}))
    made = stage(name, group=Group.FINETUNE)
    return PlannedStage(stage=made, identity={}, folder=UPath(folder), status=Status.DONE, why="")


def test_the_end_tells_scores_and_how_many_runs_learnt_nothing_or_have_warnings(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    degenerate, cut = RunWarning(WarningKind.DEGENERATE, "flat loss"), RunWarning(WarningKind.TRUNCATED, "3 texts")
    plan = [
        _finished(tmp_path, "finetune/cola/seed-0", score=10.0, warnings=[degenerate]),
        _finished(tmp_path, "finetune/cola/seed-1", score=30.0),
        _finished(tmp_path, "finetune/cola/seed-2", score=20.0, warnings=[degenerate, cut]),
    ]
    config = PipelineConfig(output=str(tmp_path), tracking=None)
    print_summary(plan, config=config, output=UPath(tmp_path))
    printed = capsys.readouterr().out
    assert printed.split("\n")[2].split() == ["cola", "matthews", "20.00", "3"]
    line = (
        "Of 3 fine-tuning runs, 2 learnt nothing (one class, or a flat loss) and 1 have other warnings: see the report"
    )
    assert line in printed
    print_summary(plan[1:2], config=config, output=UPath(tmp_path))
    assert "fine-tuning runs" not in capsys.readouterr().out


def test_followers_of_a_failure_are_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def result(name: str, state: State, **fields: Any) -> StageResult:
        return StageResult(name=name, state=state, folder=UPath("/out") / name, **fields)

    failed = result("pretrain", State.FAILED, error="the loss is nan")
    lost = [result(f"finetune/cola/seed-{seed}", State.BLOCKED, blocked_by="pretrain") for seed in range(5)]
    assert not print_failures([failed, *lost, result("vocab", State.DONE)], again="python -m pipeline.run a.yaml")
    assert capsys.readouterr().err.splitlines() == [
        "",
        "pretrain failed: the loss is nan",
        "  log: /out/pretrain/log.txt",
        "5 stages were not run: they need pretrain, which failed (finetune/cola/seed-0, finetune/cola/seed-1, "
        "finetune/cola/seed-2 and 2 more)",
        "",
        "Finished work is kept. After fixing the cause, resume with:",
        "  python -m pipeline.run a.yaml",
    ]
    assert print_failures([result("vocab", State.DONE)], again="x")
    assert capsys.readouterr().err == ""


def test_the_end_names_model_report_times_mlflow_page_and_a_command_that_tries_the_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = _finished(tmp_path, "finetune/mrpc/seed-0", score=30.0)
    (tmp_path / "finetune/mrpc/seed-0/model").mkdir()
    (tmp_path / "finetune/mrpc/seed-0/model/task.json").write_text('{"columns": ["text", "text_pair"]}')
    exported = tmp_path / "export" / "0123"
    (exported / "discriminator").mkdir(parents=True)
    plan = [
        replace(one, seconds=70.0),
        replace(_plain(exported, "export"), seconds=3.0),
        replace(_plain(tmp_path / "report/45", "report"), seconds=2.0),
    ]
    config = PipelineConfig(output=str(tmp_path))
    uri = config.tracking.uri_for(UPath(tmp_path)) if config.tracking else ""
    write_ledger(ledger_file(UPath(tmp_path)), uri, "pipeline/1", "abc", experiment="7")
    print_summary(plan, config=config, output=UPath(tmp_path), seconds={"report": 12.0})
    lines = {line[:10].strip(): line[10:] for line in capsys.readouterr().out.splitlines()}
    assert lines["report"] == str(tmp_path / "report/45/report.html")
    assert lines["model"] == str(exported / "discriminator")
    command = shlex.split(lines["try it"])
    assert command[1:3] == ["-m", "pipeline.predict"]
    assert command[3:] == [str(tmp_path / "finetune/mrpc/seed-0/model"), "a text", "another text"]
    assert lines["time"] == "1m 25s of work: finetune 1m 10s, report 12s, export 3s"
    assert lines["MLflow"].endswith(f"ui --backend-store-uri {shlex.quote(uri)}")
    assert lines[""] == "then open http://127.0.0.1:5000/#/experiments/7/runs?workflowType=machine_learning"


def _plain(folder: Path, name: str) -> PlannedStage:
    return PlannedStage(stage=stage(name), identity={}, folder=UPath(folder), status=Status.DONE, why="")
