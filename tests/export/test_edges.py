"""Which edges may leave, against brute force over the values and people themselves."""

import numpy as np
import pytest

from clinrep.ehr.quantiles import get_probabilities
from clinrep.export.edges import BinPeople, fill_edges, find_exportable, merge_bins, round_count, round_down


def tell(values, owners, num_bins=10):
    """Return edges, bin counts and people of values."""
    edges = np.quantile(values, get_probabilities(num_bins))
    bins = np.digitize(values, edges)
    of_bin = [set(owners[bins == number]) for number in range(num_bins)]
    people = BinPeople(
        np.array([len(one) for one in of_bin]),
        np.array([len(set().union(*of_bin[: i + 1])) for i in range(num_bins)]),
        np.array([len(set().union(*of_bin[i:])) for i in range(num_bins)]),
    )
    return edges, np.bincount(bins, minlength=num_bins), people


@pytest.mark.parametrize("seed", range(20))
def test_every_exportable_edge_rests_on_enough_values_and_people_on_both_sides(seed):
    rng = np.random.default_rng(seed)
    size = int(rng.integers(5, 400))
    values = np.round(rng.exponential(5, size), int(rng.integers(0, 2)))
    owners = rng.integers(0, int(rng.integers(2, 60)), size)
    edges, counts, people = tell(values, owners)
    least = 7
    is_fine = find_exportable(edges, counts, get_probabilities(10), people, least)
    for edge, fine in zip(edges, is_fine, strict=True):
        above, below, at = values >= edge, values < edge, values <= edge
        is_low = below.sum() >= least and len(set(owners[below])) >= least
        bin_of_edge = owners[np.digitize(values, edges) == np.digitize(edge, edges)]
        is_tied = (at & ~below).sum() >= least and len(set(bin_of_edge)) >= least
        is_high = above.sum() >= least and len(set(owners[above])) >= least
        if fine:
            assert is_high
            assert is_low or is_tied
        elif is_high:
            assert not is_low


def test_one_person_with_many_values_gives_no_edge():
    values = np.arange(1000.0)
    edges, counts, people = tell(values, np.zeros(1000, dtype=int))
    assert not find_exportable(edges, counts, get_probabilities(10), people, 2).any()


def test_one_person_on_one_side_hides_the_edges_of_that_side():
    """The lower half is of one person, the upper of 55: only an edge with ten others under it may leave, and back."""
    values, owners = np.arange(110.0), np.concatenate([np.zeros(55, int), np.arange(1, 56)])
    edges, counts, people = tell(values, owners)
    shown = find_exportable(edges, counts, get_probabilities(10), people, 11)
    assert shown.tolist() == [len(set(owners[values < edge])) >= 11 for edge in edges]
    assert shown.tolist() == [False] * 5 + [True] * 4
    edges, counts, people = tell(values, owners[::-1])
    assert find_exportable(edges, counts, get_probabilities(10), people, 11).tolist() == [True] * 4 + [False] * 5


def test_extreme_edges_go_first():
    """110 values of 110 people: 11 lie on the outer side of the outermost edges, so 12 hide just these."""
    edges, counts, people = tell(np.arange(110.0), np.arange(110))
    assert find_exportable(edges, counts, get_probabilities(10), people, 11).all()
    shown = find_exportable(edges, counts, get_probabilities(10), people, 12)
    assert shown.tolist() == [False, *[True] * 7, False]


def test_a_scale_that_starts_at_its_mode_keeps_its_edges():
    values = np.repeat([0.0, 1.0], [750, 250])
    edges, counts, people = tell(values, np.arange(1000) % 100)
    assert (edges[:7] == 0).all()
    assert find_exportable(edges, counts, get_probabilities(10), people, 11).all()


def test_infinite_and_missing_edges_never_leave():
    edges = np.array([-np.inf, 1.0, np.nan, np.inf])
    everybody = BinPeople(*[np.full(5, 99)] * 3)
    shown = find_exportable(edges, np.full(5, 99), get_probabilities(5), everybody, 11)
    assert shown.tolist() == [False, True, False, False]


def test_hidden_edges_join_the_bins_on_both_sides():
    edges = np.array([1.0, 2.0, 3.0, 4.0])
    filled = fill_edges(edges, np.array([False, True, True, False]))
    assert filled.tolist() == [2.0, 2.0, 3.0, 3.0]
    assert merge_bins(np.array([1, 2, 4, 8, 16]), edges, filled).tolist() == [3, 0, 4, 0, 24]
    values = np.array([0.5, 1.5, 2.5, 3.5, 4.5])
    assert np.digitize(values, filled).tolist() == [0, 0, 2, 4, 4]
    assert fill_edges(edges, np.array([True, False, True, True])).tolist() == [1.0, 1.0, 3.0, 4.0]


def test_others_values_may_all_be_of_other_people():
    people = BinPeople(np.array([5, 5, 9]), np.array([5, 8, 12]), np.array([12, 11, 9]))
    left = people.subtract(np.array([1, 0, 9]))
    assert left.within.tolist() == [4, 5, 0]
    assert left.at_most.tolist() == [4, 7, 2]
    assert left.at_least.tolist() == [2, 2, 0]


@pytest.mark.parametrize(
    ("value", "digits", "expected"),
    [(1234.5, 4, 1234.0), (0.3, 1, 0.3), (-1.26, 2, -1.3), (98.599999, 4, 98.59), (0.0, 3, 0.0), (7.0, 4, 7.0)],
)
def test_rounding_goes_down_on_what_is_written(value, digits, expected):
    assert round_down(np.array([value]), digits).tolist() == [expected]


def test_rounded_counts_are_multiples():
    assert round_count(np.array([0, 5, 6, 16, 17, 100]), 11).tolist() == [0, 0, 11, 11, 22, 99]
    assert round_count(np.array([3]), 0).tolist() == [3]
