"""What the pipeline knows of a stage."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from upath import UPath

from cluster.storage import StoredFile
from stages.context import Group, StageContext


@dataclass(frozen=True)
class Source:
    """A raw input of a stage.

    Attributes:
      location: Where it is, as the user wrote it.
      find: Lists those of its files that the stage reads; if there are none, nothing, or an error that says why.
      revision: Of a model on the Hugging Face hub.
    """

    location: str
    find: Callable[..., Sequence[StoredFile]]
    revision: str | None = None

    def files(self) -> Sequence[StoredFile]:
        """What `find` lists."""
        return self.find(self.location) if self.revision is None else self.find(self.location, revision=self.revision)


@dataclass(frozen=True, kw_only=True)
class Stage:
    """A step of the pipeline: a plain function, its configuration, and what must be there before it.

    Attributes:
      name: The one name of the stage: its folder, MLflow run and `--only` pattern (`finetune/cola/seed-0`).
      run: `run(config, context)`; writes its results into `context.output`.
      config: A frozen dataclass; all of it is the stage's identity.
      version: Raised when the code's results change, so that old results are not taken for new ones.
      needs: Names of the stages whose output it reads, in the order of the pipeline.
      early: Whether it may start while `early_need` still runs, by the folders of `needs`; None: never.
      early_need: The one of `needs` that `early` judges; all others must be done.
      may_lack: Those of `needs` whose failure it shows instead of being stopped by it. It is then not done.
      group: Which of several alike it is one of; their folders and runs in MLflow lie together.
      sources: Raw inputs that the stage reads from outside the pipeline.
      num_cpus: What its own task reserves; 0 where the work happens in tasks of its own, None for the
        cluster's `cpus_per_process`.
      accelerated: True where the task itself computes on an accelerator.
      num_processes: JAX processes that it starts, each with what the cluster says; 0 where it starts none.
    """

    name: str
    run: Callable[[Any, StageContext], None]
    config: Any
    version: int
    needs: tuple[str, ...] = ()
    early: Callable[[Mapping[str, UPath]], bool] | None = None
    early_need: str = ""
    may_lack: tuple[str, ...] = ()
    group: Group | None = None
    sources: tuple[Source, ...] = ()
    num_cpus: int | None = None
    accelerated: bool = False
    num_processes: int = 0
