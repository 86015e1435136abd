"""Where the inputs of a run come from: the paths its settings name, and the finished runs that lie there."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from clinrep import artifacts
from clinrep.config import FREE_SETTINGS, flatten


def select_paths(settings: Mapping[str, Any]) -> dict[str, Path]:
    """Return setting -> path of everything that nested settings name to be read."""
    return {
        key: Path(value)
        for key, value in flatten(settings).items()
        if value
        and key.rpartition(".")[2] not in FREE_SETTINGS
        and any(part.endswith(("_dir", "_path")) for part in key.split("."))
    }


def find_input_runs(path: Path) -> list[Path]:
    """Return the finished runs that an input is: itself, those in the folder, or the one it is a part of.

    A part is a model's folder (01_pretrain/backbone) or a file (00_tokenize/splits.parquet). None for what no
    stage wrote, as a hospital's tables.
    """
    runs = artifacts.find_runs(path) if path.is_dir() else []
    runs = runs or [path.absolute().parent]
    return [run for run in runs if (run / "DONE").is_file()]


def describe_input_runs(inputs: Mapping[str, Path]) -> dict[str, list[dict[str, Any]]]:
    """Return, of every input that a stage wrote, the runs it is: what made them, with which settings and code.

    `done` is the digest of the run's DONE, which holds those of its files, provenance.json among them, which
    holds those of its inputs: so one digest stands for all that led to it.
    """
    return {
        key: [describe_run(run, path) for run in runs]
        for key, path in inputs.items()
        if (runs := find_input_runs(path))
    }


def describe_run(run: Path, path: Path) -> dict[str, Any]:
    """Return stage, code, settings and DONE of a finished run, which `path` names or is a part of."""
    provenance = read_json(run / "provenance.json")
    config = run / "config.yaml"
    name = ".." if run == path.absolute().parent else run.relative_to(path).as_posix()
    return {
        "run": name,
        "stage": read_json(run / "DONE").get("stage"),
        "commit": provenance.get("commit"),
        "is_dirty": provenance.get("is_dirty"),
        "config": artifacts.fingerprint_file(config) if config.is_file() else None,
        "done": artifacts.fingerprint_file(run / "DONE"),
    }


def read_json(path: Path) -> dict[str, Any]:
    """Return a small JSON file's content, {} where it is missing or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
