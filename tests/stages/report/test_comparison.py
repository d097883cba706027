"""Outputs side by side: what is said of differences, and of runs that learnt nothing."""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from pipeline.compare import main
from stages.finetune.config import Init
from stages.report.comparison import compare, read_summary


def _add(
    output: Path,
    task: str,
    scores: dict[int, float],
    *,
    fingerprint: str = "a",
    day: int = 1,
    metric: str = "accuracy",
    **result: Any,
) -> None:
    for seed, score in scores.items():
        folder = output / "finetune" / task / f"seed-{seed}" / fingerprint
        folder.mkdir(parents=True)
        manifest = {"identity": {"stage": f"finetune/{task}/seed-{seed}"}, "finished": f"2026-01-0{day}T00:00:00+00:00"}
        values = {"task": task, "seed": seed, "init": "pretrained", "primary": metric}
        values |= {"scores": {metric: score}} | result
        (folder / "result.json").write_text(json.dumps(values))
        (folder / "config.json").write_text(json.dumps({"config": {"data": "d"}}))
        (folder / "manifest.json").write_text(json.dumps(manifest))


def test_a_difference_is_held_against_the_spread_of_the_seeds(tmp_path: Path) -> None:
    _add(tmp_path / "a", "rte", {0: 60.0, 1: 62.0, 2: 64.0})
    _add(tmp_path / "b", "rte", {0: 61.0, 1: 63.0, 2: 65.0})
    _add(tmp_path / "c", "rte", {0: 66.0, 1: 66.0, 2: 67.0})
    _add(tmp_path / "d", "rte", {0: 90.0})
    row = compare([read_summary(UPath(tmp_path / name)) for name in "abcd"])[0]
    assert (row.task, row.init, row.metric) == ("rte", Init.PRETRAINED, "accuracy")
    near, far, single = row.differences
    assert near is not None
    assert far is not None
    assert single is not None
    assert (near.means, near.spread, near.verdict) == (1.0, 2.0, "within the seeds' spread")
    assert far.means == pytest.approx(4.33, abs=0.01)
    assert far.spread == pytest.approx(((4 + statistics.variance([66, 66, 67])) / 2) ** 0.5)
    assert far.verdict == "larger than the seeds' spread"
    assert (single.spread, single.verdict) == (None, "one seed: significance unknown")


def test_a_task_that_an_output_lacks_is_no_difference(tmp_path: Path) -> None:
    _add(tmp_path / "a", "rte", {0: 60.0})
    _add(tmp_path / "b", "cola", {0: 60.0})
    rows = compare([read_summary(UPath(tmp_path / name)) for name in "ab"])
    assert [(row.task, row.statistics[0] is None, row.differences) for row in rows] == [
        ("cola", True, (None,)),
        ("rte", False, (None,)),
    ]


def test_the_newest_finished_configuration_counts(tmp_path: Path) -> None:
    _add(tmp_path / "a", "rte", {0: 60.0}, fingerprint="z", day=1)
    _add(tmp_path / "a", "rte", {0: 70.0}, fingerprint="b", day=3)
    _add(tmp_path / "a", "rte", {0: 99.0}, fingerprint="c", day=4)
    (tmp_path / "a/finetune/rte/seed-0/c/manifest.json").unlink()
    assert compare([read_summary(UPath(tmp_path / "a"))])[0].statistics[0].mean == 70.0


def test_degenerate_runs_are_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _add(tmp_path / "a", "rte", {0: 60.0, 1: 61.0})
    flat = [{"kind": "degenerate", "text": "all are one"}, {"kind": "degenerate", "text": "flat loss"}]
    cut = [{"kind": "truncated", "text": "9 texts look degenerate"}]
    _add(tmp_path / "a", "rte", {2: 52.7, 3: 52.7}, warnings=flat + cut)
    _add(tmp_path / "a", "rte", {4: 60.5}, warnings=cut)
    (statistics,) = compare([read_summary(UPath(tmp_path / "a"))])[0].statistics
    assert statistics is not None
    assert (statistics.count, statistics.num_degenerate) == (5, 2)
    assert main([str(tmp_path / "a")]) == 0
    assert "2 degenerate" in capsys.readouterr().out


def test_the_command_prints_a_table_or_json_and_refuses_an_empty_output(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "300")
    _add(tmp_path / "a", "rte", {0: 60.0, 1: 62.0})
    _add(tmp_path / "b", "rte", {0: 70.0, 1: 72.0})
    folders = [str(tmp_path / name) for name in "ab"]
    assert main(folders) == 0
    text = capsys.readouterr().out
    for shown in (f"A = {folders[0]}", f"B = {folders[1]}", "61.0 ± 1.41", "60.0 – 62.0, n=2", "+10.0 *"):
        assert shown in text
    assert "Small-OWT 68.5, Small 66.7" in text
    assert main([*folders, "--json"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert row["outputs"][1]["seeds"] == {"0": 70.0, "1": 72.0}
    assert row["differences"][0]["means"] == 10.0
    assert main([*folders, str(tmp_path / "c")]) == 2
    assert "c has no finished fine-tuning run" in capsys.readouterr().err


def test_different_metrics_are_not_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _add(tmp_path / "a", "mine", {0: 60.0})
    _add(tmp_path / "b", "mine", {0: 60.0}, metric="f1")
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "mine is scored by accuracy and f1" in capsys.readouterr().err


def test_two_outputs_fit_eighty_columns(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    for folder, score in (("a", 60.0), ("b", 60.2)):
        _add(tmp_path / folder, "conll2000-of-mine", {0: score, 1: score + 1})
    assert main([str(tmp_path / "a"), str(tmp_path / "b")]) == 0
    lines = capsys.readouterr().out.splitlines()
    table = [line for line in lines if "=" not in line or "n=" in line]
    assert all(len(line) <= 80 for line in table)
    assert any(line.startswith("conll2000-of-mine  pretrained") and line.rstrip().endswith("+0.2") for line in lines)
