"""Fine-tuning by transformers' `Trainer`, on batches that are given."""

import tempfile
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
import transformers
from contestants import Turns

from stages.electra.config import ElectraConfig
from stages.tasks.kinds import TaskKind

MODELS = {
    TaskKind.CLASSIFICATION: transformers.ElectraForSequenceClassification,
    TaskKind.TAGGING: transformers.ElectraForTokenClassification,
}


class GivenBatches(transformers.Trainer):
    """A Trainer whose dataset is of batches."""

    def get_train_dataloader(self) -> torch.utils.data.DataLoader:
        return torch.utils.data.DataLoader(self.train_dataset, batch_size=None)


class TakeTurns(transformers.TrainerCallback):
    def __init__(self, turns: Turns) -> None:
        self._turns = turns

    def on_step_begin(self, args, state, control, **kwargs) -> None:
        self._turns.before_step()


def to_torch(batch: Mapping[str, np.ndarray]) -> dict[str, torch.Tensor]:
    """A batch of ours under transformers' names."""
    ids, length, first_length = (torch.tensor(batch[name]).long() for name in ("ids", "length", "first_length"))
    real = torch.arange(ids.shape[1]) < length[:, None]
    types = (torch.arange(ids.shape[1]) >= first_length[:, None]) & real
    labels = torch.tensor(batch["labels"] if "labels" in batch else batch["label"]).long()
    return {
        "input_ids": ids,
        "attention_mask": real.long(),
        "token_type_ids": types.long(),
        "labels": labels.masked_fill(labels < 0, -100),  # what its losses ignore
    }


def train(
    config: ElectraConfig,
    kind: TaskKind,
    batches: Sequence[Mapping[str, np.ndarray]],
    *,
    threads: int,
    start: Callable[[], Turns],
) -> None:
    """Trains on the batches, in turns, with the Trainer's own optimizer."""
    torch.set_num_threads(threads)
    model = MODELS[kind](transformers.ElectraConfig(**config.to_dict()))
    with tempfile.TemporaryDirectory() as folder:
        arguments = transformers.TrainingArguments(
            output_dir=folder,
            max_steps=len(batches),
            learning_rate=1e-4,
            warmup_steps=len(batches) // 10,
            use_cpu=True,
            report_to="none",
            save_strategy="no",
            logging_strategy="no",
            disable_tqdm=True,
        )
        trainer = GivenBatches(model=model, args=arguments, train_dataset=[to_torch(batch) for batch in batches])
        trainer.add_callback(TakeTurns(start()))
        trainer.train()
