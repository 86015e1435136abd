"""Where every token goes: timelines cut into pieces, pieces laid into blocks. Numbers only, no tokens.

N timelines, P pieces, L = block_size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Pieces:
    """P documents that together hold every token of every timeline once."""

    begins: np.ndarray
    """i64 (P,): the first token of each, as a place in the flat array of tokens."""
    lengths: np.ndarray
    """i64 (P,): tokens of its own."""
    openings: np.ndarray
    """i64 (P,): where the timeline begins whose static tokens stand before the piece, -1 for none."""
    num_static: int
    """How many static tokens these are."""

    @property
    def total_lengths(self) -> np.ndarray:
        """Tokens of each with those before it, i64 (P,)."""
        return self.lengths + np.where(self.openings >= 0, self.num_static, 0)


def cut_into_pieces(offsets: np.ndarray, block_size: int, num_static: int) -> Pieces:
    """Return the pieces of timelines [offsets[i], offsets[i + 1]), at most L tokens each, in their order.

    A timeline of at most L tokens stays whole. A longer one is cut into consecutive pieces: the first has
    L tokens, each later one at most L - num_static, opened by the timeline's first num_static tokens
    (num_static 0: by nothing).

    Raises:
        ValueError: num_static leaves no room in a block.
    """
    if num_static >= block_size:
        raise ValueError(f"block_size is {block_size} but the static tokens alone are {num_static}; raise block_size")
    starts, lengths = offsets[:-1], np.diff(offsets)
    room = block_size - num_static
    num_pieces = 1 + np.maximum(0, -(-(lengths - block_size) // room))
    owner = np.repeat(np.arange(len(lengths)), num_pieces)
    number = np.arange(len(owner)) - np.repeat(np.cumsum(num_pieces) - num_pieces, num_pieces)
    within = np.where(number == 0, 0, block_size + (number - 1) * room)
    own = np.minimum(np.where(number == 0, block_size, room), lengths[owner] - within)
    openings = np.where((number > 0) & (num_static > 0), starts[owner], -1)
    return Pieces(starts[owner] + within, own, openings, num_static)


@dataclass(frozen=True)
class Groups:
    """Which slots share a block; slot s takes any piece as long as the s-th longest."""

    slots: np.ndarray
    """i64 (P,): slots in the order of the blocks."""
    offsets: np.ndarray
    """i64 (num_blocks + 1,): block b holds slots[offsets[b]:offsets[b + 1]]."""

    def __len__(self) -> int:
        return len(self.offsets) - 1


def pack_best_fit(lengths: np.ndarray, block_size: int) -> Groups:
    """Return blocks of at most L tokens for pieces of `lengths`, i64 (P,), which must not rise.

    Best-fit decreasing: each piece goes into the fullest block that still has room, so little is left
    empty and no piece is cut (Ding et al. 2024, "Fewer Truncations Improve Language Modeling", arXiv
    2404.10830). It depends on lengths alone, so the number of blocks is that of every epoch.
    """
    blocks: list[list[int]] = []
    with_room: list[list[int]] = [[] for _ in range(block_size + 1)]  # room left -> blocks
    present = 0  # bit r is set where with_room[r] holds a block
    for slot, length in enumerate(lengths.tolist()):
        enough = present >> length
        if enough:
            room = length + (enough & -enough).bit_length() - 1
            block = with_room[room].pop()
            if not with_room[room]:
                present ^= 1 << room
        else:
            room, block = block_size, len(blocks)
            blocks.append([])
        blocks[block].append(slot)
        left = room - length
        if left:
            with_room[left].append(block)
            present |= 1 << left
    sizes = np.array([len(block) for block in blocks], dtype=np.int64)
    slots = np.fromiter((slot for block in blocks for slot in block), dtype=np.int64, count=len(lengths))
    return Groups(slots, np.concatenate([[0], np.cumsum(sizes)]))


def deal_pieces(total_lengths: np.ndarray, seed: int) -> np.ndarray:
    """Return the piece of each slot, i64 (P,): longest first, those of one length in an order of `seed`."""
    luck = np.random.default_rng(seed).random(len(total_lengths))
    return np.lexsort((luck, -total_lengths))


def draw_paddings(num_timelines: int, mean: float, seed: int) -> np.ndarray:
    """Return the number of PADs after each timeline, Poisson of `mean`, i64 (N,) (the manuscript's mean is 7)."""
    return np.random.default_rng(seed).poisson(mean, num_timelines).astype(np.int64)
