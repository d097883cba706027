"""What each key of a config means, its type, its default and where it is declared: from the dataclasses themselves.

A key's meaning is its entry under `Attributes:` in the docstring of its class, or of a class that this one inherits
from. What a section may set for stages that it is not itself (`finetune` for its runs) is described where these are.
"""

import dataclasses
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any, Union, get_args, get_origin, get_type_hints

from cluster.nearest import did_you_mean
from pipeline.config.errors import UsageError
from pipeline.config.sections import PipelineConfig
from pipeline.config.validation import describe
from stages.finetune.config import FinetuneConfig, Overrides
from stages.tasks.form import TaskForm

_ROOT = Path(__file__).resolve().parents[2]
_NAME = "NAME"  # stands for any key of a mapping
_ATTRIBUTE = re.compile(r"  (\w+(?:, \w+)*): (.*)")


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One key.

    Attributes:
      key: Dotted, with NAME for the keys of a mapping: `finetune.tasks.NAME.data`.
      type: What it may be, in words.
      default: As YAML has it; "" where it is required.
      meaning: "" where nothing is said.
      source: The file that declares it, with the line of its class.
    """

    key: str
    type: str
    default: str
    meaning: str
    source: str

    def __str__(self) -> str:
        facts = f"{self.type}; {f'default: {self.default}' if self.default else 'required'}"
        lines = [self.key]
        for text in (self.meaning, facts, self.source):
            lines += textwrap.wrap(text, width=100, initial_indent="    ", subsequent_indent="    ")
        return "\n".join(lines)


def explain(key: str = "") -> str:
    """The entries of a key and all that is below it; of all keys where none is named.

    Raises:
      UsageError: There is no such key.
    """
    entries = {entry.key: entry for entry in all_entries()}
    wanted = key.strip().strip(".").split(".") if key else []
    found = [entry for entry in entries.values() if _covers(wanted, entry.key.split("."))]
    if not found:
        also = [name for name in entries if name.split(".")[-1] == wanted[-1]]
        near = f" Did you mean one of these? {', '.join(also)}" if also else did_you_mean(key, entries)
        raise UsageError(f"No config key is called {key}.{near}\n--explain alone describes all keys.")
    return "\n\n".join(map(str, found))


def all_entries() -> list[Entry]:
    """Every key of a config, in the order of the sections."""
    return list(_entries(PipelineConfig, ""))


def _covers(wanted: list[str], key: list[str]) -> bool:
    """Whether a key is the wanted one or below it; NAME stands for any."""
    same = (there in (here, _NAME) for here, there in zip(wanted, key, strict=False))
    return len(wanted) <= len(key) and all(same)


def _entries(cls: type, prefix: str) -> Iterator[Entry]:
    hints, meanings = get_type_hints(cls), _meanings(cls)
    for field in dataclasses.fields(cls):
        annotation, key = hints[field.name], f"{prefix}{field.name}"
        inner, below = _inside(annotation)
        yield Entry(
            key=key,
            type="a section" if inner is not None and not below else describe(annotation),
            default=_default(cls, field),
            meaning=meanings.get(field.name) or (_first_line(inner) if inner is not None else ""),
            source=_source(next(one for one in cls.__mro__ if field.name in inspect.get_annotations(one))),
        )
        if inner is not None:
            yield from _entries(inner, f"{key}.{below}")


def _inside(annotation: Any) -> tuple[type | None, str]:
    """The dataclass whose keys a value has, and what stands before them: `NAME.` in a mapping of names."""
    if get_origin(annotation) in (Union, types.UnionType):
        members = [_inside(member) for member in get_args(annotation)]
        return next((found for found in members if found[0] is not None), (None, ""))
    if get_origin(annotation) is dict:
        inner, _ = _inside(get_args(annotation)[1])
        return inner, f"{_NAME}."
    return (annotation, "") if dataclasses.is_dataclass(annotation) and isinstance(annotation, type) else (None, "")


def _meanings(cls: type) -> dict[str, str]:
    """By field; what the class itself says counts first."""
    elsewhere = (FinetuneConfig, TaskForm) if issubclass(cls, Overrides) else ()
    found: dict[str, str] = {}
    for one in (*cls.__mro__, *(base for other in elsewhere for base in other.__mro__)):
        for name, meaning in _attributes(one.__doc__ or "").items():
            found.setdefault(name, meaning)
    return found


def _attributes(docstring: str) -> dict[str, str]:
    _, _, section = inspect.cleandoc(docstring).partition("Attributes:\n")
    found: dict[str, str] = {}
    names: list[str] = []
    for line in section.splitlines():
        if match := _ATTRIBUTE.fullmatch(line):
            names = match[1].split(", ")
            found |= dict.fromkeys(names, match[2])
        elif not line.startswith("    "):
            names = []
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _default(cls: type, field: "dataclasses.Field[Any]") -> str:
    if field.default_factory is not dataclasses.MISSING:
        made = field.default_factory()
        return "all its defaults" if dataclasses.is_dataclass(made) else _as_yaml(made)
    if field.default is dataclasses.MISSING:
        return ""
    default = _as_yaml(field.default)
    if field.default is None and issubclass(cls, Overrides):
        of_runs = {other.name: other.default for other in dataclasses.fields(FinetuneConfig)}
        usual = of_runs.get(field.name)
        if usual is dataclasses.MISSING:
            return f"{default}, which is the section's or what was published for the task"
        if usual is not None:
            return f"{default}, which is the section's or {_as_yaml(usual)}"
    return default


def _as_yaml(value: Any) -> str:
    if isinstance(value, Enum):
        return str(value.value)
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_as_yaml, value))}]"
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    return str(value) if value or not isinstance(value, str | dict) else '""' if isinstance(value, str) else "{}"


def _first_line(cls: type | None) -> str:
    return inspect.cleandoc((cls.__doc__ if cls is not None else "") or "").partition("\n")[0]


def _source(cls: type) -> str:
    file = Path(inspect.getsourcefile(cls) or "")
    place = file.relative_to(_ROOT) if file.is_relative_to(_ROOT) else file
    return f"{place}:{inspect.getsourcelines(cls)[1]}"
