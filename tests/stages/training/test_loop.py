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

from stages.context import Tracker
from stages.training.checkpoint import Checkpoints, Kept
from stages.training.checkpoint_folder import saved_step
from stages.training.config import OptimizerConfig
from stages.training.loop import Intervals, NonFiniteError, PreemptedError, Window, run_loop
from stages.training.metrics import MetricsLog
from stages.training.optimizer import make_optimizer
from stages.training.state import init_state, make_train_step

NUM_STEPS = 30
OPTIMIZER = make_optimizer(OptimizerConfig(learning_rate=1e-2, steps=NUM_STEPS, warmup_steps=0))


def loss_fn(params, batch, key_B, *, train, over_devices=lambda value: value):
    """Noisy regression; a batch of infinities makes it infinite."""
    noise_B3 = jax.vmap(lambda key: jax.random.normal(key, (3,)))(key_B)
    error_B = jnp.sum((params["kernel"][None] - noise_B3 * batch["scale"][:, None]) ** 2, axis=1)
    sums = {"loss": jnp.sum(error_B), "rows": jnp.float32(len(error_B))}
    return sums["loss"] / over_devices(sums["rows"]), jax.lax.stop_gradient(sums)


def fresh_state():
    return init_state({"kernel": jnp.arange(3.0)}, OPTIMIZER, key=jax.random.key(1))


def train(
    folder: Path,
    *,
    num_steps: int = NUM_STEPS,
    checkpoint: int = 7,
    mesh=None,
    bad_step=None,
    batches=None,
    ends_at=None,
):
    """Runs the loop from the newest checkpoint to `num_steps`, or to an evaluation that ends it; the parameters."""
    checkpoints = Checkpoints(UPath(folder), keep=3, identity={})
    sharding = None if mesh is None else jax.NamedSharding(mesh, jax.P())
    state = jax.jit(fresh_state, out_shardings=sharding)()
    restored = checkpoints.restore_newest(state)
    state = restored.state if restored else state
    first = int(state.step)

    def default_batches():
        for step in range(first, num_steps):
            yield jax.device_put({"scale": np.full(4, np.inf if step + 1 == bad_step else 1.0 + step, np.float32)})

    tracker = Tracker() if jax.process_index() == 0 else None
    log = MetricsLog(UPath(folder) / "metrics.jsonl", tracker=tracker, until_step=first)

    def on_window(window: Window) -> None:
        metrics = {"loss/total": float(window.sums["loss"] / window.sums["rows"]), "steps": window.steps}
        log.record(metrics, step=window.step, split="train")

    def evaluate(step: int, params) -> bool:
        log.record({"loss/total": float(np.sum(params["kernel"]))}, step=step, split="heldout")
        return step == ends_at

    def keep() -> Kept:
        log.flush()
        return Kept({"from": first})

    state = run_loop(
        state,
        window=Window.from_json(restored.window if restored else {}),
        intervals=Intervals(
            num_steps=NUM_STEPS, log=10, evaluate=15, checkpoint=checkpoint, milestones=frozenset([4, NUM_STEPS])
        ),
        train_step=make_train_step(loss_fn, OPTIMIZER, mesh=mesh),
        batches=batches(first) if batches else default_batches(),
        on_window=on_window,
        evaluate=evaluate,
        describe_rows=lambda step: f"rows of the batch after {step} steps",
        checkpoints=checkpoints,
        keep=keep,
    )
    log.flush()
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
    assert saved_step(UPath(tmp_path)) == 4


def test_a_run_cut_between_two_rows_repeats_them_to_the_last_bit(whole, tmp_path):
    folder, params = whole
    train(tmp_path, num_steps=16)  # its last checkpoint is of step 14, between the rows of 10 and 20
    assert saved_step(UPath(tmp_path)) == 14
    resumed = train(tmp_path)
    np.testing.assert_array_equal(resumed["kernel"], params["kernel"])
    assert rows(tmp_path) == rows(folder)


