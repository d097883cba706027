"""The report's plots. Each is one panel, as wide as a phone's screen so that its text stays readable there."""

import io
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.style
import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from stages.finetune.config import Init
from stages.report.collect import FineTuning, Results, select_records
from stages.report.data_tables import format_number, format_value
from stages.report.outcomes import median_run
from stages.report.statistics import Summary

# Distinguishable with any colour vision (Okabe and Ito, 2008).
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072B2", "#D55E00", "#009E73", "#8F5A86", "#7A7A7A"

_COLORS = (BLUE, ORANGE, GREEN, PURPLE, GREY)


@dataclass(frozen=True, kw_only=True)
class Plot:
    """A drawn plot.

    Attributes:
      name: File name without ending.
      section: Part of the report that shows it: `scores`, `pretraining`, `finetuning`.
      caption: What it shows, in words.
      alt: The values in it, for those who cannot see it.
    """

    name: str
    section: str
    caption: str
    alt: str
    png: bytes


@dataclass(frozen=True, kw_only=True)
class _Series:
    """One line of a curve plot: a metric of one split."""

    metric: str
    split: str
    label: str = ""


@dataclass(frozen=True, kw_only=True)
class _Curve:
    """A plot of one or two lines. `exact` ones are never smoothed."""

    name: str
    title: str
    unit: str
    caption: str
    series: tuple[_Series, ...]
    percent: bool = False
    from_zero: bool = False
    exact: bool = False


_CURVES = tuple(
    _Curve(**curve | {"series": tuple(_Series(**series) for series in curve["series"])})
    for curve in yaml.safe_load(Path(__file__).with_name("curves.yaml").read_text())
)


def draw_plots(results: Results, summary: Summary, *, smoothing: float) -> list[Plot]:
    """Draws every plot for which there are numbers.

    Args:
      smoothing: See `smooth`.
    """
    with matplotlib.style.context(Path(__file__).with_name("plots.mplstyle")):
        plots: list[Plot | None] = [_draw_scores(summary)] if summary.tasks else []
        if results.pretraining is not None:
            metrics = results.pretraining.metrics
            plots += [_draw_curve(curve, metrics, smoothing=smoothing) for curve in _CURVES]
            plots += [_draw_probes(results, summary)] if results.probes else []
        for task in summary.tasks:
            runs = [run for run in results.runs if run.task == task.task]
            plots.append(_draw_finetuning(task.task, runs, smoothing=smoothing))
            run = median_run(results, task.task)
            if run is not None and run.result.get("details", {}).get("threshold_curve"):
                plots.append(_draw_thresholds(run))
    return [plot for plot in plots if plot is not None]


def smooth(values: np.ndarray, *, smoothing: float) -> np.ndarray:
    """Weighted mean of each value and its neighbours on both sides, so that the line does not lag.

    Args:
      values: [n]; a value that is not finite has no weight and is a gap in the result.
      smoothing: Standard deviation of the Gaussian weights, as a share of n.
    """
    deviation = smoothing * len(values)
    reach = min(int(3 * deviation), len(values) - 1)
    if reach < 1:
        return values.copy()
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / deviation) ** 2)
    finite = np.isfinite(values)
    full_sums = np.convolve(np.where(finite, values, 0.0), kernel)
    full_weights = np.convolve(finite.astype(np.float64), kernel)
    inside = slice(reach, reach + len(values))
    return np.where(finite, full_sums[inside] / np.maximum(full_weights[inside], 1e-300), np.nan)


def _points(records: Iterable[Mapping[str, Any]], metric: str, split: str) -> tuple[np.ndarray, np.ndarray]:
    chosen = select_records(records, metric, split=split)
    steps = np.array([row["step"] for row in chosen], np.float64)
    return steps, np.array([row[metric] for row in chosen], np.float64)


