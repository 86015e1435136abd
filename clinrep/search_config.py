"""Settings of a hyperparameter search, and how a trial's values take their place among the others."""

from __future__ import annotations

import dataclasses
import types
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from clinrep.config import FREE_SETTINGS, InputError, StageConfig, lookup, require

ConfigT = TypeVar("ConfigT")

_SCALARS = (bool, int, float, str)


@dataclass(frozen=True, kw_only=True)
class SearchRange:
    """Values a setting may take in a search: either `choices`, or a number from `low` to `high`."""

    low: float | None = None
    """Least value; included."""
    high: float | None = None
    """Greatest value; included."""
    log: bool = False
    """Draw evenly on the logarithmic scale."""
    choices: list[Any] = field(default_factory=list)
    """The values to choose from."""


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """A search for the settings whose best validation metric is the best, by Optuna."""

    num_trials: int = 0
    """Trials in all, failed and pruned ones included; 0: no search."""
    space: dict[str, SearchRange] = field(default_factory=dict)
    """Full name of a setting, as training.learning_rate -> its values."""
    num_startup_trials: int = 10
    """Trials drawn at random before the sampler (TPE) learns from what came out."""
    pruner: Literal["median", "none"] = "median"
    """median: end a trial whose best validation so far is worse than the median, at the same step, of the completed
    trials; none: let every trial run to its end."""
    num_unpruned_trials: int = 5
    """Trials that must be complete before any is pruned (Optuna's default, as in the manuscript)."""
    num_unpruned_validations: int = 0
    """Validations of a trial before it may be pruned; more than 0 spares trials that only start slowly."""
    worker: int | None = None
    """Number of this process among several that share the search, as a Slurm array task; null: it works alone, or
    ends the search of several by taking the best trial as the result."""

    def __post_init__(self) -> None:
        """Refuse counts below their least, and a search without a space."""
        counts = {"num_trials": 0, "num_startup_trials": 1, "num_unpruned_trials": 1, "num_unpruned_validations": 0}
        for name, least in counts.items():
            value = getattr(self, name)
            require(value >= least, f"search.{name}", value, f"be {least} or more", f"use {max(least, 10)}")
        worker, trials = self.worker, self.num_trials
        require(worker is None or worker >= 0, "search.worker", worker, "be 0 or more, or null", "use 0")
        rule, remedy = "be null without a search", "give search.num_trials too"
        require(worker is None or trials > 0, "search.worker", worker, rule, remedy)
        rule, remedy = "be 0 without a search.space", "name the settings to search there"
        require(bool(self.space) or trials == 0, "search.num_trials", trials, rule, remedy)


@dataclass(frozen=True, kw_only=True)
class SearchedConfig(StageConfig):
    """Settings of a stage whose settings can be searched; it declares the group `search` itself.

    (jsonargparse looks for the class of a group in the module of the last subclass only.)
    """

    if TYPE_CHECKING:
        search: SearchConfig

    @property
    def run_dir(self) -> Path:
        """Directory of this process's run; of one that shares a search, a folder of its own in output_dir."""
        if self.search.worker is None:
            return super().run_dir
        return super().run_dir / "workers" / f"worker-{self.search.worker}"

    @property
    def shared_folders(self) -> frozenset[str]:
        """Folders of `output_dir` that workers of a search may have made before the run that takes its result."""
        return frozenset({"search", "trials", "workers"} if self.search.num_trials else ())


def check_space(config: Any) -> dict[str, SearchRange]:
    """Return `config.search.space` with its values in the types of the settings; {} where nothing is searched.

    Each bound and each choice, one at a time among the other settings as they are, must make a config.

    Args:
        config: frozen config of a stage with a group `search`.

    Raises:
        InputError: a name that cannot be searched, values that do not fit its setting, or settings that
            contradict each other.
    """
    if config.search.num_trials == 0:
        return {}
    fixed = config.explain_unsearchable()
    searchable = _list_searchable(config, fixed)
    space = {}
    for name, values in config.search.space.items():
        reason = fixed.get(name.split(".")[0])
        if reason:
            raise InputError(f"search.space: {name} cannot be searched: {reason}")
        space[name] = _fit(name, values, lookup(searchable, name, "setting to search"))
    for _ in list_corners(config, space):
        pass
    return space


