"""A task's files: published ones fetched, checked and unpacked; all read before anything is trained on them."""

import gzip
import hashlib
import io
import json
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from upath import UPath

from stages.context import StageContext, Tracker
from stages.examples import ExamplesConfig, run
from stages.finetune.config import FinetuneSection, TaskSection
from stages.finetune.runs import expand, expand_examples
from stages.tasks.files.fetch import fetch
from stages.tasks.files.published import MRPC_DEV_IDS, MRPC_TEST, MRPC_TRAIN, PUBLISHED, PublishedFile
from stages.tasks.form import TaskForm
from stages.tasks.kinds import TaskKind
from stages.tasks.named import TaskName


class Site:
    """Serves files from this machine."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                data = site.files.get(self.path)
                self.send_response(200 if data is not None else 404)
                self.send_header("Content-Length", str(len(data or b"")))
                self.end_headers()
                self.wfile.write(data or b"")

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}"

    def publish(self, path: str, data: bytes, *, name: str | None = None) -> PublishedFile:
        self.files[path] = data
        return PublishedFile(url=self.address + path, sha256=hashlib.sha256(data).hexdigest(), name=name)


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site()
    threading.Thread(target=site.server.serve_forever, daemon=True).start()
    yield site
    site.server.shutdown()
    site.server.server_close()


def _fetch(output: Path, *files: PublishedFile, task: str = "cola") -> UPath:
    folder = UPath(output)
    folder.mkdir()
    fetch(files, folder=folder, task=task, tracker=Tracker())
    return folder


def _read(output: Path, config: ExamplesConfig) -> dict[str, Any]:
    run(config, StageContext(output=UPath(output)))
    return json.loads((output / "result.json").read_text())


def test_examples_of_a_users_own_task_are_counted_or_their_fault_told(tmp_path: Path) -> None:
    form = TaskForm(kind=TaskKind.CLASSIFICATION, texts=("body",), label="queue", labels=("a", "b"))
    (tmp_path / "train.csv").write_text("body,queue\nhello,a\nbye,b\n")
    (tmp_path / "mine.csv").write_text("body,queue\nhello,b\n")
    config = ExamplesConfig(task="tickets", data=str(tmp_path), eval_file="mine.csv", form=form)
    result = _read(tmp_path, config)
    assert (result["train_examples"], result["dev_examples"]) == (2, 1)
    assert result["dev_file"] == str(tmp_path / "mine.csv")
    (tmp_path / "mine.csv").write_text("body,queue\nhello,c\n")
    with pytest.raises(ValueError, match=r"mine.csv:2: column 'queue' holds 'c', expected one of a, b"):
        _read(tmp_path, config)


def test_an_archive_is_unpacked_to_where_its_task_looks(site: Site, tmp_path: Path) -> None:
    row = "gj04\t1\t\tThe cat sat .\n"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as members:
        members.writestr("CoLA/", "")
        members.writestr("CoLA/train.tsv", row * 2)
        members.writestr("CoLA/dev.tsv", row)
        members.writestr("CoLA/original/raw/in_domain_dev.tsv", "no")
        members.writestr("__MACOSX/._CoLA", "no")
        members.writestr("../outside.tsv", "no")
    published = (site.publish("/CoLA.zip", archive.getvalue()),)
    result = _read(tmp_path, ExamplesConfig(task="cola", data=None, published=published))
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["dev.tsv", "outside.tsv", "result.json", "train.tsv"]
    assert (result["train_examples"], result["dev_examples"]) == (2, 1)


def test_another_file_than_the_published_one_is_refused_and_not_kept(site: Site, tmp_path: Path) -> None:
    file = site.publish("/train.txt", b"the DT B-NP\n", name="train.txt")
    site.files["/train.txt"] = b"<html>moved</html>"
    with pytest.raises(ValueError, match=r"train.txt is not the file .*: set finetune.tasks.cola.data"):
        _fetch(tmp_path / "out", file)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_file_that_is_gone_is_named_with_what_to_do(site: Site, tmp_path: Path) -> None:
    file = site.publish("/train.txt", b"", name="train.txt")
    del site.files["/train.txt"]
    with pytest.raises(FileNotFoundError, match=r"/train.txt cannot be fetched: set finetune.tasks.cola.data .*404"):
        _fetch(tmp_path / "out", file)


def test_mrpc_becomes_what_glue_made_of_it(site: Site, real_data: Path, tmp_path: Path) -> None:
    folder = real_data / "glue" / "MRPC"
    glue = {name: (folder / f"{name}.tsv").read_bytes() for name in ("train", "dev", "test")}
    header, *train = glue["train"].splitlines(keepends=True)
    dev = glue["dev"].splitlines(keepends=True)[1:]
    tests = [line.split(b"\t") for line in glue["test"].splitlines(keepends=True)]
    ids = b"".join(b"\t".join(line.split(b"\t")[1:3]) + b"\n" for line in dev)
    found = _fetch(
        tmp_path / "out",
        site.publish("/a", header + b"".join(train[:100] + dev + train[100:]), name=MRPC_TRAIN),
        site.publish("/b", b"".join(b"\t".join([b"Quality", *line[1:]]) for line in tests), name=MRPC_TEST),
        site.publish("/c", ids, name=MRPC_DEV_IDS),
        task="mrpc",
    )
    assert {name: (found / f"{name}.tsv").read_bytes() for name in glue} == glue


def test_checksums_are_those_of_the_files_that_lie_here(real_data: Path) -> None:
    published = {file.name: file.sha256 for files in PUBLISHED.values() for file in files}
    squad = gzip.decompress((real_data / "squad" / "dev-v1.1.json.gz").read_bytes())
    assert hashlib.sha256(squad).hexdigest() == published["dev-v1.1.json"]
    for path in ("conll2000/train.txt", "conll2000/test.txt", "glue/diagnostic/diagnostic.tsv"):
        data = (real_data / path).read_bytes()
        assert hashlib.sha256(data).hexdigest() == published[Path(path).name]


def test_every_task_known_by_name_needs_no_more_than_it() -> None:
    section = FinetuneSection(model="base", tasks={name: TaskSection() for name in TaskName})
    examples = expand_examples(section)
    assert list(examples) == [f"examples/{name}" for name in TaskName]
    for config in examples.values():
        assert config.data is None
        assert config.published
        assert all(len(file.sha256) == 64 and file.url.startswith("https://") for file in config.published)
    assert {config.data for config in expand(section).values()} == {f"{{examples/{name}}}" for name in TaskName}
    given = FinetuneSection(model="base", tasks={"cola": TaskSection(data="here"), "rte": TaskSection()})
    assert [name for name, config in expand_examples(given).items() if config.published] == ["examples/rte"]
    assert expand(given)["finetune/cola/seed-0"].data == "here"
