"""The transformers of hospital records: Llama architecture, built from numbers or loaded from disk."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any, TypeVar

import polars as pl
import torch
import transformers
from safetensors import SafetensorError
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification, LlamaModel, PreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutputWithPast

from clinrep import artifacts, distributed
from clinrep.artifacts import ArtifactError
from clinrep.batches import IGNORED
from clinrep.class_losses import ItemLoss, compute_cross_entropy
from clinrep.config import InputError
from clinrep.ehr.blocks import PretrainingData
from clinrep.ehr.compatibility import check_model_fits
from clinrep.ehr.configs.extract import ExtractConfig
from clinrep.ehr.configs.finetune import FinetuneConfig
from clinrep.ehr.configs.pretrain import LlamaShape, PretrainConfig
from clinrep.ehr.configs.sequences import SequenceConfig
from clinrep.ehr.configs.tokenize import PAD_TOKEN
from clinrep.ehr.tokenizer import load_settings
from clinrep.training.attention import PACKED_ATTENTION
from clinrep.zero_shot.cache import attend_continuations

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()  # else a bar for every model read

CONTINUING_ATTENTION = "continuing"  # like PACKED_ATTENTION it is registered without a mask function
transformers.AttentionInterface.register(CONTINUING_ATTENTION, attend_continuations)

logger = logging.getLogger("clinrep")

ModelT = TypeVar("ModelT", bound=PreTrainedModel)


def build_language_model(config: PretrainConfig, data: PretrainingData) -> LlamaForCausalLM:
    """Return the fp32 model to pretrain: seeded random weights, or another run's backbone.

    Raises:
        InputError: the backbone has another vocabulary, or fewer positions than a block.
    """
    if config.backbone_dir is None:
        distributed.seed_torch(distributed.derive_seed(config.seed, "model"))
        model = LlamaForCausalLM(make_llama_config(config.model, data.vocabulary))
    else:
        model = _continue_backbone(config, data)
    known = getattr(model.config, "trained_positions", 0)
    model.config.trained_positions = max(known, config.block_size)  # zero-shot continuations end there
    logger.info(
        "model: %d parameters, %d layers, width %d, vocabulary %d",
        model.num_parameters(),
        model.config.num_hidden_layers,
        model.config.hidden_size,
        model.config.vocab_size,
    )
    return model


def make_llama_config(shape: LlamaShape, vocabulary: pl.DataFrame) -> LlamaConfig:
    """Return the transformers config of `shape` with the ids of the vocabulary's special tokens."""
    special = dict(vocabulary.filter(pl.col("kind") == "special").select("token", "token_id").iter_rows())
    return LlamaConfig(
        vocab_size=vocabulary.height,
        hidden_size=shape.hidden_size,
        intermediate_size=shape.intermediate_size,
        num_hidden_layers=shape.num_layers,
        num_attention_heads=shape.num_heads,
        num_key_value_heads=shape.num_key_value_heads,
        head_dim=shape.head_dim,
        max_position_embeddings=shape.max_positions,
        rms_norm_eps=shape.rms_norm_eps,
        rope_parameters=_make_rope_parameters(shape),
        tie_word_embeddings=shape.tie_embeddings,
        pad_token_id=special[PAD_TOKEN],
        bos_token_id=special.get("TL_START"),
        eos_token_id=special.get("TL_END"),
        dtype="float32",
        attn_implementation=PACKED_ATTENTION,
        use_cache=False,  # batches are packed: there is nothing to continue
    )


def _make_rope_parameters(shape: LlamaShape) -> dict[str, Any]:
    """Return what transformers needs to know of the rotary positions."""
    if shape.rope_llama3 is None:
        return {"rope_type": "default", "rope_theta": shape.rope_theta}
    return {
        "rope_type": "llama3",
        "rope_theta": shape.rope_theta,
        "factor": shape.rope_llama3.factor,
        "low_freq_factor": shape.rope_llama3.low_frequency_factor,
        "high_freq_factor": shape.rope_llama3.high_frequency_factor,
        "original_max_position_embeddings": shape.rope_llama3.original_positions,
    }


