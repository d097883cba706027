"""Executes a command, from the config to the exit code. Imports nothing heavy before a stage must run."""

import shlex
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console
from upath import UPath

from cluster.credentials import instead, is_secret_variable, redact
from pipeline.config.errors import ConfigError, Problem, UsageError
from pipeline.config.sections import PipelineConfig, load_config
from pipeline.config.tree import dotted, leaves
from pipeline.dag import build_stages, select, with_ancestors
from pipeline.fingerprint import plain
from pipeline.manifest import verify
from pipeline.node import Stage
from pipeline.plan import PlannedStage, Status, make_plan, output_folder, unfinished


@dataclass(frozen=True, kw_only=True)
class Command:
    """The command line's options."""

    config: str
    plan: bool = False
    verify: bool = False
    json: bool = False
    only: str | None = None
    until: str | None = None
    rerun: str | None = None
    overrides: Sequence[str] = ()
    print_config: bool = False
    wait: bool = False
    verbose: bool = False

    def as_text(self, *further: str) -> str:
        """The command that runs the same stages, for messages; without `--rerun`, which would begin anew.

        Args:
          further: Overrides that it gets besides.
        """
        overrides = [("--set", override) for override in (*self.overrides, *further)]
        options = [*overrides, ("--only", self.only), ("--until", self.until)]
        words = [word for option, value in options if value is not None for word in (option, value)]
        return redact(shlex.join(["python", "-m", "pipeline.run", self.config, *words]))


def execute_command(command: Command) -> int:
    """Plans, and then runs unless only the plan or a check was asked for.

    Returns:
      0 where all is done, 1 where a stage failed or is damaged, 130 where the user stopped it.

    Raises:
      UsageError: The config or the command is wrong; nothing has run.
    """
    config = load_config(command.config, overrides=command.overrides)
    warn_of_credentials(config)
    stages = build_stages(config)
    if command.print_config:
        print(format_config(config), end="")
        return 0
    chosen = _choose(stages, command)
    fresh = frozenset({stage.name for stage in select(stages, command.rerun)} & chosen if command.rerun else ())
    output = output_folder(config.output)
    is_run = not (command.verify or command.plan or command.json)
    if is_run:
        from pipeline.screen.display import announce

        announce(Console(), f"Checking the inputs, and what is finished in {redact(str(output))}…")
    plan = _plan(stages, output=output, fresh=fresh)
    if command.verify:
        return _verify([planned for planned in plan if planned.name in chosen])
    if command.plan or command.json:
        _print_plan([planned for planned in plan if planned.name in chosen], json=command.json)
        _require_sources(plan, chosen)
        return 0
    _require_needs(plan, chosen, command)
    _require_sources(plan, chosen)
    if not unfinished(plan, chosen):
        from pipeline.screen.summary import print_summary

        print("Nothing to do: every stage is done.")
        print_summary(plan, config=config, output=output)
        return 0
    warn_of_loss(output)
    from pipeline.session import Session

    return Session(
        config=config,
        name=Path(command.config).stem,
        make_plan=lambda: _plan(stages, output=output, fresh=fresh),
        chosen=chosen,
        fresh=fresh,
        output=output,
        config_yaml=format_config(config),
        again=command.as_text,
        load=lambda further: load_config(command.config, overrides=[*command.overrides, *further]),
        verbose=command.verbose,
        wait=command.wait,
    ).run()


def format_config(config: PipelineConfig) -> str:
    """The whole config as YAML that loads to the same config, but for credentials."""
    import yaml

    tree = {key: value for key, value in plain(config, at="config").items() if value is not None or key == "tracking"}
    env = tree["cluster"]["env"]
    env.update({name: "…" for name in env if is_secret_variable(name)})
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)


def warn_of_credentials(config: PipelineConfig) -> None:
    """Names the values that hold a password or a signature, and what to use instead."""
    for keys, value in leaves(asdict(config)):
        if isinstance(value, str) and redact(value) != value:
            print(
                f"{dotted(keys)} holds a credential. It is used, and written nowhere; what you type, a shell and Ray's "
                f"job list can keep. Better: {instead(value, tracking=keys[0] == 'tracking')}, and leave it out here.",
                file=sys.stderr,
            )
    for name in filter(is_secret_variable, config.cluster.env):
        print(
            f"cluster.env.{name} may be a secret, and Ray writes cluster.env to its logs. Better: set it on the "
            "machines, and leave it out here.",
            file=sys.stderr,
        )


