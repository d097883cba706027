"""Raw inputs are the files that a stage reads, known by their content, not by their time stamps."""

import os
import time

import pytest
from upath import UPath

from cluster.storage import list_files
from pipeline import raw_inputs
from pipeline.node import Source
from pipeline.raw_inputs import RawInputs
from stages.data.sources import find_texts
from stages.electra.files.hub import find_model_files


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "text"
    (folder / "sub").mkdir(parents=True)
    (folder / ".git").mkdir()
    (folder / "b.txt").write_text("b")
    (folder / "a.txt").write_text("a")
    (folder / "README.md").write_text("r")
    (folder / "sub" / "c.txt").write_text("c")
    (folder / ".hidden.txt").write_text("h")
    (folder / ".git" / "d.txt").write_text("h")
    return folder


def look(*sources: Source) -> RawInputs:
    (found,) = raw_inputs.resolve([sources])
    return found


def resolve(*locations: str) -> list[dict]:
    """The files of a corpus."""
    found = look(*(Source(str(location), find_texts) for location in locations))
    assert not found.faults
    return found.files


def fault(location: str, find=find_texts) -> str:
    """Why a location has no files."""
    found = look(Source(location, find))
    assert found.files == []
    return found.faults[location]


def names(*locations: str) -> list[str]:
    return [os.path.basename(entry["path"]) for entry in resolve(*locations)]


def test_files_folders_and_globs_are_listed_in_order(folder):
    assert names(folder / "a.txt") == ["a.txt"]
    assert names(folder / "*.txt") == ["a.txt", "b.txt"]
    assert names(folder / "[!b].txt") == ["a.txt"]
    assert names(folder) == ["a.txt", "b.txt", "c.txt"]
    assert names(folder / "**" / "*.txt") == ["a.txt", "b.txt", "c.txt"]
    assert names(f"file://{folder}/*.txt") == ["a.txt", "b.txt"]


def test_what_is_known_of_a_file_is_its_path_size_and_sha256(folder):
    checksum = "ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb"
    assert resolve(folder / "a.txt") == [{"path": str(folder / "a.txt"), "size": 1, "sha256": checksum}]


@pytest.mark.parametrize("again", ["{}/a.txt", "{}/*.txt", "{}/./a.txt", "{}/sub/../a.txt", "file://{}/a.txt", "a.txt"])
def test_a_file_named_twice_counts_once(folder, monkeypatch, again):
    monkeypatch.chdir(folder)
    first = resolve(folder / "a.txt", folder / "b.txt")
    assert resolve(folder / "a.txt", folder / "b.txt", again.format(folder)) == first


def test_a_relative_path_means_the_same_from_any_folder(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [resolve("text"), resolve("text/*.txt"), resolve("./text//a.txt")]
    assert [entry["path"] for entry in found[0]] == ["text/a.txt", "text/b.txt", "text/sub/c.txt"]
    (tmp_path / "elsewhere").mkdir()
    folder.rename(tmp_path / "elsewhere" / "text")
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert [resolve("text"), resolve("text/*.txt"), resolve("./text//a.txt")] == found
    monkeypatch.chdir("text")
    assert [entry["path"] for entry in resolve(".")] == ["a.txt", "b.txt", "sub/c.txt"]
    assert [entry["path"] for entry in resolve("../text/*.txt")] == ["../text/a.txt", "../text/b.txt"]


def test_a_tilde_is_the_home_folder(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder))
    assert resolve("~/*.txt") == resolve(f"{folder}/*.txt")
    assert resolve("~") == resolve(folder)


def test_links_to_files_are_followed_and_links_to_folders_below_are_not(folder, tmp_path):
    (tmp_path / "far.txt").write_text("far")
    (folder / "link.txt").symlink_to(tmp_path / "far.txt")
    (folder / "dead.txt").symlink_to(tmp_path / "nowhere")
    (folder / "sub" / "round.txt").symlink_to(folder)
    assert names(folder) == ["a.txt", "b.txt", "link.txt", "c.txt"]
    assert resolve(folder / "link.txt")[0]["size"] == 3
    before = resolve(folder)
    (tmp_path / "far.txt").write_text("FAR")
    assert resolve(folder) != before
    (tmp_path / "whole").symlink_to(folder)
    assert names(tmp_path / "whole") == names(folder)


