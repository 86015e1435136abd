"""What is charted in which hour of each stay, drawn from the very probabilities that truth.py inverts.

Shapes: N stays of a shard, H their hours in all (stay after stay), R rows charted of a panel.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from clinrep.ehr.simulate.chain import IMV, NUM_SEVERITIES, PLACES, Chain, simulate_paths
from clinrep.ehr.simulate.signals import Channel, Panel, make_chances, make_masses

MINUTES_PER_HOUR = 60
# Minutes from collection to result; a result is at least the shortest after the start of its hour, so
# that no sample of the first hour is taken before admission.
LAB_DELAYS = (5, 120)
# First minute of the hour for what is charted at a time of its own; the rest is charted on the nurse's round.
_OWN_MINUTES = {"labs": LAB_DELAYS[0], "medication_admin_continuous": 0}

MakeGenerator = Callable[[str], np.random.Generator]


@dataclass(frozen=True)
class Course:
    """The latent course of a shard's stays, hour by hour."""

    groups: np.ndarray
    """i64 (N,)."""
    hours: np.ndarray
    """i64 (N,): hours in hospital; the stay ends within the next one."""
    starts: np.ndarray
    """i64 (N,): position of each stay's first hour."""
    has_died: np.ndarray
    """bool (N,)."""
    stay: np.ndarray
    """i64 (H,): number of the stay each hour belongs to."""
    hour: np.ndarray
    """i64 (H,): hours since admission."""
    severity: np.ndarray
    """u8 (H,)."""
    place: np.ndarray
    """u8 (H,): position in chain.PLACES."""


@dataclass(frozen=True)
class Chart:
    """All a panel charted, in the order of stays and hours."""

    panel: Panel
    position: np.ndarray
    """i64 (R,): which hour of the course."""
    minute: np.ndarray
    """i64 (R,): minutes since admission, within that hour; of a laboratory panel, when its result is known."""
    collected: np.ndarray
    """i64 (R,): minutes since admission; of a laboratory panel, when the sample was taken, else as `minute`."""
    cells: tuple[np.ndarray, ...]
    """For each channel i64 (R,): position in its grid."""


def simulate_course(chain: Chain, groups: np.ndarray, generator: np.random.Generator) -> Course:
    """Return the courses of stays in these groups."""
    hours, states, ends = simulate_paths(chain, groups, generator)
    starts = np.cumsum(hours) - hours
    stay = np.repeat(np.arange(len(groups)), hours)
    severity, place = np.divmod(states, len(PLACES))
    is_dead = ends > NUM_SEVERITIES * len(PLACES)
    return Course(groups, hours, starts, is_dead, stay, np.arange(len(stay)) - starts[stay], severity, place)


def find_forced(panel: Panel, course: Course) -> np.ndarray:
    """Return bool (H,): where the panel is charted whatever the severity."""
    if panel.always_at is None:
        return np.zeros(len(course.stay), dtype=bool)
    is_ventilated = course.place == IMV
    was_ventilated = np.concatenate([[False], is_ventilated[:-1]]) & (course.hour > 0)
    is_intubation = panel.always_at == "intubation"
    now, before = (is_ventilated, was_ventilated) if is_intubation else (was_ventilated, is_ventilated)
    forced: np.ndarray = now & ~before
    return forced


def find_open(panel: Panel, course: Course) -> np.ndarray:
    """Return bool (H,): where chance decides whether the panel is charted."""
    is_time = course.hour == 0 if panel.is_first_hour_only else np.ones(len(course.stay), dtype=bool)
    is_open: np.ndarray = is_time & ~find_forced(panel, course)
    return is_open


def chart_panels(panels: Sequence[Panel], course: Course, make_generator: MakeGenerator) -> list[Chart]:
    """Return what each panel charts; what nurses chart within an hour shares its minute."""
    rounds = make_generator("rounds").integers(MINUTES_PER_HOUR, size=len(course.stay))
    return [_chart(panel, course, rounds, make_generator(panel.name)) for panel in panels]


def _chart(panel: Panel, course: Course, rounds: np.ndarray, generator: np.random.Generator) -> Chart:
    is_drawn = generator.random(len(course.stay)) < make_chances(panel)[course.severity, course.place]
    position = np.flatnonzero(find_forced(panel, course) | (find_open(panel, course) & is_drawn))
    hour, severity = course.hour[position], course.severity[position]
    cells = tuple(draw_cells(channel, severity, generator) for channel in panel.channels)
    minute = rounds[position]
    if panel.table in _OWN_MINUTES:
        minute = generator.integers(_OWN_MINUTES[panel.table], MINUTES_PER_HOUR, size=len(position))
    minute = minute + MINUTES_PER_HOUR * hour
    collected = minute
    if panel.table == "labs":
        collected = np.maximum(minute - generator.integers(*LAB_DELAYS, size=len(position)), 0)
    return Chart(panel, position, minute, collected, cells)


def draw_cells(channel: Channel, severity: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Return i64 (R,): a cell of the channel's grid for each severity (R,), by inversion of its masses."""
    masses = make_masses(channel)
    num_cells = masses.shape[1]
    # one sorted row for all severities: row s covers the numbers from s to s + 1
    edges = np.minimum(np.cumsum(masses, axis=1), 1) + np.arange(NUM_SEVERITIES)[:, None]
    edges[:, -1] = np.arange(1, NUM_SEVERITIES + 1)
    found = np.searchsorted(edges.ravel(), severity + generator.random(len(severity)), side="right")
    # adding the severity may round a number just below 1 up to it
    cells: np.ndarray = np.minimum(found - severity.astype(np.int64) * num_cells, num_cells - 1)
    return cells
