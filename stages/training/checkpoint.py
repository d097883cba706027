"""Checkpoints of a training run: written in the background, restored straight into place, damage noticed.

With each checkpoint go the digests of its arrays and JSON, taken from memory before anything is written, and compared
with what was read. All processes agree on whether a checkpoint is whole: one that a single process cannot read is
passed over by all.
"""

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import jax
import numpy as np
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental.multihost_utils import process_allgather
from orbax.checkpoint.checkpoint_managers import preservation_policy
from upath import UPath

from cluster.storage import read_json
from stages.training.checkpoint_folder import checkpoint_folder
from stages.training.digest import digest_arrays, digest_json
from stages.training.state import Params, TrainState

logger = logging.getLogger(__name__)

_FORMAT = 4  # of what a checkpoint holds; 2 has the random key in the state, 3 has digests, 4 has layers stacked


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
      passed_over: What is wrong with each newer checkpoint, newest first.
    """

    state: TrainState
    window: dict[str, Any]
    kept: Kept
    passed_over: tuple[str, ...] = ()


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
        records = {"identity": self._identity, "window": dict(window or {}), "facts": dict(kept.facts)}
        trees = {"state": state} | ({"best": kept.best} if kept.best is not None else {})
        records["digests"] = _seal(records, digest_arrays(trees))
        items = {name: ocp.args.JsonSave(record) for name, record in records.items()}
        items |= {name: ocp.args.StandardSave(tree) for name, tree in trees.items()}
        self._manager.save(step, args=ocp.args.Composite(**items))

    def restore_newest(self, like: TrainState) -> Restored | None:
        """The newest checkpoint that can be read, or None where there is none.

        One that is damaged is named in a warning, deleted, and the one before is taken.

        Args:
          like: A state of the same shapes, types and shardings; its values are not used.

        Raises:
          ValueError: The checkpoint is another run's or another version's, or all of several are damaged.
        """
        steps = sorted(self._manager.all_steps(), reverse=True)
        passed_over: list[str] = []
        for step in steps:
            try:
                restored = self._read(step, like)
            except _DamagedError as error:
                passed_over.append(f"{self._folder}/{step}: this checkpoint is damaged and is passed over ({error})")
                logger.warning("%s", passed_over[-1])
                continue
            for newer in (s for s in steps if s > step):
                self._manager.delete(newer)
            return restored._replace(passed_over=tuple(passed_over))
        if steps:
            raise ValueError(
                f"{self._folder}: none of the checkpoints {steps[::-1]} can be read; start the stage anew: --rerun; "
                + "; ".join(passed_over)
            )
        return None

    def _why_foreign(self, found: Mapping[str, str]) -> str:
        remedy = "give the run another output, or start the stage anew with --rerun"
        if (number := found.get("format", "1")) != self._identity["format"]:
            return (
                f"the checkpoint was written by another version of this project (format {number}, this one reads "
                f"{_FORMAT}): go on with that version, {remedy}"
            )
        return f"the checkpoint is of other data: expected {self._identity}, found {found}; {remedy}"

    def _read(self, step: int, like: TrainState) -> Restored:
        """What the checkpoint of a step holds, if it is whole.

        Raises:
          _DamagedError: Here or in another process; in all of them.
          ValueError: It is another run's or another version's.
        """
        folder, found = self._folder / str(step), {}
        with _agreement():
            found = _read_records(folder)
        if found["identity"] != self._identity:
            raise ValueError(f"{folder}: {self._why_foreign(found['identity'])}")
        likes = {"state": jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), like)}
        if any(name.startswith("best/") for name in found["digests"]["arrays"]):
            likes["best"] = jax.tree.map(lambda x: np.empty(x.shape, x.dtype), like.params)  # on the host
        trees: dict[str, Any] = {}
        with _agreement():
            for name, tree in likes.items():
                # Not the manager: its barrier would wait in vain for a process that cannot read its part.
                handler = ocp.StandardCheckpointHandler()
                trees[name] = handler.restore(epath.Path(str(folder / name)), args=ocp.args.StandardRestore(tree))
                handler.close()
        with _agreement():
            _compare(found["digests"]["arrays"], digest_arrays(trees))
        return Restored(trees["state"], found["window"], Kept(found["facts"], trees.get("best")))

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
      ValueError: It is damaged, or of an earlier version.
    """
    folder = checkpoint_folder(output) / str(step)
    if not folder.exists():
        raise FileNotFoundError(f"{folder.parent}: the checkpoint of step {step} is not there, was it deleted?")
    anew = "train it anew: --rerun pretrain"
    try:
        records = _read_records(folder)
    except Exception as error:
        raise ValueError(f"{folder}: this checkpoint is damaged ({_first_line(error)}); {anew}") from error
    if "digests" not in records:
        raise ValueError(f"{folder}: this checkpoint was written by an earlier version of this project; {anew}")
    try:
        # Not the manager: it would look after the whole folder, which may be another process's.
        handler, path = ocp.PyTreeCheckpointHandler(), epath.Path(str(folder / "state"))
        tree = {"params": handler.metadata(path).tree["params"]}
        kinds = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), tree)
        args = ocp.args.PyTreeRestore(item=tree, restore_args=kinds, partial_restore=True)
        params = handler.restore(path, args=args)["params"]
        arrays = records["digests"]["arrays"].items()
        written = {name: digest for name, digest in arrays if name.startswith("state/params/")}
        _compare(written, digest_arrays({"state": {"params": params}}))
    except Exception as error:
        raise ValueError(f"{folder}: this checkpoint is damaged ({_first_line(error)}); {anew}") from error
    return params


class _DamagedError(Exception):
    """A checkpoint is not what was written."""


@contextmanager
def _agreement() -> Iterator[None]:
    """Raises _DamagedError in all processes if the block raised anything in one of them."""
    failure: Exception | None = None
    try:
        yield
    except Exception as error:  # Orbax has no common class for what a damaged file raises
        failure = error
    others = np.flatnonzero(process_allgather(np.asarray([failure is not None])))
    if failure is not None:
        raise _DamagedError(_first_line(failure)) from failure
    if others.size:
        raise _DamagedError(f"process {others[0]} could not read it")


def _read_records(folder: UPath) -> dict[str, dict[str, Any]]:
    """A checkpoint's JSON by name. Of one without digests, which an earlier version wrote, the identity alone.

    Raises:
      ValueError: It is not what was written.
    """
    names = ("identity", "window", "facts", "digests") if (folder / "digests").exists() else ("identity",)
    records = {name: read_json(folder / name / "metadata") for name in names}
    if "digests" in records:
        written = records["digests"]
        found = _seal({name: records[name] for name in names[:-1]}, written["arrays"])
        _compare(written["records"], found["records"])
        _compare({"digests": written["digests"]}, {"digests": found["digests"]})
    elif records["identity"].get("format") == str(_FORMAT):
        raise ValueError("its digests are missing")
    return records


def _seal(records: Mapping[str, Any], arrays: Mapping[str, str]) -> dict[str, Any]:
    """Digests of a checkpoint's JSON and of its arrays by name, with one of themselves."""
    digests = {"records": {name: digest_json(value) for name, value in records.items()}, "arrays": dict(arrays)}
    return {**digests, "digests": digest_json(digests)}


def _compare(written: Mapping[str, str], found: Mapping[str, str]) -> None:
    wrong = sorted(name for name in written.keys() | found.keys() if written.get(name) != found.get(name))
    if wrong:
        name = wrong[0]
        raise ValueError(f"the digest of {name} is {found.get(name)}, {written.get(name)} was written")


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:300]}"
