"""What a benchmark compares: processes of their own, made ready once, that then take turns."""

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any


def resident_bytes() -> int:
    """Largest memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


class Contestant:
    """A process seen from outside. It says in a line of JSON when it is ready, then answers each line it is given.

    Attributes:
      name: What the process knows itself by, its argument `--contestant`.
      facts: What it said when it was ready.
      seconds: A step's mean in each turn so far.
      cpu_seconds: Likewise of CPU time, where the process tells it.
      memory: Largest number of bytes so far.
    """

    def __init__(self, name: str, arguments: list[str], *, environment: Mapping[str, str] | None = None) -> None:
        command = [sys.executable, sys.argv[0], *arguments, "--contestant", name]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=os.environ | (environment or {})
        )
        self.name, self.memory = name, 0
        self.forget()
        self.facts = self._read()

    def forget(self) -> None:
        """Leaves out the turns so far, in which the process warmed up."""
        self.seconds, self.cpu_seconds = list[float](), list[float]()

    def take_turn(self, steps: int) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{steps}\n")
        self._process.stdin.flush()
        answer = self._read()
        self.seconds.append(answer["seconds"])
        self.memory = answer["memory"]
        if "cpu_seconds" in answer:
            self.cpu_seconds.append(answer["cpu_seconds"])

    def close(self) -> None:
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self.name} ended with exit code {self._process.wait()}: see its own words above")
        return json.loads(line)


def take_turns(contestants: list[Contestant], *, rounds: int, steps: int) -> None:
    """Each runs so many steps a round; every other round in reverse, so that a machine that slows down slows all."""
    for turn in range(rounds):
        for one in contestants if turn % 2 == 0 else reversed(contestants):
            one.take_turn(steps)


class Turns:
    """A contestant's side, for a training loop that does not give control away: told of each step before it begins.

    Args:
      facts: Said once, before the first step, when the process is ready.
      finish: Waits until the steps so far are done.
    """

    def __init__(self, facts: Mapping[str, Any], *, finish: Callable[[], None] = lambda: None) -> None:
        self._finish = finish
        self._steps = self._left = 0
        self._started = self._times()
        print(json.dumps(facts), flush=True)

    def before_step(self) -> None:
        """Ends a turn that has had its steps, and waits for the next; without one the process ends."""
        if self._left == 0:
            self._finish()
            if self._steps:
                seconds, cpu_seconds = (
                    (now - then) / self._steps for now, then in zip(self._times(), self._started, strict=True)
                )
                answer = {"seconds": seconds, "cpu_seconds": cpu_seconds, "memory": resident_bytes()}
                print(json.dumps(answer), flush=True)
            line = sys.stdin.readline()
            if not line:
                sys.exit()
            self._steps = self._left = int(line)
            self._started = self._times()
        self._left -= 1

    def _times(self) -> tuple[float, float]:
        return time.perf_counter(), time.process_time()
