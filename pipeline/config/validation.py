"""Makes frozen dataclasses of plain values, strictly. Collects all mistakes and explains them in the user's words."""

import dataclasses
import json
import math
import types
from enum import Enum
from typing import Any, Union, get_args, get_origin, get_type_hints

from pydantic import ConfigDict, TypeAdapter, ValidationError

from cluster.nearest import did_you_mean
from pipeline.config.errors import Problem
from pipeline.config.tree import Keys, Tree, dotted, leaves

STRICT = ConfigDict(extra="forbid", strict=True)


def validate(cls: type, tree: Tree) -> tuple[Any, list[Problem]]:
    """Makes a `cls` of the tree's values.

    Args:
      cls: A dataclass with `__pydantic_config__ = STRICT`, which the dataclasses inside it inherit.
      tree: Its values.

    Returns:
      The object, or None, and the mistakes found.
    """
    explain = _Explain(cls, tree)
    numbers = [(keys, value) for keys, value in leaves(tree.values) if isinstance(value, float)]
    if infinite := [(keys, value) for keys, value in numbers if not math.isfinite(value)]:
        return None, [explain.problem(keys, str(value), "must be finite") for keys, value in infinite]
    try:
        # JSON mode: a list may become a tuple and a word an enum, but "3" is not 3, and true is not 1.
        return TypeAdapter(cls).validate_json(json.dumps(tree.values)), []
    except ValidationError as error:
        explained = [explain(details) for details in error.errors(include_url=False)]
        return None, list(dict.fromkeys(explained))


def describe(annotation: Any) -> str:
    """What a value of a type may be, in words: `a whole number or null`."""
    origin = get_origin(annotation)
    if origin in (Union, types.UnionType):
        return " or ".join(describe(member) for member in get_args(annotation))
    if origin in (tuple, list):
        return f"a list, each {describe(get_args(annotation)[0])}" if get_args(annotation) else "a list"
    if origin is dict:
        return f"a mapping of names, each to {describe(get_args(annotation)[1])}"
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return "one of " + ", ".join(str(member.value) for member in annotation)
    if dataclasses.is_dataclass(annotation):
        return "a mapping with some of the keys " + ", ".join(_names(annotation))
    words: dict[Any, str] = {int: "a whole number", float: "a number", str: "text", bool: "true or false"}
    words |= {type(None): "null", dict: "a mapping"}
    return words.get(annotation, getattr(annotation, "__name__", str(annotation)))


@dataclasses.dataclass(frozen=True)
class _Explain:
    """Puts pydantic's errors into the user's words."""

    cls: type
    tree: Tree

    def problem(self, keys: Keys, found: str | None, message: str) -> Problem:
        return Problem(dotted(keys) or "the file", self.tree.origin(keys), found, message)

    def __call__(self, details: Any) -> Problem:
        keys, annotation, parent = _resolve(self.cls, self.tree.values, details["loc"])
        kind, found = details["type"], details["input"]
        if kind == "unexpected_keyword_argument":
            names = _names(parent)
            hint = did_you_mean(str(keys[-1]), names)
            allowed = f"allowed: {', '.join(names)}" if names else "no keys are allowed here"
            return self.problem(keys, _show(found), f"unknown key.{hint}\n{allowed}")
        if kind in ("missing", "missing_argument"):
            return self.problem(keys, None, f"is required: {describe(annotation)}")
        if kind in ("value_error", "assertion_error"):
            return self.problem(keys, None, str(details["ctx"]["error"]))
        message = f"must be {describe(annotation)}"
        bare = _without_null(annotation)
        if isinstance(found, str) and isinstance(bare, type) and issubclass(bare, Enum):
            message += f".{did_you_mean(found, [str(member.value) for member in bare])}"
        if kind == "int_type" and isinstance(found, float) and found.is_integer():
            message += f": write {int(found)}"
        return self.problem(keys, _show(found), message)


def _resolve(cls: type, values: Any, loc: tuple[Any, ...]) -> tuple[Keys, Any, Any]:
    """Follows an error's location: real keys only (pydantic adds the names of union members), the type there, and
    the dataclass around it."""
    keys: Keys = ()
    annotation: Any = cls
    parent: Any = cls
    outer: Any = cls
    value = values
    for part in loc:
        if part == "[key]":  # the name itself is wrong, not what it holds
            return keys, get_args(_without_null(outer))[0], parent
        bare = _without_null(annotation)
        outer = bare
        if dataclasses.is_dataclass(bare):
            parent = bare
            annotation = get_type_hints(bare).get(str(part), Any)
        elif get_origin(bare) in (tuple, list, dict) and not (isinstance(value, dict) and part not in value):
            parent = None
            annotation = get_args(bare)[1 if get_origin(bare) is dict else 0]
        else:
            continue  # the name of a union's member
        keys = (*keys, part)
        try:
            value = value[part]
        except (KeyError, IndexError, TypeError):
            value = None
    return keys, annotation, parent


def _without_null(annotation: Any) -> Any:
    if get_origin(annotation) in (Union, types.UnionType):
        members = [member for member in get_args(annotation) if member is not type(None)]
        if len(members) == 1:
            return members[0]
    return annotation


def _names(cls: Any) -> list[str]:
    return [field.name for field in dataclasses.fields(cls) if field.init] if dataclasses.is_dataclass(cls) else []


def _show(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    kind = {str: "text", int: "whole number", float: "number", bool: "true or false", list: "list", dict: "mapping"}
    name = kind.get(type(value))
    return (text if len(text) <= 120 else text[:117] + "...") + (f" ({name})" if name else "")
