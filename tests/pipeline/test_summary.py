"""What a run says at its end of its scores."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from fake_stages import stage
from upath import UPath

from pipeline.config.sections import PipelineConfig
from pipeline.plan import PlannedStage, Status
from pipeline.summary import print_summary
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