def test_a_loss_that_is_not_finite_stops_and_says_what_repeats_it(tmp_path):
    with pytest.raises(NonFiniteError) as caught:
        train(tmp_path, bad_step=14)
    message = str(caught.value)
    assert message.startswith("step 14 of 30: not finite: loss, optimizer/gradient_norm")
    assert "rows of the batch after 13 steps" in message
    assert "last good checkpoint: 7" in message
    # Nothing of the bad step is saved, so that a resumed run meets it again.
    assert saved_step(UPath(tmp_path)) == 7
    with pytest.raises(NonFiniteError, match="step 14 of 30: "):
        train(tmp_path, bad_step=14)


def test_an_evaluation_may_end_the_run_and_its_last_row_is_of_the_steps_there_were(tmp_path):
    train(tmp_path, ends_at=15)
    assert [(row["step"], row["split"]) for row in rows(tmp_path)] == [(10, "train"), (15, "heldout"), (15, "train")]
    assert rows(tmp_path)[-1]["steps"] == 5
    assert saved_step(UPath(tmp_path)) == 14


def test_a_batch_that_is_not_on_the_devices_yet_is_refused_rather_than_copied_silently(tmp_path):
    with pytest.raises(Exception, match="Disallowed host-to-device transfer"):
        train(tmp_path, batches=lambda first: iter([{"scale": np.ones(4, np.float32)}]))


def test_batches_of_several_shapes_are_compiled_once_each_and_outside_of_the_clock(caplog):
    calls = []
    step = make_train_step(loss_fn, OPTIMIZER)

    def watched(state, batch):
        """Traced once a shape."""
        calls.append(batch["scale"].shape)
        time.sleep(0.5)  # a compilation that takes long
        return step(state, batch)

    def batches():
        for number in range(6):
            batch = jax.device_put({"scale": np.ones(4 + number % 2, np.float32)})
            with jax.log_compiles(number > 1):
                yield batch

    windows = []
    run_loop(
        fresh_state(),
        window=Window(),
        intervals=Intervals(num_steps=6, log=3, evaluate=6, checkpoint=6),
        train_step=watched,
        batches=batches(),
        on_window=windows.append,
        evaluate=lambda step, params: False,
        describe_rows=str,
    )
    assert calls == [(4,), (5,)]
    assert "Compiling" not in caplog.text
    with jax.log_compiles():
        step(fresh_state(), {"scale": jnp.ones(6)})
    assert "Compiling" in caplog.text  # where a shape is new, it would have been said
    assert [window.step for window in windows] == [3, 6]
    assert sum(window.seconds for window in windows) < 0.5


def test_sigterm_to_a_process_of_its_own_saves_the_step_and_a_new_try_ends_with_the_same_bits(whole, tmp_path):
    def batches(first):
        for step in range(first, NUM_STEPS):
            if step == 8 and first == 0:
                os.kill(os.getpid(), signal.SIGTERM)
            yield jax.device_put({"scale": np.full(4, 1.0 + step, np.float32)})

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(PreemptedError, match="step 9 of 30 is saved"):
        train(tmp_path, checkpoint=1000, batches=batches)
    assert signal.getsignal(signal.SIGTERM) is before
    assert saved_step(UPath(tmp_path)) == 9
    np.testing.assert_array_equal(train(tmp_path)["kernel"], whole[1]["kernel"])
    assert rows(tmp_path) == rows(whole[0])


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
    step = saved_step(UPath(tmp_path))
    assert 6 < step < NUM_STEPS
    assert printed == [f"a process was told to end; step {step} of {NUM_STEPS} is saved"] * 2
    resumed = train(tmp_path)  # by one process now
    np.testing.assert_allclose(resumed["kernel"], whole[1]["kernel"], rtol=1e-5)
    for ours, theirs in zip(rows(tmp_path), rows(whole[0]), strict=True):
        assert ours.pop("split") == theirs.pop("split")
        assert ours == pytest.approx(theirs, rel=1e-5)
