"""What the runs behind a report say of themselves: settings, shape of the model, training, software."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from clinrep import artifacts
from clinrep.analysis.predictions import find_prediction_runs
from clinrep.analysis.study import Study
from clinrep.config import InputError

PACKAGES = ("torch", "transformers", "polars", "scikit-learn", "numpy", "scipy", "statsmodels", "lightgbm")


@dataclass(frozen=True)
class RunFacts:
    """One finished run, as far as its directory is there and unchanged."""

    directory: Path
    config: dict[str, Any]
    provenance: dict[str, Any]
    done: dict[str, Any]

    def get(self, key: str) -> Any:
        """Return a setting by its full name (`training.num_epochs`), None where it is not there."""
        value: Any = self.config
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        return value

    @property
    def date(self) -> str:
        """Day the run began; of a run that was continued, the last time."""
        return str(self.provenance.get("started") or "")[:10]


@dataclass(frozen=True)
class StudyFacts:
    """The runs behind a report; of the model's, None or nothing where they cannot be found."""

    analysis: RunFacts
    tokenized: dict[str, RunFacts]
    """By site."""
    extracted: RunFacts
    backbone: RunFacts | None
    classifiers: list[RunFacts]
    environment: dict[str, str]
    """Package -> version, of this analysis."""


def read_facts(study: Study) -> StudyFacts:
    """Read what the runs behind a study tell; a model's run counts only with the content that was used."""
    config, site = study.config, study.config.fitted_site
    extracted = read_run(Path(config.representations_dir[site]))
    classifiers = []
    for given in config.predictions_dir.values():
        classifiers += [read_run(directory) for directory in find_prediction_runs(Path(given))]
    start = _find_used(extracted, "classifier_dir")
    sources = [extracted, *([start] if start else []), *classifiers]
    backbone = next((found for source in sources if (found := _find_used(source, "backbone_dir"))), None)
    return StudyFacts(
        analysis=read_run(study.directory),
        tokenized={name: read_run(Path(given)) for name, given in config.timelines_dir.items()},
        extracted=extracted,
        backbone=backbone,
        classifiers=classifiers,
        environment=_read_environment(study.directory / "environment.txt"),
    )


def read_run(directory: Path) -> RunFacts:
    """Return what a run directory tells; what is missing or unreadable is empty."""
    contents = [_read_mapping(directory / name) for name in ("config.yaml", "provenance.json", "DONE")]
    return RunFacts(directory, *contents)


def read_model(run: RunFacts, folder: str) -> dict[str, Any]:
    """Return the model's config.json with `num_parameters`; empty where there is no model."""
    model = _read_mapping(run.directory / folder / "config.json")
    weights = run.directory / folder / "model.safetensors"
    if model and weights.is_file():
        try:
            model["num_parameters"] = artifacts.count_parameters(weights)
        except InputError:
            return model
    return model


def read_training(run: RunFacts) -> dict[str, float]:
    """Return `num_steps`, the last `loss` and the best `eval_loss` of metrics.jsonl, those that are there."""
    path = run.directory / "metrics.jsonl"
    facts: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else []:
        try:
            record = json.loads(line)
            name, step, value = record["name"], int(record["step"]), record["value"]
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            continue  # a line that a kill cut off
        facts["num_steps"] = max(facts.get("num_steps", 0), step)
        if name == "loss" and value is not None:
            facts["loss"] = value
        if name == "eval_loss" and value is not None:
            facts["eval_loss"] = min(facts.get("eval_loss", value), value)
    return facts


def _find_used(run: RunFacts, setting: str) -> RunFacts | None:
    """Return the run that `setting` of another names, if what lies there is what that run read."""
    used, given = run.done.get("inputs", {}).get(setting), run.config.get(setting)
    if not used or not given or not Path(given).is_dir() or artifacts.fingerprint(Path(given)) != used:
        return None
    found = read_run(Path(given))
    return found if found.done else None


def _read_environment(path: Path) -> dict[str, str]:
    lines = path.read_text().splitlines() if path.is_file() else []
    versions = dict(line.partition("==")[::2] for line in lines)
    return {name: versions[name] for name in PACKAGES if name in versions}


def _read_mapping(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}
