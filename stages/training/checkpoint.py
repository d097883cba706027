"""Checkpoints of a training run: written in the background, restored straight into place."""

import logging
from collections.abc import Mapping

import jax
import orbax.checkpoint as ocp
from upath import UPath

from stages.training.state import TrainState

logger = logging.getLogger(__name__)


class Checkpoints:
    """Checkpoints in a folder, by step.

    All processes make one, on the same folder, and call its methods together.

    Args:
      folder: Local path or fsspec URL that Orbax writes to; every process reaches it.
      keep: How many of the newest stay.
      identity: What the run is of (the data's hashes): restoring another's checkpoint is refused.
    """

    def __init__(self, folder: UPath, *, keep: int, identity: Mapping[str, str]) -> None:
        self._folder = folder
        self._identity = dict(identity)
        options = ocp.CheckpointManagerOptions(
            max_to_keep=keep, enable_async_checkpointing=True, cleanup_tmp_directories=True
        )
        self._manager = ocp.CheckpointManager(str(folder), options=options)

    def save(self, state: TrainState, *, step: int) -> None:
        """Starts to write `state`, finished updates `step`; the caller may go on at once, and donate the state."""
        self._manager.save(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardSave(state), identity=ocp.args.JsonSave(self._identity)),
        )

    def restore_newest(self, like: TrainState) -> TrainState | None:
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
                    args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), identity=ocp.args.JsonRestore()),
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
            return restored.state
        if steps:
            raise ValueError(
                f"{self._folder}: none of the checkpoints {steps[::-1]} can be read; start the stage anew with --rerun"
            )
        return None

    def newest_step(self) -> int | None:
        """Step of the newest checkpoint that is written to its end."""
        return self._manager.latest_step()

    def close(self) -> None:
        """Waits until all is written."""
        self._manager.wait_until_finished()
        self._manager.close()


def saved_step(folder: UPath) -> int | None:
    """Step of the newest finished checkpoint in `folder`, read from its names alone (no JAX, no Orbax)."""
    if not folder.exists():
        return None
    return max((int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()), default=None)
