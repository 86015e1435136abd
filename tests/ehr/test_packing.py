"""Arithmetic of packing, against loops over plain lists."""

from __future__ import annotations

from collections import Counter
from functools import cache
from itertools import pairwise

import numpy as np
import pytest

from clinrep.ehr.packing import Groups, Pieces, cut_into_pieces, deal_pieces, draw_paddings, pack_best_fit


def to_rows(pieces: Pieces) -> list[tuple[int, int, int]]:
    columns = (pieces.begins, pieces.lengths, pieces.openings)
    assert all(column.dtype == np.int64 for column in columns)
    return list(zip(*(column.tolist() for column in columns), strict=True))


def cut_by_loop(lengths: list[int], block_size: int, num_static: int) -> list[tuple[int, int, int]]:
    rows, offset = [], 0
    for length in lengths:
        done = 0
        while done < length:
            room = block_size if done == 0 else block_size - num_static
            own = min(room, length - done)
            rows.append((offset + done, own, offset if done and num_static else -1))
            done += own
        offset += length
    return rows


def to_blocks(groups: Groups) -> list[list[int]]:
    offsets = groups.offsets.tolist()
    assert offsets[0] == 0
    assert offsets[-1] == len(groups.slots)
    assert len(groups) == len(offsets) - 1
    return [groups.slots[begin:end].tolist() for begin, end in pairwise(offsets)]


def fill_by_loop(lengths: list[int], block_size: int) -> list[int]:
    """Return what best-fit decreasing leaves empty in each block."""
    rooms: list[int] = []
    for length in lengths:
        fitting = [number for number, room in enumerate(rooms) if room >= length]
        if fitting:
            rooms[min(fitting, key=lambda number: rooms[number])] -= length
        else:
            rooms.append(block_size - length)
    return rooms


def count_fewest(lengths: tuple[int, ...], block_size: int) -> int:
    """Return the smallest possible number of blocks, by trying everything."""

    @cache
    def search(number: int, rooms: tuple[int, ...]) -> int:
        if number == len(lengths):
            return len(rooms)
        length = lengths[number]
        found = search(number + 1, tuple(sorted((*rooms, block_size - length))))
        for place, room in enumerate(rooms):
            if room >= length:
                left = tuple(sorted((*rooms[:place], room - length, *rooms[place + 1 :])))
                found = min(found, search(number + 1, left))
        return found

    return search(0, ())


def test_pieces_of_three_timelines_by_hand() -> None:
    offsets = np.array([0, 3, 12, 16])
    assert to_rows(cut_into_pieces(offsets, 4, 0)) == [(0, 3, -1), (3, 4, -1), (7, 4, -1), (11, 1, -1), (12, 4, -1)]
    pieces = cut_into_pieces(offsets, 4, 2)
    assert to_rows(pieces) == [(0, 3, -1), (3, 4, -1), (7, 2, 3), (9, 2, 3), (11, 1, 3), (12, 4, -1)]
    assert pieces.total_lengths.tolist() == [3, 4, 4, 4, 3, 4]


def test_a_timeline_that_just_fits_is_not_cut() -> None:
    for length, num_pieces in {4: 1, 5: 2, 6: 2, 7: 3}.items():
        assert len(cut_into_pieces(np.array([0, length]), 4, 2).begins) == num_pieces


def test_pieces_of_random_timelines() -> None:
    rng = np.random.default_rng(0)
    for _ in range(300):
        lengths = rng.integers(1, rng.integers(2, 60), size=rng.integers(1, 30)).tolist()
        block_size = int(rng.integers(1, 40))
        num_static = int(rng.integers(0, block_size))
        pieces = cut_into_pieces(np.cumsum([0, *lengths]), block_size, num_static)
        assert to_rows(pieces) == cut_by_loop(lengths, block_size, num_static)
        assert pieces.total_lengths.max() <= block_size
        places = np.concatenate([np.arange(begin, begin + own) for begin, own, _ in to_rows(pieces)])
        assert places.tolist() == list(range(sum(lengths))), "every token once, in order"


