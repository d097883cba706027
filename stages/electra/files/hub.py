"""A model's files in a folder or on the Hugging Face hub: which they are, at which commit. Imports nothing heavy."""

import fnmatch
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from cluster.storage import StoredFile, list_files

OWN_HEAD = "head.safetensors"  # of a head that no class of transformers has a place for
# All but the first may be missing: transformers 5 writes no vocab.txt.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
)
WEIGHTS = ("model.safetensors", "pytorch_model.bin", "flax_model.msgpack")  # the first that a model has is read
_SMALL = ("config.json", *TOKENIZER_FILES)

# The rules of huggingface_hub.utils.validate_repo_id, which takes longer to import than a plan may.
_ID = re.compile(r"(?!.*(--|\.\.))(\b[\w\-.]{1,96}\b/)?\b[\w\-.]{1,96}\b(?<!\.git)", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class HubAccess:
    """How the hub is asked.

    Attributes:
      token: Of the hub; None takes the one that was logged in with, False none.
      cache_dir: Where downloads are kept; None is the hub's own cache.
      local_files_only: Take what was downloaded before, and ask nobody.
      force_download: Download again what was downloaded before.
    """

    token: str | bool | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    force_download: bool = False


DEFAULT_ACCESS = HubAccess()


def is_hub_name(name: str) -> bool:
    """Whether the hub may have a model of this name: `name` or `owner/name`."""
    return _ID.fullmatch(name) is not None


def is_hub_id(location: str) -> bool:
    """Whether this names a model on the hub: `name` or `owner/name`. As in transformers, a local folder comes first."""
    return is_hub_name(location) and not os.path.isdir(location)


def check_revision(location: str | None, revision: str | None, *, name: str = "revision") -> None:
    """Raises ValueError where a revision is given for what is not on the hub."""
    if revision is not None and not is_hub_id(location or ""):
        raise ValueError(f"{name} is {revision}, but the model, {location}, is no hub id (owner/name): leave it out")


def find_model_files(location: str, *, revision: str | None = None) -> list[StoredFile]:
    """The files of a model's folder that are read; for a hub id, one entry with its commit as etag.

    Args:
      location: A path, URL or hub id.
      revision: Branch, tag or commit of a hub id; None is the default branch.

    Raises:
      FileNotFoundError: The hub has no such model or revision.
      ValueError: A revision is given for what is not on the hub.
    """
    if is_hub_id(location):
        commit = _find_commit(location, revision)
        return [StoredFile(location=f"hf://{location}@{revision or 'main'}", size=None, etag=commit)]
    check_revision(location, revision)
    files = list_files(location)
    names = {file.name for file in files}
    weights = next((name for name in WEIGHTS if names & {name, _index(name)}), None)
    read = [*_SMALL, OWN_HEAD, *(_parts(weights) if weights else ())]
    return [file for file in files if any(fnmatch.fnmatchcase(file.name, pattern) for pattern in read)]


def download(
    repo_id: str, *, revision: str | None, with_weights: bool = True, access: HubAccess = DEFAULT_ACCESS
) -> Path:
    """Downloads a model of the hub, with weights of one format, unless it was downloaded before.

    Raises:
      FileNotFoundError: The hub has no such model or revision, or cannot be asked and was not before.
    """
    if not with_weights:
        return _download(repo_id, revision, _SMALL, access=access)
    for name in WEIGHTS:
        folder = _download(repo_id, revision, [*_SMALL, OWN_HEAD, *_parts(name)], access=access)
        if (folder / name).exists() or (folder / _index(name)).exists():
            break
    return folder


def _find_commit(repo_id: str, revision: str | None) -> str | None:
    """The commit of a revision. If the hub cannot be asked, the commit when it was last asked, or None."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    if revision is not None and _COMMIT.fullmatch(revision):
        return revision
    try:
        return _download(repo_id, revision, ["config.json"], quiet=True).name  # the cache names folders by commits
    except FileNotFoundError as error:
        if isinstance(error.__cause__, LocalEntryNotFoundError):
            return None
        raise


def _download(
    repo_id: str,
    revision: str | None,
    patterns: Iterable[str],
    *,
    quiet: bool = False,
    access: HubAccess = DEFAULT_ACCESS,
) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError
    from huggingface_hub.utils import tqdm

    class Quiet(tqdm):
        def __init__(self, *args: object, **options: object) -> None:
            super().__init__(*args, **options | {"disable": True})

    try:
        bar = Quiet if quiet else None
        return Path(
            snapshot_download(repo_id, revision=revision, allow_patterns=list(patterns), tqdm_class=bar, **vars(access))
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        at = f" at revision {revision}" if revision else ""
        raise FileNotFoundError(
            f"{repo_id}: no such folder, and the Hugging Face hub has no model of this id that can be read{at}: {error}"
        ) from error


def _index(weights: str) -> str:
    return f"{weights}.index.json"


def _parts(weights: str) -> tuple[str, ...]:
    """The names of the files that hold weights of one format."""
    stem, suffix = os.path.splitext(weights)
    return weights, _index(weights), f"{stem}-*-of-*{suffix}"
