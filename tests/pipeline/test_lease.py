"""Two runners on one output: one works, the other is told who does, or waits."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest
from claims import claim_together
from upath import UPath

from pipeline import lease as lease_module
from pipeline.lease import Lease, LeaseHeldError, LeaseLostError

HOLDER = """
import sys
from upath import UPath
from pipeline import lease
lease.BEAT_SECONDS = 0.1
with lease.Lease(UPath(sys.argv[1])):
    print("held", flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    monkeypatch.setattr(lease_module, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease_module, "STALE_SECONDS", 0.6)
    monkeypatch.setattr(lease_module, "_SETTLE_SECONDS", 0.05)


@pytest.fixture(params=["local", "remote"])
def output(request, tmp_path) -> UPath:
    return UPath(tmp_path / "out") if request.param == "local" else UPath(f"memory://leases/{tmp_path.name}")


def write(output: UPath, **changes: object) -> None:
    """A lease of a process on another machine, unless `changes` say otherwise."""
    output.mkdir(parents=True, exist_ok=True)
    record = {"id": "x", "host": "elsewhere", "boot": "b", "pid": 5, "birth": "1", "started": 0.0, "beat": time.time()}
    lease_file(output).write_text(json.dumps(record | changes))


def lease_file(output: UPath) -> UPath:
    """Where another runner writes, which came after at most six."""
    return output / ("lease-000007.json" if "://" in str(output) else "lease.json")


def test_the_second_runner_is_told_who_works(output):
    with Lease(output), pytest.raises(LeaseHeldError, match=rf"process {os.getpid()} on .*--wait"), Lease(output):
        pass


def test_afterwards_the_output_is_free(output):
    for _ in range(2):
        with Lease(output):
            pass
    assert not (output / "lease.json").exists()


def test_it_is_free_after_an_error_too(output):
    with pytest.raises(RuntimeError), Lease(output):
        raise RuntimeError
    with Lease(output):
        pass


def test_the_second_runner_can_wait(output, capsys):
    first = Lease(output)
    first.__enter__()
    threading.Timer(0.5, first.__exit__, (None, None, None)).start()
    started = time.monotonic()
    with Lease(output, wait=True):
        assert time.monotonic() - started > 0.3
    assert "Waiting: Another runner" in capsys.readouterr().out


@pytest.mark.parametrize("clock", [-100, 3600], ids=["late", "an hour ahead"])
def test_a_holder_that_gives_no_sign_of_life_is_replaced_whatever_its_clock_said(output, clock):
    write(output, beat=time.time() + clock)
    with Lease(output):
        pass


def test_a_holder_whose_clock_is_wrong_but_who_lives_is_not_replaced(output):
    write(output, beat=time.time() - 100)
    alive = threading.Event()

    def beat() -> None:
        while not alive.wait(0.02):
            write(output, beat=time.time() - 100)

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(LeaseHeldError), Lease(output):
            pass
    finally:
        alive.set()
        thread.join()


def test_a_killed_runner_of_this_machine_is_replaced_at_once(tmp_path):
    output = UPath(tmp_path)
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    with pytest.raises(LeaseHeldError, match=f"process {process.pid}"), Lease(output):
        pass
    process.kill()
    process.wait()
    with Lease(output):
        pass


def test_a_broken_lease_file_does_not_lock_the_output_for_ever(output):
    output.mkdir(parents=True, exist_ok=True)
    lease_file(output).write_text("{")
    with Lease(output):
        pass


def test_a_runner_that_was_replaced_notices(output):
    with Lease(output) as lease:
        lease.check()
        write(output, id="other")
        time.sleep(0.4)
        with pytest.raises(LeaseLostError, match="elsewhere"):
            lease.check()
    assert lease_file(output).exists()


def test_of_many_that_want_a_dead_ones_place_one_gets_it(output):
    write(output, beat=time.time() - 100)
    won = claim_together(output, count=6)
    assert len(won) == 1
    won[0].release()
