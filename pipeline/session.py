"""One run from the lease to the last line: holds the output, connects to Ray, records, shows, says how it ended."""

import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from types import FrameType

from rich.console import Console
from upath import UPath

from cluster.bootstrap import connect
from pipeline.config.errors import UsageError
from pipeline.config.sections import PipelineConfig
from pipeline.display import make_display
from pipeline.lease import Lease, LeaseHeldError, LeaseLostError
from pipeline.plan import PlannedStage, Status
from pipeline.resources import cluster_resources, find_shortages, is_own_cluster
from pipeline.results import StageResult, State
from pipeline.runner import empty_folder, run_plan
from pipeline.summary import print_summary
from pipeline.tracking.driver import Recording

_STOPPED_CLOSE_SECONDS = 20.0


def run_session(
    config: PipelineConfig,
    *,
    name: str,
    make_plan: Callable[[], Sequence[PlannedStage]],
    chosen: set[str],
    fresh: frozenset[str],
    output: UPath,
    config_yaml: str,
    again: str,
    verbose: bool,
    wait: bool,
) -> int:
    """Runs the chosen stages that are not done and returns the exit code.

    Args:
      name: Of the run in MLflow.
      make_plan: Looks at the output folder again.
      fresh: Stages whose folders are emptied first.
      again: The command that goes on where this one stopped.
      wait: Wait for another runner instead of giving up.
    """
    try:
        with Lease(output, wait=wait) as lease:
            plan = make_plan()
            for planned in plan:
                if planned.name in fresh:
                    empty_folder(planned.folder)
            return _run(
                config, plan, lease=lease, name=name, chosen=chosen, fresh=fresh, output=output,
                config_yaml=config_yaml, again=again, verbose=verbose,
            )  # fmt: skip
    except (LeaseHeldError, LeaseLostError, ConnectionError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run(
    config: PipelineConfig,
    plan: Sequence[PlannedStage],
    *,
    lease: Lease,
    name: str,
    chosen: set[str],
    fresh: frozenset[str],
    output: UPath,
    config_yaml: str,
    again: str,
    verbose: bool,
) -> int:
    console = Console()
    by_name = {planned.name: planned for planned in plan}
    connect(config.cluster, verbose=verbose)
    # `ray job stop` and schedulers send SIGTERM: end as on Ctrl-C. Ray, when connected, sets a handler of its own.
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, _interrupt)
    todo = [planned.stage for planned in plan if planned.name in chosen and planned.status is not Status.DONE]
    if shortages := find_shortages(todo, config.cluster, available=cluster_resources()):
        if is_own_cluster(config.cluster):
            raise UsageError(
                "\n".join([*shortages, "Ask for less (cluster.* in the config), or join a larger cluster."])
            )
        console.print("\n".join([*shortages, "It waits until machines join."]), style="yellow", highlight=False)
    recording = Recording(
        plan, tracking=config.tracking, output=output, name=name, config_yaml=config_yaml, fresh=fresh
    )
    latest: Mapping[str, StageResult] = {}
    lost: list[str] = []
    try:
        with make_display(console, stages=list(by_name)) as display:

            def watch(results: Mapping[str, StageResult]) -> None:
                nonlocal latest
                latest = results
                lease.check()
                display.update(results, recording.watch(results, by_name))

            run_plan(plan, names=chosen, cluster=config.cluster, tracker_of=recording.tracker_of, watch=watch)
    except BaseException as error:
        # `ray job stop` kills after three seconds: what matters first.
        lease.release()
        if isinstance(error, KeyboardInterrupt):
            print(f"\nStopped. What is finished is kept; this goes on where it stopped:\n  {again}", file=sys.stderr)
        lost = recording.close(latest, seconds=_STOPPED_CLOSE_SECONDS)
        raise
    else:
        if config.tracking is not None:
            console.print("Writing to MLflow what is left.", style="dim")
        lost = recording.close(latest)
    finally:
        for what in lost:
            print(f"Not written to MLflow: {what}", file=sys.stderr)
    failed = [result for result in latest.values() if result.state is State.FAILED]
    for result in failed:
        print(f"\n{result.name} failed: {result.error}\n  log: {result.log}", file=sys.stderr)
    blocked = [result for result in latest.values() if result.state is State.BLOCKED]
    for result in blocked:
        print(f"{result.name} was not run: it needs {result.blocked_by}, which failed", file=sys.stderr)
    if failed:
        print(f"\nWhat is finished is kept. When the cause is mended, this goes on:\n  {again}", file=sys.stderr)
    print_summary(plan, config=config, output=output, finished=_finished(latest))
    return 1 if failed else 0


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _finished(results: Mapping[str, StageResult]) -> set[str]:
    return {name for name, result in results.items() if result.state in (State.FINISHED, State.DONE)}
