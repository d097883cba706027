"""Runs a pipeline from a config: pretrain, fine-tune, report. `python -m pipeline.run configs/quickstart.yaml`"""

import argparse
import sys
from collections.abc import Sequence

from cluster.credentials import keep_out_of_logs, redact


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0 if all is done, 1 if a stage failed, 2 for a wrong config or command line, 130 if stopped."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.run", description=__doc__)
    parser.add_argument("config", nargs="?", help="a YAML file (see configs/)")
    parser.add_argument("--plan", action="store_true", help="show what would run and why, without running it")
    parser.add_argument("--verify", action="store_true", help="check finished stages' files by checksum, run nothing")
    parser.add_argument("--json", action="store_true", help="print the plan as one JSON object per line")
    parser.add_argument("--only", metavar="GLOB", help="run only these stages; what they need must be finished")
    parser.add_argument("--until", metavar="STAGE", help="run these stages and everything they need")
    parser.add_argument("--rerun", metavar="GLOB", help="rerun these stages from scratch, even if finished")
    parser.add_argument(
        "--set",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        dest="overrides",
        help="override a value of the file, as dotted.key=value; may be repeated",
    )
    parser.add_argument("--print-config", action="store_true", help="print the config with all defaults")
    parser.add_argument(
        "--explain",
        metavar="KEY",
        nargs="?",
        const="",
        help="say what a config key means, its type, default and source; without KEY, of all keys",
    )
    parser.add_argument("--wait", action="store_true", help="wait if another run is using this output folder")
    parser.add_argument("-v", "--verbose", action="store_true", help="show what Ray, JAX and the workers say")
    options = parser.parse_args(arguments)
    keep_out_of_logs()
    if options.explain is not None:
        return _explain(options.explain)
    if options.config is None:
        parser.error("name a config, for example configs/quickstart.yaml, or ask with --explain what it may hold")
    del options.explain
    if not (options.plan or options.json or options.verify or options.print_config):
        print(f"Reading {options.config}…", file=sys.stderr, flush=True)  # at once: what follows imports for seconds
    from pipeline.command import Command, execute_command
    from pipeline.config.errors import UsageError

    try:
        return execute_command(Command(**vars(options)))
    except UsageError as error:
        print(redact(str(error)), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _explain(key: str) -> int:
    from pipeline.config.errors import UsageError
    from pipeline.config.reference import explain

    try:
        print(explain(key))
    except UsageError as error:
        print(error, file=sys.stderr)
        return 2
    except BrokenPipeError:  # `| head`
        sys.stderr.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
