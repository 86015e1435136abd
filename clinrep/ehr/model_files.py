"""Saved transformers read back, refused in words where they are damaged or of another kind."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TypeVar

import torch
from safetensors import SafetensorError
from transformers import LlamaConfig, PreTrainedModel

from clinrep import artifacts
from clinrep.artifacts import ArtifactError
from clinrep.failures import pass_disk_error, say

# What transformers and safetensors raise of files that are none, or of another model.
_UNREADABLE = (
    SafetensorError,
    OSError,
    ValueError,
    RuntimeError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
)

ModelT = TypeVar("ModelT", bound=PreTrainedModel)


def load_weights(
    model_class: type[ModelT],
    directory: Path,
    new_weights: frozenset[str] = frozenset(),
    attention: str = "sdpa",
) -> ModelT:
    """Return the fp32 model of a folder; of its weights only `new_weights` may be missing there."""
    read_model_config(directory)
    try:
        model, report = model_class.from_pretrained(
            directory,
            dtype=torch.float32,
            attn_implementation=attention,
            local_files_only=True,
            use_safetensors=True,  # a pickle beside it is never opened
            output_loading_info=True,
        )
    except _UNREADABLE as error:
        pass_disk_error(error, directory)
        raise ArtifactError(
            f"the model in {directory} cannot be read ({say(error)}); copy or train it again"
        ) from error
    missing = set(report["missing_keys"]) - new_weights
    if missing:
        raise ArtifactError(
            f"{directory / 'model.safetensors'} lacks {', '.join(sorted(missing))}; copy or train the model again"
        )
    _check_finite(model, directory)
    return model


def _check_finite(model: PreTrainedModel, directory: Path) -> None:
    """Refuse weights that are not numbers: whatever is computed of them is none either."""
    wrong = [name for name, weight in model.state_dict().items() if not torch.isfinite(weight).all()]
    if wrong:
        raise ArtifactError(
            f"{directory / 'model.safetensors'}: {len(wrong)} tensors hold NaN or infinity, as {wrong[0]}; copy or "
            "train the model again"
        )


def _check_config(directory: Path) -> None:
    """Refuse a config.json of another model, before one of billions of parameters is built from its defaults."""
    try:
        content = json.loads((directory / "config.json").read_text())
        size, kind = content.get("vocab_size"), content.get("model_type")
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        path = directory / "config.json"
        raise ArtifactError(f"{path} cannot be read ({say(error)}); copy or train it again") from error
    rows = artifacts.read_table_file("vocabulary", directory / "vocabulary.parquet").height
    if size != rows:
        raise ArtifactError(
            f"{directory / 'config.json'} says vocab_size {size} but vocabulary.parquet beside it has {rows} tokens; "
            "copy or train the model again"
        )
    if kind != LlamaConfig.model_type:
        raise ArtifactError(
            f"{directory / 'config.json'} is of a {kind}, expected a {LlamaConfig.model_type}; copy or train it again"
        )


def read_model_config(directory: Path) -> LlamaConfig:
    """Return the shape of a saved model."""
    _check_config(directory)
    try:
        return LlamaConfig.from_pretrained(directory, attn_implementation="sdpa", local_files_only=True)
    except Exception as error:  # transformers and huggingface_hub have classes of errors of their own
        path = directory / "config.json"
        raise ArtifactError(f"{path} is of no model known here ({say(error)}); copy or train it again") from error
