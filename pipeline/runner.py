"""Runs the stages of a plan as Ray tasks, siblings side by side. A failure stops only what depends on it."""

import os
import shlex
import shutil
import sys
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from upath import UPath

from cluster.bootstrap import task_environment
from cluster.config import ClusterConfig
from cluster.credentials import redact
from cluster.distributed import process_environment
from cluster.storage import is_local
from pipeline.execution import Outcome, execute, explain, log_failure
from pipeline.manifest import MANIFEST
from pipeline.node import Stage
from pipeline.plan import PlannedStage, Status
from pipeline.resources import cluster_resources, process_resources, task_resources
from pipeline.results import StageResult, State
from stages.context import StageContext, Tracker

POLL_SECONDS = 0.5


Watch = Callable[[Mapping[str, StageResult]], None]


def empty_folder(folder: UPath) -> None:
    """Deletes a stage's output, its manifest first: a half-deleted folder must not look done."""
    if not folder.exists():
        return
    (folder / MANIFEST).unlink(missing_ok=True)
    if is_local(folder):
        shutil.rmtree(str(folder))
    else:
        folder.fs.rm(folder.path, recursive=True)


def run_plan(
    plan: Sequence[PlannedStage],
    *,
    names: Collection[str],
    cluster: ClusterConfig,
    tracker_of: Callable[[PlannedStage], Tracker] = lambda planned: Tracker(),
    watch: Watch = lambda results: None,
) -> dict[str, StageResult]:
    """Runs the named stages that are not done, each once its needs are done. Ray must be connected.

    Args:
      plan: All stages in order, done ones too.
      names: Stages to run.
      cluster: What they may use.
      tracker_of: Makes the tracker of a stage.
      watch: Called after every change and every `POLL_SECONDS`.

    Returns:
      A result for each of `names` and each stage that is done.
    """
    run = _Run(plan, names=names, cluster=cluster, tracker_of=tracker_of)
    try:
        while run.is_open():
            run.submit_ready()
            watch(run.results)
            run.collect(timeout=POLL_SECONDS)
            watch(run.results)
    except BaseException:
        run.stop()
        watch(run.results)
        raise
    watch(run.results)
    return run.results


class _Run:
    """The state of one run."""

    def __init__(
        self,
        plan: Sequence[PlannedStage],
        *,
        names: Collection[str],
        cluster: ClusterConfig,
        tracker_of: Callable[[PlannedStage], Tracker],
    ) -> None:
        self._planned = {planned.name: planned for planned in plan}
        self._cluster = cluster
        self._tracker_of = tracker_of
        self._tasks: dict[Any, str] = {}
        self.results: dict[str, StageResult] = {}
        for planned in plan:
            if planned.status is Status.DONE:
                self._set(planned.name, State.DONE, seconds=planned.seconds)
            elif planned.name in names:
                self._set(planned.name, State.WAITING)

    def is_open(self) -> bool:
        """Whether a stage still waits or runs."""
        return any(result.state in (State.WAITING, State.QUEUED) for result in self.results.values())

    def submit_ready(self) -> None:
        """Starts every stage whose needs are done; blocks those whose needs failed."""
        for name, result in list(self.results.items()):
            if result.state is not State.WAITING:
                continue
            stage = self._planned[name].stage
            needs = [self.results[need] for need in stage.needs]
            failed = [need for need in needs if need.state in (State.FAILED, State.BLOCKED)]
            culprit = next((need for need in failed if need.name not in stage.may_lack), None)
            if culprit is not None:
                root = self.results[culprit.blocked_by or culprit.name]
                self._set(name, State.BLOCKED, blocked_by=root.name)
                error = f"it needs {root.name}, which failed: {root.error}"
                log_failure(self._planned[name].folder, name=name, error=error)
            elif self._can_start(stage, [need for need in needs if need not in failed]):
                self._tasks[self._submit(self._planned[name], whole=not failed)] = name
                self._set(name, State.QUEUED)

    def _can_start(self, stage: Stage, needs: Sequence[StageResult]) -> bool:
        open_needs = [need for need in needs if need.state not in (State.DONE, State.FINISHED)]
        if not open_needs:
            return self._has_room(stage)
        if stage.early is None or any(
            need.state is not State.QUEUED or need.name != stage.early_need for need in open_needs
        ):
            return False
        return stage.early({need.name: need.folder for need in needs})

    def _has_room(self, stage: Stage) -> bool:
        """Whether the processes that a stage starts fit beside those of running stages.

        The stage's own task reserves nothing, so Ray would start all at once, each taking memory while it waits.
        """
        running = sum(self._planned[name].stage.num_processes for name in self._tasks.values())
        if not stage.num_processes or not running:
            return True
        available = cluster_resources()
        wanted = process_resources(running + stage.num_processes, self._cluster)
        return all(amount <= available.get(name, 0) for name, amount in wanted.items())

    def collect(self, *, timeout: float) -> None:
        """Collects the tasks that end within `timeout` seconds."""
        import ray

        if not self._tasks:
            return
        ended, _ = ray.wait(list(self._tasks), num_returns=1, timeout=timeout)
        for task in ended:
            name = self._tasks.pop(task)
            try:
                outcome = ray.get(task)
            except Exception as error:  # the process died: a stage returns its own errors
                folder = self._planned[name].folder
                outcome = Outcome(seconds=0.0, error=explain(error, output=folder))
                log_failure(folder, name=name, error=str(outcome.error))
            state = State.FINISHED if outcome.error is None else State.FAILED
            found = {"error": outcome.error, "warnings": outcome.warnings, "outcome": outcome.outcome}
            self._set(name, state, seconds=outcome.seconds, **found)

    def stop(self) -> None:
        """Ends every running stage."""
        import ray

        for task, name in self._tasks.items():
            self._set(name, State.STOPPED)
            if ray.is_initialized():
                ray.cancel(task, force=True)
        self._tasks.clear()

    def _set(self, name: str, state: State, **fields: Any) -> None:
        self.results[name] = StageResult(name=name, state=state, folder=self._planned[name].folder, **fields)

    def _submit(self, planned: PlannedStage, *, whole: bool) -> Any:
        import ray

        cluster, stage = self._cluster, planned.stage
        context = StageContext(
            output=planned.folder,
            inputs={need: self._planned[need].folder for need in stage.needs},
            groups={need: group for need in stage.needs if (group := self._planned[need].stage.group)},
            cluster=cluster,
            tracker=self._tracker_of(planned),
        )
        planned.folder.mkdir(parents=True, exist_ok=True)
        wanted = task_resources(stage, cluster)
        options: dict[str, Any] = {
            "name": stage.name,
            "num_cpus": wanted.pop("CPU"),
            "num_gpus": wanted.pop("GPU", None),
            "resources": wanted or None,
            # Retries a process that died, not an error; every stage resumes from what it has.
            "max_retries": cluster.max_failures,
        }
        environment = task_environment()
        if stage.accelerated:
            environment |= process_environment(cluster)
        options["runtime_env"] = {"env_vars": environment}
        task: Any = ray.remote(execute).options(**options)  # type: ignore[arg-type]
        command = redact(shlex.join(sys.orig_argv))
        return task.remote(stage, context, planned.identity, cwd=os.getcwd(), command=command, whole=whole)
