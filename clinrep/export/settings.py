"""The settings of a bundle: those of every run in it, without paths, machines and users."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.export.bundle import Bundle
from clinrep.export.config import ExportConfig
from clinrep.export.models import FoundModel
from clinrep.export.private import REMOVED, strip_settings
from clinrep.export.tokenizer import ExportedTokenizer

_TOLD = ("stage", "commit", "is_dirty", "python")
_TABLES = ("vocabulary", "quantiles", "categories")


def add_tokenizer(bundle: Bundle, tokenizer: ExportedTokenizer) -> None:
    """Write the tokenizer as a directory that 00_tokenize.py takes as --tokenizer_dir."""
    settings = strip_settings(tokenizer.settings)
    text = yaml.safe_dump(settings, sort_keys=False, allow_unicode=True, width=100)
    if REMOVED in text:
        raise InputError(
            "the settings of --timelines_dir name a path, this machine or its user in the words of a source or token, "
            "and a tokenizer does not work without these; rename them and run 00_tokenize.py again"
        )
    bundle.write_text("tokenizer/config.yaml", text)
    for name in _TABLES:
        bundle.write_frame(f"tokenizer/{name}.parquet", getattr(tokenizer, name))
    bundle.place("tokenizer/DONE")
    artifacts.write_done(bundle.directory / "tokenizer", "00_tokenize", {"train_stays": tokenizer.num_train_stays}, {})
    bundle.suppressed |= tokenizer.suppressed


def add_settings(bundle: Bundle, config: ExportConfig, models: list[FoundModel]) -> list[dict[str, Any]]:
    """Write the settings of every run, and return what may be told of how each was made."""
    runs = [("00_tokenize", "00_tokenize", Path(config.timelines_dir))]
    for model in models:
        stem = model.stage if model.name == "backbone" else f"{model.stage}.{Path(model.name).name}"
        runs.append((stem, model.stage, model.run_dir))
    if config.analyze_dir is not None:
        runs.append(("04_analyze", "04_analyze", Path(config.analyze_dir)))
    made = []
    for stem, stage, directory in runs:
        settings = _read(directory / "config.yaml")
        stripped = yaml.safe_dump(strip_settings(settings), sort_keys=False, allow_unicode=True, width=100)
        bundle.write_text(f"settings/{stem}.yaml", stripped)
        provenance = _read(directory / "provenance.json")
        told = {key: provenance.get(key) for key in _TOLD} | {"stage": stage, "settings": f"{stem}.yaml"}
        made.append(told | {"date": str(provenance.get("started", ""))[:10]})
    bundle.write_text("settings/provenance.json", json.dumps(made, indent=2) + "\n")
    return made


def _read(path: Path) -> dict[str, Any]:
    """Return the mapping in a YAML or JSON file, empty where there is none."""
    content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return content if isinstance(content, dict) else {}
