"""Reads YAML files into one tree of plain values; keeps the file and line of each for error messages."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from pipeline.config.errors import ConfigError, Problem, UsageError

Keys = tuple[str | int, ...]
# Far above any config; aliases of aliases can stand for more values than any memory holds.
_MAX_VALUES = 100_000
# How a value names the output folder of a stage: `{sample}/documents`.
REFERENCE = re.compile(r"\{([A-Za-z_][\w/-]*)\}")

# YAML 1.2's core schema, plus 1_000_000. PyYAML reads YAML 1.1, where 5e-4 is a string, `no` is false, 1:30 is 90
# and 2020-01-01 is a date.
_INT = re.compile(r"[-+]?[0-9]+(_[0-9]+)*")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(_[0-9]+)*(\.[0-9]*)?)([eE][-+]?[0-9]+)?")
_WORDS: dict[str, Any] = {"": None, "~": None, "null": None, "Null": None, "NULL": None}
_WORDS |= dict.fromkeys(("true", "True", "TRUE"), True)
_WORDS |= dict.fromkeys(("false", "False", "FALSE"), False)
_WORDS |= {sign + word: float(sign + "inf") for sign in ("", "+", "-") for word in (".inf", ".Inf", ".INF")}
_WORDS |= dict.fromkeys((".nan", ".NaN", ".NAN"), math.nan)


@dataclass(frozen=True)
class Tree:
    """Plain values (dict, list, str, int, float, bool, None) and where each was written."""

    values: dict[str, Any]
    origins: dict[Keys, str] = field(default_factory=dict)

    def origin(self, keys: Keys) -> str:
        """Where the value at `keys`, or the nearest one around it, was written."""
        for end in range(len(keys), -1, -1):
            if keys[:end] in self.origins:
                return self.origins[keys[:end]]
        return ""


def dotted(keys: Keys) -> str:
    """`("ingest", "sources", 0)` as `ingest.sources[0]`."""
    text = ""
    for key in keys:
        text += f"[{key}]" if isinstance(key, int) else f".{key}" if text else str(key)
    return text


def leaves(value: Any, keys: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """The values inside mappings and lists that are neither, each with its keys."""
    if isinstance(value, dict | list | tuple):
        for key, child in value.items() if isinstance(value, dict) else enumerate(value):
            yield from leaves(child, (*keys, key))
    else:
        yield keys, value


def load_tree(path: Path, *, overrides: Sequence[str] = ()) -> Tree:
    """Reads a file, what it `extends`, and `dotted.key=value` overrides, each over the one before.

    Raises:
      UsageError: The file is missing, or an override is not `key=value`.
      ConfigError: A file is not YAML, a key stands twice, or aliases make it endless or larger than any config.
    """
    tree = _load_file(path, seen=())
    for override in overrides:
        tree = _override(tree, override)
    return tree


def _load_file(path: Path, *, seen: tuple[Path, ...]) -> Tree:
    resolved = path.resolve()
    if resolved in seen:
        chain = " -> ".join(str(file) for file in (*seen, resolved))
        raise UsageError(f"`extends` goes round in a circle: {chain}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(f"{path} is not UTF-8 text: byte {error.start}") from error
    except OSError as error:
        by = f" (extended by {seen[-1]})" if seen else ""
        raise UsageError(f"Cannot read the config {path}{by}: {error.strerror}") from error
    tree = _parse(text, origin=str(path))
    parents = tree.values.pop("extends", None) or []
    if isinstance(parents, str):
        parents = [parents]
    if not isinstance(parents, list) or not all(isinstance(parent, str) for parent in parents):
        raise _wrong(("extends",), tree.origin(("extends",)), parents, "must be a file name or a list of them")
    base = Tree({})
    for parent in parents:
        base = _merge(base, _load_file(path.parent / parent, seen=(*seen, resolved)))
    return _merge(base, tree)


def _override(tree: Tree, override: str) -> Tree:
    name, equals, text = override.partition("=")
    keys = tuple(name.strip().split("."))
    if not equals or not all(keys):
        raise UsageError(f"--set {override}: expected dotted.key=value, for example --set pretrain.steps=1000")
    if keys[0] == "extends":
        raise UsageError("--set extends=…: write `extends` in a file")
    # `{sample}/documents` would be a broken mapping to YAML.
    value: Any
    value, inner = (text, {}) if REFERENCE.match(text) else _parse_value(text, origin="--set")
    parent: Any = tree.values
    for depth, key in enumerate(keys[:-1], start=1):
        parent = parent.get(key, {}) if isinstance(parent, dict) else parent
        if parent is not None and not isinstance(parent, dict):
            place = dotted(keys[:depth])
            raise UsageError(f"--set {override}: {place} is {parent!r}, which has no keys; set it as a whole")
        parent = parent or {}
    for key in reversed(keys):
        value = {key: value}
    placed: dict[Keys, str] = {keys + place: origin for place, origin in inner.items()} | {keys: "--set"}
    return _merge(tree, Tree(value, placed), replace_at=keys)


def _merge(base: Tree, over: Tree, *, replace_at: Keys | None = None) -> Tree:
    """Mappings are merged key by key; anything else, and the value at `replace_at`, is replaced whole."""

    def merge(old: Any, new: Any, keys: Keys) -> Any:
        if isinstance(old, dict) and isinstance(new, dict) and keys != replace_at:
            merged = dict(old)
            for key, value in new.items():
                merged[key] = merge(old[key], value, (*keys, key)) if key in old else value
            return merged
        for stale in [known for known in origins if known[: len(keys)] == keys and len(known) > len(keys)]:
            del origins[stale]
        return new

    origins = dict(base.origins)
    values = merge(base.values, over.values, ())
    return Tree(values, origins | over.origins)


def _parse(text: str, *, origin: str) -> Tree:
    value, origins = _parse_value(text, origin=origin)
    value = {} if value is None else value
    if not isinstance(value, dict):
        raise _wrong((), origin, value, "a config is a mapping of keys to values")
    return Tree(value, origins)


def _parse_value(text: str, *, origin: str) -> tuple[Any, dict[Keys, str]]:
    try:
        return _convert(text, origin=origin)
    except RecursionError:
        raise UsageError(f"{origin} is nested too deeply to be read") from None


def _convert(text: str, *, origin: str) -> tuple[Any, dict[Keys, str]]:
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:  # its own words quote the text, in which a password may stand
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise UsageError(f"{origin} is not YAML: {error.problem or error.context}{place}") from error
    except yaml.YAMLError as error:
        raise UsageError(f"{origin} is not YAML: {error}") from error
    around: list[yaml.Node] = []  # what the value that is converted stands in
    origins: dict[Keys, str] = {}
    problems: list[Problem] = []

    def convert(node: yaml.Node, keys: Keys) -> Any:
        place = origin if origin == "--set" else f"{origin}:{node.start_mark.line + 1}"
        origins.setdefault(keys, place)
        if len(origins) > _MAX_VALUES:
            raise UsageError(f"{origin} stands for more than {_MAX_VALUES:,} values; are there aliases of aliases?")
        if node in around:
            raise UsageError(f"{place}: {dotted(keys)} is an alias of what it stands in, which would have no end")
        around.append(node)
        value = convert_inside(node, keys, place)
        around.pop()
        return value

    def convert_inside(node: yaml.Node, keys: Keys, place: str) -> Any:
        if isinstance(node, yaml.SequenceNode):
            return [convert(child, (*keys, index)) for index, child in enumerate(node.value)]
        if isinstance(node, yaml.MappingNode):
            result: dict[str, Any] = {}
            for key_node, child in node.value:
                key = str(key_node.value)
                here = (*keys, key)
                line = f"{origin}:{key_node.start_mark.line + 1}"
                if key in result:
                    problems.append(Problem(dotted(here), line, None, f"stands twice, first at {origins[here]}"))
                origins[here] = place if origin == "--set" else line
                result[key] = convert(child, here)
            return result
        return node.value if getattr(node, "style", None) else _plain(node.value)  # quoted or block text is text

    value = None if node is None else convert(node, ())
    if problems:
        raise ConfigError(problems)
    return value, origins


def _plain(text: str) -> Any:
    if text in _WORDS:
        return _WORDS[text]
    if _INT.fullmatch(text) and len(text) < 1000:  # Python refuses to read thousands of digits
        return int(text)
    if _FLOAT.fullmatch(text):
        return float(text)
    return text


def _wrong(keys: Keys, origin: str, found: object, message: str) -> ConfigError:
    return ConfigError([Problem(dotted(keys) or "the file", origin, repr(found), message)])
