"""Settings of 02_finetune.py for hospital records."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from clinrep.artifacts import SPLITS
from clinrep.config import lookup, require
from clinrep.ehr.configs.sequences import SequenceConfig
from clinrep.search_config import SearchConfig, SearchedConfig, check_space
from clinrep.training_config import LoraConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class FinetuneConfig(SequenceConfig, SearchedConfig):
    """Fine-tune a classifier of one outcome; from a backbone the head is new, from a classifier its own."""

    from_scratch: bool = False
    """Draw all weights anew from the seed: of the backbone only its shape and its tokenizer are taken."""

    outcome: str
    """Outcome to predict, a name in outcomes.parquet."""
    training_fraction: float = 1.0
    """Share of the train patients to learn from; for one seed the patients of a smaller share are among those of a
    larger one. 0: learn nothing, and predict with the classifier of classifier_dir as it is."""
    random_truncation: bool = False
    """Cut every train sequence after a uniformly random token, drawn anew each epoch (URT in the manuscript)."""
    loss: Literal["cross_entropy", "balanced", "focal"] = "cross_entropy"
    """What is minimized: balanced weighs both classes alike, focal weighs hard stays more. The probabilities of these
    two are not calibrated."""
    focal_gamma: float = 2.0
    """How much focal turns from easy stays to hard ones; 0 would be cross_entropy."""
    layer_learning_rate_decay: float = 1.0
    """The learning rate of a layer over that of the layer above it; the head has learning_rate. 1: all the same."""
    lora: LoraConfig = field(default_factory=LoraConfig)
    metric_for_best: Literal["loss", "auroc", "auprc"] = "auroc"
    """Validation metric that chooses the best weights and stops early; the last two need both classes."""
    prediction_batch_size: int = 64
    """Sequences of 1,024 tokens in one forward pass of validation and prediction; more where they are shorter."""
    global_batch_size: int = 64
    """Sequences in one optimizer step, over all ranks."""
    pass_tokens: int | None = None
    """Tokens in one forward pass of one rank, padding counted, at most: its sequences of a step are divided into passes
    of like length. null: passes of training.batch_size sequences, which are padded more where lengths differ much."""
    risk_over_time: list[str] = field(default_factory=list)
    """Splits for which the probability after every token is written too, as [test]."""
    training: TrainingConfig = field(default_factory=TrainingConfig)
    search: SearchConfig = field(default_factory=SearchConfig)

    @property
    def items_per_step(self) -> int:
        """Sequences in one optimizer step, over all ranks."""
        return self.global_batch_size

    def explain_unsearchable(self) -> dict[str, str]:
        """Return setting or group -> why a search must not vary it."""
        words = "it decides what is asked, or of whom, so the metrics could not be compared"
        return super().explain_unsearchable() | dict.fromkeys(
            ("outcome", "metric_for_best", "training_fraction"), words
        )

    def __post_init__(self) -> None:
        """Refuse an empty batch, shares out of range, and what cannot go together."""
        super().__post_init__()
        for name in ("prediction_batch_size", "global_batch_size"):
            require(getattr(self, name) >= 1, name, getattr(self, name), "be 1 or more", "use 64")
        fraction, decay = self.training_fraction, self.layer_learning_rate_decay
        require(0 <= fraction <= 1, "training_fraction", fraction, "be in [0, 1]", "use 1")
        self._check_start()
        require(0 < decay <= 1, "layer_learning_rate_decay", decay, "be above 0 and at most 1", "try 0.9")
        require(self.focal_gamma > 0, "focal_gamma", self.focal_gamma, "be above 0", "use 2")
        splits = self.risk_over_time
        require(len(set(splits)) == len(splits), "risk_over_time", splits, "name each split once", "use [test]")
        for split in splits:
            lookup(dict.fromkeys(SPLITS), split, "split in risk_over_time")
        why = "be false: sequences differ in length, and each new length would be compiled"
        require(not self.training.compile, "training.compile", True, why, "leave it out")
        tokens = self.pass_tokens
        require(tokens is None or tokens >= 1, "pass_tokens", tokens, "be 1 or more, or null", "try 8192")
        rule = "be null with training.fsdp: ranks that share weights need equally many passes"
        require(not (tokens and self.training.fsdp), "pass_tokens", tokens, rule, "leave it out")
        rule = "be false with lora: adapters are small, and there is little to share out"
        require(not (self.lora.rank and self.training.fsdp), "training.fsdp", True, rule, "leave it out")
        check_space(self)

    def _check_start(self) -> None:
        """Refuse weights to start from that are not there, or of no use."""
        is_given = self.training_fraction > 0 or self.classifier_dir is not None
        rule = "be above 0 without classifier_dir: a new head has nothing to say"
        require(
            is_given, "training_fraction", self.training_fraction, rule, "give a classifier, or a share of patients"
        )
        is_plain = self.training_fraction > 0 or not self.search.num_trials
        require(is_plain, "search.num_trials", self.search.num_trials, "be 0 with training_fraction 0", "leave it out")
        is_shaped = self.backbone_dir is not None or not self.from_scratch
        require(is_shaped, "from_scratch", True, "be false without backbone_dir", "name the backbone to be shaped like")
        is_whole = not (self.from_scratch and self.lora.rank)
        require(is_whole, "lora.rank", self.lora.rank, "be 0 with from_scratch: all weights are new", "leave it out")
