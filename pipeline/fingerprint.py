"""A stage's identity: everything that decides its result, as plain values.

It holds the stage's name, version and config, the fingerprints of the stages it needs, and its raw inputs with their
checksums. What a run may use (cluster, tracking) is not in it: the same work on other machines is the same work. The
fingerprint is a hash of its canonical JSON. Values that cannot be written the same way everywhere are refused. A
location is identified without its credentials: another password or signature is the same work.
"""

import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Any

from cluster.credentials import redact
from pipeline.node import Stage

Identity = dict[str, Any]


def make_identity(stage: Stage, *, needs: Mapping[str, str], sources: Sequence[Mapping[str, Any]]) -> Identity:
    """The identity of a stage.

    Args:
      stage: Its name, version and config count; the resources that it may use do not.
      needs: Fingerprints of all stages that it needs, by name.
      sources: Its raw inputs as `raw_inputs.resolve` lists them.
    """
    return {
        "stage": stage.name,
        "version": stage.version,
        "config": plain(stage.config, at="config"),
        "needs": {name: needs[name] for name in stage.needs},
        "sources": plain(list(sources), at="sources"),
    }


def fingerprint(identity: Identity) -> str:
    """16 hexadecimal digits of SHA-256 over the identity's canonical JSON."""
    text = json.dumps(plain(identity, at="identity"), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def plain(value: Any, *, at: str) -> Any:
    """Dataclasses, enums and tuples to what JSON can hold, without credentials in locations.

    A field with `omit_default` in its metadata is left out if it has its default: it was added later, and earlier
    results stay valid.

    Raises:
      TypeError: A value has no form that is the same in every process and on every machine (a set, a path, a
        function, an array).
      ValueError: A number is not finite.
    """
    if isinstance(value, Enum):
        return plain(value.value, at=at)
    if isinstance(value, str):
        return redact(value)
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"{at} is {value}, an identity needs finite numbers")
        return value
    if is_dataclass(value) and not isinstance(value, type):
        named = ((field, getattr(value, field.name)) for field in fields(value))
        return {
            field.name: plain(item, at=f"{at}.{field.name}")
            for field, item in named
            if not (field.metadata.get("omit_default") and item == field.default)
        }
    if isinstance(value, list | tuple):
        return [plain(item, at=f"{at}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, Mapping):
        for key in value:
            if not isinstance(key, str):
                raise TypeError(f"{at} has the key {key!r} of type {type(key).__name__}, an identity needs text")
        return {str(key): plain(item, at=f"{at}.{key}") for key, item in value.items()}
    raise TypeError(f"{at} is a {type(value).__name__}, which has no stable written form; use text, numbers or lists")


def diff(old: Identity, new: Identity) -> list[str]:
    """How `new` differs from `old`, a line a field: `pretrain.steps: 1000 -> 2000`."""
    name = new["stage"]
    changes = _diff(old["config"], new["config"], at=name)
    if old["version"] != new["version"]:
        changes.append(f"version of {name}: {old['version']} -> {new['version']}")
    changes += _diff_sources(old["sources"], new["sources"])
    for need in sorted(old["needs"].keys() | new["needs"].keys()):
        before, after = old["needs"].get(need), new["needs"].get(need)
        if before != after:
            changes.append(f"needs {need} {after or 'no more'} instead of {before or 'nothing'}")
    return changes


def _diff(old: Any, new: Any, *, at: str) -> list[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        names = [*new, *(name for name in old if name not in new)]
        return [line for name in names for line in _diff(old.get(name), new.get(name), at=f"{at}.{name}")]
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        pairs = enumerate(zip(old, new, strict=True))
        return [line for index, (a, b) in pairs for line in _diff(a, b, at=f"{at}[{index}]")]
    return [] if old == new and type(old) is type(new) else [f"{at}: {json.dumps(old)} -> {json.dumps(new)}"]


def _diff_sources(old: list[Any], new: list[Any]) -> list[str]:
    before, after = ({file["path"]: file for file in files} for files in (old, new))
    gone = [f"{path} is gone" for path in before if path not in after]
    added = [f"{path} is new" for path in after if path not in before]
    changed = [f"{path} has another content" for path in after if path in before and before[path] != after[path]]
    lines = gone + added + changed
    return lines if len(lines) <= 3 else [*lines[:3], f"and {len(lines) - 3} more input files differ"]
