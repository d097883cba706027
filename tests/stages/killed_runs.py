"""Runs that are killed in the middle and begun again, in processes of their own."""

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from stages.context import StageContext
from stages.finetune.config import FinetuneConfig

# A process that has imported what they need, and computed nothing, is copied for each: a start takes no seconds.
_PROCESSES = multiprocessing.get_context("forkserver")
_PROCESSES.set_forkserver_preload(["stages.finetune.stage", "stages.finetune.worker", "stages.pretrain.worker"])


def recorded(output: Path) -> list[dict[str, Any]]:
    """Rows of metrics, without what measures time; nothing of a line that is being written."""
    path = output / "metrics.jsonl"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    rows = [json.loads(line) for line in lines if line.endswith("\n")]
    return [{name: value for name, value in row.items() if not name.startswith("throughput/")} for row in rows]


def run_killed_at(
    steps: list[int], function: Callable[..., None], *given: Any, output: Path, chance: random.Random
) -> None:
    """Runs `function(*given)` until each step in turn is recorded in `output`, kills it, and at last lets it end."""
    log = output.parent / "log"
    for step in sorted(steps):
        process = _start(log, function, *given)
        until = time.monotonic() + 120
        while not any(row["step"] >= step for row in recorded(output)[-1:]):
            assert process.is_alive(), log.read_text()[-3000:]
            assert time.monotonic() < until, f"did not reach step {step}"
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.05))
        process.kill()
        process.join()
    process = _start(log, function, *given)
    process.join()
    assert process.exitcode == 0, log.read_text()[-3000:]


def finetune_with_many_checkpoints(config: FinetuneConfig, context: StageContext) -> None:
    """The stage, with a checkpoint every few steps."""
    from stages.finetune import stage, worker

    worker.CHECKPOINT_EVERY = 23
    stage.run(config, context)


def _start(log: Path, function: Callable[..., None], *given: Any) -> Any:
    process = _PROCESSES.Process(target=_logged, args=(log, function, *given))
    process.start()
    return process


def _logged(log: Path, function: Callable[..., None], *given: Any) -> None:
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(file, 1)
    os.dup2(file, 2)
    function(*given)
