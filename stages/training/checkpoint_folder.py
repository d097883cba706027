"""Where a stage keeps its checkpoints, read from names alone (no JAX, no Orbax)."""

from upath import UPath


def checkpoint_folder(output: UPath) -> UPath:
    """The folder of a stage's checkpoints in the stage's own."""
    return output / "checkpoints"


def has_checkpoint(output: UPath, step: int) -> bool:
    """Whether the stage has written the checkpoint of a step to its end."""
    return (checkpoint_folder(output) / str(step) / "commit_success.txt").exists()


def saved_step(output: UPath) -> int | None:
    """Step of the stage's newest finished checkpoint; None where it has none."""
    folder = checkpoint_folder(output)
    if not folder.is_dir():
        return None
    return max((int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()), default=None)


def remove_checkpoints(output: UPath) -> None:
    """Removes all checkpoints of the stage, which nothing writes any more."""
    folder = checkpoint_folder(output)
    folder.fs.rm(folder.path, recursive=True)
