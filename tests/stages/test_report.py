"""The report says what the other stages left, no more and no less, on pages that stand on their own."""

import io
import json
import math
import re
import xml.etree.ElementTree as ET
from collections.abc import Mapping
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.image import imread
from upath import UPath

from stages.context import NullTracker, StageContext
from stages.report import ReportConfig, run
from stages.reporting.collect import Init, collect
from stages.reporting.plots import smooth
from stages.reporting.summary import compute_statistics, summarize_results
from stages.reporting.tables import format_duration, format_number

FINGERPRINT = "0123456789abcdef"


class RecordingTracker(NullTracker):
    def __init__(self) -> None:
        self.recorded: dict[str, float] = {}
        self.artifacts: list[str] = []

    def metrics(self, metrics: Mapping[str, float], *, step: int | None = None) -> None:
        self.recorded.update(metrics)

    def artifact(self, path: Any, *, folder: str = "") -> None:
        assert Path(path).exists()
        self.artifacts.append(Path(path).name)


def write(path: Path, value: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(row) for row in value] if path.suffix == ".jsonl" else [json.dumps(value)]
    path.write_text("\n".join(lines) + "\n")


def pretraining_rows(*, steps: int = 2000) -> list[dict[str, Any]]:
    rows = []
    for step in range(20, steps + 1, 20):
        fall, wobble = math.exp(-step / 500), math.sin(step * 12.9898) * 0.5
        metrics = {
            "loss/generator": 3.0 + 5.5 * fall + 0.4 * wobble,
            "loss/discriminator": 0.28 + 0.3 * fall + 0.03 * wobble,
            "masked/accuracy": 0.4 * (1 - fall),
            "sampled/accuracy": 0.25 * (1 - fall),
            "discriminator/accuracy": 0.93 - 0.05 * fall,
            "replaced/share": 0.11,
            "replaced/precision": 0.8 * (1 - fall),
            "replaced/recall": 0.45 * (1 - fall),
            "replaced/auc": 0.5 + 0.38 * (1 - fall),
        }
        rates = {
            "optimizer/learning_rate": 5e-4 * min(step / 200, (steps - step) / steps),
            "optimizer/gradient_norm": 1.5 + 3 * fall + 0.5 * wobble,
            "throughput/tokens_per_second": 41_000 + 900 * wobble - (20_000 if step == 20 else 0),
        }
        rows.append({"step": step, "split": "train"} | metrics | rates)
        if step % 200 == 0:
            rows.append({"step": step, "split": "heldout"} | metrics)
    return rows


def add_run(
    inputs: dict[str, UPath],
    root: Path,
    *,
    task: str,
    seed: int,
    scores: dict[str, float],
    init: str = "pretrained",
    primary: str | None = None,
    warnings: tuple[str, ...] = (),
    data: str | None = None,
    **config: Any,
) -> Path:
    """Adds what a fine-tuning run leaves. The primary metric is the first one."""
    name = f"finetune/{task}/{'seed' if init == 'pretrained' else 'random'}-{seed}"
    folder = root / name / FINGERPRINT
    inputs[name] = UPath(folder)
    config = {"task": task, "seed": seed, "init": init, "data": data or f"/data/{task}"} | config
    write(folder / "config.json", {"stage": name, "version": 1, "config": config, "needs": {}, "sources": []})
    result = {"task": task, "seed": seed, "init": init, "primary": primary or next(iter(scores)), "scores": scores}
    sizes = {"num_parameters": 1_234_567, "train_examples": 8551, "dev_examples": 1043, "steps": 400}
    speed = {"seconds": 61.5, "examples_per_second": 417.2}
    write(folder / "result.json", result | sizes | speed | {"warnings": list(warnings)})
    level = 0.3 if init == "pretrained" else 0.55
    rows = [
        {
            "step": step,
            "split": "train",
            "loss/total": level + 0.4 * math.exp(-step / 99) + 0.03 * math.sin(step + seed),
        }
        for step in range(10, 401, 10)
    ]
    write(folder / "metrics.jsonl", [*rows, {"step": 400, "split": "dev"} | scores])
    return folder


