"""Predicts from the command line: `python -m pipeline.predict MODEL "a text"`."""

import argparse
import io
import json
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from cluster.credentials import redact

# Lines of standard input that are answered together.
_LINES = 256
_CONTEXT = 40  # characters shown on each side of an answer
_ASKED = 60  # characters of a text that are shown beside its answer
_MASK = "[MASK]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, 1 if the model or a line cannot be read, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.predict",
        description=__doc__,
        epilog="A discriminator gives each token's probability of being replaced, a generator fills [MASK], a "
        "fine-tuned model gives labels, tags or answers. Without TEXT, reads lines from standard input, with a tab "
        "between TEXT and SECOND. Options may stand anywhere.",
    )
    parser.add_argument("model", help="a Hugging Face folder or hub id")
    parser.add_argument("text", nargs="?", help="the text, or the question for a question-answering model")
    parser.add_argument("second", nargs="?", help="the second text of a pair; the context of a question")
    parser.add_argument("--json", action="store_true", help="print one JSON object per text")
    options = parser.parse_intermixed_args(arguments)

    from stages.tasks.predictor import CUT, Predictor

    try:
        predictor = Predictor(options.model)
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # a broken character stops no other line
        lines = sys.stdin if options.text is None else ["\t".join(filter(None, (options.text, options.second)))]
        faults = 0
        is_alone = options.text is not None
        between = "each an argument" if is_alone else "with a tab between"
        for batch in _batches(lines):
            numbers, rows = [], []
            for number, line in batch:
                try:
                    rows.append(_row(line, *predictor.columns, between=between))
                    numbers.append(number)
                except ValueError as error:  # the others are answered
                    faults += 1
                    print(error if is_alone else f"line {number}: {error}", file=sys.stderr)
            for number, row, answer in zip(numbers, rows, predictor.answers(rows), strict=True):
                if lost := answer.get(CUT):
                    where = "The text" if is_alone else f"line {number}: the text"
                    print(f"{where} is too long for the model: its last {lost} tokens were cut", file=sys.stderr)
                if options.json:
                    print(json.dumps({"input": row} | answer, ensure_ascii=False), flush=True)
                else:
                    print(render(row, answer) if is_alone else beside(row, answer), flush=True)
    except (ValueError, OSError) as error:
        print(redact(str(error)), file=sys.stderr)
        return 1
    return 1 if faults else 0


def _batches(lines: Iterable[str]) -> Iterable[list[tuple[int, str]]]:
    """Numbered lines, without empty ones."""
    texts = enumerate((line.rstrip("\n") for line in lines), start=1)
    iterator = iter((number, text) for number, text in texts if text.strip())
    while batch := list(islice(iterator, _LINES)):
        yield batch


def _row(line: str, required: Sequence[str], optional: Sequence[str], *, between: str) -> dict[str, str]:
    texts, names = line.split("\t"), (*required, *optional)
    if not len(required) <= len(texts) <= len(names):
        also = f" and perhaps {', '.join(optional)}" if optional else ""
        raise ValueError(f"expected {', '.join(required)}{also}, {between}, found {len(texts)}: {line[:80]!r}")
    return dict(zip(names, texts, strict=False))


def beside(row: Mapping[str, str], answer: Mapping[str, Any]) -> str:
    """An answer with what was asked: on its line, or above it where it has several."""
    asked, said = " | ".join(row.values()), render(row, answer)
    if "\n" in said or "tokens" in answer or "words" in answer:
        return f"{asked}\n{textwrap.indent(said, '  ')}\n"
    short = asked if len(asked) <= _ASKED else f"{asked[: _ASKED - 1]}…"
    return f"{short:<{_ASKED}}  {said}"


def render(row: Mapping[str, str], answer: Mapping[str, Any]) -> str:
    """One answer for people: a table of tokens or words, or a line."""
    match answer:
        case {"tokens": tokens, "replaced": shares}:
            width = max(map(len, tokens), default=0)
            return "\n".join(
                f"{token:<{width}}  {share:6.1%}{'  replaced' if share > 0.5 else ''}"
                for token, share in zip(tokens, shares, strict=True)
            )
        case {"words": words, "labels": labels}:
            width = max(map(len, words), default=0)
            return "\n".join(f"{word:<{width}}  {label}" for word, label in zip(words, labels, strict=True))
        case {"answer": "", "score": score}:
            return f"no answer  (score {score:.2f} for the best span)"
        case {"answer": text, "start": start, "score": score}:
            context, end = row["context"], start + len(text)
            before, after = context[max(0, start - _CONTEXT) : start], context[end : end + _CONTEXT]
            return f"{text}  (score {score:.2f}: …{before}[{text}]{after}…)"
        case {"label": label, "probability": share}:
            return f"{label}  {share:.1%}"
        case {"labels": labels, "probabilities": shares}:
            return ", ".join(f"{label}  {share:.1%}" for label, share in zip(labels, shares, strict=True)) or "none"
        case {"value": value}:
            return str(value)
        case {"guesses": guesses}:
            return _filled(row["text"], guesses)
    raise AssertionError(answer)


def _filled(text: str, guesses: Sequence[Sequence[Mapping[str, Any]]]) -> str:
    """The text with the likeliest token in brackets at each [MASK], and a line with the likeliest few for each."""
    if not guesses:
        return f"{text}  (no {_MASK} in it to fill)"
    parts = text.split(_MASK)
    words = [found[0]["token"].removeprefix("##") for found in guesses]
    words += [_MASK] * (len(parts) - 1 - len(words))  # beyond where the text was cut
    shown = "".join(f"{part}[{word}]" for part, word in zip(parts, words, strict=False)) + parts[-1]
    lines = [", ".join(f"{one['token']} {one['probability']:.1%}" for one in found) for found in guesses]
    return "\n".join([shown, *(f"  {number}. {line}" for number, line in enumerate(lines, start=1))])


if __name__ == "__main__":
    sys.exit(main())
