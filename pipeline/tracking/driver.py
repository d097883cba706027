"""The runner's side of recording: starts the recorder, makes the stages' trackers, closes their runs."""

import getpass
import hashlib
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any

from upath import UPath

from cluster.credentials import redact
from pipeline.config.sections import TrackingConfig
from pipeline.manifest import git_commit
from pipeline.plan import PlannedStage
from pipeline.results import StageResult, State
from pipeline.screen.progress import Progress
from pipeline.tracking.ledger import ledger_file
from pipeline.tracking.messages import CloseRun, Description, Message, OpenRun, WriterSettings
from pipeline.tracking.recorder import Recorder, Snapshot
from pipeline.tracking.tracker import StageTracker
from stages.context import Group

_ENDINGS = {State.FINISHED: "FINISHED", State.FAILED: "FAILED", State.STOPPED: "KILLED"}
CLOSE_SECONDS = 60.0


class Recording:
    """One run of the pipeline in MLflow: stages are nested in it, those of a group in a run of the group."""

    def __init__(
        self,
        plan: Sequence[PlannedStage],
        *,
        tracking: TrackingConfig | None,
        output: UPath,
        name: str,
        config_yaml: str,
        params: Mapping[str, object] | None = None,
        keeps_examples: bool = True,
        fresh: frozenset[str] = frozenset(),
    ) -> None:
        """Starts the recorder on this machine; Ray must be connected.

        Args:
          plan: All stages; together their fingerprints name the pipeline's run, so the same config resumes it.
          name: Name of the pipeline's run.
          config_yaml: The resolved config, kept as an artifact.
          params: What people compare runs by.
          keeps_examples: Whether files with texts of the data are recorded.
          fresh: Stages that start from scratch, in new runs.
        """
        import ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        self._seconds = 0.0 if tracking is None else tracking.system_metrics_seconds
        self._fresh, self._keeps_examples = fresh, keeps_examples
        self._plan = {planned.name: planned for planned in plan}
        self._closed: set[str] = set()
        self._seen = Snapshot({}, None)
        self._asked: Any = None
        settings = None
        if tracking is not None:
            settings = WriterSettings(
                uri=tracking.uri_for(output),
                # As a URI: MLflow decodes it, even where it is a path.
                artifacts=None if tracking.uri else (output / "mlflow-artifacts").as_uri(),
                experiment=tracking.experiment,
                ledger=ledger_file(output),
            )
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor: Any = ray.remote(Recorder).options(num_cpus=0, scheduling_strategy=here).remote(settings)
        identity = hashlib.sha256(" ".join(planned.fingerprint for planned in plan).encode()).hexdigest()[:16]
        lines = "".join(planned.as_json() + "\n" for planned in plan)
        self._source = _source_tags(name)
        self._pipeline = OpenRun(
            key=f"pipeline/{identity}",
            name=name,
            params=params or {},
            tags=self._source | {"fingerprint": identity},
            files={"config.yaml": config_yaml.encode(), "plan.jsonl": lines.encode()},
        )
        self._send(self._pipeline)

    def tracker_of(self, planned: PlannedStage) -> StageTracker:
        """The tracker of a stage."""
        parents = [self._pipeline]
        if group := planned.stage.group:
            key = self._group_key(group)
            parents.append(OpenRun(key=key, name=group.value, parent=self._pipeline.key, tags=self._source))
        own = OpenRun(
            key=_key(planned),
            name=planned.name,
            parent=parents[-1].key,
            params=planned.identity["config"],
            tags=self._source | {"fingerprint": planned.fingerprint, "folder": redact(str(planned.folder))},
            files={"config.json": json.dumps(planned.identity, indent=2).encode()},
            is_new=planned.name in self._fresh,
        )
        # The pipeline's run too: Ray keeps the order of one process's messages, not of several.
        return StageTracker(
            self._actor,
            stage=planned.name,
            opening=(*parents, own),
            system_metrics_seconds=self._seconds,
            keeps_examples=self._keeps_examples,
        )

    def watch(self, results: Mapping[str, StageResult]) -> Mapping[str, Progress]:
        """Closes the runs of stages that ended; returns the newest known progress without waiting."""
        import ray
        from ray.exceptions import RayError

        for name, result in results.items():
            status = _ENDINGS.get(result.state)
            if status is not None and name not in self._closed:
                self._closed.add(name)
                key = _key(self._plan[name])
                if result.outcome:
                    self._send(Description(key=key, text=result.outcome))
                self._send(CloseRun(key=key, status=status, error=result.error))
        if self._asked is None:
            self._asked = self._actor.snapshot.remote()
        if ray.wait([self._asked], timeout=0)[0]:
            with suppress(RayError):  # the recorder died: `close` says so
                self._seen = ray.get(self._asked)
            self._asked = None
        return self._seen.progress

    @property
    def trouble(self) -> str | None:
        """Why MLflow cannot be written at the moment, as far as is known."""
        return self._seen.trouble

    def close(self, results: Mapping[str, StageResult], *, seconds: float = CLOSE_SECONDS) -> list[str]:
        """Closes the runs of the groups and of the pipeline, and waits until all is written.

        Returns:
          What could not be written, and why.
        """
        import ray
        from ray.exceptions import RayError

        states: dict[str, set[State]] = {}
        for name, result in results.items():
            if group := self._plan[name].stage.group:
                states.setdefault(self._group_key(group), set()).add(result.state)
        states[self._pipeline.key] = {result.state for result in results.values()}  # the parent last
        for key, found in states.items():
            status = "FAILED" if State.FAILED in found else "KILLED" if State.STOPPED in found else "FINISHED"
            self._send(CloseRun(key=key, status=status))
        try:
            return list(ray.get(self._actor.close.remote(seconds=seconds), timeout=seconds + 30))
        except RayError as error:
            return [f"what was recorded last (the recorder ended: {type(error).__name__})"]
        finally:
            ray.kill(self._actor)

    def _group_key(self, group: Group) -> str:
        return f"{group} of {self._pipeline.key}"

    def _send(self, message: Message) -> None:
        self._actor.record.remote(message)


def _key(planned: PlannedStage) -> str:
    return f"{planned.name}/{planned.fingerprint}"


def _source_tags(name: str) -> dict[str, str]:
    tags = {"mlflow.source.name": f"pipeline.run {name}", "mlflow.source.type": "LOCAL"}
    if commit := git_commit():
        tags["mlflow.source.git.commit"] = commit
    with suppress(KeyError, OSError):  # a container may run under a user without a name
        tags["mlflow.user"] = getpass.getuser()
    return tags