def load_language_model(directory: Path, attention: str = "sdpa") -> LlamaForCausalLM:
    """Return the fp32 model of a backbone folder, as `artifacts.find_model` names it.

    Raises:
        ArtifactError: weights are missing.
    """
    return _load(LlamaForCausalLM, directory, attention=attention)


def _load(
    model_class: type[ModelT],
    directory: Path,
    new_weights: frozenset[str] = frozenset(),
    attention: str = "sdpa",
) -> ModelT:
    """Return the fp32 model of a folder; of its weights only `new_weights` may be missing there."""
    _check_config(directory)
    try:
        model, report = model_class.from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,  # a pickle beside it is never opened
            output_loading_info=True,
        )
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        first_line = str(error).strip().split("\n")[0]
        raise ArtifactError(
            f"the model in {directory} cannot be read ({first_line}); copy or train it again"
        ) from error
    missing = set(report["missing_keys"]) - new_weights
    if missing:
        raise ArtifactError(f"{directory / 'model.safetensors'} lacks {', '.join(sorted(missing))}")
    return model


def _check_config(directory: Path) -> None:
    """Refuse a config.json of another model, before one of billions of parameters is built from its defaults."""
    try:
        size = json.loads((directory / "config.json").read_text()).get("vocab_size")
    except (OSError, ValueError, AttributeError) as error:
        raise ArtifactError(f"{directory / 'config.json'} cannot be read ({error}); copy or train it again") from error
    rows = artifacts.read_table_file("vocabulary", directory / "vocabulary.parquet").height
    if size != rows:
        raise ArtifactError(
            f"{directory / 'config.json'} says vocab_size {size} but vocabulary.parquet beside it has {rows} tokens; "
            "copy or train the model again"
        )


def _continue_backbone(config: PretrainConfig, data: PretrainingData) -> LlamaForCausalLM:
    """Return the backbone of another run, refused unless it has the same tokenizer."""
    directory = artifacts.find_model(Path(str(config.backbone_dir)), "backbone", "01_pretrain")
    check_model_fits(directory, Path(config.timelines_dir))
    model = load_language_model(directory, PACKED_ATTENTION)
    longest = model.config.max_position_embeddings
    if config.block_size > longest:
        raise InputError(f"block_size is {config.block_size} but {config.backbone_dir} accepts at most {longest}")
    logger.info("continuing from %s; the settings under model are ignored", directory)
    return model


class ExactLinear(torch.nn.Linear):
    """A linear layer in fp32 also under autocast: bf16 would give a hospital's stays a few thousand distinct risks."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return f32 (..., out_features)."""
        with torch.autocast(input.device.type, enabled=False):
            return super().forward(input.float())


class LlamaClassifier(LlamaForSequenceClassification):
    """Llama with a linear head on the last token, two classes, for left-padded batches.

    It minimizes `item_loss`, divided by `num_items_in_batch` and without label -100, so that accumulated
    gradients and uneven ranks weigh every sequence alike; transformers' own loss averages within each batch.
    """

    HEAD = "score"
    """Name of the module that is new where training starts from a backbone."""

    def __init__(self, config: LlamaConfig) -> None:
        """Build the model of `config`, its head one that computes in fp32 whatever autocast says."""
        super().__init__(config)
        self.score = ExactLinear(config.hidden_size, self.num_labels, bias=False)
        self.post_init()

    item_loss: ItemLoss = staticmethod(compute_cross_entropy)

    def score_positions(self, input_ids: torch.Tensor) -> torch.Tensor:
        """Return the logits (B, L, 2) after every token of right-padded input_ids (B, L), in one causal pass."""
        hidden = self.model(input_ids=input_ids, use_cache=False).last_hidden_state
        logits: torch.Tensor = self.score(hidden)
        return logits

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        num_items_in_batch: torch.Tensor | int | None = None,
        **kwargs: Any,
    ) -> SequenceClassifierOutputWithPast:
        """Return logits (B, 2) and, with labels i64 (B,), the loss; inputs are (B, L)."""
        kwargs.setdefault("use_cache", False)
        output = super().forward(input_ids, attention_mask, position_ids=position_ids, **kwargs)
        if labels is not None:
            is_labelled = labels != IGNORED
            losses = self.item_loss(output.logits, labels.clamp_min(0))
            num_items = is_labelled.sum() if num_items_in_batch is None else num_items_in_batch
            output.loss = torch.where(is_labelled, losses, 0.0).sum() / num_items
        return output


