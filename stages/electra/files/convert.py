"""Converts a model of any format to a Hugging Face folder: `python -m stages.electra.files.convert SOURCE TARGET`."""

import argparse
import json
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from upath import UPath

from cluster.credentials import redact
from cluster.nearest import did_you_mean
from stages.electra.config import ElectraConfig
from stages.electra.files.card import default_card
from stages.electra.files.config_json import config_from_huggingface
from stages.electra.files.google_tf import Part
from stages.electra.files.huggingface import NETWORKS, Architecture, from_huggingface
from stages.electra.files.locate import Files, read_model
from stages.electra.files.model_folder import save_pretrained
from stages.electra.tokenizer import ElectraTokenizer


def convert(
    source: str,
    target: str | Path,
    *,
    part: Part | None = None,
    changes: Mapping[str, Any] | None = None,
    vocabulary: str | None = None,
    lowercase: bool = True,
) -> Architecture:
    """Reads a model, checks it, writes it; returns the class that it was written for.

    Args:
      source: What `read_model` takes.
      target: The new folder.
      part: Which network of a checkpoint that holds both; None takes the class that the source names, else the
        discriminator.
      changes: Fields of the configuration that the source does not say, or says wrongly.
      vocabulary: A `vocab.txt`; None takes the source's tokenizer, if it has one.
      lowercase: Whether text is lower-cased before `vocabulary` is looked up.

    Raises:
      ValueError: A tensor is missing, left over or of another shape, or the vocabulary is not that of the table.
    """
    files = read_model(source, part=part or Part.DISCRIMINATOR)
    values = files.values | dict(changes or {})
    named = (files.values.get("architectures") or [Architecture.PRETRAINING])[0].removeprefix("Flax")
    architecture = Architecture(named) if part is None else NETWORKS[part]
    config = config_from_huggingface(values)
    params = from_huggingface(files.tensors, config=config, architecture=architecture, source=source)
    tokenizer = _tokenizer(files, vocabulary, lowercase=lowercase)
    if tokenizer is not None:
        tokenizer.max_length = config.max_position_embeddings
        tokenizer.check(config)
        if vocabulary is not None and len(tokenizer) != config.vocab_size:
            raise ValueError(
                f"{vocabulary} has {len(tokenizer)} tokens, the embedding table {config.vocab_size} rows (vocab_size)"
            )
    save_pretrained(
        UPath(target),
        architecture=architecture,
        config=config,
        params=params,
        card=default_card(architecture, config, origin=f"Converted from `{Path(source).name}`."),
    )
    if tokenizer is not None:
        tokenizer.save_pretrained(target)
    return architecture


def _tokenizer(files: Files, vocabulary: str | None, *, lowercase: bool) -> ElectraTokenizer | None:
    if vocabulary is not None:
        return ElectraTokenizer.from_vocabulary(vocabulary, lowercase=lowercase)
    if not {"tokenizer.json", "vocab.txt"} & files.tokenizer.keys():
        return None
    with tempfile.TemporaryDirectory() as folder:
        for name, data in files.tokenizer.items():
            (Path(folder) / name).write_bytes(data)
        return ElectraTokenizer.from_pretrained(folder)


def parse_changes(overrides: Sequence[str]) -> dict[str, Any]:
    """Fields from `name=value`, the value as JSON where it is JSON, else text.

    Raises:
      ValueError: No such field, with the nearest one.
    """
    changes: dict[str, Any] = {}
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals:
            raise ValueError(f"{override!r} is not name=value")
        known = ElectraConfig.__dataclass_fields__
        if name not in known:
            raise ValueError(f"{name} is not a field of a model configuration.{did_you_mean(name, known)}")
        try:
            changes[name] = json.loads(text)
        except json.JSONDecodeError:
            changes[name] = text
    return changes


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns 0, or 1 where the model cannot be converted."""
    parser = argparse.ArgumentParser(prog="python -m stages.electra.files.convert", description=__doc__)
    parser.add_argument("source", help="a folder, a hub id, or the prefix of a TensorFlow checkpoint")
    parser.add_argument("target", help="the folder to write")
    parser.add_argument("--which", choices=list(Part), help="which network of a TensorFlow checkpoint", type=Part)
    parser.add_argument("--set", metavar="NAME=VALUE", action="append", default=[], dest="overrides")
    parser.add_argument("--vocab", metavar="FILE", help="vocab.txt, a token a line")
    parser.add_argument("--cased", action="store_true", help="the vocabulary of --vocab has capital letters")
    options = parser.parse_args(arguments)
    try:
        architecture = convert(
            options.source,
            options.target,
            part=options.which,
            changes=parse_changes(options.overrides),
            vocabulary=options.vocab,
            lowercase=not options.cased,
        )
    except (ValueError, OSError, ModuleNotFoundError) as error:
        print(redact(str(error)), file=sys.stderr)
        return 1
    print(f"{options.target}: {architecture}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
