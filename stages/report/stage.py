"""The report stage: one page that shows what came out of a run, how sure it is, and how it was made."""

from stages.context import StageContext
from stages.report.config import ReportConfig

VERSION = 2


def run(config: ReportConfig, context: StageContext) -> None:
    """Writes report.html, report.md, scores.json and plots/*.png from the results of all other stages."""
    # Plots and templates import slowly, and the pipeline imports every stage to check a configuration.
    from cluster.storage import write_bytes, write_json, write_text
    from stages.report.collect import collect
    from stages.report.overview import make_overview
    from stages.report.plots import draw_plots
    from stages.report.render import render_pages
    from stages.report.statistics import summarize_results

    results = collect(context.inputs, groups=context.groups)
    summary = summarize_results(results)
    context.tracker.phase("drawing the plots")
    plots = draw_plots(results, summary, smoothing=config.smoothing)
    (context.output / "plots").mkdir(parents=True, exist_ok=True)
    for plot in plots:
        write_bytes(context.output / "plots" / f"{plot.name}.png", plot.png)
    write_json(context.output / "scores.json", summary.as_json())
    context.tracker.phase("writing the pages")
    pages = render_pages(title=config.title, examples=config.examples, results=results, summary=summary, plots=plots)
    for name, page in pages.items():
        write_text(context.output / name, page)
    overview = make_overview(results, summary)
    context.tracker.overview(overview.metrics, overview.params, text=overview.text)
    for name in ("report.html", "report.md", "scores.json", "plots"):
        context.tracker.artifact(context.output / name, folder="report")
