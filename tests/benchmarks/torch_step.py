"""The same pretraining step in torch, over transformers' modules. The generator's logits at masked positions only."""

import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
import workload

from stages.electra.sizes import ModelConfig


class Networks(torch.nn.Module):
    """Generator and discriminator over shared embeddings, and the whole loss: masking, sampling and both parts."""

    def __init__(self, shape: workload.Shape) -> None:
        super().__init__()
        discriminator, generator = (
            transformers.ElectraConfig(**config.to_dict(), attn_implementation="sdpa")
            for config in ModelConfig(size=shape.size).resolve(workload.VOCAB_SIZE)
        )
        self.discriminator = transformers.ElectraForPreTraining(discriminator)
        self.generator = transformers.ElectraForMaskedLM(generator)
        self.generator.electra.embeddings = self.discriminator.electra.embeddings
        self.generator.generator_lm_head.weight = self.discriminator.electra.embeddings.word_embeddings.weight
        self.num_masked = shape.num_masked
        self.objective = shape.objective

    def forward(self, ids: torch.Tensor, types: torch.Tensor, real: torch.Tensor) -> torch.Tensor:
        special = (ids == workload.SPECIAL_IDS["cls"]) | (ids == workload.SPECIAL_IDS["sep"])
        draws = torch.rand(ids.shape, device=ids.device).masked_fill(special, -1)
        positions = draws.topk(self.num_masked, dim=1).indices
        targets = ids.gather(1, positions)
        hidden = torch.rand(positions.shape, device=ids.device) < self.objective.mask_probability
        masked = ids.scatter(1, positions, torch.where(hidden, workload.SPECIAL_IDS["mask"], targets))

        inputs = {"attention_mask": real, "token_type_ids": types}
        states = self.generator.electra(input_ids=masked, **inputs).last_hidden_state
        chosen = states.gather(1, positions[..., None].expand(-1, -1, states.shape[-1]))
        words = self.generator.generator_lm_head(self.generator.generator_predictions(chosen)).float()
        generator_loss = torch.nn.functional.cross_entropy(words.flatten(0, 1), targets.flatten())
        with torch.no_grad():
            noise = -torch.empty_like(words).exponential_().log()
            samples = (words + noise).argmax(-1)
        corrupted = ids.scatter(1, positions, samples)
        logits = self.discriminator(input_ids=corrupted, **inputs).logits.float()
        labels = (corrupted != ids).float()
        discriminator_loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, labels)
        weights = self.objective.generator_weight, self.objective.discriminator_weight
        return weights[0] * generator_loss + weights[1] * discriminator_loss


def make_torch(
    shape: workload.Shape, *, dtype: str, compiled: bool, device: str
) -> tuple[Callable[[int], float], Callable[[], int] | None, str]:
    """Seconds of so many steps; the largest memory on a GPU, None on a CPU; the device's name."""
    networks = Networks(shape).to(device).train()
    decayed = [p for name, p in networks.named_parameters() if not name.endswith("bias") and "LayerNorm" not in name]
    plain = [p for name, p in networks.named_parameters() if name.endswith("bias") or "LayerNorm" in name]
    config = workload.OPTIMIZER
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}],
        lr=config.learning_rate,
        eps=config.adam_eps,
        fused=True,
    )
    rows = shape.rows()
    ids = torch.tensor(rows["ids"], dtype=torch.long, device=device)
    types = (torch.arange(shape.sequence_length, device=device) >= shape.sequence_length // 2).long().expand_as(ids)
    real = torch.ones_like(ids)
    loss_of: Any = torch.compile(networks) if compiled else networks

    def step() -> None:
        with torch.autocast(device, dtype=torch.bfloat16, enabled=dtype == "bfloat16"):
            loss = loss_of(ids, types, real)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(networks.parameters(), config.clip_norm)
        optimizer.step()

    def finish() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def run(steps: int) -> float:
        finish()
        started = time.perf_counter()
        for _ in range(steps):
            step()
        finish()
        return time.perf_counter() - started

    if device == "cuda":
        return run, torch.cuda.max_memory_allocated, torch.cuda.get_device_name()
    return run, None, "cpu"