def _draw_curve(curve: _Curve, metrics: Sequence[Mapping[str, Any]], *, smoothing: float) -> Plot | None:
    figure, axes = _new_figure()
    values_told = []
    for series, color in zip(curve.series, _COLORS, strict=False):
        steps, values = _points(metrics, series.metric, series.split)
        if not np.isfinite(values).any():
            continue
        values = values * (100.0 if curve.percent else 1.0)
        values_told.append(_course(steps, values, label=series.label))
        exact = curve.exact or series.split == "heldout" or smoothing == 0
        if not exact:
            axes.plot(steps, values, color=color, alpha=0.35, linewidth=0.9)
        marker = "o" if series.split == "heldout" and len(steps) <= 40 else None
        axes.plot(
            steps,
            values if exact else smooth(values, smoothing=smoothing),
            color=color,
            marker=marker or ("o" if len(steps) == 1 else None),
            markersize=3.5,
            label=series.label or None,
        )
    if not axes.lines:
        return None
    axes.set_title(curve.title)
    axes.set_ylabel(curve.unit)
    if curve.from_zero:
        # A curve of zeros needs a scale too.
        axes.set_ylim(0, max(axes.get_ylim()[1], 1.0) if curve.percent else None)
    _format_axes(axes, with_legend=len(curve.series) > 1)
    alt = f"{curve.title} ({curve.unit}): {'; '.join(values_told)}."
    return Plot(name=curve.name, section="pretraining", caption=curve.caption, alt=alt, png=_to_png(figure))


def _draw_scores(summary: Summary) -> Plot:
    """One row per task: a point per seed and a tick at the median, pretrained above random."""
    tasks = summary.tasks
    figure, axes = _new_figure(height=1.15 + 0.62 * len(tasks))
    shown: set[Init] = set()
    for row, task in enumerate(tasks):
        for init, color, offset in ((Init.PRETRAINED, BLUE, -0.16), (Init.RANDOM, GREY, 0.16)):
            statistics = task.of(init)
            if statistics is None:
                continue
            scores = list(statistics.seeds.values())
            label = f"{init} weights" if init not in shown else None
            shown.add(init)
            axes.scatter(scores, [row + offset] * len(scores), s=26, color=color, alpha=0.6, label=label, zorder=3)
            low, high = row + offset - 0.14, row + offset + 0.14
            axes.vlines(statistics.median, low, high, color=color, linewidth=2.4, zorder=4)
    labels = [_escape(f"{task.task}\n{metric_label(task.primary)}") for task in tasks]
    axes.set_yticks(range(len(tasks)), labels)
    axes.set_ylim(len(tasks) - 0.5, -0.5)
    lowest = min(min(s.seeds.values()) for task in tasks for init in Init if (s := task.of(init)) is not None)
    axes.set_xlim(min(0.0, lowest * 1.08) - 2, 103)
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlabel("score (%)")
    axes.set_title("Scores by seed; ticks mark medians", pad=24)
    axes.legend(loc="lower left", bbox_to_anchor=(-0.01, 1.0), ncols=2, borderaxespad=0.1, handletextpad=0.2)
    caption = "The primary score of every fine-tuning run. Ticks mark medians over seeds."
    medians = (
        f"{task.task} {init} weights {format_number(found.median)}"
        for task in tasks
        for init in Init
        if (found := task.of(init)) is not None
    )
    alt = f"Medians of the scores in percent: {'; '.join(medians)}."
    return Plot(name="scores", section="scores", caption=caption, alt=alt, png=_to_png(figure))


def _draw_probes(results: Results, summary: Summary) -> Plot:
    """One line per task: its scores from checkpoints, then its median from the finished model."""
    figure, axes = _new_figure()
    last = results.pretraining.result.get("steps") if results.pretraining is not None else None
    medians = {task.task: task.pretrained.median for task in summary.tasks if task.pretrained is not None}
    values_told = []
    for task, color in zip(sorted({probe.run.task for probe in results.probes}), itertools.cycle(_COLORS)):
        probes = [probe for probe in results.probes if probe.run.task == task]
        points = [(probe.step, probe.run.score) for probe in probes]
        points += [(last, medians[task])] if last is not None and task in medians else []
        label = _escape(f"{task}, {metric_label(probes[0].run.primary)}")
        axes.plot(*zip(*points, strict=True), color=color, marker="o", markersize=4, label=label)
        told = ", ".join(f"{format_number(score)} at step {step:,}" for step, score in points)
        values_told.append(f"{task} {told}")
    axes.set_title("Scores while pretraining")
    axes.set_ylabel("score (%)")
    _format_axes(axes, with_legend=True)
    axes.set_xlabel("step of pretraining")
    caption = "Fine-tuned from checkpoints at the milestones, one seed each."
    caption += " The last point is the finished model's median."
    alt = f"Scores in percent while pretraining: {'; '.join(values_told)}."
    return Plot(name="probes", section="pretraining", caption=caption, alt=alt, png=_to_png(figure))


