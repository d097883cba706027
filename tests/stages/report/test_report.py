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


def test_the_top_says_what_was_run_on_what_how_long_and_how_large(whole_report):
    text = (whole_report / "report.html").read_text()
    facts = dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", text))
    assert facts == {
        "Config": "mine",
        "Finished": "2026-01-05 10:00 UTC",
        "Pretrained on": "NVIDIA H100, 2 processes",
        "Time of all stages": "81 min",
        "Discriminator": "1,234,567 parameters",
        "Generator": "345,678 parameters",
        "Pretraining": "2,000 steps of 32 examples",
        "Tokens seen": "8,192,000",
        "Passes over the corpus": "6.4",
    }


def test_the_record_of_the_whole_run_has_scores_held_out_numbers_and_amounts(whole_report, tracker):
    assert tracker.recorded["scores/cola/difference"] == pytest.approx(24.0)
    assert tracker.recorded["heldout/replaced/auc"] == pytest.approx(0.873, abs=1e-3)
    assert tracker.recorded["hours"] == pytest.approx(40 * (1 + 3 + 9 + 27 + 81) / 3600)
    assert tracker.recorded["tokens"] == 2000 * 32 * 128
    assert tracker.params == {"passes": 6.4, "hardware": "NVIDIA H100, 2 processes"}
    assert "| cola | matthews | 42.8 | 18.8 | +24.0 | 2 / 2 |" in tracker.text


def test_held_out_text_shows_what_was_found_missed_and_falsely_alarmed(whole_report):
    text = (whole_report / "report.html").read_text()
    shown = text.partition('<div class="shown">')[2].partition("</div>")[0]
    marks = re.findall(r'<mark class="(\w+)" title="replaced with a probability of (\d+) %">(.*?)</mark>', shown)
    spans = [(kind, share, re.sub(r"<span class=.hidden.>(.*?)</span>", "", inner)) for kind, share, inner in marks]
    assert spans == [
        ("found", "97", "slow <s>quick</s>"),
        ("missed", "20", "red <s>brown</s>"),
        ("alarm", "60", "fox"),
        ("found", "55", "&lt;b&gt; <s>over</s>"),
    ]
    assert " jumps, " in shown
    assert "(2), " in text.partition("replaced and found")[2][:20]
    assert "the ___ brown fox jumps, over" in text
    assert "quick 50 %, slow 25 %" in text
    markdown = (whole_report / "report.md").read_text()
    assert "the **slow** ~~quick~~ *red* ~~brown~~ fox(?) jumps," in markdown


def test_the_vocabulary_has_a_sample_and_how_finely_it_cuts(whole_report):
    text = (whole_report / "report.html").read_text()
    assert "<code>the</code> <code>##ing</code> <code>fox</code>" in text
    assert re.search(r"tokens a word, held-out text</th><td class=\"n\">1.50<", text)


def test_without_examples_no_text_is_in_the_pages(tmp_path, report):
    inputs = whole_run(tmp_path)
    folder = tmp_path / "finetune/cola/seed-0" / FINGERPRINT
    result = json.loads((folder / "result.json").read_text())
    wrong = [{"texts": ["a secret text"], "label": "yes", "predicted": "no"}]
    (folder / "result.json").write_text(json.dumps(result | {"details": {"wrong": wrong}}))
    shown = report(inputs)
    assert "a secret text" in (shown / "report.html").read_text()
    output = report(inputs, examples=False)
    for page in ("report.html", "report.md"):
        text = (output / page).read_text()
        for secret in ("a secret text", "quick", "slow", "##ing"):
            assert secret not in text, (page, secret)
        assert "41.0" in text


def test_pictures_have_their_values_as_text_and_headers_their_scope(whole_report):
    page = (whole_report / "report.html").read_text()
    alts = re.findall(r'<img alt="(.*?)"', page)
    assert len(alts) == page.count("<img ")
    assert "Medians of the scores in percent: cola pretrained weights 42.8; cola random weights 18.8" in alts[0]
    assert any(alt.startswith("Generator loss (nats per masked token): training: from ") for alt in alts)
    assert all(re.search(r"\d", alt) for alt in alts)
    assert not re.search(r"<th(?=[ >])(?! scope=.(col|row).)", page.partition("<body>")[2])


def test_there_is_a_dark_scheme_and_one_for_paper_that_opens_what_is_closed(whole_report):
    style = (whole_report / "report.html").read_text().partition("<style>")[2].partition("</style>")[0]
    assert "@media screen and (prefers-color-scheme: dark)" in style
    assert "details::details-content" in style.partition("@media print")[2]
