"""One run from the lease to the last line: holds the output, connects to Ray, records, shows, tells the end."""

import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from upath import UPath

from cluster.bootstrap import connect
from cluster.latest import write_latest
from pipeline.config.errors import UsageError
from pipeline.config.sections import PipelineConfig
from pipeline.fitting import fit
from pipeline.lease import Lease, LeaseHeldError, LeaseLostError
from pipeline.plan import PlannedStage, Status, unfinished
from pipeline.resources import cluster_resources, find_shortages, is_own_cluster
from pipeline.results import StageResult, State, folders_to_use
from pipeline.runner import empty_folder, run_plan
from pipeline.screen.display import announce, make_display
from pipeline.screen.summary import print_failures, print_summary
from pipeline.tracking.comparable import comparable_params
from pipeline.tracking.driver import Recording

_STOPPED_CLOSE_SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Session:
    """One run of the chosen stages that are not done.

    Attributes:
      name: Name of the run in MLflow.
      make_plan: Looks at the output folder; called under the lease, since another runner may have worked there.
      chosen: Names of the stages to run.
      fresh: Stages whose folders are emptied first.
      config_yaml: The resolved config, kept in MLflow.
      again: The command that resumes this run, with what is given to it appended as further `--set`s.
      load: Loads the config with further overrides.
      wait: Wait for another runner instead of giving up.
    """

    config: PipelineConfig
    name: str
    make_plan: Callable[[], Sequence[PlannedStage]]
    chosen: set[str]
    fresh: frozenset[str]
    output: UPath
    config_yaml: str
    again: Callable[..., str]
    load: Callable[[Sequence[str]], PipelineConfig]
    verbose: bool
    wait: bool

    def run(self) -> int:
        """Runs and returns the exit code."""
        try:
            with Lease(self.output, wait=self.wait) as lease:
                plan = self.make_plan()
                for planned in plan:
                    if planned.name in self.fresh:
                        empty_folder(planned.folder)
                return self._run(plan, lease=lease)
        except (LeaseHeldError, LeaseLostError) as error:
            print(error, file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130

    def _run(self, plan: Sequence[PlannedStage], *, lease: Lease) -> int:
        console = Console()
        where = "Starting Ray on this machine" if is_own_cluster(self.config.cluster) else "Joining the Ray cluster"
        announce(console, f"{where}…")
        try:
            connect(self.config.cluster, verbose=self.verbose)
        except ConnectionError as error:
            raise UsageError(str(error)) from error
        # `ray job stop` and schedulers send SIGTERM: end as on Ctrl-C. After `connect`, which sets Ray's own handler.
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, signal.default_int_handler)
        for planned in unfinished(plan, self.chosen):
            if planned.damage:
                console.print(
                    f"{planned.name} is rebuilt: {planned.damage}", style="yellow", highlight=False, soft_wrap=True
                )
            elif planned.status is Status.PARTIAL:
                announce(console, f"{planned.name} {planned.why}")
        todo = [planned.stage for planned in unfinished(plan, self.chosen)]
        if shortages := find_shortages(todo, self.config.cluster, available=cluster_resources()):
            advice = self._advice([stage.name for stage in todo])
            if is_own_cluster(self.config.cluster):
                raise UsageError("\n".join([*shortages, *advice]))
            lines = [*shortages, "The run waits until machines join.", *advice]
            console.print("\n".join(lines), style="yellow", highlight=False, markup=False, soft_wrap=True)
        recording = Recording(
            plan,
            tracking=self.config.tracking,
            output=self.output,
            name=self.name,
            config_yaml=self.config_yaml,
            params=comparable_params(self.config),
            keeps_examples=self.config.report is None or self.config.report.examples,
            fresh=self.fresh,
        )
        latest: Mapping[str, StageResult] = {}
        lost: list[str] = []
        trouble: str | None = None
        try:
            with make_display(console, stages=[planned.name for planned in plan]) as display:

                def watch(results: Mapping[str, StageResult]) -> None:
                    nonlocal latest, trouble
                    latest = results
                    lease.check()
                    display.update(results, recording.watch(results))
                    if (recording.trouble is None) != (trouble is None):
                        trouble = recording.trouble
                        line = f"cannot be written, and the run goes on: {trouble}" if trouble else "is written again"
                        console.print(f"MLflow {line}.", style="yellow", highlight=False, markup=False, soft_wrap=True)

                run_plan(
                    plan, names=self.chosen, cluster=self.config.cluster, tracker_of=recording.tracker_of, watch=watch
                )
        except BaseException as error:
            # `ray job stop` kills after three seconds: do what matters first.
            lease.release()
            if isinstance(error, KeyboardInterrupt):
                print(f"\nStopped. Finished work is kept. To resume:\n  {self.again()}", file=sys.stderr)
            lost = recording.close(latest, seconds=_STOPPED_CLOSE_SECONDS)
            raise
        else:
            if self.config.tracking is not None:
                console.print("Writing remaining records to MLflow…", style="dim")
            lost = recording.close(latest)
        finally:
            for what in lost:
                print(f"Not written to MLflow: {what}", file=sys.stderr)
        for result in latest.values():
            for warning in result.warnings:
                console.print(
                    f"{result.name}: {warning}", style="yellow", highlight=False, markup=False, soft_wrap=True
                )
        is_whole = print_failures(latest.values(), again=self.again())
        finished = {name: result.seconds for name, result in latest.items() if result.state is State.FINISHED}
        done = [name for name, result in latest.items() if result.state is State.DONE]
        try:
            write_latest(self.output / "latest", folders_to_use(plan, finished={*finished, *done}))
        except OSError as error:
            console.print(f"{self.output / 'latest'} is not up to date: {error}", style="yellow", highlight=False)
        print_summary(plan, config=self.config, output=self.output, finished={*finished, *done}, seconds=finished)
        return 0 if is_whole else 1

    def _advice(self, names: Sequence[str]) -> list[str]:
        """How to run these stages with what there is."""
        available = cluster_resources()
        overrides = fit(self.load, self.config.cluster, chosen=names, available=available)
        if not overrides:
            return ["Ask for less (cluster.* in the config), or join a larger cluster."]
        slow = any(override.startswith("cluster.platform=") for override in overrides)
        note = " (slow: the config was made for accelerators)" if slow else ""
        return [f"To run with what is here{note}:", f"  {self.again(*overrides)}"]