def list_corners(config: ConfigT, space: Mapping[str, SearchRange]) -> Iterator[ConfigT]:
    """Yield the settings without a search, with each bound and each choice of `space` in turn.

    Raises:
        InputError: one of them makes no valid settings.
    """
    alone = apply(config, {"search": SearchConfig()})
    for name, values in space.items():
        for value in values.choices or (values.low, values.high):
            try:
                yield apply(alone, {name: value})
            except ValueError as error:
                raise InputError(f"search.space: {name} = {value!r} makes no valid settings: {error}") from error


def apply(config: ConfigT, values: Mapping[str, Any]) -> ConfigT:
    """Return `config` with other values of some settings, every group checked anew.

    Args:
        config: frozen dataclass, groups of settings nested in it.
        values: 'group.key' -> value.

    Raises:
        InputError: the settings contradict each other.
    """
    groups: dict[str, dict[str, Any]] = {}
    changes: dict[str, Any] = {}
    for name, value in values.items():
        first, _, rest = name.partition(".")
        if rest:
            groups.setdefault(first, {})[rest] = value
        else:
            changes[first] = value
    for group, inner in groups.items():
        changes[group] = apply(getattr(config, group), inner)
    try:
        changed: ConfigT = dataclasses.replace(config, **changes)  # type: ignore[type-var]
    except ValueError as error:
        raise InputError(str(error)) from error
    return changed


def _list_searchable(config: Any, left_out: Collection[str], prefix: str = "") -> dict[str, Any]:
    """Return 'group.key' -> type of every setting that decides what a trial computes, but those in `left_out`."""
    searchable: dict[str, Any] = {}
    for name, hint in get_type_hints(type(config)).items():
        value = getattr(config, name)
        if name in left_out or name in FREE_SETTINGS or name.endswith(("_dir", "_path")):
            continue
        if dataclasses.is_dataclass(value):
            searchable |= _list_searchable(value, (), f"{prefix}{name}.")
        elif all(kind in _SCALARS or get_origin(kind) is Literal for kind in _split_optional(hint)[0]):
            searchable[prefix + name] = hint
    return searchable


def _split_optional(hint: Any) -> tuple[list[Any], bool]:
    """Return the types of an annotation without None, and whether None is one of them."""
    kinds = list(get_args(hint)) if get_origin(hint) in (Union, types.UnionType) else [hint]
    return [kind for kind in kinds if kind is not type(None)], type(None) in kinds


def _fit(name: str, values: SearchRange, hint: Any) -> SearchRange:
    """Return `values` in the type of the setting, else raise an InputError."""
    (kind, *_), is_optional = _split_optional(hint)
    has_bounds = values.low is not None and values.high is not None
    try:
        if values.choices:
            is_alone = values.low is None and values.high is None and not values.log
            require(is_alone, name, values.choices, "have no low, high or log beside choices", "drop them")
            choices = [_convert(name, value, kind, is_optional) for value in values.choices]
            is_once = len({repr(choice) for choice in choices}) == len(choices)
            require(is_once, name, choices, "name each choice once", "drop one")
            return SearchRange(choices=choices)
        is_number = kind in (int, float)
        require(has_bounds and is_number, name, _describe(values), *_rule_of_bounds(is_number))
        low, high = (_convert(name, value, kind, False) for value in (values.low, values.high))
        require(low <= high, name, _describe(values), "have low at or below high", "swap them")
        require(low > 0 or not values.log, name, _describe(values), "have low above 0 with log", "raise low")
        return SearchRange(low=low, high=high, log=values.log)
    except ValueError as error:
        raise InputError(f"search.space: {error}") from error


def _rule_of_bounds(is_number: bool) -> tuple[str, str]:
    if is_number:
        return "have low and high, or choices", "write {low: 1, high: 10} or {choices: [1, 10]}"
    return "have choices: the setting is no number", "write {choices: [...]}"


def _describe(values: SearchRange) -> dict[str, Any]:
    """Return what was given of a range."""
    given = {"low": values.low, "high": values.high, "log": values.log or None}
    return {key: value for key, value in given.items() if value is not None}


def _convert(name: str, value: Any, kind: Any, is_optional: bool) -> Any:
    """Return `value` in the type of its setting, else raise a ValueError."""
    if value is None and is_optional:
        return None
    if get_origin(kind) is Literal:
        known = list(get_args(kind))
        require(value in known, name, value, f"be one of {known}", f"try {known[0]}")
        return value
    is_whole = isinstance(value, (int, float)) and not isinstance(value, bool) and value == value // 1
    is_fine = {
        bool: isinstance(value, bool),
        int: is_whole,
        float: isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < float("inf"),
        str: isinstance(value, str),
    }[kind]
    words = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}[kind]
    require(is_fine, name, value, f"be {words}", "correct it")
    return kind(value)
