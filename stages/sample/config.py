"""The size of the synthetic corpus and its tasks."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """How much synthetic text to write.

    Attributes:
      seed: Decides names, facts, events and all other draws.
      words: Words in the documents.
      cola_train, mrpc_train, squad_train: Training examples of each task.
      conll2000_train: Training sentences.
      dev: Examples of each development set and of each test set.
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