def whole_run(root: Path) -> dict[str, UPath]:
    """Folders of a finished run: four tasks, seeds 0 and 1 from pretrained and from random weights."""
    inputs: dict[str, UPath] = {}
    configs = {"pretrain": {"steps": 2000, "batch_size": 32, "learning_rate": 5e-4, "model": {"size": "tiny"}}}
    for number, stage in enumerate(("ingest", "vocab", "shard", "pretrain", "export")):
        inputs[stage] = UPath(root / stage / FINGERPRINT)
        identity = {"stage": stage, "version": 1, "config": configs.get(stage, {}), "needs": {}, "sources": []}
        write(root / stage / FINGERPRINT / "config.json", identity)
        manifest = {"seconds": 40.0 * 3**number, "python": "3.11.9", "packages": {"jax": "0.10.2", "numpy": "2.4.6"}}
        write(root / stage / FINGERPRINT / "manifest.json", manifest | {"git_commit": "c0ffee" * 6 + "beef"})
    dropped = {"empty": 300, "too_short": 5, "undecodable": 40, "duplicate": 0}
    counts = {
        "documents": {"read": 12345, "train": 11880, "heldout": 120, "dropped": dropped},
        "characters": {"train": 5_600_000, "heldout": 56_000},
        "changed": {"replaced": 3, "cut": 0},
        "files": [{"path": "a.txt", "bytes": 17}],
    }
    write(root / "ingest" / FINGERPRINT / "counts.json", counts)
    info = {"size": 4096, "sha256": "ab" * 32, "lowercase": True, "special": {"pad": 0}}
    write(root / "vocab" / FINGERPRINT / "info.json", info)
    split = {"documents": 11880, "tokens": 1_234_567, "unknown": 12, "dropped": 0, "rows": 10_000}
    counts = {"train": split | {"tokens_written": 1_254_567}, "heldout": {"documents": 120, "rows": 0}}
    write(root / "shard" / FINGERPRINT / "index.json", {"sequence_length": 128, "counts": counts, "train": []})
    write(root / "pretrain" / FINGERPRINT / "metrics.jsonl", pretraining_rows())
    write(root / "pretrain" / FINGERPRINT / "result.json", {"steps": 2000})
    table: dict[str, tuple[dict[str, tuple[float, float]], float]] = {
        "cola": ({"matthews": (41.0, 44.5), "accuracy": (74.0, 76.0)}, 24.0),
        "mrpc": ({"accuracy": (81.2, 79.9), "f1": (86.1, 85.0)}, 11.0),
        "squad_v1": ({"exact_match": (62.3, 61.8), "f1": (70.4, 69.9)}, 40.0),
        "conll2000": ({"f1": (91.24, 91.1), "precision": (91.0, 90.9), "recall": (91.4, 91.3)}, 9.0),
    }
    for task, (scores, loss) in table.items():
        for init in ("pretrained", "random"):
            for seed in (0, 1):
                lost = loss if init == "random" else 0.0
                chosen = {metric: values[seed] - lost for metric, values in scores.items()}
                add_run(inputs, root, task=task, seed=seed, init=init, scores=chosen)
    return inputs


def run_report(output: Path, inputs: Mapping[str, UPath], *, tracker: NullTracker | None = None, **config: Any) -> Path:
    output.mkdir(exist_ok=True)
    context = StageContext(output=UPath(output), inputs=inputs, tracker=tracker or NullTracker())
    run(ReportConfig(**config), context)
    return output


@pytest.fixture
def report(tmp_path: Path):
    """Runs the stage; returns its output folder."""
    return partial(run_report, tmp_path / "report")


@pytest.fixture(scope="module")
def tracker() -> RecordingTracker:
    """Told of the whole report."""
    return RecordingTracker()


@pytest.fixture(scope="module")
def whole_report(tmp_path_factory: pytest.TempPathFactory, tracker: RecordingTracker) -> Path:
    """The report of a finished run, which several tests read."""
    root = tmp_path_factory.mktemp("run")
    return run_report(root / "report", whole_run(root), tracker=tracker)


