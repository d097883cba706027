"""Newest results under plain names: on this machine links to their folders, elsewhere one JSON of locations."""

import os
import uuid
from collections.abc import Mapping
from pathlib import Path

from upath import UPath

from cluster.storage import is_local, write_json

LOCATIONS = "locations.json"


def write_latest(folder: UPath, targets: Mapping[str, UPath]) -> None:
    """Makes `folder` hold these names and no others: `latest/export` → `../export/<hash>`.

    Each link is replaced at once, so that a reader always finds a whole result. Links are relative: the output may be
    moved. Where there are no links, in an object store and on some mounted ones, `locations.json` says what they would.

    Args:
      folder: Made where it is missing. What is in it and no link stays.
      targets: Folders beside it or below its parent, by names that may have slashes.

    Raises:
      OSError: It cannot be written, or a file that is no link has one of the names.
    """
    if is_local(folder):
        local = Path(str(folder))
        try:
            for name, target in targets.items():
                _link(local / name, Path(str(target)))
        except (NotImplementedError, PermissionError):
            pass
        else:
            _remove_others(local, keep={local / name for name in targets})
            (local / LOCATIONS).unlink(missing_ok=True)
            return
    beside = str(folder.parent).rstrip("/") + "/"
    write_json(folder / LOCATIONS, {name: str(target).removeprefix(beside) for name, target in targets.items()})


def _link(link: Path, target: Path) -> None:
    if link.exists() and not link.is_symlink():
        raise FileExistsError(f"{link} is no link: move it away")
    link.parent.mkdir(parents=True, exist_ok=True)
    temporary = link.with_name(f".{link.name}.{uuid.uuid4().hex[:8]}.tmp")
    temporary.symlink_to(os.path.relpath(target, link.parent), target_is_directory=True)
    os.replace(temporary, link)


def _remove_others(folder: Path, *, keep: set[Path]) -> None:
    """Removes links of earlier runs, and folders that they leave empty."""
    for path, folders, files in os.walk(folder, topdown=False, followlinks=False):
        for name in [*folders, *files]:
            entry = Path(path) / name
            if entry.is_symlink() and entry not in keep:
                entry.unlink()
        if Path(path) != folder and not any(Path(path).iterdir()):
            Path(path).rmdir()
