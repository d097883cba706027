"""The report says what the other stages left, no more and no less, on pages that stand on their own."""

import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser

import numpy as np
import pytest
from finished_runs import FINGERPRINT, add_run, whole_run
from matplotlib.image import imread
from upath import UPath

from stages.run_warning import RunWarning, WarningKind


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
        "degenerate": 0,
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
    assert "squad_v1 is not compared with published results: it was scored on 1,043 examples only" in text
    assert "Beside published results" not in text


def test_a_failed_run_is_a_gap_with_its_reason(tmp_path, report):
    inputs = whole_run(tmp_path)
    del inputs["pretrain"]
    failed = tmp_path / "finetune/squad_v1/seed-1" / FINGERPRINT
    (failed / "result.json").unlink()
    (failed / "failure.json").write_text('{"error": "the loss is nan at step 12"}')
    (tmp_path / "finetune/mrpc/random-0" / FINGERPRINT / "result.json").unlink()
    output = report(inputs)
    gaps = {gap["what"]: gap["reason"] for gap in json.loads((output / "scores.json").read_text())["gaps"]}
    assert gaps["finetune/squad_v1/seed-1"] == f"the loss is nan at step 12 (log: {failed}/log.txt)"
    assert "no result.json" in gaps["finetune/mrpc/random-0"]
    for page in ("report.html", "report.md"):
        text = (output / page).read_text()
        assert "the loss is nan at step 12" in text
        assert "n/a" in text


def test_warnings_of_runs_are_repeated(tmp_path, report):
    inputs: dict[str, UPath] = {}
    warnings = [RunWarning(WarningKind.DEGENERATE, "class 1 only"), RunWarning(WarningKind.TRUNCATED, "3 texts")]
    add_run(inputs, tmp_path, task="mrpc", seed=0, scores={"accuracy": 68.4}, warnings=warnings)
    output = report(inputs)
    for page in ("report.html", "report.md"):
        assert "degenerate: class 1 only; truncated: 3 texts" in (output / page).read_text()
    assert json.loads((output / "scores.json").read_text())["warnings"] == [
        {"stage": "finetune/mrpc/seed-0", "kind": "degenerate", "text": "class 1 only"},
        {"stage": "finetune/mrpc/seed-0", "kind": "truncated", "text": "3 texts"},
    ]


def test_a_warning_that_is_no_record_is_an_error_that_says_what_to_do(tmp_path, report):
    inputs: dict[str, UPath] = {}
    folder = add_run(inputs, tmp_path, task="mrpc", seed=0, scores={"accuracy": 68.4})
    result = json.loads((folder / "result.json").read_text())
    for wrong in ("degenerate: flat loss", {"kind": "odd", "text": "x"}, {"kind": "retried"}):
        (folder / "result.json").write_text(json.dumps(result | {"warnings": [wrong]}))
        with pytest.raises(ValueError, match=r"result.json: a warning is .*a `kind` of degenerate, .*run its stage"):
            report(inputs)


def test_nothing_but_fine_tuning_makes_a_report(tmp_path, report):
    inputs: dict[str, UPath] = {}
    add_run(inputs, tmp_path, task="cola", seed=0, scores={"matthews": 57.0})
    text = (report(inputs) / "report.html").read_text()
    assert "Pretraining" not in text
    assert "the gain from pretraining is unknown" in text


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
    warnings = [RunWarning(WarningKind.DEGENERATE, "<script>alert(1)</script> | x")]
    add_run(inputs, tmp_path, task=task, seed=0, scores={"f<1>": 50.0}, warnings=warnings)
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
        *("masked-accuracy", "learning-rate", "gradient-norm", "throughput", "probes"),
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
