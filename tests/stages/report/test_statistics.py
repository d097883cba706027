"""What a report makes of numbers: statistics, gaps, smoothed curves, figures as they are written."""

import math

import numpy as np
import pytest
from finished_runs import add_run, groups_of, whole_run
from upath import UPath

from stages.finetune.config import Init
from stages.report.collect import collect
from stages.report.config import ReportConfig
from stages.report.data_tables import format_duration, format_number
from stages.report.plots import smooth
from stages.report.statistics import compute_statistics, summarize_results


def test_statistics_are_those_of_numpy():
    scores = {3: 61.25, 0: 58.5, 11: 60.0, 7: 44.0}
    statistics = compute_statistics(scores)
    values = np.array(list(scores.values()))
    assert statistics.median == pytest.approx(np.median(values), abs=1e-12)
    assert statistics.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert statistics.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert list(statistics.seeds) == [0, 3, 7, 11]


def test_a_task_without_random_runs_among_others_with_them_is_a_gap(tmp_path):
    inputs = whole_run(tmp_path)
    for seed in (0, 1):
        del inputs[f"finetune/cola/random-{seed}"]
    summary = summarize_results(collect(inputs, groups=groups_of(inputs)))
    assert [(gap.what, gap.reason) for gap in summary.gaps] == [("cola", "no run from random weights is configured")]
    cola = next(task for task in summary.tasks if task.task == "cola")
    assert cola.difference is None
    assert cola.of(Init.RANDOM) is None


def test_a_score_that_is_not_a_number_is_a_gap(tmp_path):
    inputs: dict[str, UPath] = {}
    add_run(inputs, tmp_path, task="cola", seed=0, scores={"matthews": math.nan})
    add_run(inputs, tmp_path, task="cola", seed=1, scores={"matthews": 50.0, "other": math.nan})
    results = collect(inputs, groups=groups_of(inputs))
    assert [(gap.what, gap.reason) for gap in results.gaps] == [("finetune/cola/seed-0", "its matthews is nan")]
    assert [dict(run.scores) for run in results.runs] == [{"matthews": 50.0}]


def test_a_result_without_its_primary_score_is_refused(tmp_path):
    inputs: dict[str, UPath] = {}
    add_run(inputs, tmp_path, task="cola", seed=0, scores={"accuracy": 70.0}, primary="matthews")
    with pytest.raises(ValueError, match=r"primary metric is 'matthews', but scores holds accuracy"):
        collect(inputs, groups=groups_of(inputs))


def test_smoothing_keeps_lines_and_lags_behind_nothing():
    ramp = np.arange(100.0)
    np.testing.assert_allclose(smooth(ramp, smoothing=0.02)[10:-10], ramp[10:-10], rtol=1e-12)
    np.testing.assert_array_equal(smooth(ramp, smoothing=0.0), ramp)
    np.testing.assert_allclose(smooth(np.full(7, 3.0), smoothing=0.4), 3.0)


def test_smoothing_leaves_out_what_is_not_finite():
    values = np.array([1.0, np.nan, 1.0, np.inf, 1.0] * 20)
    smoothed = smooth(values, smoothing=0.05)
    np.testing.assert_array_equal(np.isnan(smoothed), ~np.isfinite(values))
    np.testing.assert_allclose(smoothed[np.isfinite(values)], 1.0)


def test_numbers_read_well():
    assert format_number(-0.04) == "0.0"
    assert format_number(-2.5, signed=True) == "−2.5"
    assert format_number(1234.5, digits=1) == "1,234.5"
    assert format_number(None) == format_number(math.nan) == "–"
    assert [format_duration(seconds) for seconds in (0.4, 48, 720, 11_100)] == [
        "under 1 s",
        "48 s",
        "12 min",
        "3 h 05 min",
    ]


def test_wrong_configs_are_refused():
    with pytest.raises(ValueError, match=r"smoothing is 0\.9, must be between 0 and 0\.5"):
        ReportConfig(smoothing=0.9)
    with pytest.raises(ValueError, match="title is empty"):
        ReportConfig(title=" ")
