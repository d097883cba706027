"""The facts of a run that its readers ask for first: what, when, on what, how long, how large, how much text."""

import shlex
from pathlib import PurePosixPath

from stages.report.collect import Results
from stages.report.data_tables import format_duration, format_value


def run_facts(results: Results) -> list[tuple[str, str]]:
    """Names and values, of what is known."""
    manifests = [record.manifest for record in results.stages if record.manifest]
    facts: list[tuple[str, str]] = []
    if names := list(dict.fromkeys(filter(None, (_config(manifest.get("command")) for manifest in manifests)))):
        facts.append(("Config", ", ".join(names)))
    if finished := max((str(manifest.get("finished", "")) for manifest in manifests), default=""):
        facts.append(("Finished", f"{finished[:16].replace('T', ' ')} UTC"))
    if found := hardware(results):
        facts.append(("Pretrained on", found))
    seconds = sum(manifest.get("seconds") or 0.0 for manifest in manifests)
    if seconds:
        facts.append(("Time of all stages", format_duration(seconds)))
    for name, count in results.networks.items():
        facts.append((name.capitalize(), f"{format_value(count)} parameters"))
    return facts + _amounts(results)


def passes(results: Results) -> float | None:
    """How often pretraining went over the corpus."""
    config = _pretrain_config(results)
    rows = results.shards.counts.get("train", {}).get("rows") if results.shards is not None else None
    steps, batch_size = config.get("steps"), config.get("batch_size")
    return steps * batch_size / rows if rows and steps and batch_size else None


def trained_tokens(results: Results) -> int | None:
    """Tokens that pretraining saw, padding and repetitions counted."""
    config = _pretrain_config(results)
    if results.shards is None or not (config.get("steps") and config.get("batch_size")):
        return None
    return int(config["steps"] * config["batch_size"] * results.shards.sequence_length)


def _amounts(results: Results) -> list[tuple[str, str]]:
    config, facts = _pretrain_config(results), []
    if results.pretraining is not None and config.get("steps") and config.get("batch_size"):
        facts.append(("Pretraining", f"{config['steps']:,} steps of {config['batch_size']:,} examples"))
    if tokens := trained_tokens(results):
        facts.append(("Tokens seen", format_value(tokens)))
    if (count := passes(results)) is not None:
        facts.append(("Passes over the corpus", f"{count:.2g}" if count < 10 else f"{count:,.0f}"))
    return facts


def hardware(results: Results) -> str:
    """What pretraining ran on; "" where there was none."""
    result = results.pretraining.result if results.pretraining is not None else {}
    kind, count = result.get("device_kind"), result.get("num_processes")
    if not kind:
        return ""
    return f"{kind.upper() if kind == 'cpu' else kind}, {count} process{'es' if count != 1 else ''}"


def _pretrain_config(results: Results) -> dict[str, int]:
    return next((dict(record.config) for record in results.stages if record.name == "pretrain"), {})


def _config(command: object) -> str:
    """The name of the config file in a command."""
    words = shlex.split(command) if isinstance(command, str) else []
    return next((PurePosixPath(word).stem for word in words if word.endswith((".yaml", ".yml"))), "")