@pytest.mark.parametrize("num_static", [4, 5])
def test_static_tokens_that_leave_no_room_are_refused(num_static: int) -> None:
    with pytest.raises(ValueError, match=f"block_size is 4 but the static tokens alone are {num_static}"):
        cut_into_pieces(np.array([0, 9]), 4, num_static)


def test_best_fit_by_hand() -> None:
    """First-fit would put the 3 beside the 11 and need a third block."""
    blocks = to_blocks(pack_best_fit(np.array([11, 6, 6, 3, 2, 2]), 15))
    assert sorted(map(sorted, blocks)) == [[0, 4, 5], [1, 2, 3]]
    assert to_blocks(pack_best_fit(np.array([15, 15, 1]), 15)) == [[0], [1], [2]]
    assert to_blocks(pack_best_fit(np.array([5]), 5)) == [[0]]


def test_best_fit_of_random_lengths_is_that_of_a_plain_loop() -> None:
    rng = np.random.default_rng(1)
    for _ in range(200):
        block_size = int(rng.integers(1, 200))
        longest = int(rng.integers(1, block_size + 1))
        lengths = np.sort(rng.integers(1, longest + 1, size=rng.integers(1, 120)))[::-1]
        blocks = to_blocks(pack_best_fit(lengths, block_size))
        assert sorted(slot for block in blocks for slot in block) == list(range(len(lengths)))
        rooms = [block_size - int(lengths[block].sum()) for block in blocks]
        assert min(rooms) >= 0, "no block overflows"
        assert Counter(rooms) == Counter(fill_by_loop(lengths.tolist(), block_size))
        loads = sorted(block_size - room for room in rooms)
        assert len(loads) == 1 or loads[0] + loads[1] > block_size, "no two blocks could be one"


def test_best_fit_is_close_to_the_fewest_blocks_there_can_be() -> None:
    """At most 11/9 of the fewest and 4 more (Johnson et al. 1974, "Worst-case performance bounds"); rarely more."""
    rng = np.random.default_rng(2)
    num_exact = 0
    for _ in range(60):
        block_size = int(rng.integers(5, 40))
        lengths = np.sort(rng.integers(1, block_size + 1, size=8))[::-1]
        fewest = count_fewest(tuple(lengths.tolist()), block_size)
        found = len(pack_best_fit(lengths, block_size))
        assert fewest <= found <= fewest + 1
        num_exact += found == fewest
    assert num_exact > 54


def test_pieces_are_dealt_longest_first_and_equal_ones_by_luck() -> None:
    lengths = np.array([4, 9, 4, 2, 4])
    orders = Counter()
    for seed in range(300):
        dealt = deal_pieces(lengths, seed)
        assert dealt.dtype == np.int64
        assert lengths[dealt].tolist() == [9, 4, 4, 4, 2]
        orders[tuple(dealt[1:4].tolist())] += 1
        assert np.array_equal(dealt, deal_pieces(lengths, seed))
    assert len(orders) == 6
    assert max(orders.values()) < 85, "50 each are expected"


def test_a_slot_takes_a_piece_of_its_length() -> None:
    """What best-fit found for sorted lengths holds for whatever is dealt."""
    rng = np.random.default_rng(3)
    lengths = rng.integers(1, 20, size=200)
    groups = pack_best_fit(np.sort(lengths)[::-1], 20)
    for seed in range(5):
        dealt = deal_pieces(lengths, seed)
        assert sorted(dealt.tolist()) == list(range(200))
        assert max(int(lengths[dealt[block]].sum()) for block in to_blocks(groups)) <= 20


def test_paddings_are_poisson() -> None:
    paddings = draw_paddings(100_000, 7.0, seed=1)
    assert paddings.shape == (100_000,)
    assert paddings.dtype == np.int64
    assert abs(paddings.mean() - 7) < 0.05
    assert abs(paddings.var() - 7) < 0.2
    assert abs((paddings == 0).mean() - np.exp(-7)) < 0.0005
    assert np.array_equal(paddings, draw_paddings(100_000, 7.0, seed=1))
    assert not np.array_equal(paddings, draw_paddings(100_000, 7.0, seed=2))
    assert not draw_paddings(10, 0.0, seed=1).any()