def test_what_lies_beside_what_is_read_changes_nothing(folder):
    whole, pattern = resolve(folder), resolve(folder / "*.txt")
    (folder / "README.md").write_text("changed")
    (folder / "notes.md").write_text("new")
    (folder / ".hidden.txt").write_text("changed")
    (folder / ".git" / "e.txt").write_text("new")
    assert resolve(folder) == whole
    assert resolve(folder / "*.txt") == pattern


@pytest.mark.parametrize("change", ["content", "name", "gone", "new"])
def test_what_is_read_changes_it(folder, change):
    before = resolve(folder)
    if change == "content":
        (folder / "a.txt").write_text("A")
    elif change == "name":
        (folder / "a.txt").rename(folder / "a2.txt")
    elif change == "gone":
        (folder / "sub" / "c.txt").unlink()
    else:
        (folder / "new.jsonl.gz").write_text("n")
    assert resolve(folder) != before


def test_a_folder_without_a_file_of_a_known_ending_says_what_it_holds(folder):
    (folder / "wiki" / "AA").mkdir(parents=True)
    for number in range(7):
        (folder / "wiki" / "AA" / f"wiki_0{number}").write_text("{}")
    message = fault(str(folder / "wiki"))
    for part in ("holds 7 files:", f"{folder}/wiki/AA/wiki_00, ", "wiki_04 …", ".jsonl", "rename them"):
        assert part in message


def test_a_path_that_exists_is_itself_and_not_a_pattern(folder):
    (folder / "crawl1.txt").write_text("one")
    assert names(folder / "crawl[1].txt") == ["crawl1.txt"]
    (folder / "crawl[1].txt").write_text("brackets")
    assert names(folder / "crawl[1].txt") == ["crawl[1].txt"]
    assert names(folder / "crawl[[]1].txt") == ["crawl[1].txt"]
    (folder / "all*").mkdir()
    (folder / "all*" / "x.txt").write_text("x")
    assert names(folder / "all*") == ["x.txt"]


def test_a_stages_folder_is_never_a_pattern(folder, tmp_path):
    for name in ("exp[1]", "exp1"):
        (tmp_path / name / "documents").mkdir(parents=True)
        (tmp_path / name / "documents" / f"of {name}.txt").write_text("x")

    def find(source: str) -> list[str]:
        found = find_texts(source, expand=lambda text: text.replace("{sample}", str(tmp_path / "exp[1]")))
        return [file.name for file in found]

    assert find("{sample}/documents/*.txt") == find("{sample}/doc*/*") == find("{sample}") == ["of exp[1].txt"]


def test_what_matches_nothing_has_a_fault_that_shows_what_is_there(folder):
    found = fault(f"{folder}/*.parquet")
    assert "matches no file" in found
    assert f"{folder} holds " in found
    assert "a.txt" in found
    assert "matches no file (looked in " in fault(f"{folder}/v.txt", list_files)


def test_a_file_that_cannot_be_read_is_a_fault(folder):
    assert "README.md is no file of .txt, .jsonl, .ndjson, .json, .parquet" in fault(f"{folder}/README.md")


def test_a_touched_file_is_the_same_and_a_changed_one_is_not(folder):
    before = resolve(folder)
    os.utime(folder / "a.txt", (1, 1))
    assert resolve(folder) == before
    (folder / "a.txt").write_text("A")
    assert resolve(folder) != before


def test_a_file_is_read_once(folder, monkeypatch):
    for path in folder.rglob("*.txt"):
        os.utime(path, (1, 1))
    first = resolve(folder)
    monkeypatch.setattr(raw_inputs.hashlib, "file_digest", lambda *_: pytest.fail("it was read again"))
    assert resolve(folder) == first


