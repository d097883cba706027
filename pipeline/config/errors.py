"""Mistakes in a config, each with its place, what was found and what is allowed."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """One mistake.

    Attributes:
      path: Dotted name of the value (`pretrain.model.size`).
      origin: Where it was written (`configs/base.yaml:12`, `--set`).
      found: What stands there, if anything does.
      message: What is wrong with it, what is allowed, and the nearest valid name.
    """

    path: str
    origin: str
    found: str | None
    message: str

    def __str__(self) -> str:
        lines = [f"{self.path}  ({self.origin})" if self.origin else self.path]
        if self.found is not None:
            lines.append(f"    found: {self.found}")
        lines += [f"    {line}" for line in self.message.splitlines()]
        return "\n".join(lines)


class UsageError(Exception):
    """A wrong config or command line, noticed before anything ran."""


class ConfigError(UsageError):
    """All mistakes of a config at once."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        count = "1 mistake" if len(problems) == 1 else f"{len(problems)} mistakes"
        super().__init__(f"The config has {count}:\n\n" + "\n\n".join(str(problem) for problem in self.problems))
