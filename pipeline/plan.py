"""The plan of a run: whether each stage is done, can resume or is new, and why.

A stage's output lies in a folder named by the fingerprint of its identity. The stage is done if a manifest and the
files that it lists lie there, partial if only the config does, and new otherwise. So a changed config has a new folder,
and an earlier config finds its results again. A new stage is compared with the nearest finished run of it: the
difference says why it is new. Planning changes nothing in the output folder.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple

from upath import UPath

from cluster.credentials import redact
from pipeline.fingerprint import Identity, diff, fingerprint, make_identity
from pipeline.manifest import CONFIG, find_damage, list_files, read_manifest
from pipeline.node import Stage
from pipeline.raw_inputs import resolve
from stages.training.checkpoint_folder import saved_step


class Status(StrEnum):
    """How much of a stage's output exists."""

    DONE = "done"
    PARTIAL = "partial"
    NEW = "new"


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """A stage, its identity, its folder, and how much of its output exists.

    Attributes:
      why: When it finished, where it resumes, or how it differs from the nearest finished run of the stage.
      faults: What is wrong with its raw inputs, by location. A stage with faults cannot run.
      damage: What is wrong with its output, which was finished; "" where nothing is known to be.
      seconds: How long a stage that is done took.
    """

    stage: Stage
    identity: Identity
    folder: UPath
    status: Status
    why: str
    faults: Mapping[str, str] = field(default_factory=dict)
    damage: str = ""
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """The stage's name."""
        return self.stage.name

    @property
    def fingerprint(self) -> str:
        """Hash of the identity, the name of the folder."""
        return self.folder.name

    def as_json(self) -> str:
        """One line for programs."""
        record = {"stage": self.name, "status": self.status.value, "path": redact(str(self.folder)), "why": self.why}
        return json.dumps(record, ensure_ascii=False)


def make_plan(stages: Sequence[Stage], *, output: UPath) -> tuple[PlannedStage, ...]:
    """Looks at the output folder and changes nothing in it."""
    planned: dict[str, PlannedStage] = {}
    for stage, raw in zip(stages, resolve([stage.sources for stage in stages]), strict=True):
        needs = {name: planned[name].fingerprint for name in stage.needs}
        identity = make_identity(stage, needs=needs, sources=raw.files)
        folder = output / stage.name / fingerprint(identity)
        found = _look(folder, identity)
        planned[stage.name] = PlannedStage(
            stage=stage, identity=identity, folder=folder, faults=raw.faults, **found._asdict()
        )
    return tuple(planned.values())


def unfinished(plan: Sequence[PlannedStage], names: Collection[str]) -> list[PlannedStage]:
    """Those of the named stages that are not done."""
    return [planned for planned in plan if planned.name in names and planned.status is not Status.DONE]


def output_folder(output: str) -> UPath:
    """The output location, absolute where it is local: workers have another working folder."""
    path = UPath(output)
    return path if "://" in output else path.expanduser().absolute()


class _Found(NamedTuple):
    """What a stage's folder says of it."""

    status: Status
    why: str
    damage: str = ""
    seconds: float = 0.0


def _look(folder: UPath, identity: Identity) -> _Found:
    try:
        manifest = read_manifest(folder)
        damage = find_damage(folder, manifest) if manifest is not None else None
    except ValueError as error:
        manifest, damage = {}, str(error)
    if damage is not None:
        return _Found(Status.PARTIAL, f"was done, but {damage}", damage)
    if manifest is not None:
        seconds = manifest.get("seconds")
        why = f"finished {manifest['finished'][:19].replace('T', ' ')} UTC"
        return _Found(Status.DONE, why, seconds=seconds if isinstance(seconds, int | float) else 0.0)
    if (folder / CONFIG).exists():
        return _Found(Status.PARTIAL, f"resumes {_resume_point(folder, identity)}")
    return _Found(Status.NEW, _why_new(folder, identity))


def _resume_point(folder: UPath, identity: Identity) -> str:
    """Newest checkpoint, or how much is there."""
    if (step := saved_step(folder)) is not None:
        total = identity["config"].get("steps")
        return f"at step {step}" + (f" of {total}" if total else "")
    count = len(list_files(folder))
    return f"with {count} file{'s' if count != 1 else ''} already there" if count > 0 else "from the start"


def _why_new(folder: UPath, identity: Identity) -> str:
    siblings = folder.parent.iterdir() if folder.parent.is_dir() else ()
    manifests = []
    for sibling in siblings:
        with suppress(ValueError):  # a damaged one is told in the plan of its own config
            if (manifest := read_manifest(sibling)) is not None:
                manifests.append(manifest)
    if not manifests:
        return "never finished before"
    # The nearest differs in the fewest fields; of equals, the newest.
    manifests.sort(key=lambda manifest: str(manifest["finished"]), reverse=True)
    nearest = min(manifests, key=lambda manifest: len(diff(manifest["identity"], identity)))
    return f"unlike {nearest['fingerprint']}: " + "; ".join(diff(nearest["identity"], identity))
