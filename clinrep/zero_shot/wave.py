"""A wave: continuations of some stays that began together, and what is known of each so far.

S stays, R continuations, K outcomes, V tokens of the vocabulary. All of it is numpy: only the model's own
numbers live on its device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from clinrep.zero_shot.questions import Questions

CHUNK = 32  # tokens whose uniform numbers are drawn at once; another number would draw other continuations


@dataclass
class Tally:
    """What the continuations of N stays came to: counts, i64 (N, K)."""

    events: np.ndarray
    """Continuations with the event."""
    unfinished: np.ndarray
    """Continuations given up before it was decided."""
    num_tokens: int = 0
    """Tokens sampled in all."""
    num_unconditioned: int = 0
    """Stays whose index_time comes later after their last token than any gap that train has."""


class Wave:
    """The continuations of some stays: where each is, and what is not decided yet."""

    def __init__(
        self,
        stays: np.ndarray,
        prompts: list[np.ndarray],
        questions: Questions,
        generators: list[np.random.Generator],
        num_samples: int,
        max_tokens: np.ndarray,
    ) -> None:
        """Begin `num_samples` continuations of each stay.

        Args:
            stays: i64 (S,): their numbers, for `Tally`.
            prompts: their sequences.
            questions: of these stays.
            generators: one a stay; nothing else decides its continuations.
            num_samples: continuations of each.
            max_tokens: i64 (S,): when to give up.
        """
        self._stays, self._questions, self._generators = stays, questions, generators
        self._num_samples = num_samples
        self._stay = np.repeat(np.arange(len(stays)), num_samples)  # (R,): place in `stays`
        self._sample = np.tile(np.arange(num_samples), len(stays))
        self._undecided = np.repeat(questions.is_asked, num_samples, axis=0)  # (R, K)
        self._hours = np.zeros(len(self._stay))
        self._is_after_time = np.zeros(len(self._stay), dtype=bool)
        self._max_tokens = max_tokens
        self._num_blocks = len(stays)
        self._first_position = np.array([len(prompt) for prompt in prompts]) - 1
        self._uniforms = np.empty((len(stays), CHUNK, num_samples, 2))
        self.num_tokens = 0
        self.last_tokens = np.repeat([int(prompt[-1]) for prompt in prompts], num_samples)
        """i64 (R,): what the model reads next."""
        clock = questions.clock
        self._first_gaps = None if clock is None else clock.find_first(questions.index_hours, questions.is_index_closed)

    @property
    def positions(self) -> np.ndarray:
        """Positions of `last_tokens`, i64 (R,)."""
        return self._first_position[self._stay] + self.num_tokens

    @property
    def is_alive(self) -> np.ndarray:
        """Whether anything of a continuation is undecided, bool (R,)."""
        return np.asarray(self._undecided.any(axis=1))

    def find_weights(self) -> np.ndarray | None:
        """Return by what to multiply the law of the first token, f64 (S, V); None for later tokens.

        The chance that a token, once drawn, is not before index_time: so the first token is drawn given
        that nothing happens before. After it nothing can be, since time never goes back.
        """
        clock = self._questions.clock
        if self.num_tokens or clock is None or self._first_gaps is None:
            return None
        return clock.find_shares(self._first_gaps)[:, clock.class_of_token]

    def draw_uniforms(self) -> np.ndarray:
        """Return two numbers in [0, 1) for each continuation, f64 (R, 2), for its next token and its gap.

        They depend on the generator of the stay and the number of the continuation alone.
        """
        place = self.num_tokens % CHUNK
        if place == 0:
            for stay in np.unique(self._stay):
                self._uniforms[stay] = self._generators[stay].random((CHUNK, self._num_samples, 2))
        return self._uniforms[self._stay, place, self._sample]

    def advance(self, tokens: np.ndarray, is_conditioned: np.ndarray, uniforms: np.ndarray, tally: Tally) -> None:
        """Append `tokens`, i64 (R,), and count in `tally` what they decide.

        `is_conditioned`, bool (R,), says which first tokens were drawn by the weights of `find_weights`; the
        others are taken to be at index_time. `uniforms`, f64 (R,), draw the gaps.
        """
        asked, stay = self._questions, self._stay
        was_alive = self.is_alive
        self._pass_time(tokens, is_conditioned, uniforms)
        horizon = asked.horizon_hours[stay][:, None]
        hours, deadline = self._hours[:, None], asked.deadline_hours[stay]
        is_event = (asked.is_event[:, tokens].T & (hours <= horizon)) | ((hours > deadline) & (deadline <= horizon))
        is_event &= self._undecided
        np.add.at(tally.events, self._stays[stay], is_event)
        self._undecided &= ~is_event
        self._undecided[asked.is_end[tokens] | (self._hours > horizon[:, 0])] = False
        self.num_tokens += 1
        self.last_tokens = tokens
        tally.num_tokens += int(was_alive.sum())
        is_given_up = self.num_tokens >= self._max_tokens[stay]
        if is_given_up.any():
            np.add.at(tally.unfinished, self._stays[stay], self._undecided & is_given_up[:, None])
            self._undecided[is_given_up] = False

    def _pass_time(self, tokens: np.ndarray, is_conditioned: np.ndarray, uniforms: np.ndarray) -> None:
        clock, stay = self._questions.clock, self._stay
        if clock is None:
            return
        at_least = None
        if self.num_tokens == 0 and self._first_gaps is not None:
            at_least = np.where(is_conditioned, self._first_gaps[stay, clock.class_of_token[tokens]], 0)
        self._hours = self._hours + clock.draw(tokens, self._is_after_time, uniforms, at_least)
        if self.num_tokens == 0:
            self._hours = np.maximum(self._hours, self._questions.index_hours[stay])
        self._is_after_time = clock.is_time_token[tokens]

    def find_layout(self, prompt_length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows to keep (S' * n',), of which repeats stand in for no continuation, bool, and prompts (S',).

        Every alive continuation is one row of a block of n' that share a prompt; `prompts` are the places of
        these among the blocks now kept. n' is what costs least to compute, in units of one position.
        """
        alive = np.flatnonzero(self.is_alive)
        block = alive // (len(self._stay) // self._num_blocks)
        order, counts = np.unique(block, return_counts=True)
        sizes = np.arange(1, counts.max() + 1)
        num_blocks = -(-counts[:, None] // sizes)
        costs = num_blocks.sum(0) * (prompt_length + sizes * (self.num_tokens + 256))
        size = int(sizes[np.argmin(costs)])
        num_blocks = num_blocks[:, size - 1]
        starts = np.cumsum(counts) - counts
        rows = np.full((int(num_blocks.sum()), size), -1)
        number = np.arange(len(alive)) - np.repeat(starts, counts)
        first_block = np.cumsum(num_blocks) - num_blocks
        rows[np.repeat(first_block, counts) + number // size, number % size] = alive
        is_repeat = rows < 0
        rows = np.where(is_repeat, rows[:, :1], rows)
        return rows.ravel(), is_repeat.ravel(), np.repeat(order, num_blocks)

    def keep(self, rows: np.ndarray, is_repeat: np.ndarray, num_blocks: int) -> None:
        """Keep the continuations at `rows`, with nothing left to decide where `is_repeat`."""
        for name in ("_stay", "_sample", "_undecided", "_hours", "_is_after_time", "last_tokens"):
            setattr(self, name, getattr(self, name)[rows])
        self._undecided[is_repeat] = False
        self._num_blocks = num_blocks
