"""The configuration of pretraining: light, so that it is checked before anything heavy is imported."""

from dataclasses import dataclass, field

from stages.electra.config import Rematerialize
from stages.electra.files.hub import check_revision
from stages.electra.objectives.objective import ObjectiveConfig
from stages.electra.sizes import ModelConfig
from stages.training.config import ComputeDtype, OptimizerConfig


@dataclass(frozen=True, kw_only=True)
class InitFrom:
    """Released weights to go on from; the optimizer starts anew, and the learning rate rises from 0 again.

    Attributes:
      discriminator: Hugging Face folder or hub id of an `ElectraForPreTraining`.
      generator: Of an `ElectraForMaskedLM`. A network that is not given starts from random weights.
      discriminator_revision: Branch, tag or commit of a hub id; None is the default branch.
      generator_revision: Likewise.
    """

    discriminator: str | None = None
    generator: str | None = None
    discriminator_revision: str | None = field(default=None, metadata={"omit_default": True})
    generator_revision: str | None = field(default=None, metadata={"omit_default": True})

    def __post_init__(self) -> None:
        if self.discriminator is None and self.generator is None:
            raise ValueError("names no model, must have discriminator, generator or both")
        for name, revision in self.revisions.items():
            check_revision(getattr(self, name), revision, name=f"{name}_revision")

    @property
    def revisions(self) -> dict[str, str | None]:
        """By the network's name."""
        return {"discriminator": self.discriminator_revision, "generator": self.generator_revision}


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(OptimizerConfig):
    """Pretraining, with the fields of its optimizer and schedule besides.

    Attributes:
      seed: Of initial weights, order of examples, masks, samples and dropout.
      model: Size preset and the fields that differ from it.
      init_from: Released weights to go on from; None starts from random ones.
      objective: What is learnt, masking and loss weights.
      batch_size: Examples a step, over all processes.
      gradient_accumulation_steps: Parts in which each device works through its examples of a step, to save memory.
      rematerialize: What the backward pass computes anew to save memory: `none`, attention's weights too (`dots`), or
        all of a layer but what enters it (`layers`).
      compute_dtype: Number format of matrix products.
      log_every: Steps between rows of training metrics.
      eval_every: Steps between evaluations on held-out text.
      eval_batches: Batches of held-out text an evaluation reads at most.
      checkpoint_every: Steps between checkpoints.
      keep_checkpoints: How many of the newest stay.
      milestones: Percentages of the steps whose checkpoints stay besides.
    """

    model: ModelConfig
    batch_size: int
    seed: int = 0
    init_from: InitFrom | None = None
    gradient_accumulation_steps: int = 1
    objective: ObjectiveConfig = field(default_factory=ObjectiveConfig)
    compute_dtype: ComputeDtype = ComputeDtype.FLOAT32
    rematerialize: Rematerialize = field(default=Rematerialize.NONE, metadata={"omit_default": True})
    log_every: int = 100
    eval_every: int = 1000
    eval_batches: int = 16
    checkpoint_every: int = 1000
    keep_checkpoints: int = 3
    milestones: tuple[float, ...] = (6.25, 12.5, 25.0, 50.0, 100.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in (
            "batch_size",
            "gradient_accumulation_steps",
            "log_every",
            "eval_every",
            "eval_batches",
            "checkpoint_every",
            "keep_checkpoints",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}, must be at least 1")
        for percentage in self.milestones:
            if not 0 < percentage <= 100:
                raise ValueError(f"milestones has {percentage}, must be percentages above 0 and at most 100")
        traits = self.objective.kind.traits
        if traits.has_towers:
            for name in ("shared_encoder", "local_attention"):
                if getattr(self.model, name):
                    raise ValueError(
                        f"model.{name} is true, but {self.objective.kind}'s generator has two towers: leave it out"
                    )
        if self.init_from is not None:
            if not traits.is_continued:
                raise ValueError(f"init_from is given, but {self.objective.kind} starts from random weights only")
            if self.model.local_attention:
                raise ValueError("model.local_attention is true, but init_from has weights to start with: choose one")
            for name, is_trained in (
                ("discriminator", not traits.trains_one_network),
                ("generator", not self.objective.uniform_generator),
            ):
                if getattr(self.init_from, name) is not None and not is_trained:
                    raise ValueError(f"init_from has a {name}, but this objective trains none: leave it out")

    @property
    def milestone_steps(self) -> frozenset[int]:
        """The steps of the milestones."""
        return frozenset(max(1, round(self.steps * percentage / 100)) for percentage in self.milestones)
