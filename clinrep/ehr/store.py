"""Events of every stay between reading and writing, by shards of stays, in memory or in files: N events."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

SPILL_PREFIX = ".events."
SHARD_EVENTS = 1_000_000  # aimed at, at most
BYTES_PER_EVENT = 400  # of a shard while its timelines are made
COLUMNS: dict[str, np.dtype[Any]] = {
    "stay": np.dtype("<u4"),
    "time": np.dtype("<i8"),
    "code": np.dtype("<u4"),
    "value": np.dtype("<f8"),
}
EVENT_BYTES = sum(dtype.itemsize for dtype in COLUMNS.values())


@dataclass(frozen=True)
class Events:
    """Some events, as columns of equal length."""

    stay: np.ndarray
    """u32 (N,): row number in the cohort."""
    time: np.ndarray
    """i64 (N,): microseconds since 1970; NO_TIME for events at the end of the timeline."""
    code: np.ndarray
    """u32 (N,): what happened, a row of `Codes`."""
    value: np.ndarray
    """f64 (N,): NaN where missing or where the code has no number."""

    def __len__(self) -> int:
        """Return the number of events."""
        return len(self.stay)

    def take(self, rows: np.ndarray | slice) -> Events:
        """Return the events at `rows` (indices, mask or slice)."""
        return Events(self.stay[rows], self.time[rows], self.code[rows], self.value[rows])


NO_TIME = np.iinfo(np.int64).max  # stands at the end of the timeline
UNTIMED = NO_TIME - 1  # takes part in what is learned, but stands in no timeline


class EventStore:
    """Collects events in any order and gives them back shard by shard; shards are ranges of stays.

    How many shards there are and whether they lie in files depends on the size of the input and the
    budget; what is made of them never does, because a shard's events are sorted by what they are.
    """

    def __init__(self, num_stays: int, num_events: int, memory_bytes: int, directory: Path) -> None:
        """Plan shards for about `num_events`; of `memory_bytes`, a sixteenth may hold events not yet in files."""
        shard_events = max(1, min(SHARD_EVENTS, memory_bytes // 8 // BYTES_PER_EVENT))
        num_shards = max(1, min(num_stays, -(-num_events // shard_events), 1 << 15))
        self.bytes_per_shard = shard_events * BYTES_PER_EVENT
        self.stays_per_shard = max(1, -(-num_stays // num_shards))
        self.num_shards = max(1, -(-num_stays // self.stays_per_shard))
        self.num_stays = num_stays
        self._memory_bytes = memory_bytes // 16
        self._directory = directory
        self._chunks: list[list[Events]] = [[] for _ in range(self.num_shards)]
        self._held_bytes = 0
        self._spill: tempfile.TemporaryDirectory[str] | None = None
        for left in directory.glob(f"{SPILL_PREFIX}*"):  # of a run that was killed
            shutil.rmtree(left)

    def add(self, events: Events) -> None:
        """Take over some events, in any order."""
        if not len(events):
            return
        shard = events.stay // np.uint32(self.stays_per_shard)
        if not (shard[1:] >= shard[:-1]).all():
            small = shard.astype(np.uint16 if self.num_shards > 256 else np.uint8)  # these are sorted by counting
            order = np.argsort(small, kind="stable")
            events, shard = events.take(order), shard[order]
        bounds = np.searchsorted(shard, np.arange(self.num_shards + 1))
        for number in np.flatnonzero(np.diff(bounds)):
            self._chunks[number].append(events.take(slice(bounds[number], bounds[number + 1])))
        self._held_bytes += len(events) * EVENT_BYTES
        if self._held_bytes > self._memory_bytes:
            self._flush()

    def get_stays(self, shard: int) -> tuple[int, int]:
        """Return the first stay of a shard and the one after its last."""
        first = shard * self.stays_per_shard
        return first, min(first + self.stays_per_shard, self.num_stays)

    def read(self, shard: int) -> Events:
        """Return all events of a shard, in no order that means anything."""
        return Events(*(self._read_column(shard, name) for name in COLUMNS))

    def iterate(self) -> Iterator[Events]:
        """Yield the events of every shard, without their times: `time` is empty."""
        for shard in range(self.num_shards):
            stay, code, value = (self._read_column(shard, name) for name in ("stay", "code", "value"))
            yield Events(stay, np.empty(0, dtype=COLUMNS["time"]), code, value)

    def _read_column(self, shard: int, name: str) -> np.ndarray:
        arrays = [getattr(chunk, name) for chunk in self._chunks[shard]]
        if self._spill is not None and (path := self._get_path(shard, name)).is_file():
            arrays.append(np.fromfile(path, dtype=COLUMNS[name]))
        if len(arrays) == 1:
            return np.asarray(arrays[0])
        return np.concatenate(arrays) if arrays else np.empty(0, dtype=COLUMNS[name])

    def close(self) -> None:
        """Remove what lies in files."""
        if self._spill is not None:
            self._spill.cleanup()

    def _get_path(self, shard: int, name: str) -> Path:
        assert self._spill is not None
        return Path(self._spill.name) / f"{shard:05d}.{name}"

    def _flush(self) -> None:
        """Append everything held to the shards' files, one a column."""
        if self._spill is None:
            self._spill = tempfile.TemporaryDirectory(dir=self._directory, prefix=SPILL_PREFIX)
        for shard, chunks in enumerate(self._chunks):
            for name in COLUMNS if chunks else ():
                with self._get_path(shard, name).open("ab") as file:
                    for chunk in chunks:
                        file.write(np.ascontiguousarray(getattr(chunk, name), dtype=COLUMNS[name]).data)
            chunks.clear()
        self._held_bytes = 0