def test_a_source_of_many_stages_is_looked_at_once(folder):
    asked = []
    source = Source(str(folder), lambda location: asked.append(1) or list_files(location))
    one, other = raw_inputs.resolve([[source], [source]])
    assert one == other
    assert len(asked) == 1


def test_a_file_of_this_very_moment_is_not_remembered(folder):
    path = folder / "a.txt"
    status = path.stat()
    before = resolve(path)
    path.write_text("z")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert resolve(path) != before


def test_ten_thousand_files_that_are_known_take_under_two_seconds(tmp_path):
    """A plan must stay fast: 100,000 took 2 s of processor time, startup included."""
    for number in range(10_000):
        path = tmp_path / "text" / f"{number % 100:02d}" / f"{number}.txt"
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text("x")
        os.utime(path, (1, 1))
    first = resolve(tmp_path / "text")
    started = time.process_time()
    assert resolve(tmp_path / "text") == first
    assert time.process_time() - started < 2


def test_remote_files_are_listed_with_what_the_store_knows():
    UPath("memory://bucket/a.txt").write_text("abc")
    UPath("memory://bucket/b.txt").write_text("b")
    UPath("memory://bucket/README.md").write_text("r")
    UPath("memory://bucket/.part.txt").write_text("half")
    UPath("memory://bucket/x[1].txt").write_text("brackets")
    found = resolve("memory://bucket/?.txt")
    assert [(entry["path"], entry["size"]) for entry in found] == [
        ("memory://bucket/a.txt", 3),
        ("memory://bucket/b.txt", 1),
    ]
    assert all(entry["etag"] for entry in found)
    assert names("memory://bucket") == ["a.txt", "b.txt", "x[1].txt"]
    assert names("memory://bucket/x[1].txt") == ["x[1].txt"]


def test_a_web_address_is_one_file_whatever_its_query(web):
    address = f"{web.address}/corpus/part.txt?download=1&v=[2]*"
    (entry,) = resolve(address)
    assert (entry["path"], entry["size"], entry["etag"]) == (address, 5, '"etag of part.txt"')
    assert not [path for method, path in web.requests if method == "GET"], "it was downloaded to be listed"
    assert "matches no file" in fault(f"{web.address}/corpus/gone.txt")


def test_a_web_server_that_cannot_be_asked_is_a_fault(web):
    assert "500" in fault(f"{web.address}/broken/part.txt")


def test_of_a_models_folder_the_files_that_are_read_count(tmp_path):
    def write(*names: str, text: str = "x") -> None:
        for name in names:
            (tmp_path / name).write_text(text)

    def model() -> list[str]:
        return [os.path.basename(entry["path"]) for entry in found().files]

    def found() -> RawInputs:
        return look(Source(str(tmp_path), find_model_files))

    read = ["config.json", "head.safetensors", "model.safetensors", "tokenizer.json", "vocab.txt"]
    write(*read, "README.md", "training_args.bin", "pytorch_model.bin", "eval_results.json", "vocab.txt.bak")
    assert model() == read
    before = found()
    write("README.md", "pytorch_model.bin", "new.txt", text="changed")
    assert found() == before
    write("tokenizer.json", text="changed")
    assert found() != before
    (tmp_path / "model.safetensors").unlink()
    assert "pytorch_model.bin" in model()
    write("model.safetensors.index.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
    assert model()[2:5] == [
        "model-00001-of-00002.safetensors",
        "model-00002-of-00002.safetensors",
        "model.safetensors.index.json",
    ]


def test_a_model_in_a_bucket_is_known_by_its_etags():
    UPath("memory://models/small/config.json").write_text("{}")
    UPath("memory://models/small/model.safetensors").write_text("weights")
    source = Source("memory://models/small", find_model_files)
    before = look(source).files
    assert [entry["path"] for entry in before] == [
        "memory://models/small/config.json",
        "memory://models/small/model.safetensors",
    ]
    UPath("memory://models/small/model.safetensors").write_text("WEIGHTS")
    assert look(source).files != before