def load_classifier(config: FinetuneConfig) -> LlamaClassifier:
    """Return the fp32 classifier to train: a backbone with a new seeded head, one all new, or another run's classifier.

    Raises:
        InputError: it has another tokenizer than the timelines, or fewer positions than max_length; a classifier to be
            applied as it is was trained with another random_truncation.
    """
    directory = _find_for_sequences(config)
    if config.classifier_dir is not None:
        _check_classifier(directory.parent, config)
    if config.from_scratch:
        distributed.seed_torch(distributed.derive_seed(config.seed, "model"))
        shape = LlamaConfig.from_pretrained(directory, attn_implementation="sdpa", local_files_only=True)
        return LlamaClassifier(shape)
    distributed.seed_torch(distributed.derive_seed(config.seed, "head"))
    return _load(LlamaClassifier, directory, frozenset({"score.weight"}) if config.backbone_dir else frozenset())


def _check_classifier(run_dir: Path, config: FinetuneConfig) -> None:
    """Warn where the classifier to start from was trained on another outcome, which its head then has learned.

    Raises:
        InputError: it is to be applied as it is, under another random_truncation, by which the analysis tells it.
    """
    if not (run_dir / "DONE").is_file():
        return
    saved = load_settings(run_dir)
    if saved["outcome"] != config.outcome:
        words = "%s was trained on %s and goes on with %s, its head included"
        logger.warning(words, run_dir, saved["outcome"], config.outcome)
    is_urt = bool(saved.get("random_truncation"))
    if config.training_fraction == 0 and is_urt != config.random_truncation:
        raise InputError(
            f"{run_dir} was trained with random_truncation {str(is_urt).lower()} and is applied as it is, but "
            f"random_truncation is {str(config.random_truncation).lower()} here, by which its predictions would be "
            f"named; give --random_truncation {str(is_urt).lower()}"
        )


def load_encoder(config: ExtractConfig) -> LlamaModel:
    """Return the fp32 transformer of a backbone or of a classifier, without head, on this rank's device.

    Raises:
        InputError: it has another tokenizer than the timelines, or fewer positions than max_length.
    """
    model_class = LlamaForCausalLM if config.backbone_dir else LlamaClassifier
    # sequences come padded right without a mask, and this attention makes none
    whole = _load(model_class, _find_for_sequences(config), attention=PACKED_ATTENTION)
    return whole.model.to(distributed.choose_device()).eval()


def load_frozen_language_model(config: ExtractConfig) -> LlamaForCausalLM:
    """Return the fp32 backbone with its head, on this rank's device, to score and to sample sequences.

    Its attention is causal without a mask, and keeps continuations where it is given some (zero_shot/cache.py).

    Raises:
        InputError: it has another tokenizer than the timelines, or fewer positions than max_length.
    """
    model = _load(LlamaForCausalLM, _find_for_sequences(config), attention=CONTINUING_ATTENTION)
    return model.to(distributed.choose_device()).eval()


def _find_for_sequences(config: SequenceConfig) -> Path:
    """Return the folder of the model the settings name, checked against the timelines and max_length."""
    if config.backbone_dir is not None:
        directory = artifacts.find_model(Path(config.backbone_dir), "backbone", "01_pretrain")
    else:
        directory = artifacts.find_model(Path(str(config.classifier_dir)), "classifier", "02_finetune")
    check_model_fits(directory, Path(config.timelines_dir))
    longest = LlamaConfig.from_pretrained(directory, local_files_only=True).max_position_embeddings
    if config.max_length > longest:
        raise InputError(f"max_length is {config.max_length} but {directory} accepts at most {longest}; lower it")
    return directory
