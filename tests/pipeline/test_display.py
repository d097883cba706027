"""What a person sees while stages run."""

import io
import re
import time
from dataclasses import replace

import pytest
from rich.console import Console
from upath import UPath

from pipeline.results import StageResult, State
from pipeline.screen import display as display_module
from pipeline.screen.display import LiveTable, PlainLines, make_display
from pipeline.screen.folding import fold
from pipeline.screen.forecast import Forecast
from pipeline.screen.progress import Progress


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
    for part in ("300/1,000 steps", "12.346", "5,120", "2m 10s", "1m 10s"):
        assert part in line
    assert "waiting" in next(line for line in text_of(screen).splitlines() if "export" in line)


def test_a_resumed_stages_bar_begins_where_it_went_on(training):
    screen = console(terminal=True)
    with LiveTable(screen, stages=["pretrain"]) as display:
        display.update({"pretrain": result("pretrain", State.QUEUED)}, {"pretrain": replace(training, resumed_at=250)})
    assert "───━╌╌╌╌╌╌╌╌ 300/1,000 steps" in text_of(screen)


def test_what_takes_long_and_is_not_counted_has_a_name(training):
    screen, log = console(terminal=True), console(terminal=False)
    results = {"pretrain": result("pretrain", State.QUEUED)}
    with LiveTable(screen, stages=["pretrain"]) as display:
        display.update(results, {"pretrain": Progress(began=time.time(), phase="compiling the training step")})
    assert "compiling the training step" in text_of(screen)
    lines = PlainLines(log)
    for phase in ("compiling", "compiling", "evaluating"):
        lines.update(results, {"pretrain": replace(training, phase=phase)})
    assert [line.split(maxsplit=2)[2] for line in text_of(log).splitlines()] == ["running", "compiling", "evaluating"]


def test_a_finished_stage_says_what_came_out_of_it(training):
    name = "finetune/cola/seed-0"
    found = {name: result(name, State.FINISHED, outcome="matthews 44.50", seconds=9)}
    screen, log = console(terminal=True), console(terminal=False)
    with LiveTable(screen, stages=[name]) as display:
        display.update(found, {name: training})
    assert "matthews 44.50" in text_of(screen)
    assert "12.346" not in text_of(screen)  # the last loss
    PlainLines(log).update(found, {})
    assert "finished in 9s: matthews 44.50" in text_of(log)


def test_a_log_gets_a_line_for_each_change_and_few_between(training, monkeypatch):
    log = console(terminal=False)
    display = PlainLines(log)
    waiting = {"pretrain": result("pretrain", State.QUEUED)}
    for _ in range(50):
        display.update(waiting, {"pretrain": training})
    assert [line.split()[2] for line in text_of(log).splitlines()] == ["running"]
    monkeypatch.setattr(display_module, "LINE_SECONDS", 0.0)
    display.update(waiting, {"pretrain": training})
    assert "300 of 1,000 steps, loss 12.346, 5,120 tokens/s, 1m 10s left" in text_of(log).splitlines()[-2]
    assert "0 of 1 stages done" in text_of(log).splitlines()[-1]
    display.update({"pretrain": result("pretrain", State.FINISHED, seconds=3700.0)}, {})
    assert text_of(log).splitlines()[-1].endswith("finished in 1h 01m")


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
    assert "pretrain                 not run: shard failed, which it needs" in text_of(log)


def test_lines_are_never_broken():
    log = console(terminal=False)
    PlainLines(log).update({"a": result("a", State.FAILED, error="x " * 200)}, {})
    assert len(text_of(log).splitlines()) == 1


MANY = [f"finetune/{task}/seed-{seed}" for task in ("cola", "conll2000", "squad_v1") for seed in range(12)]


def many(training: Progress) -> tuple[dict[str, StageResult], dict[str, Progress]]:
    """A run whose screen is too small: three stages were done, one failed with followers, two of 36 run."""
    names = ["sample", "ingest", "vocab"]
    results = {name: result(name, State.DONE) for name in names}
    results["examples/mrpc"] = result("examples/mrpc", State.FAILED, error="no such file")
    for seed in range(4):
        name = f"finetune/mrpc/seed-{seed}"
        results[name] = result(name, State.BLOCKED, blocked_by="examples/mrpc")
    for number, name in enumerate(MANY):
        state = State.FINISHED if number < 20 else State.QUEUED if number < 24 else State.WAITING
        results[name] = result(name, state, outcome=f"f1 {number}.00" if number < 20 else "", seconds=60.0)
    results["report"] = result("report", State.WAITING)
    return results, {MANY[20]: training, MANY[21]: training}


@pytest.mark.parametrize("size", [(120, 40), (80, 24), (50, 24)])
def test_all_that_moves_is_in_sight_on_any_screen_with_names_that_can_be_read(training, size):
    results, progress = many(training)
    screen = console(terminal=True)
    screen.size = size
    with LiveTable(screen, stages=[*results]) as display:
        display.update(results, progress)
    lines = re.sub(r"\x1b\[[0-9?]*[A-Za-z]", "", text_of(screen)).splitlines()
    assert len(lines) < size[1]
    assert all(len(line) <= size[0] for line in lines)
    drawn = "\n".join(lines)
    for shown in (MANY[20], MANY[21], "examples/mrpc", "failed: ", "4 stages", "not run: "):
        assert shown in drawn
    for row in ("3 stages", "12 fine-tuning runs", "23 of 45", "f1 19.00"):
        assert row in drawn


def test_rows_give_way_in_order_of_how_little_they_tell(training):
    results, progress = many(training)
    for room in (40, 20, 12, 9, 6):
        rows = fold([*results.values()], progress, room=room)
        assert len(rows) <= room
        names = [row.name for row in rows]
        assert {MANY[20], MANY[21], "examples/mrpc"} <= set(names), room
    running = dict.fromkeys(MANY, training)
    rows = fold([result(name, State.QUEUED) for name in MANY], running, room=10)
    assert len(rows) == 10
    assert (rows[-1].name, rows[-1].text) == ("27 stages", "more run")


def test_the_time_left_is_of_all_stages_and_says_where_some_are_unknown(training):
    forecast = Forecast()
    results = {"pretrain": result("pretrain", State.QUEUED), "export": result("export", State.WAITING)}
    left = forecast.time_left(results, {"pretrain": training})
    assert (left.seconds, left.is_whole) == (70, False)
    results, progress = many(training)
    results |= {"report": result("report", State.FINISHED, seconds=3)}
    left = forecast.time_left(results, progress)
    # Two run side by side, 70 s each; 14 wait, which took their like 60 s.
    assert left.is_whole
    assert left.seconds == (2 * 70 + 14 * 60) / 2
