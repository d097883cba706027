"""Checkpoints of a training run: written in the background, restored straight into place."""

import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from orbax.checkpoint.checkpoint_managers import preservation_policy
from upath import UPath

from stages.training.checkpoint_folder import checkpoint_folder
from stages.training.state import Params, TrainState

logger = logging.getLogger(__name__)

_FORMAT = 2  # of what a checkpoint holds; 2 has the random key in the state


class Kept(NamedTuple):
    """What a run keeps in a checkpoint beside its state and its window.

    Attributes:
      facts: Whatever JSON can say.
      best: Parameters of another step, on the host.
    """

    facts: Mapping[str, Any] = {}
    best: Params | None = None


class Restored(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      state: In the shardings that were asked for.
      window: Sums that were in no row yet, as JSON.
      kept: What the run kept besides.
    """

    state: TrainState
    window: dict[str, Any]
    kept: Kept


class Checkpoints:
    """A stage's checkpoints, by step.

    All processes make one, on the same folder, and call its methods together.

    Args:
      output: The stage's folder, a local path or an fsspec URL that Orbax writes to; every process reaches it.
      keep: How many of the newest stay.
      milestones: Steps whose checkpoints stay besides.
      identity: What the run is of (hashes of its data): another's checkpoint is refused.
    """

    def __init__(
        self, output: UPath, *, keep: int, identity: Mapping[str, str], milestones: Iterable[int] = ()
    ) -> None:
        self._folder = checkpoint_folder(output)
        self._identity = dict(identity) | {"format": str(_FORMAT)}
        policies = [preservation_policy.LatestN(keep), preservation_policy.CustomSteps(sorted(milestones))]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(str(self._folder), options=options)

    def save(
        self, state: TrainState, *, step: int, window: Mapping[str, Any] | None = None, kept: Kept | None = None
    ) -> None:
        """Starts to write `state`, finished updates `step`; the caller may go on at once, and donate the state.

        `window` and `kept` are written beside it.
        """
        kept = kept or Kept()
        items: dict[str, Any] = {
            "identity": ocp.args.JsonSave(self._identity),
            "state": ocp.args.StandardSave(state),
            "window": ocp.args.JsonSave(dict(window or {})),
            "facts": ocp.args.JsonSave(dict(kept.facts)),
        }
        if kept.best is not None:
            items["best"] = ocp.args.StandardSave(kept.best)
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore_newest(self, like: TrainState) -> Restored | None:
        """The newest checkpoint that can be read, or None where there is none.

        One that cannot be read is named in a warning, deleted, and the one before is taken.

        Args:
          like: A state of the same shapes, types and shardings; its values are not used.

        Raises:
          ValueError: The checkpoint is another run's or another version's, or none of several can be read.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                found = self._restore(step, identity=ocp.args.JsonRestore()).identity
                restored = self._read(step, like) if found == self._identity else None
            except Exception as error:  # Orbax has no common class for what a damaged file raises
                logger.warning(
                    "%s/%d: this checkpoint cannot be read and is passed over (%s: %s)",
                    self._folder, step, type(error).__name__, str(error).splitlines()[0] if str(error) else "",
                )  # fmt: skip
                continue
            if restored is None:
                raise ValueError(f"{self._folder}/{step}: {self._why_foreign(found)}")
            for newer in (s for s in steps if s > step):
                self._manager.delete(newer)
            return restored
        if steps:
            raise ValueError(
                f"{self._folder}: none of the checkpoints {steps[::-1]} can be read; start the stage anew with --rerun"
            )
        return None

    def _restore(self, step: int, **items: Any) -> Any:
        return self._manager.restore(step, args=ocp.args.Composite(**items))

    def _why_foreign(self, found: Mapping[str, str]) -> str:
        remedy = "give the run another output, or start the stage anew with --rerun"
        if (number := found.get("format", "1")) != self._identity["format"]:
            return (
                f"the checkpoint was written by another version of this project (format {number}, this one reads "
                f"{_FORMAT}): go on with that version, {remedy}"
            )
        return f"the checkpoint is of other data: expected {self._identity}, found {found}; {remedy}"

    def _read(self, step: int, like: TrainState) -> Restored:
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        items: dict[str, Any] = {
            "state": ocp.args.StandardRestore(abstract),
            "window": ocp.args.JsonRestore(),
            "facts": ocp.args.JsonRestore(),
        }
        if has_best := (self._folder / str(step) / "best").exists():
            on_host = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like.params)
            items["best"] = ocp.args.StandardRestore(on_host)
        found = self._restore(step, **items)
        return Restored(found.state, found.window, Kept(found.facts, found.best if has_best else None))

    def start_over(self, state: TrainState, *, kept: Kept) -> None:
        """Deletes all checkpoints, and saves the state before another first step."""
        self.wait()
        for step in self._manager.all_steps():
            self._manager.delete(step)
        self.save(state, step=0, kept=kept)

    def newest_step(self) -> int | None:
        """Step of the newest checkpoint that is written to its end."""
        return self._manager.latest_step()

    def wait(self) -> None:
        """Waits until all is written."""
        self._manager.wait_until_finished()

    def close(self) -> None:
        """Waits until all is written, and ends."""
        self.wait()
        self._manager.close()


def load_params(output: UPath, *, step: int) -> Params:
    """The parameters alone of a step's checkpoint, as numpy arrays, on whatever devices it was trained.

    Raises:
      FileNotFoundError: The stage with this output has no such checkpoint.
    """
    folder = checkpoint_folder(output)
    if not (folder / str(step)).exists():
        raise FileNotFoundError(f"{folder}: the checkpoint of step {step} is not there, was it deleted?")
    # Not the manager: it would look after the whole folder, which may be another process's.
    handler, path = ocp.PyTreeCheckpointHandler(), epath.Path(str(folder / str(step) / "state"))
    tree = {"params": handler.metadata(path).tree["params"]}
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    restored = handler.restore(path, args=ocp.args.PyTreeRestore(item=tree, restore_args=kinds, partial_restore=True))
    return restored["params"]
