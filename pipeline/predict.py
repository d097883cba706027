"""Predicts from the command line: `python -m pipeline.predict MODEL "a text"`."""

import argparse
import io
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import Any

from cluster.credentials import redact

# Lines of standard input that are answered together.
_LINES = 256
_CONTEXT = 40  # characters shown on each side of an answer


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, 1 if the model or a line cannot be read, 2 for a wrong command line."""
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.predict",
        description=__doc__,
        epilog="A discriminator gives each token's probability of being replaced, a generator fills [MASK], a "
        "fine-tuned model gives labels, tags or answers. Without TEXT, reads lines from standard input, with a tab "
        "between TEXT and SECOND.",
    )
    parser.add_argument("model", help="a Hugging Face folder or hub id")
    parser.add_argument("text", nargs="?", help="the text; the question, for a question-answering model")
    parser.add_argument("second", nargs="?", help="the second text of a pair; the context of a question")
    parser.add_argument("--json", action="store_true", help="print one JSON object per text")
    options = parser.parse_args(arguments)

    from stages.tasks.predictor import Predictor

    try:
        predictor = Predictor(options.model)
        if isinstance(sys.stdin, io.TextIOWrapper):
            sys.stdin.reconfigure(encoding="utf-8", errors="replace")  # a broken character stops no other line
        lines = sys.stdin if options.text is None else ["\t".join(filter(None, (options.text, options.second)))]
        faults = 0
        for batch in _batches(lines):
            rows = []
            for number, line in batch:
                try:
                    rows.append(_row(line, *predictor.columns))
                except ValueError as error:  # the others are answered
                    faults += 1
                    print(f"line {number}: {error}" if options.text is None else error, file=sys.stderr)
            for row, answer in zip(rows, predictor.answers(rows), strict=True):
                print(json.dumps(answer, ensure_ascii=False) if options.json else render(row, answer), flush=True)
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


def _row(line: str, required: Sequence[str], optional: Sequence[str]) -> dict[str, str]:
    texts, names = line.split("\t"), (*required, *optional)
    if not len(required) <= len(texts) <= len(names):
        also = f" and perhaps {', '.join(optional)}" if optional else ""
        raise ValueError(f"expected {', '.join(required)}{also}, with a tab between, found {len(texts)}: {line[:80]!r}")
    return dict(zip(names, texts, strict=False))


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
        case {"text": text}:
            return text
    raise AssertionError(answer)


if __name__ == "__main__":
    sys.exit(main())
