"""Newest results under plain names."""

import json
import os
from pathlib import Path

import pytest
from upath import UPath

from cluster.latest import LOCATIONS, write_latest


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for name in ("export/aaa/discriminator", "export/bbb/discriminator", "finetune/cola/seed-0/ccc/model"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "config.json").write_text(name)
    return tmp_path


def point(output: Path, **targets: str) -> None:
    names = {name.replace("__", "/"): UPath(output / target) for name, target in targets.items()}
    write_latest(UPath(output / "latest"), names)


def test_links_lead_to_the_newest_results_and_move_with_them(output: Path, tmp_path_factory: pytest.TempPathFactory):
    point(output, discriminator="export/aaa/discriminator", finetune__cola="finetune/cola/seed-0/ccc/model")
    latest = output / "latest"
    assert (latest / "discriminator" / "config.json").read_text() == "export/aaa/discriminator"
    assert (latest / "finetune" / "cola" / "config.json").read_text() == "finetune/cola/seed-0/ccc/model"
    assert os.readlink(latest / "discriminator") == "../export/aaa/discriminator"
    moved = tmp_path_factory.mktemp("other") / "moved"
    os.rename(output, moved)
    assert (moved / "latest" / "finetune" / "cola" / "config.json").exists()


def test_a_later_run_replaces_links_and_takes_away_those_it_has_not(output: Path):
    point(output, discriminator="export/aaa/discriminator", finetune__cola="finetune/cola/seed-0/ccc/model")
    (output / "latest" / "mine.txt").write_text("kept")
    point(output, discriminator="export/bbb/discriminator")
    assert {path.name for path in (output / "latest").iterdir()} == {"discriminator", "mine.txt"}
    assert (output / "latest" / "discriminator" / "config.json").read_text() == "export/bbb/discriminator"
    assert (output / "finetune/cola/seed-0/ccc/model/config.json").exists()


def test_a_file_of_somebody_else_is_not_replaced(output: Path):
    (output / "latest" / "discriminator").mkdir(parents=True)
    (output / "latest" / "discriminator" / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="latest/discriminator is no link: move it away"):
        point(output, discriminator="export/aaa/discriminator")
    assert (output / "latest" / "discriminator" / "notes.txt").read_text() == "mine"


def test_where_there_are_no_links_a_file_says_where_results_are(output: Path, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(Path, "symlink_to", refuse)
    point(output, discriminator="export/aaa/discriminator")
    found = json.loads((output / "latest" / LOCATIONS).read_text())
    assert found == {"discriminator": "export/aaa/discriminator"}
    monkeypatch.undo()
    point(output, discriminator="export/aaa/discriminator")
    assert {path.name for path in (output / "latest").iterdir()} == {"discriminator"}


def test_a_store_has_a_file_of_locations():
    root = UPath("memory://latest-test/run")
    write_latest(root / "latest", {"report": root / "report" / "abc", "finetune/cola/seed-0": root / "f" / "model"})
    assert json.loads((root / "latest" / LOCATIONS).read_text()) == {
        "report": "report/abc",
        "finetune/cola/seed-0": "f/model",
    }
