"""Fetches the published files of a built-in task and checks their checksums."""

import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from upath import UPath

from cluster.storage import write_bytes
from stages.context import Tracker
from stages.tasks.files.published import MRPC_DEV_IDS, MRPC_TEST, MRPC_TRAIN, PublishedFile


def fetch(files: Sequence[PublishedFile], *, folder: UPath, task: str, tracker: Tracker) -> None:
    """Writes a task's files into a folder, under the names by which the task finds them.

    Raises:
      FileNotFoundError: A file cannot be had.
      ValueError: A file is not the one that was published.
    """
    for number, file in enumerate(files, start=1):
        tracker.dataset(name=task, source=file.url, context="training")
        with tempfile.TemporaryDirectory() as here:
            path = _fetch(file, Path(here), task=task)
            if file.name is None:
                _unpack(path, folder)
            else:
                write_bytes(folder / file.name, path.read_bytes())
        tracker.progress(number, len(files), unit="files")
    if any(file.name == MRPC_DEV_IDS for file in files):
        _split_mrpc(folder)


def _fetch(file: PublishedFile, folder: Path, *, task: str) -> Path:
    import pooch
    import requests

    pooch.get_logger().setLevel("WARNING")
    mend = f"set finetune.tasks.{task}.data to a folder that holds the task's files"
    try:
        found = pooch.retrieve(file.url, known_hash=f"sha256:{file.sha256}", path=folder, fname="file")
    except requests.RequestException as error:
        raise FileNotFoundError(f"{file.url} cannot be fetched: {mend} ({error})") from error
    except ValueError as error:  # pooch's word for another checksum
        raise ValueError(f"{file.url} is not the file that was published (its sha256 differs): {mend}") from error
    return Path(found)


def _unpack(archive: Path, folder: UPath) -> None:
    """Writes the files of the archive's one folder; what lies deeper is raw material."""
    with zipfile.ZipFile(archive) as members:
        for name in members.namelist():
            match PurePosixPath(name).parts:
                case (top, file) if top != "__MACOSX" and not name.endswith("/"):
                    write_bytes(folder / file, members.read(name))


def _split_mrpc(folder: UPath) -> None:
    """Makes GLUE's three files from MRPC's two published ones.

    GLUE takes those of the training pairs whose ids it lists for dev, and the test pairs without their labels.
    """

    def rows(name: str) -> list[list[str]]:
        lines = (folder / name).read_text(encoding="utf-8").split("\n")
        return [line.rstrip("\r").split("\t") for line in lines if line.strip()]

    def write(name: str, lines: list[list[str]]) -> None:
        write_bytes(folder / name, "".join("\t".join(line) + "\n" for line in lines).encode())

    dev_ids = {tuple(row) for row in rows(MRPC_DEV_IDS)}
    header, *pairs = rows(MRPC_TRAIN)
    is_dev = [tuple(pair[1:3]) in dev_ids for pair in pairs]
    write("train.tsv", [header, *(pair for pair, dev in zip(pairs, is_dev, strict=True) if not dev)])
    write("dev.tsv", [header, *(pair for pair, dev in zip(pairs, is_dev, strict=True) if dev)])
    header, *pairs = rows(MRPC_TEST)
    numbered = [[str(number), *pair[1:]] for number, pair in enumerate(pairs)]
    write("test.tsv", [["index", *header[1:]], *numbered])
