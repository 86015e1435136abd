"""What each run of stage 02 started from and learned from, as data, and what it is called beside its siblings."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from clinrep import artifacts
from clinrep.config import FREE_SETTINGS, flatten
from clinrep.patient_shares import choose_patients

CLASSIFIER = "classifier"
LEARNED = "train"

# Start -> words for figures and tables.
STARTS = {
    "scratch": "From scratch",
    "backbone": "From the backbone",
    "classifier": "From the source classifier",
}
# of the inputs of a run: the model it starts from
_MODELS = ("backbone", "classifier")
# named by the outcome or the start, or without effect on the probabilities
_SAID_ELSEWHERE = ("outcome", "from_scratch", "risk_over_time", "prediction_batch_size")
# What still decides on the probabilities of a classifier that learns nothing; its seed names its siblings.
_OF_APPLIED = frozenset(
    {"start", "training_fraction", "seed", "random_truncation", "max_length", "truncation", *_MODELS}
)


@dataclass(frozen=True)
class ClassifierRun:
    """One run of stage 02 on one outcome of one site."""

    start: str
    """A key of STARTS: all weights new, a backbone with a new head, or a classifier."""
    training_fraction: float
    """Share of the site's train patients it learned from; 0: a classifier applied as it is."""
    seed: int
    num_stays: int
    """Labelled train stays of these patients."""
    num_events: int
    """Those of them with the event."""
    num_patients: int
    """Whose stays these are."""
    num_event_patients: int
    """Whose stays with the event."""
    is_urt: bool = False
    """Whether its train sequences were cut at random tokens (URT)."""
    is_main: bool = True
    """Whether it stands for its site: applied as it is or, where none is, learned from the largest share. The others
    are points of learning curves."""
    recipe: str = ""
    """All that decides on its result but its seed and the content of the model it starts from."""
    model: str = ""
    """The content of the model it starts from."""

    @property
    def is_applied(self) -> bool:
        """Whether it learned nothing at this site."""
        return self.training_fraction == 0


def describe_run(directory: Path, rows: pl.DataFrame, stays: pl.DataFrame) -> ClassifierRun:
    """Return what a run did, and how many stays that was.

    Args:
        directory: a finished run of stage 02.
        rows: its predictions of one outcome: subject_id, split, label.
        stays: subject_id and patient_id of the site.
    """
    settings = _read_settings(directory)
    fraction, seed = float(settings["training_fraction"]), int(settings["seed"])
    learned = rows.filter(pl.col("split") == LEARNED).join(stays.select("subject_id", "patient_id"), on="subject_id")
    patients = choose_patients(learned["patient_id"], fraction, seed)
    stays_of = learned.filter(pl.col("patient_id").is_in(patients.implode()))
    events = stays_of.filter("label")
    counts = (stays_of.height, events.height, stays_of["patient_id"].n_unique(), events["patient_id"].n_unique())
    is_urt = bool(settings.get("random_truncation"))
    recipe = _describe_recipe(settings)
    model = " ".join(settings[name] for name in _MODELS if name in settings)
    return ClassifierRun(settings["start"], fraction, seed, *counts, is_urt, recipe=recipe, model=model)


def choose_first_seeds(directories: list[Path]) -> list[Path]:
    """Return the runs without those that differ from another in a higher seed, and the model they start from, alone."""
    settings = {directory: _read_settings(directory) for directory in directories}
    recipes = {directory: _describe_recipe(one) for directory, one in settings.items()}
    lowest: dict[str, int] = {}
    for directory, recipe in recipes.items():
        lowest[recipe] = min(lowest.get(recipe, settings[directory]["seed"]), settings[directory]["seed"])
    return [directory for directory in directories if settings[directory]["seed"] == lowest[recipes[directory]]]


def _describe_recipe(settings: dict[str, Any]) -> str:
    """Return a text that is the same of runs that differ in their seed and the model they start from alone."""
    is_applied = settings["training_fraction"] == 0
    keys = _OF_APPLIED if is_applied else settings.keys()  # what it would have learned by decides on nothing
    return repr(sorted((key, settings[key]) for key in keys & settings.keys() - {"seed", *_MODELS}))


def find_main(runs: list[ClassifierRun]) -> list[bool]:
    """Return which runs of one site and outcome stand for it: those applied or, without any, of the largest share."""
    if any(run.is_applied for run in runs):
        return [run.is_applied for run in runs]
    largest = max((run.training_fraction for run in runs), default=0)
    return [run.training_fraction == largest for run in runs]


def name_runs(directories: list[Path]) -> list[str]:
    """Return a name for each run of one outcome: `classifier` and the settings that are not the same in all.

    A classifier applied as it is has the name it would have at its own site; where there is one, the runs that
    learned are named by start and share at least, as in `classifier from scratch training_fraction 0.05`.
    """
    settings = [_read_settings(directory) for directory in directories]
    is_applied = [one["training_fraction"] == 0 for one in settings]
    applied = [
        {key: value for key, value in one.items() if key in _OF_APPLIED}
        for one, is_so in zip(settings, is_applied, strict=True)
        if is_so
    ]
    learned = [one for one, is_so in zip(settings, is_applied, strict=True) if not is_so]
    always = {"start", "training_fraction"} if applied else set()
    names = {True: iter(_name(applied, set())), False: iter(_name(learned, always))}
    return [next(names[is_so]) for is_so in is_applied]


def _name(settings: list[dict[str, Any]], always: set[str]) -> list[str]:
    """Return a name for each by the keys that differ; the content of models counts where nothing else does."""
    keys = sorted(set().union(*settings), key=lambda key: (key != "start", key))
    differing = [key for key in keys if key in always or len({repr(one.get(key)) for one in settings}) > 1]
    for chosen in ([key for key in differing if key not in _MODELS], differing):
        names = [" ".join([CLASSIFIER, *_list_words(one, chosen)]) for one in settings]
        if len(set(names)) == len(names):
            break
    return names if settings else []


def _list_words(settings: dict[str, Any], keys: list[str]) -> list[str]:
    words = []
    for key in keys:
        value = settings.get(key)
        if key == "start":
            words.append(f"from {value}")
        elif isinstance(value, bool):
            words += [key.rpartition(".")[2]] if value else []
        elif key in settings:
            words.append(f"{key.rpartition('.')[2]} {value}")
    return words


def _read_settings(directory: Path) -> dict[str, Any]:
    """Return what decides a run's result: its settings, its start and the content of the model it starts from.

    Without paths, which may name the same thing differently, and without settings that change nothing.
    """
    path = directory / "config.yaml"
    content = artifacts.read_settings(path) if path.is_file() else {}
    flat = {"training_fraction": 1.0, "seed": 42} | flatten(content)
    digests = artifacts.read_done(directory, "02_finetune").get("inputs", {})
    models = {name: digests[f"{name}_dir"][:6] for name in _MODELS if f"{name}_dir" in digests}
    start = "classifier" if "classifier" in models else "scratch" if flat.get("from_scratch") else "backbone"
    return (
        {"start": start}
        | models
        | {
            key: value
            for key, value in flat.items()
            if key not in _SAID_ELSEWHERE
            and key.rpartition(".")[2] not in FREE_SETTINGS
            and not key.startswith("search.")
            and not key.endswith(("_dir", "_path"))
        }
    )
