"""The record of a stage: config.json, written first, then failure.json or manifest.json. Done: it has a manifest."""

import hashlib
import platform
import subprocess
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

from upath import UPath

from cluster.storage import is_local, read_json, write_json
from cluster.storage import list_files as stored_files
from pipeline.fingerprint import Identity, fingerprint

CONFIG, MANIFEST, FAILURE, LOG = "config.json", "manifest.json", "failure.json", "log.txt"
_PACKAGES = (
    *("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "ray", "tokenizers", "pyarrow", "safetensors"),
    *("scikit-learn", "scipy", "electra-pipeline"),
)


def write_config(folder: UPath, identity: Identity) -> None:
    """Opens a stage's folder: records its identity before anything else is in it."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, identity)


def write_failure(folder: UPath, error: str) -> None:
    """Records why the stage failed, until it is run again."""
    write_json(folder / FAILURE, {"error": error})


def write_manifest(folder: UPath, identity: Identity, *, started: datetime, command: str) -> None:
    """Closes a stage's folder: from now on the stage is done. Written whole or not at all."""
    finished = datetime.now(UTC)
    write_json(
        folder / MANIFEST,
        {
            "identity": identity,
            "fingerprint": folder.name,
            "started": started.isoformat(),
            "finished": finished.isoformat(),
            "command": command,
            "seconds": (finished - started).total_seconds(),
            "files": [entry | _content(folder / entry["path"]) for entry in list_files(folder)],
            "python": platform.python_version(),
            "machine": f"{platform.system()} {platform.machine()}",
            "packages": package_versions(),
            "git_commit": git_commit(),
        },
    )


def read_manifest(folder: UPath) -> dict[str, Any] | None:
    """The manifest, or None where the stage is not done.

    Raises:
      ValueError: It is damaged, or another folder's.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    manifest = read_json(path)
    if not isinstance(manifest, dict):
        raise ValueError(f"{path}: expected an object, found {type(manifest).__name__}")
    for key, kind in {"identity": dict, "fingerprint": str, "finished": str, "files": list}.items():
        if not isinstance(manifest.get(key), kind):
            raise ValueError(f"{path}: {key}: expected {kind.__name__}, found {manifest.get(key)!r:.80}")
    for entry in manifest["files"]:
        if not (isinstance(entry, dict) and isinstance(entry.get("path"), str) and isinstance(entry.get("size"), int)):
            raise ValueError(f"{path}: files: expected objects with path and size, found {entry!r:.80}")
    if not manifest["fingerprint"] == fingerprint(manifest["identity"]) == folder.name:
        raise ValueError(f"{path}: is of {manifest['fingerprint']}, this folder is {folder.name}")
    return manifest


def list_files(folder: UPath) -> list[dict[str, Any]]:
    """Every file that the stage wrote: path in the folder, and size."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    entries = [{"path": path.relative_to(folder).as_posix(), "size": path.stat().st_size} for path in files]
    record = (CONFIG, MANIFEST, FAILURE, LOG)
    return sorted((entry for entry in entries if entry["path"] not in record), key=lambda entry: entry["path"])


def find_damage(folder: UPath, manifest: dict[str, Any]) -> str | None:
    """The first file that is gone or whose size differs from the manifest's; checks local folders only."""
    if not is_local(folder):
        return None
    for entry in manifest["files"]:
        path = folder / entry["path"]
        if not path.is_file():
            return f"{entry['path']} is gone"
        if path.stat().st_size != entry["size"]:
            return f"{entry['path']} has {path.stat().st_size} bytes, the manifest says {entry['size']}"
    return None


def verify(folder: UPath) -> list[str]:
    """What is damaged, missing or unexpected in the folder of a finished stage, by the manifest's sizes and checksums.

    Raises:
      ValueError: The manifest is damaged.
    """
    manifest = read_manifest(folder)
    if manifest is None:
        return []
    written = {entry["path"]: entry for entry in manifest["files"]}
    found = {entry["path"]: entry["size"] for entry in list_files(folder)}
    faults = [f"{path} is unexpected" for path in found if path not in written]
    for path, entry in written.items():
        if path not in found:
            faults.append(f"{path} is missing")
        elif found[path] != entry["size"]:
            faults.append(f"{path} is damaged: {found[path]} bytes, the manifest says {entry['size']}")
        else:
            for name, value in _content(folder / path).items():
                if value != (expected := entry.get(name, value)):
                    faults.append(f"{path} is damaged: its {name} is {value:.12}, the manifest says {expected:.12}")
    return sorted(faults)


def _content(path: UPath) -> dict[str, str]:
    """What tells a file's content: its SHA-256 or, in a store, the etag that it gave what it checked and keeps."""
    if not is_local(path):
        etags = {file.location: file.etag for file in stored_files(str(path))}
        return {"etag": etag} if (etag := etags.get(str(path))) else {}
    with open(str(path), "rb") as file:
        return {"sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def package_versions() -> dict[str, str]:
    """Versions of the installed packages that results may depend on."""
    versions = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


def git_commit() -> str | None:
    """Commit of the code, `-dirty` with local changes, or None outside a repository."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=Path(__file__).parent,
            capture_output=True,
            text=True,
            timeout=10,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return described.stdout.strip() or None if described.returncode == 0 else None
