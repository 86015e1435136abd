"""Whatever the budget, the batches, the shards and the threads: the same bytes, and nothing left over."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from clinrep.config import InputError
from clinrep.ehr import events, quantiles, scan, store, tokenize, vocabulary
from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.store import SPILL_PREFIX, EventStore
from clinrep.modality import load_modality
from tests.ehr.random_clif import build_config, draw_settings, write_random_clif

SEEDS = {"whole seconds": 1, "microseconds": 2, "far away": 3}
SETTINGS = {"gap_minutes": [60], "clock_hours": 6, "subjects_per_part": 4, "min_length_of_stay_hours": 0}


def run_stage(monkeypatch: pytest.MonkeyPatch, config: TokenizeConfig) -> Path:
    """Run the `main` of the script with settings already parsed."""
    script = importlib.import_module("00_tokenize")
    monkeypatch.setattr(script, "load_stage", lambda *_: (load_modality("ehr"), config))
    script.main([])
    return Path(config.output_dir)


def read_tables(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in sorted(directory.rglob("*.parquet"))}


def find_spill(directory: Path) -> list[Path]:
    return [path for path in directory.rglob(f"{SPILL_PREFIX}*/*") if path.stat().st_size]


@pytest.fixture(params=SEEDS)
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., TokenizeConfig]:
    """Return a function: output directory -> settings for a random folder."""
    seed = SEEDS[request.param]
    clif = write_random_clif(tmp_path / "clif", seed)
    settings = {**draw_settings(seed), **SETTINGS, "clif_dir": str(clif)}
    return lambda name, **more: build_config(settings, **{"output_dir": str(tmp_path / name), **more})


class Spy:
    """An event store with little memory that notes what lay in files while shards were read."""

    def __init__(self, memory_bytes: int = 500) -> None:
        self.memory_bytes = memory_bytes
        self.stores: list[EventStore] = []
        self.num_files = 0

    def __call__(self, num_stays: int, num_events: int, memory_bytes: int, directory: Path) -> EventStore:
        made = EventStore(num_stays, num_events, self.memory_bytes, directory)
        read = made.read

        def read_and_look(shard: int) -> Any:
            self.num_files = max(self.num_files, len(find_spill(directory)))
            return read(shard)

        made.read = read_and_look  # type: ignore[method-assign]
        self.stores.append(made)
        return made


def limit_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "SHARD_EVENTS", 7)


def limit_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "BATCH_ROWS", 13)


def limit_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scan, "MAX_TABLE", 1)


def limit_quantiles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quantiles, "BYTES_PER_VALUE", 1 << 60)


def limit_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pl, "thread_pool_size", lambda: 1)


LIMITS = (limit_shards, limit_batches, limit_table, limit_quantiles, limit_threads)


def test_the_tables_are_byte_identical_under_every_limit(
    make: Callable[..., TokenizeConfig], monkeypatch: pytest.MonkeyPatch
):
    plenty = read_tables(run_stage(monkeypatch, make("plenty")))
    assert len([name for name in plenty if name.startswith("timelines/train/")]) > 1
    spy = Spy()
    for chosen in (*[(limit,) for limit in LIMITS], LIMITS):
        name = "+".join(limit.__name__ for limit in chosen)
        with monkeypatch.context() as patch:
            for limit in chosen:
                limit(patch)
            if len(chosen) > 1:
                patch.setattr(events, "EventStore", spy)
            assert read_tables(run_stage(patch, make(name))) == plenty, name
    assert spy.num_files > spy.stores[0].num_shards > 10
    assert not list(Path(make("x").output_dir).parent.rglob(f"{SPILL_PREFIX}*"))
    assert read_tables(run_stage(monkeypatch, make("budget", memory_gb=1.0))) == plenty


def fail(error: Exception, *_: Any, **__: Any) -> None:
    raise error


@pytest.mark.parametrize("place", ["reading", "learning", "writing"])
@pytest.mark.parametrize("make", ["whole seconds"], indirect=True)
def test_nothing_is_left_in_files_after_a_failure(
    make: Callable[..., TokenizeConfig], monkeypatch: pytest.MonkeyPatch, place: str
):
    limit_batches(monkeypatch)
    spy = Spy()
    config = make("out")
    directory = Path(config.output_dir)
    seen: list[int] = []

    def look_and_fail(*_: Any, **__: Any) -> None:
        seen.append(len(find_spill(directory)))
        raise RuntimeError("the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr(events, "EventStore", spy)
        target, name = {
            "reading": (events, "apply_ranges"),
            "learning": (vocabulary, "learn_vocabulary"),
            "writing": (tokenize, "_build_shard"),
        }[place]
        patch.setattr(target, name, look_and_fail)
        with pytest.raises(RuntimeError, match="on fire"):
            run_stage(patch, config)
    assert seen[0] > 0
    assert not list(directory.glob(f"{SPILL_PREFIX}*"))
    assert (directory / "config.yaml").is_file()
    # The same command again: what a killed run left goes too.
    (directory / f"{SPILL_PREFIX}killed").mkdir()
    (directory / f"{SPILL_PREFIX}killed" / "00000.bin").write_bytes(b"half an event")
    again = run_stage(monkeypatch, config)
    assert not list(again.glob(f"{SPILL_PREFIX}*"))
    assert read_tables(again) == read_tables(run_stage(monkeypatch, make("other")))


@pytest.mark.parametrize("make", ["whole seconds"], indirect=True)
def test_nothing_is_left_at_all_after_wrong_input(make: Callable[..., TokenizeConfig], monkeypatch: pytest.MonkeyPatch):
    config = make("out")
    monkeypatch.setattr(events, "EventStore", Spy())
    monkeypatch.setattr(vocabulary, "learn_vocabulary", partial(fail, InputError("no")))
    with pytest.raises(InputError, match="no"):
        run_stage(monkeypatch, config)
    assert not Path(config.output_dir).exists()


@pytest.mark.parametrize("make", ["whole seconds"], indirect=True)
def test_the_budget_is_no_part_of_what_a_run_is(make: Callable[..., TokenizeConfig], monkeypatch: pytest.MonkeyPatch):
    before = read_tables(run_stage(monkeypatch, make("out")))
    with pytest.raises(SystemExit) as stop:
        run_stage(monkeypatch, make("out", memory_gb=1.5))
    assert stop.value.code == 0
    with pytest.raises(InputError, match="holds another run: num_bins was"):
        run_stage(monkeypatch, make("out", num_bins=7))
    assert read_tables(Path(make("out").output_dir)) == before
