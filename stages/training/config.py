"""What any training is configured by: the optimizer, as the paper names its parts, and the number format."""

from dataclasses import dataclass
from enum import StrEnum


class ComputeDtype(StrEnum):
    """Number format of matrix products; parameters, softmax, LayerNorm and losses stay float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Adam with decoupled weight decay, warm-up and linear decay (ELECTRA, appendices A and B).

    Attributes:
      learning_rate: Peak of the schedule, before its linear decay is applied.
      num_steps: Steps until the rate reaches 0.
      warmup_steps: Steps over which the rate rises from 0.
      weight_decay: Decay of all weights but biases and LayerNorm, times the learning rate.
      clip_norm: Largest global norm of the gradient of all parameters together.
    """

    learning_rate: float
    num_steps: int
    warmup_steps: int
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}, must be above 0")
        if self.num_steps < 1:
            raise ValueError(f"num_steps is {self.num_steps}, must be at least 1")
        if not 0 <= self.warmup_steps <= self.num_steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}, must be from 0 to num_steps = {self.num_steps}")
        if self.clip_norm <= 0:
            raise ValueError(f"clip_norm is {self.clip_norm}, must be above 0")
        for name in ("adam_b1", "adam_b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 0 and below 1")
