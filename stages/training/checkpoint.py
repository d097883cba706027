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

from stages.training.state import TrainState

logger = logging.getLogger(__name__)


class Restored(NamedTuple):
    """What a checkpoint holds.

    Attributes:
      state: In the shardings that were asked for.
      window: What was saved beside it.
    """

    state: TrainState
    window: dict[str, Any]


class Checkpoints:
    """Checkpoints in a folder, by step.

    All processes make one, on the same folder, and call its methods together.

    Args:
      folder: Local path or fsspec URL that Orbax writes to; every process reaches it.
      keep: How many of the newest stay.
      milestones: Steps whose checkpoints stay besides.
      identity: What the run is of (the data's hashes): restoring another's checkpoint is refused.
    """

    def __init__(
        self, folder: UPath, *, keep: int, identity: Mapping[str, str], milestones: Iterable[int] = ()
    ) -> None:
        self._folder = folder
        self._identity = dict(identity)
        policies = [preservation_policy.LatestN(keep), preservation_policy.CustomSteps(sorted(milestones))]
        options = ocp.CheckpointManagerOptions(
            preservation_policy=preservation_policy.AnyPreservationPolicy(policies),
            enable_async_checkpointing=True,
            cleanup_tmp_directories=True,
        )
        self._manager = ocp.CheckpointManager(str(folder), options=options)

    def save(self, state: TrainState, *, step: int, window: Mapping[str, Any] | None = None) -> None:
        """Starts to write `state`, finished updates `step`; the caller may go on at once, and donate the state.

        `window` is kept beside it as JSON: sums that are not recorded yet.
        """
        self._manager.save(
            step,
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                identity=ocp.args.JsonSave(self._identity),
                window=ocp.args.JsonSave(dict(window or {})),
            ),
        )

    def restore_newest(self, like: TrainState) -> Restored | None:
        """The newest checkpoint that can be read, or None where there is none.

        One that cannot be read is named in a warning, deleted, and the one before is taken.

        Args:
          like: A state of the same shapes, types and shardings; its values are not used.

        Raises:
          ValueError: The checkpoint is of other data, or none of several can be read.
        """
        abstract = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)
        steps = sorted(self._manager.all_steps(), reverse=True)
        for step in steps:
            try:
                restored = self._manager.restore(
                    step,
                    args=ocp.args.Composite(
                        state=ocp.args.StandardRestore(abstract),
                        identity=ocp.args.JsonRestore(),
                        window=ocp.args.JsonRestore(),
                    ),
                )
            except Exception as error:  # Orbax has no common class for what a damaged file raises
                logger.warning(
                    "%s/%d: this checkpoint cannot be read and is passed over (%s: %s)",
                    self._folder, step, type(error).__name__, str(error).splitlines()[0] if str(error) else "",
                )  # fmt: skip
                continue
            if restored.identity != self._identity:
                raise ValueError(
                    f"{self._folder}/{step}: the checkpoint is of other data: expected {self._identity}, "
                    f"found {restored.identity}; give the run another output, or start the stage anew with --rerun"
                )
            for newer in (s for s in steps if s > step):
                self._manager.delete(newer)
            return Restored(state=restored.state, window=restored.window)
        if steps:
            raise ValueError(
                f"{self._folder}: none of the checkpoints {steps[::-1]} can be read; start the stage anew with --rerun"
            )
        return None

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


def load_params(folder: UPath, *, step: int) -> Any:
    """The parameters alone of a step's checkpoint, as numpy arrays, on whatever devices it was trained.

    Raises:
      FileNotFoundError: There is no such checkpoint in `folder`.
    """
    if not (folder / str(step)).exists():
        raise FileNotFoundError(f"{folder}: the checkpoint of step {step} is not there, was it deleted?")
    # Not the manager: it would look after the whole folder, which may be another process's.
    handler, path = ocp.PyTreeCheckpointHandler(), epath.Path(str(folder / str(step) / "state"))
    tree = {"params": handler.metadata(path).tree["params"]}
    kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
    restored = handler.restore(path, args=ocp.args.PyTreeRestore(item=tree, restore_args=kinds, partial_restore=True))
    return restored["params"]