def test_statistics_are_those_of_numpy():
    scores = {3: 61.25, 0: 58.5, 11: 60.0, 7: 44.0}
    statistics = compute_statistics(scores)
    values = np.array(list(scores.values()))
    assert statistics.median == pytest.approx(np.median(values), abs=1e-12)
    assert statistics.mean == pytest.approx(np.mean(values), abs=1e-12)
    assert statistics.deviation == pytest.approx(np.std(values, ddof=1), abs=1e-12)
    assert list(statistics.seeds) == [0, 3, 7, 11]


def test_one_seed_has_no_deviation(tmp_path, report):
    inputs: dict[str, UPath] = {}
    add_run(inputs, tmp_path, task="cola", seed=4, scores={"matthews": 57.0})
    output = report(inputs)
    task = json.loads((output / "scores.json").read_text())["tasks"]["cola"]
    assert task["metrics"]["pretrained"]["matthews"] == {
        "seeds": {"4": 57.0},
        "median": 57.0,
        "mean": 57.0,
        "standard_deviation": None,
    }
    assert "SD n/a" in (output / "report.html").read_text()
    assert "| 57.0 | 57.0 | n/a | 4: 57.0 |" in (output / "report.md").read_text()


def test_every_score_of_every_seed_is_shown(whole_report, tracker):
    tasks = json.loads((whole_report / "scores.json").read_text())["tasks"]
    assert set(tasks) == {"cola", "mrpc", "squad_v1", "conll2000"}
    assert tasks["cola"]["metrics"]["pretrained"]["matthews"]["seeds"] == {"0": 41.0, "1": 44.5}
    assert tasks["cola"]["metrics"]["random"]["matthews"]["seeds"] == {"0": 17.0, "1": 20.5}
    assert tasks["cola"]["difference_of_medians"] == pytest.approx(24.0)
    assert tracker.recorded["scores/cola/median"] == pytest.approx(42.75)
    assert tracker.recorded["scores/cola/random_median"] == pytest.approx(18.75)
    assert tracker.artifacts == ["report.html", "report.md", "scores.json", "plots"]
    for page in ("report.html", "report.md"):
        text = (whole_report / page).read_text()
        for expected in ("41.0", "44.5", "17.0", "20.5", "+24.0", "on 4 of 4 tasks", "11,880", "0.10.2", "c0ffee"):
            assert expected in text, (page, expected)
        assert "batch_size: 32" in text  # the resolved configuration


def test_a_task_where_pretraining_did_not_help_is_named(tmp_path, report):
    inputs: dict[str, UPath] = {}
    add_run(inputs, tmp_path, task="cola", seed=0, scores={"matthews": 10.0})
    add_run(inputs, tmp_path, task="cola", seed=0, init="random", scores={"matthews": 12.5})
    text = (report(inputs) / "report.md").read_text()
    assert "on 0 of 1 tasks; not on cola" in text
    assert "−2.5" in text


def test_published_numbers_stand_beside_real_tasks(whole_report):
    for page in ("report.html", "report.md"):
        text = (whole_report / page).read_text()
        assert "Beside published results" in text
        assert "median over many" in text
        assert "97.2" in text
    cola = json.loads((whole_report / "scores.json").read_text())["tasks"]["cola"]
    assert cola["published"]["scores"] == {"Small-OWT": 56.8, "Small": 57.0, "Base": 67.7, "Large": 69.1}


def test_published_numbers_stay_away_from_generated_data(tmp_path, report):
    inputs: dict[str, UPath] = {"sample": UPath(tmp_path / "sample")}
    add_run(inputs, tmp_path, task="cola", seed=0, scores={"matthews": 57.0}, data="{sample}/tasks/CoLA")
    output = report(inputs)
    for page in ("report.html", "report.md"):
        text = (output / page).read_text()
        assert "Beside published results" not in text
        assert "cannot be compared with published results" in text
        assert "69.1" not in text
    assert json.loads((output / "scores.json").read_text())["tasks"]["cola"]["published"] is None


