"""What is charted: channels (one measured quantity) in panels (charted together), and their probabilities.

Shapes: S severities, C places, K cells of a channel's grid.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import yaml

from clinrep.ehr.simulate.chain import NUM_SEVERITIES, PLACES

MAX_CHANCE = 0.95  # of charting a panel in an hour: absence must stay possible

_erfc = np.frompyfunc(math.erfc, 1, 1)


@dataclass(frozen=True)
class Conversion:
    """Another unit: value * factor + offset, written in steps of `step`."""

    unit: str
    factor: float
    step: float
    offset: float = 0.0


@dataclass(frozen=True)
class Channel:
    """One measured quantity: a normal or log-normal law that shifts with severity, seen rounded to a grid.

    With z standard normal and s the severity, the value is center + slope * s + spread * z, or, where
    `is_log`, center * slope ** s * exp(spread * z); it is written as the nearest of low, low + step, ...,
    high.
    """

    category: str
    """CLIF category, or the column's name in the wide tables respiratory_support and position."""
    name: str
    """Local name."""
    center: float
    slope: float
    spread: float
    low: float
    high: float
    step: float = 1.0
    is_log: bool = False
    unit: str | None = None
    group: str | None = None
    """med_group, assessment_group or meas_site_name."""
    words: tuple[str, ...] = ()
    """Category of each cell, where the quantity is one."""
    texts: tuple[str, ...] = ()
    """Local name or description of each cell."""
    is_number_shown: bool = True
    """Whether the number is written beside the word."""

    @property
    def num_decimals(self) -> int:
        """Decimals of the grid's values."""
        return max(0, math.ceil(-math.log10(self.step) - 1e-9))

    def convert(self, conversion: Conversion) -> Channel:
        """Return this channel measured in another unit."""
        factor, offset, step = conversion.factor, conversion.offset, conversion.step
        low, high = (step * round((end * factor + offset) / step) for end in (self.low, self.high))
        if self.is_log:
            low = max(low, step)  # a logarithm of zero would have no cell
        return replace(
            self,
            unit=conversion.unit,
            center=self.center * factor + offset,
            slope=self.slope if self.is_log else self.slope * factor,
            spread=self.spread if self.is_log else self.spread * factor,
            low=low,
            high=high,
            step=step,
        )


@dataclass(frozen=True)
class Panel:
    """Channels that are charted together, at one minute, with a probability per hour."""

    name: str
    table: str
    """CLIF table, without clif_."""
    channels: tuple[Channel, ...]
    rates: tuple[float, ...]
    """Probability of charting in an hour at severity 0, by place."""
    growth: float = 1.0
    """Factor of that probability per step of severity; the product is capped at MAX_CHANCE."""
    total: Channel | None = None
    """A further row: the sum of the channels."""
    is_first_hour_only: bool = False
    always_at: Literal["intubation", "extubation"] | None = None
    """The hours in which it is charted whatever the severity, so that ventilation is visible exactly."""


def load_catalog() -> tuple[Panel, ...]:
    """Return what the reference site charts, in the order of catalog.yaml."""
    text = Path(__file__).with_name("catalog.yaml").read_text(encoding="utf-8")
    return tuple(_make_panel(entry) for entry in yaml.safe_load(text))


def _make_panel(entry: Mapping[str, Any]) -> Panel:
    channels = tuple(_make_channel(channel) for channel in entry["channels"])
    total = _make_total(channels, entry["total"]) if "total" in entry else None
    return Panel(**{**entry, "rates": tuple(entry["rates"]), "channels": channels, "total": total})


def _make_channel(entry: Mapping[str, Any]) -> Channel:
    lists = {name: tuple(entry[name]) for name in ("words", "texts") if name in entry}
    return Channel(**{**entry, **lists})


def _make_total(channels: Sequence[Channel], names: Mapping[str, str]) -> Channel:
    """Return the sum's grid and names; it is computed, so its law stands for nothing."""
    low, high = sum(channel.low for channel in channels), sum(channel.high for channel in channels)
    group, category, name = channels[0].group, names["category"], names["name"]
    return Channel(category, name, center=0, slope=0, spread=1, low=low, high=high, group=group)


@cache
def make_grid(channel: Channel) -> np.ndarray:
    """Return f64 (K,): the values that can be written, exact decimals."""
    num_cells = round((channel.high - channel.low) / channel.step) + 1
    grid: np.ndarray = np.round(channel.low + channel.step * np.arange(num_cells), channel.num_decimals)
    return grid


@cache
def make_masses(channel: Channel) -> np.ndarray:
    """Return f64 (S, K): the probability that each value is written, at each severity.

    The first cell holds everything below it, the last everything above.
    """
    middles = (make_grid(channel)[:-1] + channel.step / 2)[None, :]
    severity = np.arange(NUM_SEVERITIES)[:, None]
    if channel.is_log:
        scores = (np.log(middles) - math.log(channel.center) - severity * math.log(channel.slope)) / channel.spread
    else:
        scores = (middles - channel.center - channel.slope * severity) / channel.spread
    ends = np.full((NUM_SEVERITIES, 1), np.inf)
    return _integrate_normal(np.concatenate([-ends, scores, ends], axis=1))


def _integrate_normal(edges: np.ndarray) -> np.ndarray:
    """Return the standard normal mass between neighbouring edges of each row."""
    # Both edges are mirrored into the upper half: near 1, a difference would lose every digit.
    low, high = edges[:, :-1], edges[:, 1:]
    is_upper = low > 0
    nearer, farther = np.where(is_upper, low, -high), np.where(is_upper, high, -low)
    tails = [np.asarray(_erfc(part / math.sqrt(2)), dtype=float) / 2 for part in (nearer, farther)]
    masses: np.ndarray = tails[0] - tails[1]
    return masses


@cache
def make_chances(panel: Panel) -> np.ndarray:
    """Return f64 (S, C): the probability that the panel is charted in an hour."""
    growth = panel.growth ** np.arange(NUM_SEVERITIES)
    chances: np.ndarray = np.minimum(growth[:, None] * np.array(panel.rates), MAX_CHANCE)
    assert chances.shape == (NUM_SEVERITIES, len(PLACES)), panel.name
    return chances
