"""What the plan says of each stage, and why."""

import hashlib
import json
from datetime import UTC, datetime

import pytest
from fake_stages import stage
from upath import UPath

from pipeline.command import _verify
from pipeline.manifest import list_files, write_config, write_manifest
from pipeline.plan import PlannedStage, Status, make_plan


@pytest.fixture
def output(tmp_path) -> UPath:
    return UPath(tmp_path / "out")


def plan_one(made, output: UPath) -> PlannedStage:
    (planned,) = make_plan([made], output=output)
    return planned


def finish(made, output: UPath, *, text: str = "result") -> PlannedStage:
    planned = plan_one(made, output)
    write_config(planned.folder, planned.identity)
    (planned.folder / "out.txt").write_text(text)
    write_manifest(planned.folder, planned.identity, started=datetime.now(UTC), command="c")
    return planned


def test_a_stage_that_never_ran_is_new(output):
    planned = plan_one(stage("a"), output)
    assert (planned.status, planned.why) == (Status.NEW, "never finished before")
    assert not output.exists()


def test_a_stage_with_a_manifest_is_done(output):
    finish(stage("a"), output)
    assert plan_one(stage("a"), output).status is Status.DONE


def test_a_folder_without_a_manifest_is_partial(output):
    planned = plan_one(stage("a"), output)
    write_config(planned.folder, planned.identity)
    assert plan_one(stage("a"), output).why == "resumes from the start"
    (planned.folder / "part-0").write_text("x")
    found = plan_one(stage("a"), output)
    assert (found.status, found.why) == (Status.PARTIAL, "resumes with 1 file already there")


def test_a_partial_stage_says_at_which_step_it_resumes(output):
    planned = plan_one(stage("a"), output)
    write_config(planned.folder, planned.identity)
    for name in ("100", "200", "300.orbax-checkpoint-tmp"):
        (planned.folder / "checkpoints" / name).mkdir(parents=True)
    assert plan_one(stage("a"), output).why == "resumes at step 200"


def test_a_changed_config_is_new_and_says_what_changed_against_the_nearest_finished_one(output):
    finish(stage("a", text="far", numbers=(5, 6)), output)
    near = finish(stage("a", text="near"), output)
    planned = plan_one(stage("a", text="new"), output)
    assert planned.status is Status.NEW
    assert planned.why == f'unlike {near.fingerprint}: a.text: "near" -> "new"'


def test_the_old_result_stays_when_the_config_changes_and_is_found_again(output):
    finish(stage("a", text="one"), output)
    finish(stage("a", text="two"), output)
    assert plan_one(stage("a", text="one"), output).status is Status.DONE


def test_a_change_reaches_every_stage_that_needs_it_and_no_other(output):
    def stages(text: str):
        return [stage("a", text=text), stage("b", needs=("a",)), stage("c")]

    for planned in make_plan(stages("one"), output=output):
        write_config(planned.folder, planned.identity)
        write_manifest(planned.folder, planned.identity, started=datetime.now(UTC), command="c")
    found = make_plan(stages("two"), output=output)
    assert [planned.status for planned in found] == [Status.NEW, Status.NEW, Status.DONE]
    assert f"needs a {found[0].fingerprint} instead of" in found[1].why


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_a_done_stage_whose_files_were_damaged_is_not_done(output, damage):
    folder = finish(stage("a"), output).folder
    if damage == "gone":
        (folder / "out.txt").unlink()
    else:
        (folder / "out.txt").write_text("res")
    planned = plan_one(stage("a"), output)
    assert planned.status is Status.PARTIAL
    assert "out.txt" in planned.why


@pytest.mark.parametrize("damage", ["emptied", "cut", "not UTF-8", "a list", "of another form", "another's"])
def test_a_damaged_manifest_makes_its_stage_partial_and_stops_no_other(output, damage):
    folder, other = finish(stage("a"), output).folder, finish(stage("a", text="other"), output).folder
    path = folder / "manifest.json"
    whole = path.read_text()
    path.write_bytes(
        {
            "emptied": b"",
            "cut": whole[: len(whole) // 2].encode(),
            "not UTF-8": b"\xff",
            "a list": b"[]",
            "of another form": b'{"identity": {}, "fingerprint": "a", "finished": "b", "files": [1]}',
            "another's": (other / "manifest.json").read_bytes(),
        }[damage]
    )
    planned = plan_one(stage("a"), output)
    assert planned.status is Status.PARTIAL
    assert planned.why.startswith(f"was done, but {path}:")
    assert planned.damage in planned.why
    assert plan_one(stage("a", text="other"), output).status is Status.DONE
    assert plan_one(stage("a", text="new"), output).why.startswith(f"unlike {other.name}")


def test_a_check_names_what_is_damaged_missing_or_unexpected_and_nothing_else(output, capsys):
    folder = finish(stage("a"), output).folder
    assert _verify(make_plan([stage("a")], output=output)) == 0
    (folder / "out.txt").write_text("resulu")
    (folder / "more.txt").write_text("more")
    capsys.readouterr()
    assert _verify(make_plan([stage("a")], output=output)) == 1
    printed = capsys.readouterr().out
    assert "a: out.txt is damaged: its sha256 is " in printed
    assert "a: more.txt is unexpected" in printed
    assert "--rerun a" in printed
    (folder / "out.txt").unlink()
    assert _verify(make_plan([stage("a")], output=output)) == 1
    assert "a: out.txt is gone" in capsys.readouterr().out


def test_a_line_of_json_has_what_programs_need(output):
    planned = plan_one(stage("a"), output)
    assert json.loads(planned.as_json()) == {
        "stage": "a",
        "status": "new",
        "path": str(planned.folder),
        "why": "never finished before",
    }


def test_the_manifest_says_what_made_the_result(output):
    planned = finish(stage("a"), output)
    manifest = json.loads((planned.folder / "manifest.json").read_text())
    assert manifest["identity"] == planned.identity
    assert manifest["fingerprint"] == planned.fingerprint
    assert list_files(planned.folder) == [{"path": "out.txt", "size": 6}]
    assert manifest["files"] == [{"path": "out.txt", "size": 6, "sha256": hashlib.sha256(b"result").hexdigest()}]
    assert manifest["packages"]["ray"]
    assert manifest["finished"] >= manifest["started"]


def test_it_works_on_a_remote_output():
    output = UPath("memory://plans/out")
    finish(stage("a"), output)
    assert plan_one(stage("a"), output).status is Status.DONE
    assert plan_one(stage("a", text="b"), output).status is Status.NEW
