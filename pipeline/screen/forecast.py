"""How long a run still takes, from what its stages say and from how long their like took.

A running stage knows its own pace once it has counted twice. A waiting one takes as long as the mean of its finished
siblings (`finetune/cola/*`, else all of its group), and siblings run as many at a time as were seen to. The corpus
stages, pretraining and what follows run one after another, so their times add up.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from statistics import fmean

from pipeline.results import StageResult, State
from pipeline.screen.progress import Progress

_OVER = (State.DONE, State.FINISHED, State.FAILED, State.BLOCKED, State.STOPPED)


@dataclass(frozen=True, kw_only=True)
class TimeLeft:
    """Seconds until the run is over; where `is_whole` is false, stages of unknown length come on top."""

    seconds: float
    is_whole: bool


@dataclass
class Forecast:
    """Forecasts one run; it remembers how many stages of a group ran side by side."""

    _widths: dict[str, int] = field(default_factory=dict)

    def time_left(self, results: Mapping[str, StageResult], progress: Mapping[str, Progress]) -> TimeLeft:
        """The time left over all stages."""
        by_group: dict[str, list[str]] = {}
        for name in results:
            by_group.setdefault(name.partition("/")[0], []).append(name)
        total, is_whole = 0.0, True
        for group, names in by_group.items():
            open_names = [name for name in names if results[name].state not in _OVER]
            running = [name for name in open_names if name in progress]
            self._widths[group] = max(self._widths.get(group, 1), len(running))
            left: list[float] = []
            for name in open_names:
                seconds = progress[name].seconds_left if name in progress else None
                if seconds is None and (usual := _usual(name, names, results)) is not None:
                    seconds = max(0.0, usual - (progress[name].elapsed_seconds if name in progress else 0.0))
                is_whole &= seconds is not None
                left.append(seconds or 0.0)
            if left:
                total += max(max(left), sum(left) / self._widths[group])
        return TimeLeft(seconds=total, is_whole=is_whole)


def _usual(name: str, siblings: list[str], results: Mapping[str, StageResult]) -> float | None:
    """Mean time of the finished stages that are nearest: of the same task, else of the same group."""
    prefix = name.rpartition("/")[0]
    finished = {sibling: results[sibling].seconds for sibling in siblings if results[sibling].seconds > 0}
    near = [seconds for sibling, seconds in finished.items() if sibling.rpartition("/")[0] == prefix]
    return fmean(near or finished.values()) if finished else None
