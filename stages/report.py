"""The report stage: one page that shows what came out of a run, how sure it is, and how it was made."""

from dataclasses import dataclass

from stages.context import StageContext


@dataclass(frozen=True, kw_only=True)
class ReportConfig:
    """What the report looks like.

    Attributes:
      title: Heading of the page.
      smoothing: Width of the average behind a smoothed line (one standard deviation of its weights), as a share
        of the curve; 0 draws the raw line only.
    """

    title: str = "ELECTRA: results of a run"
    smoothing: float = 0.015

    def __post_init__(self) -> None:
        if not self.title.strip():
            raise ValueError("title is empty; give the report a heading")
        if not 0.0 <= self.smoothing <= 0.5:
            raise ValueError(f"smoothing is {self.smoothing}, must be between 0 and 0.5")


def run(config: ReportConfig, context: StageContext) -> None:
    """Writes report.html, report.md, scores.json and plots/*.png from the results of all other stages."""
    # Drawing and templates are imported here: the pipeline imports every stage to check a configuration.
    from cluster.storage import write_bytes, write_json, write_text
    from stages.reporting.collect import collect
    from stages.reporting.plots import draw_plots
    from stages.reporting.render import render_html, render_markdown
    from stages.reporting.summary import summarize_results

    results = collect(context.inputs)
    summary = summarize_results(results)
    plots = draw_plots(results, summary, smoothing=config.smoothing)
    (context.output / "plots").mkdir(parents=True, exist_ok=True)
    for plot in plots:
        write_bytes(context.output / "plots" / f"{plot.name}.png", plot.png)
    write_json(context.output / "scores.json", summary.as_json())
    write_text(
        context.output / "report.md",
        render_markdown(title=config.title, results=results, summary=summary, plots=plots),
    )
    write_text(
        context.output / "report.html",
        render_html(title=config.title, results=results, summary=summary, plots=plots),
    )

    context.tracker.metrics(summary.metrics())
    for name in ("report.html", "report.md", "scores.json", "plots"):
        context.tracker.artifact(context.output / name, folder="report")