def test_published_numbers_stay_away_from_a_part_of_the_data(tmp_path, report):
    inputs: dict[str, UPath] = {}
    add_run(inputs, tmp_path, task="squad_v1", seed=0, scores={"exact_match": 60.0}, max_eval_examples=1043)
    text = (report(inputs) / "report.html").read_text()
    assert "squad_v1 is not held against published results: it was scored on 1,043 examples only" in text
    assert "Beside published results" not in text


def test_a_failed_run_is_a_gap_with_its_reason(tmp_path, report):
    inputs = whole_run(tmp_path)
    del inputs["pretrain"]
    failed = tmp_path / "finetune/squad_v1/seed-1" / FINGERPRINT
    (failed / "result.json").unlink()
    (failed / "log.txt").write_text(
        "2026-01-01 10:00:00 INFO    pipeline: finetune/squad_v1/seed-1 starts\n"
        "2026-01-01 10:01:00 ERROR   pipeline: finetune/squad_v1/seed-1 failed: the loss is nan at step 12\n"
    )
    (tmp_path / "finetune/mrpc/random-0" / FINGERPRINT / "result.json").unlink()
    output = report(inputs)
    gaps = {gap["what"]: gap["reason"] for gap in json.loads((output / "scores.json").read_text())["gaps"]}
    assert gaps["finetune/squad_v1/seed-1"] == f"the loss is nan at step 12 (log: {failed}/log.txt)"
    assert "no result.json" in gaps["finetune/mrpc/random-0"]
    for page in ("report.html", "report.md"):
        text = (output / page).read_text()
        assert "the loss is nan at step 12" in text
        assert "n/a" in text


def test_a_task_without_random_runs_among_others_with_them_is_a_gap(tmp_path):
    inputs = whole_run(tmp_path)
    for seed in (0, 1):
        del inputs[f"finetune/cola/random-{seed}"]
    summary = summarize_results(collect(inputs))
    assert [(gap.what, gap.reason) for gap in summary.gaps] == [
        ("finetune/cola", "no run from random weights is configured")
    ]
    cola = next(task for task in summary.tasks if task.task == "cola")
    assert cola.difference is None
    assert cola.of(Init.RANDOM) is None


def test_a_score_that_is_not_a_number_is_a_gap(tmp_path):
    inputs: dict[str, UPath] = {}
    add_run(inputs, tmp_path, task="cola", seed=0, scores={"matthews": math.nan})
    add_run(inputs, tmp_path, task="cola", seed=1, scores={"matthews": 50.0, "other": math.nan})
    results = collect(inputs)
    assert [(gap.what, gap.reason) for gap in results.gaps] == [("finetune/cola/seed-0", "its matthews is nan")]
    assert [dict(run.scores) for run in results.runs] == [{"matthews": 50.0}]


def test_warnings_of_runs_are_repeated(tmp_path, report):
    inputs: dict[str, UPath] = {}
    add_run(inputs, tmp_path, task="mrpc", seed=0, scores={"accuracy": 68.4}, warnings=("only class 1 is predicted",))
    output = report(inputs)
    for page in ("report.html", "report.md", "scores.json"):
        assert "only class 1 is predicted" in (output / page).read_text()


def test_nothing_but_fine_tuning_makes_a_report(tmp_path, report):
    inputs: dict[str, UPath] = {}
    add_run(inputs, tmp_path, task="cola", seed=0, scores={"matthews": 57.0})
    text = (report(inputs) / "report.html").read_text()
    assert "Pretraining" not in text
    assert "what pretraining gives is not known" in text


def test_nothing_at_all_makes_a_report(report):
    output = report({})
    assert "no finished fine-tuning run" in (output / "report.html").read_text()
    assert json.loads((output / "scores.json").read_text()) == {"tasks": {}, "gaps": [], "warnings": []}


