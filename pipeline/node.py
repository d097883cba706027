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
      find: Lists the files there that the stage reads. If there are none, returns nothing or raises an error.
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
      version: Is raised when the code's results change, so that old results are not taken for new ones.
      needs: Names of the stages whose output it reads, in the order of the pipeline.
      early: Tells from the folders of `needs` whether it may start while `early_need` still runs; None: it may not.
      early_need: The one of `needs` that `early` asks about; all others must be done.
      may_lack: Those of `needs` that may fail: it runs and shows the failure, and is not marked as done.
      group: The group of similar stages that it belongs to; their folders and MLflow runs lie together.
      sources: Raw inputs that the stage reads from outside the pipeline.
      num_cpus: CPU cores that its own task reserves; 0 if it only waits for other tasks, None for the cluster's
        `cpus_per_process`.
      accelerated: Whether its own task computes on an accelerator.
      num_processes: How many JAX processes it starts, each with the resources that the cluster config names.
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
