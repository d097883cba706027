"""What a person sees while stages run: a live table on a terminal, plain lines elsewhere.

Both show the same: what runs and how far it is, what it does while that cannot be counted, what came out of what is
finished, and how long the whole run still takes. The table shows all that moves, however small the screen: stages that
wait or did not run share a row, and those that finished first make room.
"""

import time
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from pipeline.results import StageResult, State
from pipeline.screen.folding import fold, shown_state
from pipeline.screen.forecast import Forecast, TimeLeft
from pipeline.screen.progress import Progress

# Between two lines of a running stage in a log, and between two lines of the whole run.
LINE_SECONDS = 15.0
_STYLES = {State.QUEUED: "", State.RUNNING: "bold cyan", State.FINISHED: "green", State.FAILED: "bold red"}
_STYLES |= dict.fromkeys((State.DONE, State.WAITING), "dim") | dict.fromkeys((State.BLOCKED, State.STOPPED), "yellow")
# Below these widths the table has fewer columns.
_WIDE, _NARROW = 100, 66


def announce(console: Console, text: str) -> None:
    """Says what the run does before its stages run: a log gets the time beside it."""
    clock = "" if console.is_terminal else f"{time.strftime('%H:%M:%S')}  "
    console.print(f"{clock}{text}", style="dim", highlight=False, markup=False, soft_wrap=True)


def make_display(console: Console, *, stages: Sequence[str]) -> "LiveTable | PlainLines":
    """The live table where the output is a terminal, else lines."""
    return LiveTable(console, stages=stages) if console.is_terminal else PlainLines(console)


