"""What a command does, from the config to the exit code."""

import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from upath import UPath

from pipeline.config import PipelineConfig, load_config
from pipeline.dag import build_stages, select, with_ancestors
from pipeline.errors import UsageError
from pipeline.plan import PlannedStage, Status, make_plan, output_folder
from pipeline.stage import Stage


@dataclass(frozen=True, kw_only=True)
class Command:
    """The command line's options."""

    config: str
    plan: bool = False
    json: bool = False
    only: str | None = None
    until: str | None = None
    rerun: str | None = None
    overrides: Sequence[str] = ()
    print_config: bool = False
    wait: bool = False
    verbose: bool = False

    def again(self, *options: str) -> str:
        """A command on the same config, for messages."""
        words = ["python", "-m", "pipeline.run", self.config]
        for override in self.overrides:
            words += ["--set", override]
        return shlex.join([*words, *options])


def execute_command(command: Command) -> int:
    """Plans, and unless that was all, runs.

    Raises:
      UsageError: The config or the command is wrong; nothing has run.
    """
    config = load_config(command.config, overrides=command.overrides)
    stages = build_stages(config)
    if command.print_config:
        print(format_config(config), end="")
        return 0
    output = output_folder(config.output)
    chosen = _choose(stages, command)
    plan = make_plan(stages, output=output)
    if command.plan or command.json:
        _print_plan([planned for planned in plan if planned.name in chosen], json=command.json)
        return 0
    _require_needs(plan, chosen, command)
    if all(planned.status is Status.DONE for planned in plan if planned.name in chosen):
        print("Nothing to do: every stage is done.")
        _print_results(plan, config)
        return 0
    return _run(config, plan, chosen, command, output=output)


def _run(
    config: PipelineConfig, plan: Sequence[PlannedStage], chosen: set[str], command: Command, *, output: UPath
) -> int:
    # Only what really runs something imports Ray.
    from rich.console import Console

    from pipeline.display import make_display
    from pipeline.lease import Lease, LeaseHeldError
    from pipeline.runner import State, run_plan

    console = Console()
    display = make_display(console, stages=[planned.name for planned in plan])
    try:
        with Lease(output, wait=command.wait) as lease, display:

            def watch(results: Mapping[str, StageResult]) -> None:
                lease.check()
                display.update(results, {})

            results = run_plan(plan, names=chosen, cluster=config.cluster, verbose=command.verbose, watch=watch)
    except KeyboardInterrupt:
        print(f"Stopped. Go on where it left off: {command.again()}", file=sys.stderr)
        return 130
    except LeaseHeldError as error:
        print(error, file=sys.stderr)
        return 1
    failed = [result for result in results.values() if result.state is State.FAILED]
    for result in failed:
        print(f"\n{result.name} failed: {result.error}\n  log: {result.log}", file=sys.stderr)
    _print_results(plan, config)
    return 1 if failed else 0


def _print_results(plan, config):
    pass


def _choose(stages: Sequence[Stage], command: Command) -> set[str]:
    """Names of the stages that the command means."""
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


def _require_needs(plan: Sequence[PlannedStage], chosen: set[str], command: Command) -> None:
    """What a chosen stage needs must be chosen too, or done.

    Raises:
      UsageError: It is neither.
    """
    by_name = {planned.name: planned for planned in plan}
    missing: dict[str, list[str]] = {}
    for name in (planned.name for planned in plan if planned.name in chosen):
        if by_name[name].status is Status.DONE:
            continue
        for need in by_name[name].stage.needs:
            if need not in chosen and by_name[need].status is not Status.DONE:
                missing.setdefault(need, []).append(name)
    if not missing:
        return
    lines = [
        f"{', '.join(wanted)} needs {need}, which is not done ({by_name[need].status})"
        for need, wanted in missing.items()
    ]
    # The command for the last of a chain does all of it.
    stages = [planned.stage for planned in plan]
    covered = {
        stage.name for need in missing for stage in with_ancestors(stages, [by_name[need].stage]) if stage.name != need
    }
    commands = [f"  {command.again('--until', need)}" for need in missing if need not in covered]
    raise UsageError("\n".join([*lines, f"This does {'it' if len(missing) == 1 else 'them'}:", *commands]))


def format_config(config: PipelineConfig) -> str:
    """The whole config as YAML that loads to the same config."""
    import yaml

    tree = {key: value for key, value in plain(config, at="config").items() if value is not None}
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=110)
