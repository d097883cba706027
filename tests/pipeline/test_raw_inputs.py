"""Raw inputs are known by their content, not by their time stamps."""

import os

import pytest
from upath import UPath

from pipeline import raw_inputs
from pipeline.raw_inputs import resolve


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "text"
    (folder / "sub").mkdir(parents=True)
    (folder / "b.txt").write_text("b")
    (folder / "a.txt").write_text("a")
    (folder / "sub" / "c.txt").write_text("c")
    (folder / ".hidden").write_text("h")
    return folder


def names(*locations: str) -> list[str]:
    return [os.path.basename(entry["path"]) for entry in resolve(locations)]


def test_files_folders_and_globs_are_listed_in_order(folder):
    assert names(str(folder / "a.txt")) == ["a.txt"]
    assert names(str(folder / "*.txt")) == ["a.txt", "b.txt"]
    assert names(str(folder)) == ["a.txt", "b.txt", "c.txt"]
    assert names(str(folder / "**" / "*.txt")) == ["a.txt", "b.txt", "c.txt"]


def test_a_file_named_twice_counts_once(folder):
    assert names(str(folder / "a.txt"), str(folder / "*.txt")) == ["a.txt", "b.txt"]


def test_what_matches_nothing_gives_nothing(folder):
    assert resolve([str(folder / "*.parquet"), str(folder / "nowhere")]) == []


def test_a_touched_file_is_the_same_and_a_changed_one_is_not(folder):
    before = resolve([str(folder)])
    os.utime(folder / "a.txt", (1, 1))
    assert resolve([str(folder)]) == before
    (folder / "a.txt").write_text("A")
    assert resolve([str(folder)]) != before


def test_a_file_is_read_once(folder, monkeypatch):
    for path in folder.rglob("*.txt"):
        os.utime(path, (1, 1))
    first = resolve([str(folder)])
    monkeypatch.setattr(raw_inputs.hashlib, "file_digest", lambda *_: pytest.fail("it was read again"))
    assert resolve([str(folder)]) == first


def test_a_file_of_this_very_moment_is_not_remembered(folder):
    path = folder / "a.txt"
    status = path.stat()
    before = resolve([str(path)])
    path.write_text("z")
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert resolve([str(path)]) != before


def test_remote_files_are_listed_with_what_the_store_knows():
    (UPath("memory://bucket/a.txt")).write_text("abc")
    (UPath("memory://bucket/b.txt")).write_text("b")
    found = resolve(["memory://bucket/*.txt"])
    assert [(entry["path"], entry["size"]) for entry in found] == [
        ("memory:///bucket/a.txt", 3),
        ("memory:///bucket/b.txt", 1),
    ]
    assert all(entry["etag"] for entry in found)
