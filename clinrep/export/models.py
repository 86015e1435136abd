"""The weights of a bundle: checked to belong to the tokenizer, and nothing beside tensors in their files."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from clinrep import artifacts
from clinrep.analysis.checks import check_made_from
from clinrep.artifacts import ArtifactError
from clinrep.config import InputError
from clinrep.export.bundle import Bundle
from clinrep.export.config import ExportConfig
from clinrep.export.private import find_private, strip_settings
from clinrep.export.tokenizer import ExportedTokenizer

BACKBONE, CLASSIFIER = ("backbone", "01_pretrain"), ("classifier", "02_finetune")
_SAME = {"vocabulary": ["token_id", "token"], "quantiles": ["category", "unit", "edges"]}


@dataclass(frozen=True)
class FoundModel:
    """A finished run and the model in it."""

    name: str
    """Folder in the bundle."""
    stage: str
    run_dir: Path
    model_dir: Path


def find_models(config: ExportConfig, bundle: Bundle) -> list[FoundModel]:
    """Return the backbone and the classifiers, checked against the timelines; classifiers of few people are left out.

    Raises:
        InputError: an unfinished run, one of other timelines or another tokenizer, or a file that is no plain model.
    """
    timelines = Path(config.timelines_dir)
    models = [_find("backbone", BACKBONE, Path(config.backbone_dir), timelines)]
    runs = artifacts.find_runs(Path(config.classifier_dir)) if config.classifier_dir else []
    if config.classifier_dir and not runs:
        raise ArtifactError(
            f"--classifier_dir {config.classifier_dir} holds no run of 02_finetune.py, nor folders of any"
        )
    for run_dir in runs:
        name = re.sub(
            r"[^\w.=-]", "_", "_".join(run_dir.relative_to(config.classifier_dir or "").parts) or run_dir.resolve().name
        )
        model = _find(f"classifiers/{name}", CLASSIFIER, run_dir, timelines)
        reason = _find_few(run_dir, timelines, config.min_cell_count)
        if reason:
            bundle.leave_out(model.name, reason)
        else:
            models.append(model)
    return models


def add_models(bundle: Bundle, models: list[FoundModel], tokenizer: ExportedTokenizer) -> None:
    """Write each model as later stages read it, beside the tokenizer as it leaves."""
    for model in models:
        config = strip_settings(json.loads((model.model_dir / "config.json").read_text()))
        config.pop("_name_or_path", None)
        bundle.write_text(f"{model.name}/config.json", json.dumps(config, indent=2) + "\n")
        bundle.copy(f"{model.name}/model.safetensors", model.model_dir / "model.safetensors")
        bundle.write_frame(f"{model.name}/vocabulary.parquet", tokenizer.vocabulary)
        bundle.write_frame(f"{model.name}/quantiles.parquet", tokenizer.quantiles)


def _find(name: str, kind: tuple[str, str], run_dir: Path, timelines: Path) -> FoundModel:
    folder, stage = kind
    check_made_from(stage, run_dir, timelines)
    model_dir = artifacts.find_model(run_dir, folder, stage)
    weights = model_dir / "model.safetensors"
    written = artifacts.read_done(run_dir, stage).get("outputs", {})
    if written.get(f"{folder}/{weights.name}") != artifacts.fingerprint_file(weights):
        raise ArtifactError(f"{weights} is not what {stage}.py wrote there (see DONE); run it again, or restore it")
    for table, columns in _SAME.items():
        known = artifacts.read_table_file(table, model_dir / f"{table}.parquet").select(columns)
        given = artifacts.read_table(table, timelines).select(columns)
        if not known.equals(given):
            raise InputError(
                f"{table}.parquet of the model in {model_dir} ({known.height} rows) differs from that of "
                f"--timelines_dir {timelines} ({given.height} rows); give the directory the model was trained on"
            )
    _check_weights(weights, _read_vocabulary_size(model_dir), known_size=artifacts.count_rows("vocabulary", timelines))
    return FoundModel(name, stage, run_dir, model_dir)


def _read_vocabulary_size(model_dir: Path) -> int:
    path = model_dir / "config.json"
    try:
        return int(json.loads(path.read_text())["vocab_size"])
    except (json.JSONDecodeError, KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} has no vocab_size ({error}); run the stage that wrote it again") from error


def _check_weights(path: Path, vocabulary_size: int, known_size: int) -> None:
    """Refuse weights of another vocabulary, and a file that holds more than its tensors."""
    header, end = artifacts.read_weight_header(path)
    metadata = header.pop("__metadata__", {})
    if extra := {key: value for key, value in metadata.items() if (key, value) != ("format", "pt")}:
        raise InputError(f"{path} has notes beside its tensors ({', '.join(extra)}); save it without them")
    if private := find_private(" ".join(header)):
        raise InputError(f"{path} has a tensor whose name holds {private}")
    if path.stat().st_size != end + max(tensor["data_offsets"][1] for tensor in header.values()):
        raise InputError(f"{path} is longer or shorter than its tensors; run the stage that wrote it again")
    sizes = {tensor["shape"][0] for name, tensor in header.items() if name.endswith("embed_tokens.weight")}
    if sizes != {known_size} or vocabulary_size != known_size:
        raise InputError(
            f"{path} embeds {sizes or 'no'} tokens and its config.json has {vocabulary_size}, but the vocabulary has "
            f"{known_size}; model and vocabulary are not of one run"
        )


def _find_few(run_dir: Path, timelines: Path, least: int) -> str:
    """Return why a classifier rests on too few train people, '' where it does not."""
    outcomes = set(artifacts.read_table("predictions", run_dir)["outcome"])
    labels = artifacts.read_table("outcomes", timelines).filter(pl.col("outcome").is_in(outcomes))
    train = artifacts.read_table("splits", timelines).filter(pl.col("split") == "train")
    people = labels.join(train, on="subject_id").group_by("label").agg(pl.col("patient_id").n_unique())
    counts = dict(people.iter_rows())
    if min(counts.get(True, 0), counts.get(False, 0)) < least:
        return f"fewer than {least} train people with the outcome, or without it"
    return ""
