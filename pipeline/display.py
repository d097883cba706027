"""What a person sees while stages run: a live table on a terminal, plain lines elsewhere."""

import time
from collections import Counter
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table

from pipeline.progress import Progress
from pipeline.results import StageResult, State

LINE_SECONDS = 15.0
_STYLES = {State.QUEUED: "", State.RUNNING: "bold cyan", State.FINISHED: "green", State.FAILED: "bold red"}
_STYLES |= dict.fromkeys((State.DONE, State.WAITING), "dim") | dict.fromkeys((State.BLOCKED, State.STOPPED), "yellow")


def make_display(console: Console, *, stages: Sequence[str]) -> "LiveTable | PlainLines":
    """The live table where the output is a terminal, else lines."""
    return LiveTable(console, stages=stages) if console.is_terminal else PlainLines(console)


class LiveTable:
    """A table of stages, redrawn twice a second."""

    def __init__(self, console: Console, *, stages: Sequence[str]) -> None:
        self._stages = stages
        self._live = Live(console=console, refresh_per_second=2, transient=False)

    def __enter__(self) -> "LiveTable":
        self._live.__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.__exit__(None, None, None)

    def update(self, results: Mapping[str, StageResult], progress: Mapping[str, Progress]) -> None:
        """Draws the table."""
        numbers = [Column(title, justify="right") for title in ("loss", "tokens/s", "time", "left")]
        table = Table("stage", "state", "progress", *numbers, box=None, pad_edge=False, header_style="bold")
        names = self._visible(results, progress)
        for name in names:
            result, here = results[name], progress.get(name)
            state = shown_state(result, here)
            running = here if state is State.RUNNING else None
            table.add_row(
                name,
                state.value,
                _bar(running) if running else "",
                _loss(here) if state in (State.RUNNING, State.FINISHED) else "",
                _rate(running),
                _clock(running.elapsed_seconds if running else result.seconds),
                _clock(running.seconds_left if running else None),
                style=_STYLES[state],
            )
        if hidden := Counter(result.state.value for name, result in results.items() if name not in names):
            table.caption = "and " + ", ".join(f"{count} {state}" for state, count in hidden.items())
            table.caption_justify = "left"
        self._live.update(table)

    def _visible(self, results: Mapping[str, StageResult], progress: Mapping[str, Progress]) -> list[str]:
        """All stages; if they do not fit, those that run or ended badly, then those that come next."""
        names = [name for name in self._stages if name in results]
        room = self._live.console.size.height - 4
        if len(names) <= room:
            return names
        quiet = (State.DONE, State.WAITING, State.FINISHED, State.QUEUED)
        loud = [name for name in names if shown_state(results[name], progress.get(name)) not in quiet]
        following = [
            name for name in names if results[name].state in (State.QUEUED, State.WAITING) and name not in loud
        ]
        shown = {*loud[:room], *following[: max(0, room - len(loud))]}
        return [name for name in names if name in shown]


class PlainLines:
    """One line per change of state, and one every `LINE_SECONDS` per running stage."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._states: dict[str, State] = {}
        self._last: dict[str, float] = {}

    def __enter__(self) -> "PlainLines":
        return self

    def __exit__(self, *_: object) -> None: ...

    def update(self, results: Mapping[str, StageResult], progress: Mapping[str, Progress]) -> None:
        """Prints what is new."""
        first = not self._states
        for name, result in results.items():
            here = progress.get(name)
            state = shown_state(result, here)
            # A stage without numbers to show gets fewer lines.
            pause = LINE_SECONDS if here and here.total else 4 * LINE_SECONDS
            changed = self._states.get(name) is not state
            self._states[name] = state
            if changed and state in (State.DONE, State.WAITING, State.QUEUED):
                if state is State.DONE and first:
                    self._say(name, "already done")
            elif changed:
                self._say(name, _change(result, state))
                self._last[name] = time.monotonic()
            elif state is State.RUNNING and here and time.monotonic() - self._last[name] >= pause:
                self._say(name, _line(here))
                self._last[name] = time.monotonic()

    def _say(self, name: str, text: str) -> None:
        # Not `print`: a job log needs each line at once, and unbroken at 80 columns.
        self._console.print(
            f"{time.strftime('%H:%M:%S')}  {name:<24} {text}", soft_wrap=True, highlight=False, markup=False
        )


def shown_state(result: StageResult, progress: Progress | None) -> State:
    """A queued stage that reports progress is running: Ray does not say when a task begins."""
    return State.RUNNING if result.state is State.QUEUED and progress is not None else result.state


def _change(result: StageResult, state: State) -> str:
    if state is State.FAILED:
        return f"failed: {result.error}"
    if state is State.BLOCKED:
        return f"not run: it needs {result.blocked_by}, which failed"
    if state is State.FINISHED:
        return f"finished in {_clock(result.seconds)}"
    return state.value


def _line(progress: Progress) -> str:
    counted = f"{progress.done:,} of {progress.total:,} {progress.unit}"
    parts = [counted if progress.total else f"running for {_clock(progress.elapsed_seconds)}"]
    if _loss(progress):
        parts.append(f"loss {_loss(progress)}")
    if _rate(progress):
        parts.append(f"{_rate(progress)} tokens/s")
    if progress.seconds_left is not None:
        parts.append(f"{_clock(progress.seconds_left)} left")
    return ", ".join(parts)


def _bar(progress: Progress) -> str:
    if not progress.total:
        return ""
    share = min(1.0, progress.done / progress.total)
    filled = round(share * 12)
    return f"{'━' * filled}{'╌' * (12 - filled)} {progress.done:,}/{progress.total:,} {progress.unit}"


def _loss(progress: Progress | None) -> str:
    loss = progress.fields.get("loss") if progress else None
    return "" if loss is None else f"{loss:.3f}"


def _rate(progress: Progress | None) -> str:
    rate = progress.fields.get("tokens_per_second") if progress else None
    return "" if rate is None else f"{rate:,.0f}"


def _clock(seconds: float | None) -> str:
    """`42s`, `3m 05s`, `2h 07m`."""
    if seconds is None or seconds <= 0:
        return ""
    whole = round(seconds)
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m {whole % 60:02d}s"
    return f"{whole // 3600}h {whole % 3600 // 60:02d}m"