def test_a_broken_line_is_named_with_file_and_line(tmp_path, report):
    inputs = whole_run(tmp_path)
    path = tmp_path / "pretrain" / FINGERPRINT / "metrics.jsonl"
    path.write_text('{"step": 1, "split": "train"}\n{"step": 2, "spl\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: not valid JSON"):
        report(inputs)
    path.write_text('{"step": 1}\n{"split": "train"}\n')
    with pytest.raises(ValueError, match=r"metrics\.jsonl:2: expected an object with an integer"):
        report(inputs)


def test_a_result_without_its_primary_score_is_refused(tmp_path):
    inputs: dict[str, UPath] = {}
    add_run(inputs, tmp_path, task="cola", seed=0, scores={"accuracy": 70.0}, primary="matthews")
    with pytest.raises(ValueError, match=r"primary metric is 'matthews', but scores holds accuracy"):
        collect(inputs)


class _Page(HTMLParser):
    """Collects what a browser would fetch or run."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.addresses += [value or "" for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]


def test_the_page_is_well_formed_and_needs_no_other_host(whole_report):
    text = (whole_report / "report.html").read_text()
    ET.fromstring(text.removeprefix("<!DOCTYPE html>\n"))  # raises where a tag is not closed
    page = _Page()
    page.feed(text)
    assert page.addresses
    assert all(address.startswith(("data:image/png;base64,", "#")) for address in page.addresses)
    assert not {"script", "link", "iframe", "object"} & set(page.tags)
    assert not re.search(r"url\(|@import|https?://", text)
    anchors = [address[1:] for address in page.addresses if address.startswith("#")]
    assert all(f'id="{anchor}"' in text for anchor in anchors)


def test_names_and_texts_are_text_not_markup(tmp_path, report):
    inputs: dict[str, UPath] = {}
    task = "a<b>&|c$x_2$"
    add_run(inputs, tmp_path, task=task, seed=0, scores={"f<1>": 50.0}, warnings=("<script>alert(1)</script> | x",))
    output = report(inputs, title="Runs & <results>")
    html = (output / "report.html").read_text()
    ET.fromstring(html.removeprefix("<!DOCTYPE html>\n"))
    assert "<script>" not in html
    assert "a&lt;b&gt;&amp;|c$x_2$" in html
    assert "<title>Runs &amp; &lt;results&gt;</title>" in html
    markdown = (output / "report.md").read_text()
    assert "<script>" not in re.sub(r"\\<", "", markdown)
    row = next(line for line in markdown.splitlines() if line.startswith("| a"))
    assert len(re.findall(r"(?<!\\)\|", row)) == 12  # 11 columns: the task's own bar is escaped
    assert (output / "plots" / "finetuning-a_b___c_x_2_.png").exists()


def test_plots_show_something_and_are_those_in_the_pages(whole_report):
    markdown = (whole_report / "report.md").read_text()
    plots = sorted((whole_report / "plots").iterdir())
    assert {plot.stem for plot in plots} == {
        *("scores", "loss-generator", "loss-discriminator", "replaced-precision-recall", "replaced-auc"),
        *("masked-accuracy", "learning-rate", "gradient-norm", "throughput"),
        *("finetuning-cola", "finetuning-mrpc", "finetuning-squad_v1", "finetuning-conll2000"),
    }
    for plot in plots:
        pixels = imread(io.BytesIO(plot.read_bytes()), format="png")
        assert pixels.shape[0] > 300
        assert pixels.shape[1] > 800
        coloured = np.ptp(pixels[..., :3], axis=-1) > 0.2
        assert coloured.sum() > 200, f"{plot.name} has no line"
        assert f"(plots/{plot.name})" in markdown
    assert (whole_report / "report.html").read_text().count("data:image/png;base64,") == len(plots)


def test_the_same_inputs_give_the_same_bytes(tmp_path, report):
    inputs: dict[str, UPath] = {}
    add_run(inputs, tmp_path, task="cola", seed=0, scores={"matthews": 57.0})
    first = {path.name: path.read_bytes() for path in report(inputs).rglob("*") if path.is_file()}
    second = {path.name: path.read_bytes() for path in report(inputs).rglob("*") if path.is_file()}
    assert first == second


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