class LiveTable:
    """A table of stages, redrawn twice a second."""

    def __init__(self, console: Console, *, stages: Sequence[str]) -> None:
        self._stages = stages
        self._forecast = Forecast()
        self._began = time.monotonic()
        self._live = Live(console=console, refresh_per_second=2, transient=False)

    def __enter__(self) -> "LiveTable":
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def update(self, results: Mapping[str, StageResult], progress: Mapping[str, Progress]) -> None:
        """Draws the table."""
        width, height = self._live.console.size
        columns = [Column("stage", no_wrap=True), Column("progress", no_wrap=True, overflow="ellipsis", ratio=1)]
        names = ["loss", "tokens/s"] if width >= _WIDE else []
        names += ["time", "left"] if width >= _NARROW else ["left"]
        columns += [Column(name, justify="right", no_wrap=True) for name in names]
        table = Table(*columns, box=None, pad_edge=False, header_style="bold", expand=True)
        rows = fold([results[name] for name in self._stages if name in results], progress, room=height - 4)
        titles = [_shortened(row.name, width // 2) for row in rows]
        others = 42 if width >= _WIDE else 24 if width >= _NARROW else 13
        room = width - max(map(len, titles), default=0) - others
        for row, title in zip(rows, titles, strict=True):
            here = row.progress
            cells = {
                "loss": _loss(here),
                "tokens/s": _rate(here),
                "time": format_clock(here.elapsed_seconds if here else row.seconds),
                "left": format_clock(here.seconds_left if here else None),
            }
            text = _bar(here, room=room) if here else row.text
            table.add_row(title, text, *map(cells.get, names), style=_STYLES[row.state])
        left = self._forecast.time_left(results, progress)
        table.caption = _overall(results, left, began=self._began, is_short=width < _NARROW)
        table.caption_justify = "left"
        self._live.update(table)


class PlainLines:
    """One line per change of state or phase, one every `LINE_SECONDS` per running stage, and one for the whole run."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._forecast = Forecast()
        self._began = time.monotonic()
        self._states: dict[str, State] = {}
        self._phases: dict[str, str] = {}
        self._last: dict[str, float] = {}
        self._last_overall = self._began

    def __enter__(self) -> "PlainLines":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, results: Mapping[str, StageResult], progress: Mapping[str, Progress]) -> None:
        """Prints what is new."""
        now = time.monotonic()
        changed: dict[State, list[StageResult]] = {}
        for name, result in results.items():
            here = progress.get(name)
            state = shown_state(result, here)
            if self._states.get(name) is not state:
                changed.setdefault(state, []).append(result)
                self._states[name] = state
                self._last[name] = now
        for state, found in changed.items():
            self._say_changes(state, found)
        running = [name for name in results if self._states[name] is State.RUNNING and name in progress]
        for name in running:
            here = progress[name]
            # Many at a time share the lines; a stage without numbers gets fewer.
            pause = LINE_SECONDS * max(1, len(running) // 2) * (1 if here.total else 4)
            if here.phase and here.phase != self._phases.get(name):
                self._say(name, here.phase)
            elif now - self._last[name] < pause:
                continue
            else:
                self._say(name, _line(here))
            self._phases[name] = here.phase
            self._last[name] = now
        left = self._forecast.time_left(results, progress)
        if running and now - self._last_overall >= 4 * LINE_SECONDS:
            self._last_overall = now
            self._say("all", _overall(results, left, began=self._began))

    def _say_changes(self, state: State, found: Sequence[StageResult]) -> None:
        """Ends and beginnings get a line each; stages that were done, are queued or did not run share one."""
        if state in (State.RUNNING, State.FINISHED, State.FAILED, State.STOPPED):
            for result in found:
                self._say(result.name, _change(result, state))
            return
        if state is State.WAITING:
            return
        for row in fold(found, {}, room=1000, least=2):
            self._say(row.name, row.text or row.state.value)

    def _say(self, name: str, text: str) -> None:
        # Not `print`: a job log needs each line at once, and unbroken at 80 columns.
        self._console.print(
            f"{time.strftime('%H:%M:%S')}  {name:<24} {text}", soft_wrap=True, highlight=False, markup=False
        )


def _change(result: StageResult, state: State) -> str:
    if state is State.FAILED:
        return f"failed: {result.error}"
    if state is State.FINISHED:
        outcome = f": {result.outcome}" if result.outcome else ""
        return f"finished in {format_clock(result.seconds) or 'under 1s'}{outcome}"
    return state.value


def _overall(results: Mapping[str, StageResult], left: TimeLeft, *, began: float, is_short: bool = False) -> str:
    """`5 of 24 stages done, 3m 10s so far, about 12m 00s left`."""
    done = sum(result.state in (State.DONE, State.FINISHED) for result in results.values())
    parts = [
        f"{done} of {len(results)} {'' if is_short else 'stages '}done",
        f"{format_clock(time.monotonic() - began) or '0s'} so far",
    ]
    if left.seconds >= 1:
        parts.append(f"{'about' if left.is_whole else 'at least'} {format_clock(left.seconds)} left")
    return ", ".join(parts)


def _line(progress: Progress) -> str:
    counted = f"{progress.done:,} of {progress.total:,} {progress.unit}"
    parts = [counted if progress.total else f"running for {format_clock(progress.elapsed_seconds)}"]
    if progress.phase:
        parts.append(progress.phase)
    if _loss(progress):
        parts.append(f"loss {_loss(progress)}")
    if _rate(progress):
        parts.append(f"{_rate(progress)} tokens/s")
    if progress.seconds_left is not None:
        parts.append(f"{format_clock(progress.seconds_left)} left")
    return ", ".join(parts)


def _bar(progress: Progress, *, room: int) -> str:
    """`━━━━╌╌╌╌ 300/1,000 steps`, as much of it as there is room for; what an earlier run did is drawn thin."""
    if progress.phase:
        share = f"{progress.done:,}/{progress.total:,} {progress.unit}: " if progress.done and progress.total else ""
        return share + progress.phase if len(share) + len(progress.phase) <= room else progress.phase
    if not progress.total:
        return "running"
    counts = [f"{progress.done:,}/{progress.total:,} {progress.unit}", f"{progress.done:,}/{progress.total:,}"]
    count = next((text for text in counts if len(text) <= room), f"{100 * progress.done // progress.total}%")
    length = min(12, room - len(count) - 1)
    if length < 4:
        return count
    before, filled = (round(min(1.0, done / progress.total) * length) for done in (progress.resumed_at, progress.done))
    return f"{'─' * before}{'━' * (filled - before)}{'╌' * (length - filled)} {count}"


def _shortened(name: str, most: int) -> str:
    """A name with its middle left out where it is longer than `most`: both ends of `finetune/x/seed-3` tell."""
    if len(name) <= most:
        return name
    return f"{name[: most - most // 2 - 1]}…{name[-(most // 2) :]}"


def _loss(progress: Progress | None) -> str:
    loss = progress.fields.get("loss") if progress else None
    return "" if loss is None else f"{loss:.3f}"


def _rate(progress: Progress | None) -> str:
    rate = progress.fields.get("tokens_per_second") if progress else None
    return "" if rate is None else f"{rate:,.0f}"


def format_clock(seconds: float | None) -> str:
    """`42s`, `3m 05s`, `2h 07m`; nothing for what took no time."""
    if seconds is None or round(seconds) <= 0:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
