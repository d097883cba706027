"""How much of the sample world is written down."""

from dataclasses import dataclass


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
