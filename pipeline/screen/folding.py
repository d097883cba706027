"""Which rows stand for a run's stages: one each for what moves or ended badly, one for many that wait.

A run may have hundreds of fine-tunings and a screen 24 lines. In this order rows give way: stages that were done
before, wait, or did not run because another failed share a row from `least` on; then the stages that finished first
share one; then rows that do not move go; then the last of those that run share one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pipeline.results import StageResult, State
from pipeline.screen.progress import Progress

_NOUNS = {"finetune": "fine-tuning runs", "examples": "tasks' examples", "probe": "probes"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row, of one stage or of several.

    Attributes:
      text: What to say of it, where it has no progress to show.
      progress: Of a running stage.
    """

    name: str
    state: State
    text: str
    seconds: float = 0.0
    progress: Progress | None = None


def shown_state(result: StageResult, progress: Progress | None) -> State:
    """A queued stage that reports progress is running: Ray does not say when a task begins."""
    return State.RUNNING if result.state is State.QUEUED and progress is not None else result.state


def fold(results: Sequence[StageResult], progress: Mapping[str, Progress], *, room: int, least: int = 3) -> list[Row]:
    """At most `room` rows, in the order of the stages.

    Args:
      results: Of all stages, in order.
      progress: Of those that have begun.
      least: How many stages of a kind share a row.
    """
    shared: dict[tuple[State, str], list[StageResult]] = {}
    for result in results:
        if key := _key(result, progress.get(result.name)):
            shared.setdefault(key, []).append(result)
    rows: list[Row] = []
    for result in results:
        here = progress.get(result.name)
        key = _key(result, here)
        alike = shared.get(key, []) if key else []
        if key is None or len(alike) < (1 if result.state is State.BLOCKED else least):
            state = shown_state(result, here)
            is_running = state is State.RUNNING
            text = result.outcome or state.value
            if state is State.FAILED:
                text = f"failed: {result.error}"
            seconds = result.seconds if state is not State.DONE else 0.0
            row = Row(name=result.name, state=state, text=text, seconds=seconds, progress=here if is_running else None)
            rows.append(row)
        elif result is alike[0]:
            rows.append(_together(*key, alike))
    return _fitted(rows, room=max(1, room))


def _key(result: StageResult, progress: Progress | None) -> tuple[State, str] | None:
    """What a stage shares a row with: those of its state and group, or with the same cause; None: it has its own."""
    group, _, rest = result.name.partition("/")
    match shown_state(result, progress):
        case State.DONE:
            return State.DONE, ""
        case State.WAITING | State.QUEUED as state:
            return (state, group) if rest else None
        case State.BLOCKED:
            return State.BLOCKED, result.blocked_by or ""
    return None


def _together(state: State, what: str, alike: Sequence[StageResult]) -> Row:
    match state:
        case State.DONE:
            return Row(name=f"{len(alike)} stages", state=state, text="done before")
        case State.BLOCKED:
            name = alike[0].name if len(alike) == 1 else f"{len(alike)} stages"
            return Row(name=name, state=state, text=f"not run: {what} failed, which {_they(alike)}")
    name = f"{len(alike)} {_NOUNS.get(what, what)}"
    return Row(name=name, state=state, text="wait" if state is State.WAITING else "wait for free cores")


def _they(alike: Sequence[StageResult]) -> str:
    return "it needs" if len(alike) == 1 else "they need"


def _fitted(rows: list[Row], *, room: int) -> list[Row]:
    """Counts the oldest finished rows in one, then leaves out rows that do not move, then counts the last running."""
    rows = _counted(rows, State.FINISHED, "finished", room=room)
    for state in (State.DONE, State.WAITING, State.BLOCKED, State.FINISHED, State.QUEUED):
        if len(rows) > room:
            rows = [row for row in rows if row.state is not state]
    return _counted(rows, State.RUNNING, "more run", room=room)[:room]


def _counted(rows: list[Row], state: State, text: str, *, room: int) -> list[Row]:
    """Puts as many rows of a state into one as it takes: the first finished ones, the last running ones."""
    found = [index for index, row in enumerate(rows) if row.state is state]
    count = min(len(rows) - room + 1, len(found))  # the row that counts them takes a place too
    if len(rows) <= room or count < 2:
        return rows
    one, *others = found[:count] if state is State.FINISHED else found[-count:]
    rows[one] = Row(name=f"{count} stages", state=state, text=text)
    return [row for index, row in enumerate(rows) if index not in others]
