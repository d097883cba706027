"""What any training is configured by: the optimizer, as the paper names its parts, and the number format."""

from dataclasses import dataclass
from enum import StrEnum


class ComputeDtype(StrEnum):
    """Number format of matrix products; parameters, softmax, LayerNorm and losses stay float32."""

    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class OptimizerName(StrEnum):
    """`adam` is ELECTRA's, `lamb` scales each matrix's update to the matrix's own norm, for large batches."""

    ADAM = "adam"
    LAMB = "lamb"


class ScheduleName(StrEnum):
    """How the learning rate falls: `linear` is ELECTRA's, `wsd` is warm-up, stable, decay."""

    LINEAR = "linear"
    COSINE = "cosine"
    WSD = "wsd"


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """The optimizer and its schedule; by default ELECTRA's (appendices A and B).

    Attributes:
      learning_rate: Peak of the schedule; the linear one decays from step 0, so that its peak is a little lower.
      steps: Steps until the rate reaches 0.
      warmup_steps: Steps over which the rate rises from 0.
      optimizer: What makes an update of the clipped gradient.
      schedule: How the rate falls to 0.
      decay_fraction: Share of the steps, at their end, over which `wsd` falls to 0.
      weight_decay: Decay of all weights but biases and LayerNorm, times the learning rate.
      clip_norm: Largest global norm of the gradient of all parameters together.
      adam_b1: Share of the old mean of gradients that an update keeps.
      adam_b2: Share of the old mean of squared gradients that it keeps.
      adam_eps: Added to their root, by which an update is divided.
    """

    learning_rate: float
    steps: int
    warmup_steps: int
    optimizer: OptimizerName = OptimizerName.ADAM
    schedule: ScheduleName = ScheduleName.LINEAR
    decay_fraction: float = 0.1
    weight_decay: float = 0.01
    clip_norm: float = 1.0
    adam_b1: float = 0.9
    adam_b2: float = 0.999
    adam_eps: float = 1e-6

    def __post_init__(self) -> None:
        if self.learning_rate <= 0:
            raise ValueError(f"learning_rate is {self.learning_rate}, must be above 0")
        if self.steps < 1:
            raise ValueError(f"steps is {self.steps}, must be at least 1")
        if not 0 <= self.warmup_steps <= self.steps:
            raise ValueError(f"warmup_steps is {self.warmup_steps}, must be from 0 to steps = {self.steps}")
        if not 0 < self.decay_fraction <= 1:
            raise ValueError(f"decay_fraction is {self.decay_fraction}, must be above 0 and at most 1")
        if self.schedule is ScheduleName.WSD and self.warmup_steps > self.decay_start:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}, must be at most {self.decay_start:g}, where the decay begins: "
                f"decay_fraction is {self.decay_fraction} of steps = {self.steps}"
            )
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay is {self.weight_decay}, must not be negative")
        if self.clip_norm <= 0:
            raise ValueError(f"clip_norm is {self.clip_norm}, must be above 0")
        if self.adam_eps <= 0:
            raise ValueError(f"adam_eps is {self.adam_eps}, must be above 0")
        for name in ("adam_b1", "adam_b2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 0 and below 1")

    @property
    def decay_start(self) -> float:
        """The step at which the decay of `wsd` begins."""
        return self.steps * (1 - self.decay_fraction)