def warn_of_loss(output: UPath) -> None:
    """Warns if the output lies in what `ray job submit --working-dir` uploaded: Ray deletes that."""
    if any(part.startswith("_ray_pkg_") for part in output.parts):
        print(
            f"{output} is in Ray's copy of the working directory, which Ray deletes: "
            "name a folder that stays (--set output=/data/my-run)",
            file=sys.stderr,
        )


def _plan(stages: Sequence[Stage], *, output: UPath, fresh: frozenset[str]) -> tuple[PlannedStage, ...]:
    plan = make_plan(stages, output=output)
    return tuple(
        replace(planned, status=Status.NEW, why=f"--rerun; before: {planned.status}, {planned.why}")
        if planned.name in fresh
        else planned
        for planned in plan
    )


def _choose(stages: Sequence[Stage], command: Command) -> set[str]:
    """Names of the stages that the command selects."""
    chosen = {stage.name for stage in stages}
    if command.only is not None:
        chosen &= {stage.name for stage in select(stages, command.only)}
    if command.until is not None:
        chosen &= {stage.name for stage in with_ancestors(stages, select(stages, command.until))}
    if not chosen:
        raise UsageError(f"--only {command.only} and --until {command.until} leave no stage")
    return chosen


def _print_plan(plan: Sequence[PlannedStage], *, json: bool) -> None:
    width = max(len(planned.name) for planned in plan)
    for planned in plan:
        print(planned.as_json() if json else f"{planned.name:<{width}}  {planned.status:<7}  {planned.why}")


def _verify(plan: Sequence[PlannedStage]) -> int:
    """Holds the files of finished stages against their manifests: 0 if they are whole, else 1."""
    damaged = []
    for planned in plan:
        try:
            faults = [planned.damage] if planned.damage else verify(planned.folder)
        except ValueError as error:
            faults = [str(error)]
        if not faults and planned.status is Status.DONE:
            print(f"{planned.name}: whole")
        for fault in faults:
            print(f"{planned.name}: {fault} ({planned.folder})")
        if faults:
            damaged.append(planned.name)
    if damaged:
        print("To rebuild them, run with:", *(f"\n  --rerun {name}" for name in damaged))
    return 1 if damaged else 0


def _require_needs(plan: Sequence[PlannedStage], chosen: set[str], command: Command) -> None:
    """What a chosen stage needs must be chosen too, or done.

    Raises:
      UsageError: It is neither.
    """
    by_name = {planned.name: planned for planned in plan}
    missing: dict[str, list[str]] = {}
    for planned in unfinished(plan, chosen):
        for lacking in unfinished(plan, set(planned.stage.needs) - chosen):
            missing.setdefault(lacking.name, []).append(planned.name)
    if not missing:
        return
    lines = [
        f"{', '.join(wanting)} needs {need}, which is not done ({by_name[need].status})"
        for need, wanting in missing.items()
    ]
    # The command for the last of a chain does all of it.
    stages = [planned.stage for planned in plan]
    covered = {
        stage.name for need in missing for stage in with_ancestors(stages, [by_name[need].stage]) if stage.name != need
    }
    commands = [f"  {replace(command, only=None, until=need).as_text()}" for need in missing if need not in covered]
    raise UsageError("\n".join([*lines, f"To run {'it' if len(missing) == 1 else 'them'}:", *commands]))


def _require_sources(plan: Sequence[PlannedStage], chosen: set[str]) -> None:
    """The raw inputs of stages that will run must be there, however late they run.

    Raises:
      ConfigError: Some are not.
    """
    problems = {
        location: Problem(f"input of {planned.name}", "", location, fault)
        for planned in reversed(unfinished(plan, chosen))
        for location, fault in planned.faults.items()
    }
    if problems:
        raise ConfigError(list(problems.values()))
