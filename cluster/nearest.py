"""The nearest valid name, for messages about a wrong one. It lies here because every layer has such messages."""

import difflib
from collections.abc import Iterable


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """` Did you mean `x`?` where one of `allowed` is near `name`, else nothing."""
    near = difflib.get_close_matches(name, list(allowed), n=1)
    return f" Did you mean `{near[0]}`?" if near else ""
