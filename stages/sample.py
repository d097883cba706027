"""A small English-like world to try everything on: documents, and labelled tasks in the official file formats."""

import random
from dataclasses import dataclass

from cluster.storage import write_text
from stages.context import StageContext

# Documents in one file.
FILE_WORDS = 250_000


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How much of the world to write down.

    Attributes:
      seed: Decides names, facts, events and all else that is drawn.
      words: Words in the documents.
      cola_train, mrpc_train, squad_train: Training examples of the tasks; development and test sets have `dev` each.
      conll2000_train: Training sentences; the test set has `dev`.
      dev: Examples of each development and each test set.
    """

    seed: int = 0
    words: int = 1_000_000
    cola_train: int = 2000
    mrpc_train: int = 2000
    squad_train: int = 2000
    conll2000_train: int = 250
    dev: int = 500

    def __post_init__(self) -> None:
        for name in ("words", "cola_train", "mrpc_train", "squad_train", "conll2000_train", "dev"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")


def run(config: SampleConfig, context: StageContext) -> None:
    """Writes `documents/*.txt` and `tasks/{CoLA,MRPC,SQuAD,CoNLL-2000}/`."""
    from stages.world import tasks
    from stages.world.documents import documents
    from stages.world.grammar import World

    def world(purpose: str) -> World:
        made = World(config.seed)
        made.rng = random.Random(f"{config.seed} {purpose}")
        return made

    lines: list[str] = []
    words = written = files = 0

    def flush() -> None:
        nonlocal files, written
        write_text(context.output / "documents" / f"part-{files:03d}.txt", "\n".join(lines))
        files += 1
        written += words
        lines.clear()
        context.tracker.progress(min(written, config.words), config.words, unit="words")

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
        "CoLA": tasks.cola(world("cola"), sizes={"train": config.cola_train, **dev}),
        "MRPC": tasks.mrpc(world("mrpc"), sizes={"train": config.mrpc_train, **dev}),
        "SQuAD": tasks.squad(world("squad"), sizes={"train": config.squad_train, "dev": config.dev}),
        "CoNLL-2000": tasks.conll2000(world("conll2000"), sizes={"train": config.conll2000_train, "test": config.dev}),
    }
    ending = {"CoLA": ".tsv", "MRPC": ".tsv", "SQuAD": "-v1.1.json", "CoNLL-2000": ".txt"}
    for task, splits in made.items():
        for split, text in splits.items():
            write_text(context.output / "tasks" / task / f"{split}{ending[task]}", text)
    context.tracker.params({"words": written, "files": files})
