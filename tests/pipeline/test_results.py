"""What a run leaves for a person to take."""

from pathlib import Path

from fake_stages import stage
from upath import UPath

from pipeline.plan import PlannedStage, Status
from pipeline.results import folders_to_use
from stages.context import Group


def planned(folder: Path, name: str, *, group: Group | None = None) -> PlannedStage:
    return PlannedStage(
        stage=stage(name, group=group), identity={}, folder=UPath(folder / name), status=Status.NEW, why=""
    )


def test_networks_report_and_models_of_finished_stages_are_named(tmp_path: Path) -> None:
    (tmp_path / "export" / "generator").mkdir(parents=True)  # the objective trained no discriminator
    plan = [
        planned(tmp_path, "pretrain"),
        planned(tmp_path, "export"),
        planned(tmp_path, "finetune/report/seed-0", group=Group.FINETUNE),
        planned(tmp_path, "finetune/cola/seed-1", group=Group.FINETUNE),
        planned(tmp_path, "probe/cola/step-5", group=Group.PROBE),
        planned(tmp_path, "report"),
    ]
    finished = {each.name for each in plan} - {"finetune/cola/seed-1"}
    assert folders_to_use(plan, finished=finished) == {
        "generator": UPath(tmp_path / "export" / "generator"),
        "finetune/report/seed-0": UPath(tmp_path / "finetune" / "report" / "seed-0" / "model"),
        "report": UPath(tmp_path / "report"),
    }
    assert folders_to_use(plan, finished=set()) == {}