def _draw_finetuning(task: str, runs: Sequence[FineTuning], *, smoothing: float) -> Plot | None:
    figure, axes = _new_figure()
    drawn: set[Init] = set()
    values_told = []
    for run in sorted(runs, key=lambda run: run.init is Init.PRETRAINED):
        steps, values = _points(run.curve, "loss/total", "train")
        if not np.isfinite(values).any():
            continue
        color = BLUE if run.init is Init.PRETRAINED else GREY
        label = f"{run.init} weights" if run.init not in drawn else None
        drawn.add(run.init)
        values_told.append(_course(steps, values, label=f"{run.init} weights, seed {run.seed}"))
        # Fine-tuning is short and its batches are small: the raw losses of several seeds hide one another.
        axes.plot(steps, smooth(values, smoothing=max(smoothing, 0.02)), color=color, linewidth=1.4, label=label)
    if not drawn:
        return None
    axes.set_title(_escape(task))
    axes.set_ylabel("training loss, smoothed")
    axes.set_ylim(bottom=0)
    _format_axes(axes, with_legend=True)
    caption = f"Training loss of {task}, one line per seed."
    name, alt = f"finetuning-{_file_name(task)}", f"Training loss of {task}: {'; '.join(values_told)}."
    return Plot(name=name, section="finetuning", caption=caption, alt=alt, png=_to_png(figure))


def _draw_thresholds(run: FineTuning) -> Plot:
    details = run.result["details"]
    curve = details["threshold_curve"]
    figure, axes = _new_figure()
    for metric, color in (("exact_match", BLUE), ("f1", ORANGE)):
        values = [row[metric] for row in curve]
        axes.plot([row["threshold"] for row in curve], values, color=color, label=metric_label(metric))
    axes.axvline(details["threshold"], color=GREY, linewidth=1.2, linestyle="--", label="threshold of the scores")
    axes.set_title(f"{_escape(run.task)}, seed {run.seed}")
    axes.set_xlabel("threshold on the logit of 'no answer'")
    axes.set_ylabel("score (%)")
    axes.legend(loc="best")
    caption = f"Scores of {run.task} at every threshold on 'no answer'. To choose the best one is to fit the dev set."
    alt = f"At the threshold of the scores, {format_number(details['threshold'], digits=2)}: " + ", ".join(
        f"{metric_label(metric)} {format_number(run.scores[metric])}"
        for metric in ("exact_match", "f1")
        if metric in run.scores
    )
    name = f"thresholds-{_file_name(run.task)}"
    return Plot(name=name, section="scores", caption=caption, alt=f"{alt}.", png=_to_png(figure))


def _course(steps: np.ndarray, values: np.ndarray, *, label: str) -> str:
    """`training: from 8.5 at step 20 to 3.1 at step 2,000`."""
    finite = np.flatnonzero(np.isfinite(values))
    first, last = (f"{format_value(float(values[at]))} at step {int(steps[at]):,}" for at in (finite[0], finite[-1]))
    course = f"from {first} to {last}" if len(finite) > 1 else first
    return f"{label}: {course}" if label else course


def metric_label(metric: str) -> str:
    """A metric's name for readers."""
    names = {"f1": "F1", "matthews": "Matthews correlation", "pearson": "Pearson", "spearman": "Spearman"}
    return names.get(metric, metric.replace("_", " "))


def _new_figure(*, height: float = 3.3) -> tuple[Figure, Axes]:
    # A Figure of its own instead of pyplot: no global state, no display, safe in any thread.
    figure = Figure(figsize=(5.2, height), layout="constrained")
    return figure, figure.add_subplot()


def _format_axes(axes: Axes, *, with_legend: bool) -> None:
    axes.set_xlabel("step")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10], integer=True))
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    high = axes.get_ylim()[1]
    if high >= 1000:
        axes.yaxis.set_major_formatter("{x:,.0f}")
    elif high < 0.01:
        axes.ticklabel_format(axis="y", style="sci", scilimits=(0, 0), useMathText=True)
    if with_legend:
        axes.legend(loc="best")


def _escape(text: str) -> str:
    """Matplotlib reads dollar signs as mathematics."""
    return text.replace("$", r"\$")


def _file_name(task: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in task)


def _to_png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    # Without the software's version the same numbers give the same bytes.
    figure.savefig(buffer, format="png", dpi=200, metadata={"Software": None})
    return buffer.getvalue()
