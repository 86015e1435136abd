"""What is asked of continuations: tokens that mean an event, the end, and how time passes.

N stays, K outcomes, V tokens of the vocabulary, C classes of gaps, R continuations.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np


@dataclass(frozen=True)
class Clock:
    """How much later each token is than the one before it, drawn from the gaps that train has.

    A token directly after a time token is never later than it. The gap of any other is one of those of
    its class, all equally likely.
    """

    class_of_token: np.ndarray
    """i64 (V,)"""
    gaps: np.ndarray
    """f64: hours, class after class, ascending within each."""
    offsets: np.ndarray
    """i64 (C + 1,): class c has gaps[offsets[c]:offsets[c + 1]], at least one."""
    is_time_token: np.ndarray
    """bool (V,): tokens that stand before an event, with its time."""

    def draw(
        self, tokens: np.ndarray, is_after_time: np.ndarray, uniforms: np.ndarray, at_least: np.ndarray | None = None
    ) -> np.ndarray:
        """Return the hours f64 (R,) from the token before to each of `tokens` (R,).

        Args:
            tokens: token ids.
            is_after_time: whether the token before is a time token, bool (R,).
            uniforms: numbers in [0, 1), f64 (R,).
            at_least: i64 (R,): the number of the first gap allowed in the class of each token, as `find_first`
                gives it; where that is none, the last gap is drawn.
        """
        kind = self.class_of_token[tokens]
        size = np.diff(self.offsets)[kind]
        first = np.zeros_like(size) if at_least is None else np.minimum(at_least, size - 1)
        number = first + (uniforms * (size - first)).astype(np.int64)
        return np.where(is_after_time, 0.0, self.gaps[self.offsets[kind] + number])

    def find_first(self, hours: np.ndarray, is_closed: bool) -> np.ndarray:
        """Return the number of the first gap of each class that is not before `hours` (N,), i64 (N, C).

        With `is_closed`, of the first that is after them.
        """
        side: Literal["left", "right"] = "right" if is_closed else "left"
        pieces = [self.gaps[low:high] for low, high in zip(self.offsets[:-1], self.offsets[1:], strict=True)]
        return np.stack([np.searchsorted(gaps, hours, side=side) for gaps in pieces], axis=1)

    def find_shares(self, first: np.ndarray) -> np.ndarray:
        """Return the share of each class's gaps from number `first` (N, C) on, f64 (N, C); 0 for none."""
        size = np.diff(self.offsets)
        return (size - first) / size


@dataclass(frozen=True)
class Questions:
    """What to look for in the continuations of N sequences. Hours count from a sequence's last token."""

    outcomes: list[str]
    """K names."""
    is_event: np.ndarray
    """bool (K, V): tokens that mean the event."""
    is_end: np.ndarray
    """bool (V,): tokens after which nothing can happen."""
    is_asked: np.ndarray
    """bool (N, K): whether the stay has a label of the outcome."""
    labels: np.ndarray
    """bool (N, K): false where not asked."""
    deadline_hours: np.ndarray
    """f64 (N, K): the event is that the stay goes on later than this; inf for events that a token means."""
    horizon_hours: np.ndarray
    """f64 (N,): events later than this do not count; inf for none."""
    index_hours: np.ndarray
    """f64 (N,): index_time; it is known that nothing happened before it."""
    is_index_closed: bool
    """Whether it is also known of that instant itself."""
    never: np.ndarray
    """i64: tokens that no timeline holds, and so no continuation."""
    clock: Clock | None
    """None: tokens tell no time; deadlines and horizons are then inf, and index_hours are not used."""

    def take(self, rows: np.ndarray) -> Questions:
        """Return the questions of the sequences at `rows`, in that order."""
        names = ("is_asked", "labels", "deadline_hours", "horizon_hours", "index_hours")
        return replace(self, **{name: getattr(self, name)[rows] for name in names})
