"""The loop: rows of metrics that a resumed run repeats, a stop at what is not finite, and a stop on SIGTERM."""

import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from upath import UPath

from stages.training.checkpoint import Checkpoints
from stages.training.checkpoint_folder import saved_step
from stages.training.config import OptimizerConfig
from stages.training.loop import Intervals, NonFiniteError, Recorder, Window, run_loop
from stages.training.metrics import MetricsLog
from stages.training.optimizer import make_optimizer
from stages.training.state import init_state, make_train_step

NUM_STEPS = 30
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=1e-2, num_steps=NUM_STEPS, warmup_steps=0))


def loss_fn(params, batch, key_B, *, train, over_devices=lambda value: value):
    """Noisy regression; a batch of infinities makes it infinite."""
    noise_B3 = jax.vmap(lambda key: jax.random.normal(key, (3,)))(key_B)
    error_B = jnp.sum((params["kernel"][None] - noise_B3 * batch["scale"][:, None]) ** 2, axis=1)
    sums = {"loss": jnp.sum(error_B), "rows": jnp.float32(len(error_B))}
    return sums["loss"] / over_devices(sums["rows"]), jax.lax.stop_gradient(sums)


def train(folder: Path, *, num_steps: int = NUM_STEPS, checkpoint: int = 7, mesh=None, bad_step=None, batches=None):
    """Runs the loop from the newest checkpoint to `num_steps`; the parameters."""
    checkpoints = Checkpoints(UPath(folder) / "checkpoints", keep=3, identity={})
    state = init_state({"kernel": jnp.arange(3.0)}, OPTIMIZER)
    if mesh is not None:
        state = jax.device_put(state, jax.NamedSharding(mesh, jax.P()))
    restored = checkpoints.restore_newest(state)
    state = restored.state if restored else state
    first = int(state.step)

    def default_batches():
        for step in range(first, num_steps):
            yield {"scale": np.full(4, np.inf if step + 1 == bad_step else 1.0 + step, np.float32)}

    recorder = Recorder(
        log=MetricsLog(UPath(folder) / "metrics.jsonl", until_step=first) if jax.process_index() == 0 else None,
        tracker=None,
        summarize=lambda sums: {"loss/total": float(sums["loss"] / sums["rows"])},
        rates=lambda sums, steps, seconds, step: {"steps": steps},
    )
    state = run_loop(
        state,
        window=Window.from_json(restored.window if restored else {}),
        intervals=Intervals(num_steps=NUM_STEPS, log=10, evaluate=15, checkpoint=checkpoint, milestones=frozenset([4])),
        train_step=make_train_step(loss_fn, OPTIMIZER, seed=1, mesh=mesh),
        batches=batches(first) if batches else default_batches(),
        evaluate=lambda params: {"loss": np.sum(params["kernel"]), "rows": np.float64(1)},
        checkpoints=checkpoints,
        recorder=recorder,
        describe_batch=lambda step: f"rows of the batch after {step} steps",
    )
    if recorder.log is not None:
        recorder.log.flush()
    checkpoints.close()
    return jax.device_get(state.params)


def rows(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[Path, dict]:
    """A run that nothing disturbed: its folder and parameters."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, train(folder)


def test_rows_cover_all_steps_and_milestones_are_saved(whole, tmp_path):
    folder, _ = whole
    assert [(row["step"], row["split"]) for row in rows(folder)] == [
        (10, "train"), (15, "heldout"), (20, "train"), (30, "train"), (30, "heldout"),
    ]  # fmt: skip
    assert [row["steps"] for row in rows(folder) if row["split"] == "train"] == [10, 10, 10]
    train(tmp_path, num_steps=5)
    assert saved_step(UPath(tmp_path) / "checkpoints") == 4


def test_a_run_cut_between_two_rows_repeats_them_to_the_last_bit(whole, tmp_path):
    folder, params = whole
    train(tmp_path, num_steps=16)  # its last checkpoint is of step 14, between the rows of 10 and 20
    assert saved_step(UPath(tmp_path) / "checkpoints") == 14
    resumed = train(tmp_path)
    np.testing.assert_array_equal(resumed["kernel"], params["kernel"])
    assert rows(tmp_path) == rows(folder)


def test_a_loss_that_is_not_finite_stops_and_says_what_repeats_it(tmp_path):
    with pytest.raises(NonFiniteError) as caught:
        train(tmp_path, bad_step=14)
    message = str(caught.value)
    assert message.startswith("step 14: not finite: loss, optimizer/gradient_norm")
    assert "rows of this batch: rows of the batch after 13 steps" in message
    assert "last good checkpoint: 7" in message
    # Nothing of the bad step is saved, so that a resumed run meets it again.
    assert saved_step(UPath(tmp_path) / "checkpoints") == 7
    with pytest.raises(NonFiniteError, match="step 14: "):
        train(tmp_path, bad_step=14)


_PROCESS = """
    import pathlib, sys, time
    import jax
    import numpy as np

    folder, port, rank = pathlib.Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(f"127.0.0.1:{port}", 2, rank)
    from cluster.distributed import global_batch
    from cluster.mesh import make_mesh
    from stages.training.loop import PreemptedError
    import test_loop

    mesh = make_mesh()

    def batches(first):
        for step in range(first, test_loop.NUM_STEPS):
            time.sleep(0.2)
            (folder / f"at-{rank}").write_text(str(step))
            yield global_batch(mesh, {"scale": np.full(2, 1.0 + step, np.float32)})

    try:
        test_loop.train(folder, checkpoint=1000, mesh=mesh, batches=batches)
    except PreemptedError as error:
        print(error)
"""


def test_sigterm_to_one_process_makes_both_save_the_same_step_and_a_new_try_goes_on_from_it(whole, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    path = ":".join([str(Path(__file__).parent), *(entry for entry in sys.path if entry)])
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": path, "XLA_FLAGS": ""}
    command = [sys.executable, "-c", textwrap.dedent(_PROCESS), str(tmp_path), port]
    processes = [
        subprocess.Popen([*command, str(rank)], stdout=subprocess.PIPE, text=True, env=environment) for rank in (0, 1)
    ]
    at = tmp_path / "at-1"
    while not (at.exists() and int(at.read_text() or 0) >= 6):
        assert processes[1].poll() is None
        time.sleep(0.05)
    processes[1].send_signal(signal.SIGTERM)
    printed = [process.communicate()[0].splitlines()[-1] for process in processes]  # gloo prints before it
    step = saved_step(UPath(tmp_path) / "checkpoints")
    assert 6 < step < NUM_STEPS
    assert printed == [f"a process was told to end; all saved step {step} of {NUM_STEPS}"] * 2
    resumed = train(tmp_path)  # by one process now
    np.testing.assert_allclose(resumed["kernel"], whole[1]["kernel"], rtol=1e-5)
    for ours, theirs in zip(rows(tmp_path), rows(whole[0]), strict=True):
        assert ours.pop("split") == theirs.pop("split")
        assert ours == pytest.approx(theirs, rel=1e-5)
