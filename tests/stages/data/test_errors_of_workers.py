"""What goes wrong while several workers read a corpus is told in the words of a single one."""

import errno
import gzip
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from upath import UPath

from pipeline.execution import explain
from stages import ingest
from stages.context import StageContext

DOCUMENT = "One line of text.\n" * 20


def _parquet(column: str) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({column: [DOCUMENT]}), sink)
    return sink.getvalue().to_pybytes()


BROKEN = {
    "corpus.txt": (b"caf\xe9\n", r"corpus\.txt: byte 0xe9 at offset 3 \(line 1\) is not valid UTF-8; set ingest"),
    "corpus.txt.gz": (gzip.compress(DOCUMENT.encode())[:-9], r"corpus\.txt\.gz: damaged or cut off: .*; fetch it"),
    "corpus.parquet": (_parquet("body"), r"corpus\.parquet: no column 'text', found 'body'; set ingest\.text_field"),
}


@pytest.fixture
def raised(lab, monkeypatch: pytest.MonkeyPatch):
    """The error of an ingest of a file beside a good one: in one process, or in a worker for each of the two."""

    def raised(source: str, *, workers: int, output: UPath | None = None) -> Exception:
        monkeypatch.setattr(ingest, "GROUP_BYTES", 1 if workers == 2 else 1 << 30)
        context = lab.context("ingest") if output is None else StageContext(output=output)
        config = ingest.IngestConfig(sources=(source, lab.file("good.txt", DOCUMENT)), heldout_fraction=0)
        with pytest.raises((OSError, ValueError)) as caught:
            ingest.run(config, context)
        assert ("_read_group" in "".join(getattr(caught.value, "__notes__", ()))) == (workers == 2)
        return caught.value

    return raised


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_told_alike_by_one_worker_and_by_two(lab, raised, name: str) -> None:
    data, message = BROKEN[name]
    source = lab.file(name, data)
    alone, among_others = raised(source, workers=1), raised(source, workers=2)
    assert (type(among_others), str(among_others)) == (type(alone), str(alone))
    with pytest.raises(type(alone), match=message):
        raise among_others


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[UPath]:
    """A folder with room for 64 kB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    yield UPath(folder)
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_told_alike_by_one_worker_and_by_two(lab, raised, small_disk: UPath) -> None:
    noise = "\n\n".join(str(7**number) for number in range(1, 1500))
    source = lab.file("noise.txt", noise)
    found = []
    for workers in (1, 2):
        output = small_disk / f"workers-{workers}"
        output.mkdir()
        found.append(raised(source, workers=workers, output=output))
    assert [type(error) for error in found] == [OSError] * 2
    assert [error.errno for error in found] == [errno.ENOSPC] * 2
    assert all(explain(error, output=small_disk).startswith(f"no space left for {small_disk}") for error in found)
