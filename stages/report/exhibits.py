"""What the networks make of held-out text, and what the vocabulary is like, for readers."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from stages.report.collect import Results
from stages.report.data_tables import Table, format_number

_CONTEXT = 6  # tokens on each side of a place that the generator guesses
_SAMPLE = 60  # tokens of the vocabulary
_NO_SPACE_BEFORE = frozenset(".,;:!?)]}%'’”")
_NO_SPACE_AFTER = frozenset("([{“‘")


@dataclass(frozen=True, kw_only=True)
class Span:
    """A piece of shown text.

    Attributes:
      space: Whether a space stands before it.
      kind: `found` or `missed`, of a replaced token; `alarm`, of an original one that was taken for replaced; "".
      original: What stood there, where it was replaced.
      note: What the discriminator said, in words.
    """

    text: str
    space: bool
    kind: str = ""
    original: str = ""
    note: str = ""


def shown_rows(results: Results) -> list[list[Span]]:
    """The rows of held-out text; neighbours of no kind are one span."""
    return [_merged(_spans(row)) for row in results.heldout if any("probability" in token for token in row)]


def count_kinds(rows: Sequence[Sequence[Span]]) -> dict[str, int]:
    """How many tokens of each kind there are."""
    return {kind: sum(span.kind == kind for row in rows for span in row) for kind in ("found", "missed", "alarm")}


def guess_table(results: Results) -> Table | None:
    """The likeliest words of the generator at some masked places, beside the right one."""
    rows = []
    for row in results.heldout:
        for place, token in enumerate(row):
            if "guesses" not in token:
                continue
            around = [
                other.get("original", other["text"]) if other is not token else "___"
                for other in row[max(0, place - _CONTEXT) : place + _CONTEXT + 1]
            ]
            guesses = [f"{_bare(text)} {format_number(100 * share, digits=0)} %" for text, share in token["guesses"]]
            rows.append((_joined(around), _bare(token["original"]), ", ".join(guesses)))
    if not rows:
        return None
    columns = ("what stood there", "the generator's likeliest words")
    return Table(title="What the generator guesses", columns=columns, rows=tuple(rows), is_numeric=False)


def vocabulary_sample(tokens: Sequence[str]) -> list[str]:
    """Some tokens, evenly over the vocabulary, without special ones and single characters."""
    worth = [token for token in tokens if len(token.removeprefix("##")) > 1 and not token.startswith("[")]
    return worth[:: max(1, len(worth) // _SAMPLE)][:_SAMPLE]


def _spans(row: Sequence[dict[str, Any]] | Sequence[Any]) -> Iterator[Span]:
    before = ""
    for token in row:
        text, share = token["text"], token["probability"]
        original = token.get("original", text)
        kind = ("found" if share > 0.5 else "missed") if original != text else "alarm" if share > 0.5 else ""
        yield Span(
            text=_bare(text),
            space=_has_space(before, text),
            kind=kind,
            original=_bare(original) if original != text else "",
            note=f"replaced with a probability of {format_number(100 * share, digits=0)} %" if kind else "",
        )
        before = text


def _merged(spans: Iterator[Span]) -> list[Span]:
    found: list[Span] = []
    for span in spans:
        if found and not span.kind and not found[-1].kind:
            last = found.pop()
            span = Span(text=f"{last.text}{' ' if span.space else ''}{span.text}", space=last.space)
        found.append(span)
    return found


def _joined(tokens: Sequence[str]) -> str:
    text, before = "", ""
    for token in tokens:
        text += f"{' ' if _has_space(before, token) else ''}{_bare(token)}"
        before = token
    return text


def _has_space(before: str, token: str) -> bool:
    return bool(before) and not (token.startswith("##") or token in _NO_SPACE_BEFORE or before in _NO_SPACE_AFTER)


def _bare(token: str) -> str:
    return token.removeprefix("##") or token
