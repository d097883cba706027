"""Writes a small synthetic corpus to try everything on, and labelled tasks in the official file formats."""

import random

from cluster.storage import write_text
from stages.context import StageContext
from stages.sample.config import SampleConfig

VERSION = 1

# Documents in one file.
FILE_WORDS = 250_000


def run(config: SampleConfig, context: StageContext) -> None:
    """Writes `documents/*.txt` and `tasks/{CoLA,MRPC,SQuAD,CoNLL-2000}/`."""
    from stages.sample import task_files
    from stages.sample.grammar import World
    from stages.sample.stories import documents

    def world(purpose: str) -> World:
        made = World(config.seed)
        made.rng = random.Random(f"{config.seed} {purpose}")
        return made

    lines: list[str] = []
    words = 0
    written: list[int] = []  # words of each file

    def flush() -> None:
        write_text(context.output / "documents" / f"part-{len(written):03d}.txt", "\n".join(lines))
        written.append(words)
        lines.clear()
        context.tracker.progress(min(sum(written), config.words), config.words, unit="words")

    for document in documents(world("documents"), num_words=config.words):
        words += sum(line.count(" ") + 1 for line in document)
        lines += [*document, ""]
        if words >= FILE_WORDS:
            flush()
            words = 0
    if lines:
        flush()

    dev = {"dev": config.dev, "test": config.dev}
    made = {
        "CoLA/{}.tsv": task_files.cola(world("cola"), sizes={"train": config.cola_train, **dev}),
        "MRPC/{}.tsv": task_files.mrpc(world("mrpc"), sizes={"train": config.mrpc_train, **dev}),
        "SQuAD/{}-v1.1.json": task_files.squad(world("squad"), sizes={"train": config.squad_train, "dev": config.dev}),
        "CoNLL-2000/{}.txt": task_files.conll2000(
            world("conll2000"), sizes={"train": config.conll2000_train, "test": config.dev}
        ),
    }
    for file, splits in made.items():
        for split, text in splits.items():
            write_text(context.output / "tasks" / file.format(split), text)
    context.tracker.params({"words": sum(written), "files": len(written)})
