"""What the report shows of single tasks: GLUE at a glance, confusions, thresholds, runs that learnt nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
from finished_runs import groups_of, run_report
from upath import UPath

from stages.report.collect import collect
from stages.report.data_tables import Table
from stages.report.outcomes import median_run, outcome_tables
from stages.report.statistics import summarize_results


def _add(root: Path, task: str, seed: int, scores: dict[str, float], **result: Any) -> dict[str, UPath]:
    folder = root / "finetune" / task / f"seed-{seed}" / "0123"
    folder.mkdir(parents=True)
    values = {"task": task, "seed": seed, "init": "pretrained", "primary": next(iter(scores)), "scores": scores}
    (folder / "result.json").write_text(json.dumps(values | result))
    (folder / "config.json").write_text(json.dumps({"config": {"data": "/data"}}))
    return {f"finetune/{task}/seed-{seed}": UPath(folder)}


def _tables(inputs: dict[str, UPath], *, examples: bool = True) -> list[Table]:
    results = collect(inputs, groups=groups_of(inputs))
    return outcome_tables(results, summarize_results(results), examples=examples)


def test_glue_has_a_table_with_averages_where_all_are_known(tmp_path: Path) -> None:
    inputs = _add(tmp_path, "cola", 0, {"matthews": 50.0}) | _add(tmp_path, "cola", 1, {"matthews": 60.0})
    inputs |= _add(tmp_path, "rte", 0, {"accuracy": 65.0}) | _add(tmp_path, "wnli", 0, {"accuracy": 30.0})
    table = _tables(inputs)[0]
    assert table.columns == ("cola (matthews)", "rte (accuracy)", "average of these")
    assert table.rows[0] == ("pretrained weights, medians", "55.0", "65.0", "60.0")
    assert table.rows[1] == ("published: Small-OWT", "56.8", "68.5", "62.6")
    assert all("GLUE" not in found.title for found in _tables(_add(tmp_path / "b", "rte", 0, {"accuracy": 65.0})))


def test_confusions_are_those_of_the_median_run(tmp_path: Path) -> None:
    inputs: dict[str, UPath] = {}
    for seed, score in enumerate((70.0, 50.0, 60.0)):
        details = {"confusion": [[seed, 2], [3, 4000]], "labels": ["no", "yes"]}
        inputs |= _add(tmp_path, "rte", seed, {"accuracy": score}, details=details)
    found = median_run(collect(inputs, groups=groups_of(inputs)), "rte")
    assert found is not None
    assert found.seed == 2
    assert _tables(inputs) == [
        Table(
            title="Confusions: rte, seed 2",
            columns=("predicted no", "predicted yes"),
            rows=(("is no", "2", "2"), ("is yes", "3", "4,000")),
        )
    ]


def test_wrong_examples_are_shown(tmp_path: Path) -> None:
    wrong = [{"texts": ["a cat", "a dog"], "label": "yes", "predicted": "no"}]
    table = _tables(_add(tmp_path, "rte", 0, {"accuracy": 50.0}, details={"wrong": wrong}))[0]
    assert table.columns == ("label", "predicted")
    assert table.rows == (("a cat | a dog", "yes", "no"),)
    wrong[0]["probability"] = 0.974
    inputs = _add(tmp_path, "rte", 1, {"accuracy": 50.0}, details={"wrong": wrong})
    table = _tables(inputs)[0]
    assert table.columns == ("label", "predicted", "probability (%)")
    assert table.rows == (("a cat | a dog", "yes", "no", "97.4"),)
    assert _tables(inputs, examples=False) == []


def test_parts_of_dev_have_their_own_confusions(tmp_path: Path) -> None:
    details = {part: {"confusion": [[1]], "labels": ["x"]} for part in ("matched", "mismatched")}
    titles = [table.title for table in _tables(_add(tmp_path, "mnli", 0, {"matched/accuracy": 1.0}, details=details))]
    assert titles == ["Confusions: mnli, matched, seed 0", "Confusions: mnli, mismatched, seed 0"]


def test_types_and_labels_have_their_scores(tmp_path: Path) -> None:
    chunks = {"by_type": {"VP": {"precision": 50.0, "recall": 40.0, "f1": 44.44, "support": 9}}}
    labels = {
        "by_label": {"a": {"gold": 4, "predicted": 6, "correct": 3}, "b": {"gold": 0, "predicted": 0, "correct": 0}}
    }
    inputs = _add(tmp_path, "conll2000", 0, {"f1": 44.0}, details=chunks)
    inputs |= _add(tmp_path, "mine", 0, {"micro_f1": 60.0}, details=labels)
    first, second = _tables(inputs)
    assert first.rows == (("VP", "50.0", "40.0", "44.4", "9"),)
    assert second.rows == (("a", "60.0", "3", "6", "4"), ("b", "–", "0", "0", "0"))


@pytest.fixture
def page(tmp_path: Path) -> Path:
    curve = [{"threshold": float(n), "exact_match": 50.0 + n, "f1": 60.0} for n in range(-3, 3)]
    details = {"threshold": -2.75, "best_thresholds": {"f1": 0.0}, "threshold_curve": curve}
    inputs = _add(tmp_path, "squad_v2", 0, {"exact_match": 50.0}, details=details)
    confusion = {"confusion": [[5, 0], [5, 0]], "labels": ["<no>", "yes"]}
    warnings = [{"kind": "degenerate", "text": "all 10 predictions are one class, <no>"}]
    inputs |= _add(tmp_path, "rte", 3, {"accuracy": 50.0}, details=confusion, warnings=warnings)
    return run_report(tmp_path / "report", inputs)


def test_the_pages_show_tables_curve_and_degenerate_runs(page: Path) -> None:
    html, markdown = (page / "report.html").read_text(), (page / "report.md").read_text()
    for text in (html, markdown):
        assert "1 of 2 fine-tuning runs are degenerate" in text
        assert "Confusions: rte, seed 3" in text
        assert "Scores of squad" in text
    assert "predicted &lt;no&gt;" in html
    assert (page / "plots" / "thresholds-squad_v2.png").stat().st_size > 10_000
