"""Random messy folders under random settings: every table equals the brute force, every row is accounted for."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from clinrep.ehr.deaths import CONTRADICTED
from clinrep.ehr.labels import CENSORED
from clinrep.ehr.outcomes import OUTCOMES
from tests.ehr.brute_checks import check_against_brute_force, check_ledger, check_unknown
from tests.ehr.brute_force import BruteForce
from tests.ehr.random_clif import build_config, draw_settings, write_random_clif
from tests.ehr.tiny_clif import Result, tokenize_in_memory

RANDOM = [(seed, {}) for seed in range(20)]
# What a random choice may miss, or what is worth more than one folder.
CHOSEN: list[tuple[int, dict[str, Any]]] = [
    (20, {"token_style": "fused", "bin_without_edges": "last", "num_bins": 10}),
    (21, {"token_style": "separate", "gap_minutes": [0.5, 60], "clock_hours": 6, "clock_offset_hours": -5.0}),
    (22, {"num_bins": 4, "normalize": "lower", "learn_from_untimed": True}),
    (23, {"normalize": "none", "min_length_of_stay_hours": 0, "learn_from_untimed": True}),
    (24, {"train_fraction": 0.4, "val_fraction": 0.3, "min_age_years": 41, "admission_window": None}),
    (25, {"window": {"length_hours": 2.5}, "num_bins": 2, "length_filter": "timeline"}),
    (27, {"edge_time_sources": ["labs"], "gap_minutes": [60], "clock_hours": 24}),
]


def check(directory: Path, seed: int, settings: dict[str, Any]) -> Result:
    """Return what stage 00 makes of a folder that chance wrote, after every comparison with the brute force."""
    clif = write_random_clif(directory / "clif", seed)
    settings = {**draw_settings(seed), **settings, "clif_dir": str(clif)}
    if settings["edge_time_sources"] is not None:
        settings["sources"] = [source for source in settings["sources"] if source["name"] != "diagnoses"]
    result, brute = tokenize_in_memory(build_config(settings)), BruteForce(settings)
    assert len(result.timelines) >= 5
    check_against_brute_force(result, brute)
    check_ledger(result, brute)
    check_unknown(result, brute)
    return result


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[int], Result]:
    """Return `check` of the seeds of RANDOM, each made once."""
    return cache(lambda seed: check(tmp_path_factory.mktemp("random"), seed, {}))


@pytest.mark.parametrize(("seed", "settings"), [*RANDOM, *CHOSEN])
def test_random_folder_equals_the_brute_force(
    checked: Callable[[int], Result],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    seed: int,
    settings: dict[str, Any],
):
    calls = []
    lexsort = np.lexsort
    monkeypatch.setattr(np, "lexsort", lambda keys: calls.append(len(keys)) or lexsort(keys))
    check(tmp_path, seed, settings) if settings else checked(seed)
    assert bool(calls) == (seed % 4 == 3)  # one integer holds stay, time and rank, unless an event is far away


def test_random_folders_have_every_label_of_every_outcome(checked: Callable[[int], Result]):
    results = [checked(seed) for seed in (1, 2, 3, 6, 7, 8)]
    rows = [(name, row) for result in results for (_, name), row in result.outcomes.items()]
    found = {name: {row[1] for other, row in rows if other == name} for name in OUTCOMES}
    assert all(found[name] == {True, False, None} for name in OUTCOMES), found
    reasons = {reason for _, (*_, reason) in rows}
    assert {CENSORED, CONTRADICTED, "not in an ICU before index_time", "event without a time"} < reasons


def test_random_folders_have_what_they_are_for(checked: Callable[[int], Result]):
    """What no folder held, no comparison would have tested."""
    results = [checked(seed) for seed in (2, 5, 7, 11)]
    words = {token for result in results for tokens, _ in result.timelines.values() for token in tokens}
    for start in ("MED_STOP_", "MED_GIVEN_", "CODE_STATUS_", "CRRT_", "RESP_SET_", "DIAGNOSIS_", "GAP_", "CLOCK_"):
        assert any(word.startswith(start) for word in words), start
    assert "UNK" in words
    assert any("minus_2" in word for word in words)
    steps = {step.partition(": ")[2] for result in results for _, step, *_ in result.ledger}
    assert {"unknown", "beyond range", "unit", "stay", "range", "time", "category", "table"} <= steps
