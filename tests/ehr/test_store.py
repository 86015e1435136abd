"""Events between reading and writing: whatever the budget, each shard gives back its stays' events."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from clinrep.ehr import store as module
from clinrep.ehr.store import NO_TIME, SPILL_PREFIX, UNTIMED, Events, EventStore


def make_events(num: int, num_stays: int, seed: int = 0) -> Events:
    rng = np.random.default_rng(seed)
    time = rng.integers(-(10**15), 10**16, num)
    time[:2] = [NO_TIME, UNTIMED]
    value = rng.choice([np.nan, np.inf, -0.0, 1.5], num)
    stay, code = (rng.integers(0, high, num).astype(np.uint32) for high in (num_stays, 1 << 32))
    return Events(stay, time, code, value)


def list_rows(events: Events) -> list[tuple[object, ...]]:
    """Return rows that compare, NaN included, in an order of their own."""
    columns = [getattr(events, name) for name in ("stay", "time", "code")]
    return sorted(zip(*(column.tolist() for column in [*columns, events.value.view(np.int64)]), strict=True))


def fill(store: EventStore, events: Events, size: int = 37) -> EventStore:
    for start in range(0, len(events), size):
        store.add(events.take(slice(start, start + size)))
    return store


@pytest.mark.parametrize("num_stays", [1, 2, 30, 1000])
@pytest.mark.parametrize("shard_events", [1, 7, 100, 1_000_000])
@pytest.mark.parametrize("memory_bytes", [0, 2000, 1 << 30])
def test_every_event_comes_back_once_in_the_shard_of_its_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_stays: int, shard_events: int, memory_bytes: int
):
    monkeypatch.setattr(module, "SHARD_EVENTS", shard_events)
    events = make_events(500, num_stays)
    store = fill(EventStore(num_stays, len(events), memory_bytes, tmp_path), events)
    assert bool(list(tmp_path.iterdir())) == (memory_bytes < 1 << 30)
    spans = [store.get_stays(shard) for shard in range(store.num_shards)]
    assert [stay for first, last in spans for stay in range(first, last)] == list(range(num_stays))
    for shard, (first, last) in enumerate(spans):
        mine = events.take((events.stay >= first) & (events.stay < last))
        assert list_rows(store.read(shard)) == list_rows(mine)
    for shard, chunk in enumerate(store.iterate()):
        whole = store.read(shard)
        assert len(chunk.time) == 0  # what is learned asks for no times, and need not read them
        for name in ("stay", "code", "value"):
            np.testing.assert_array_equal(getattr(chunk, name), getattr(whole, name))
    store.close()
    assert not list(tmp_path.iterdir())


def test_shards_follow_the_size_of_the_input():
    stores = [EventStore(1000, num, 1 << 32, Path("/nowhere")) for num in (0, 1, 10**6, 10**6 + 1, 10**7, 10**12)]
    assert [store.num_shards for store in stores] == [1, 1, 1, 2, 10, 1000]
    assert EventStore(1000, 10**6, 1 << 29, Path("/nowhere")).num_shards == 6  # smaller ones where memory is short


def test_more_events_than_were_announced_are_taken(tmp_path: Path):
    events = make_events(300, 5)
    with_spill = fill(EventStore(5, 1, 1000, tmp_path), events)
    assert list_rows(with_spill.read(0)) == list_rows(events)
    with_spill.close()


def test_no_event_at_all(tmp_path: Path):
    store = EventStore(3, 0, 0, tmp_path)
    store.add(make_events(10, 3).take(slice(0, 0)))
    nothing = store.read(0)
    assert len(nothing) == 0
    assert [array.dtype.str for array in (nothing.stay, nothing.time, nothing.value)] == ["<u4", "<i8", "<f8"]
    store.close()
    assert not list(tmp_path.iterdir())


def test_what_a_killed_run_left_is_removed_and_nothing_else(tmp_path: Path):
    (tmp_path / f"{SPILL_PREFIX}killed").mkdir()
    (tmp_path / f"{SPILL_PREFIX}killed" / "00000.bin").write_bytes(b"half an event")
    (tmp_path / "config.yaml").write_text("{}")
    EventStore(3, 10, 1 << 30, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]
