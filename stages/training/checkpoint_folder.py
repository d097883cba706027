"""Where a stage keeps its checkpoints, read from names alone (no JAX, no Orbax)."""

from upath import UPath

CHECKPOINTS = "checkpoints"  # folder in the stage's own


def has_checkpoint(output: UPath, step: int) -> bool:
    """Whether the stage has written the checkpoint of a step to its end."""
    return (output / CHECKPOINTS / str(step) / "commit_success.txt").exists()


def saved_step(folder: UPath) -> int | None:
    """Step of the newest finished checkpoint in `folder`."""
    if not folder.exists():
        return None
    return max((int(entry.name) for entry in folder.iterdir() if entry.name.isdigit()), default=None)
