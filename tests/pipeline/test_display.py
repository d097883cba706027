"""What a person sees while stages run."""

import io
import time
from dataclasses import replace

import pytest
from rich.console import Console
from upath import UPath

from pipeline import display as display_module
from pipeline.display import LiveTable, PlainLines, make_display
from pipeline.progress import Progress
from pipeline.results import StageResult, State


def result(name: str, state: State, **fields) -> StageResult:
    return StageResult(name=name, state=state, folder=UPath("/out") / name, **fields)


def console(*, terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=110, color_system=None)


def text_of(found: Console) -> str:
    assert isinstance(found.file, io.StringIO)
    return found.file.getvalue()


@pytest.fixture
def training(monkeypatch) -> Progress:
    now = 1_000_000.0
    monkeypatch.setattr(time, "time", lambda: now)
    return Progress(
        began=now - 130,
        done=300,
        total=1000,
        unit="steps",
        first_done=100,
        first_time=now - 20,
        updated=now,
        fields={"loss": 12.3456, "tokens_per_second": 5120.4},
    )


def test_time_left_counts_from_where_a_resumed_stage_began(training):
    assert training.seconds_left == 70
    assert training.elapsed_seconds == 130
    assert replace(training, done=100).seconds_left is None


def test_a_terminal_shows_a_table_and_a_log_shows_lines():
    assert isinstance(make_display(console(terminal=True), stages=[]), LiveTable)
    assert isinstance(make_display(console(terminal=False), stages=[]), PlainLines)


def test_the_table_shows_state_progress_loss_rate_and_time_left(training):
    screen = console(terminal=True)
    with LiveTable(screen, stages=["shard", "pretrain", "export"]) as display:
        results = {
            "shard": result("shard", State.DONE),
            "pretrain": result("pretrain", State.QUEUED),
            "export": result("export", State.WAITING),
        }
        display.update(results, {"pretrain": training})
    line = next(line for line in text_of(screen).splitlines() if "pretrain" in line)
    for part in ("running", "300/1,000 steps", "12.346", "5,120", "2m 10s", "1m 10s"):
        assert part in line
    assert "waiting" in next(line for line in text_of(screen).splitlines() if "export" in line)


def test_a_log_gets_a_line_for_each_change_and_few_between(training, monkeypatch):
    log = console(terminal=False)
    display = PlainLines(log)
    waiting = {"pretrain": result("pretrain", State.QUEUED)}
    for _ in range(50):
        display.update(waiting, {"pretrain": training})
    assert len(text_of(log).splitlines()) == 1
    monkeypatch.setattr(display_module, "LINE_SECONDS", 0.0)
    display.update(waiting, {"pretrain": training})
    assert "300 of 1,000 steps, loss 12.346, 5,120 tokens/s, 1m 10s left" in text_of(log).splitlines()[1]
    display.update({"pretrain": result("pretrain", State.FINISHED, seconds=3700.0)}, {})
    assert text_of(log).splitlines()[2].endswith("finished in 1h 01m")


def test_a_log_names_failures_and_what_they_stopped():
    log = console(terminal=False)
    display = PlainLines(log)
    display.update(
        {
            "shard": result("shard", State.FAILED, error="no space left [here]"),
            "pretrain": result("pretrain", State.BLOCKED, blocked_by="shard"),
        },
        {},
    )
    assert "failed: no space left [here]" in text_of(log)
    assert "not run: it needs shard, which failed" in text_of(log)


def test_lines_are_never_broken():
    log = console(terminal=False)
    PlainLines(log).update({"a": result("a", State.FAILED, error="x " * 200)}, {})
    assert len(text_of(log).splitlines()) == 1


def test_a_table_too_long_for_the_screen_shows_what_runs_and_counts_the_rest(training):
    screen = console(terminal=True)
    screen.size = (110, 12)
    names = [f"finetune/cola/seed-{number}" for number in range(40)]
    results = {name: result(name, State.FINISHED if number < 20 else State.QUEUED) for number, name in enumerate(names)}
    with LiveTable(screen, stages=names) as display:
        display.update(results, {names[20]: training, names[30]: training})
    text = text_of(screen)
    assert all(f"{names[number]}  running" in text for number in (20, 30))
    assert "and 20 finished, 12 queued" in text
