from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from clinrep.zero_shot.answers import make_table
from clinrep.zero_shot.sampling import Sampler, draw_tokens
from clinrep.zero_shot.wave import Tally
from tests.zero_shot.markov import (
    EVENT,
    EXPIRED,
    GAP,
    HOME,
    LAW,
    OTHER,
    PAD,
    A,
    B,
    C,
    MarkovModel,
    make_clock,
    make_questions,
    make_sequences,
    solve_chance,
)

PROMPTS = [[A], [A, B], [B, C, A, C], [C, B], [A, C, A]]


def make_sampler(model=None, num_samples=4000, max_new_tokens=500, batch_size=8000, **others) -> Sampler:
    settings = {"batch_tokens": 1000, "seed": 3, **others}
    return Sampler(model or MarkovModel(), num_samples, max_new_tokens, batch_size, **settings)


def check_chance(count: int, num_samples: int, chance: float) -> None:
    """The count is a binomial: within 4 standard errors of a chance that is known."""
    error = np.sqrt(max(chance * (1 - chance), 1e-12) * num_samples)
    assert abs(count - chance * num_samples) <= 4 * error, (count / num_samples, chance)


def test_chances_of_several_outcomes_are_those_of_the_chain():
    tally = make_sampler().sample(make_sequences(PROMPTS), make_questions(len(PROMPTS)))
    assert not tally.unfinished.any()
    for stay, prompt in enumerate(PROMPTS):
        for outcome, token in enumerate((EVENT, OTHER)):
            check_chance(tally.events[stay, outcome], 4000, solve_chance(token, prompt[-1]))
        check_chance(tally.events[stay, 2], 4000, solve_death(prompt[-1]))


def solve_death(start: int) -> float:
    inner = [A, B, C, EVENT, OTHER, GAP]
    chances = np.linalg.solve(np.eye(len(inner)) - LAW[np.ix_(inner, inner)], LAW[inner, EXPIRED])
    return float(chances[inner.index(start)])


def test_only_what_is_asked_is_answered_and_the_rest_is_not_sampled():
    is_asked = np.array([[True, False, True], [False, False, False], [False, True, False]])
    tally = make_sampler(num_samples=50).sample(make_sequences(PROMPTS[:3]), make_questions(3, is_asked=is_asked))
    assert not tally.events[~is_asked].any()
    assert (tally.events[is_asked] > 0).all()
    only = make_sampler(num_samples=50).sample(make_sequences(PROMPTS[:3]), make_questions(3))
    assert np.array_equal(only.events[is_asked], tally.events[is_asked])
    assert tally.num_tokens < only.num_tokens


@pytest.mark.parametrize("batch_size", [1, 7, 25, 64])
def test_what_is_sampled_does_not_depend_on_the_batch_nor_on_the_other_stays(batch_size):
    prompts = [PROMPTS[number % 5] for number in range(23)]
    sequences, questions = make_sequences(prompts), make_questions(23)
    whole = make_sampler(num_samples=6).sample(sequences, questions)
    split = make_sampler(num_samples=6, batch_size=batch_size, batch_tokens=3).sample(sequences, questions)
    assert np.array_equal(whole.events, split.events)
    assert whole.num_tokens == split.num_tokens
    rows = np.array([20, 3, 11])
    some = make_sampler(num_samples=6).sample(sequences.take(rows), questions.take(rows))
    assert np.array_equal(some.events, whole.events[rows])
    other = make_sampler(num_samples=6, seed=4).sample(sequences, questions)
    assert not np.array_equal(whole.events, other.events)


def test_continuations_of_a_stay_and_of_equal_stays_differ():
    tally = make_sampler(num_samples=40).sample(make_sequences([[A]] * 30), make_questions(30))
    assert np.unique(tally.events[:, 0]).size > 3
    assert tally.events[:, 0].std() < 0.2 * 40  # a binomial's is about 3: not all continuations alike


def test_what_is_undecided_at_the_last_token_is_counted_as_unfinished():
    """After one token: the event has 5 %, death 5 %, home 5 %, which decides all; the rest is undecided."""
    tally = make_sampler(max_new_tokens=1).sample(make_sequences([[A]]), make_questions(1))
    for outcome, undecided in enumerate((0.85, 0.85, 0.9)):
        check_chance(tally.unfinished[0, outcome], 4000, undecided)
        check_chance(tally.events[0, outcome], 4000, 0.05)
    assert tally.num_tokens == 4000


def test_the_positions_of_the_model_are_used_to_the_last_and_never_exceeded():
    """5 positions: after a prompt of 3 tokens, the last token that a state predicts is the third new one."""
    model = MarkovModel(max_positions=5)
    no_end = make_questions(2, is_end=np.zeros(9, dtype=bool), is_event=np.zeros((3, 9), dtype=bool))
    tally = make_sampler(model, num_samples=10).sample(make_sequences([[A, B, C], [A, B, C, A, B]]), no_end)
    assert model.last_position == 4
    assert tally.num_tokens == 10 * 3 + 10 * 1
    assert (tally.unfinished == 10).all()


def test_a_time_limit_is_passed_by_gaps_that_train_has():
    """From A: a gap of 1 or 4 hours and A again, or home at once; the question is whether the stay goes past hour 2.

    What follows a gap token is not later than it, though A by itself would be 7 hours later.
    """
    law = LAW.copy()
    law[A] = 0
    law[A, [GAP, HOME]] = 0.5, 0.5
    law[GAP] = 0
    law[GAP, A] = 1
    clock = make_clock({GAP: [1.0, 4.0], A: [7.0]})
    deadline = np.array([[np.inf, np.inf, 2.0]])
    questions = make_questions(1, clock, deadline_hours=deadline, is_event=np.zeros((3, 9), dtype=bool))
    tally = make_sampler(MarkovModel(law)).sample(make_sequences([[A]]), questions)
    # The chance from each hour on; a gap of 4 hours is past it at once, and hour 2 itself is not later.
    h2 = 0.5
    h1 = 0.5 * (0.5 * h2 + 0.5)
    h0 = 0.5 * (0.5 * h1 + 0.5)
    check_chance(tally.events[0, 2], 4000, h0)
    assert not tally.events[0, :2].any()
    on_the_hour = replace(questions, deadline_hours=np.array([[np.inf, np.inf, 1.0]]))
    tally = make_sampler(MarkovModel(law)).sample(make_sequences([[A]]), on_the_hour)
    check_chance(tally.events[0, 2], 4000, 0.5 * (0.5 * 0.5 + 0.5))


def test_events_after_the_horizon_do_not_count():
    """From A: the event (1/4, now or an hour later), home (1/4), or a gap of 15 minutes or 4 hours (1/2)."""
    law = LAW.copy()
    law[A] = 0
    law[A, [GAP, EVENT, HOME]] = 0.5, 0.25, 0.25
    law[GAP] = 0
    law[GAP, A] = 1
    clock = make_clock({GAP: [0.25, 4.0], EVENT: [0.0, 1.0]})
    questions = make_questions(1, clock, horizon_hours=np.array([0.5]))
    tally = make_sampler(MarkovModel(law)).sample(make_sequences([[A]]), questions)
    chance = 0.25 / 2 * (1 + 0.25 + 0.25**2)  # after 0, 1 or 2 gaps of 15 minutes
    check_chance(tally.events[0, 0], 4000, chance)
    assert not tally.unfinished.any()


@pytest.mark.parametrize("is_closed", [False, True])
def test_nothing_happens_before_index_time(is_closed):
    """The last token is 3 hours before index_time. From A: GAP (2, 3 or 5 hours), HOME (1 or 9), B (0.1).

    So B is not possible, half of HOME is, and of GAP two thirds, or where the instant itself was seen, one.
    """
    law = LAW.copy()
    law[A] = 0
    law[A, [GAP, HOME, B]] = 0.4, 0.2, 0.4
    law[GAP] = 0
    law[GAP, EVENT] = 1
    clock = make_clock({GAP: [2.0, 3.0, 5.0], HOME: [9.0, 1.0], B: [0.1]})
    index = np.array([3.0])
    questions = make_questions(1, clock, index_hours=index, is_index_closed=is_closed)
    tally = make_sampler(MarkovModel(law)).sample(make_sequences([[A]]), questions)
    share = 1 / 3 if is_closed else 2 / 3
    check_chance(tally.events[0, 0], 4000, 0.4 * share / (0.4 * share + 0.2 * 0.5))
    # and its gap is one of those that are long enough
    later = replace(questions, horizon_hours=np.array([4.0]))
    tally = make_sampler(MarkovModel(law)).sample(make_sequences([[A]]), later)
    expected = 0 if is_closed else 0.4 * (1 / 3) / (0.4 * share + 0.2 * 0.5)
    check_chance(tally.events[0, 0], 4000, expected)


def test_a_wait_longer_than_any_gap_of_train_begins_at_index_time():
    clock = make_clock({GAP: [2.0], A: [0.1], B: [0.1], C: [0.1], EVENT: [0.1], OTHER: [0.1], HOME: [1], EXPIRED: [1]})
    deadline = np.array([[np.inf, np.inf, 49.0]])
    questions = make_questions(1, clock, index_hours=np.array([50.0]), deadline_hours=deadline)
    tally = make_sampler(num_samples=100).sample(make_sequences([[A]]), questions)
    assert tally.num_unconditioned == 1
    assert tally.events[0, 2] == 100  # later than 49 hours from the first token on


def test_what_no_timeline_holds_is_never_drawn():
    """The model gives PAD half of the mass of A: of the rest, half is the event."""
    law = LAW.copy()
    law[A] = 0
    law[A, [PAD, EVENT, HOME]] = 0.5, 0.25, 0.25
    tally = make_sampler(MarkovModel(law)).sample(make_sequences([[A]]), make_questions(1))
    check_chance(tally.events[0, 0], 4000, 0.5)


def test_the_table_has_a_row_for_each_question_with_its_own_label():
    is_asked = np.array([[True, False, True], [True, True, False]])
    labels = np.array([[False, False, True], [True, False, False]])
    tally = Tally(np.array([[1, 0, 2], [4, 0, 0]]), np.array([[2, 0, 0], [0, 1, 0]]))
    table = make_table(make_sequences([[A], [B]]), make_questions(2, is_asked=is_asked, labels=labels), tally, 4)
    assert table.drop("split").rows() == [
        ("S000", "event", False, 0.25, pytest.approx(np.sqrt(0.25 * 0.75 / 4)), 0.5),
        ("S000", "death", True, 0.5, 0.25, 0.0),
        ("S001", "event", True, 1.0, 0.0, 0.0),
        ("S001", "other", False, 0.0, 0.0, 0.25),
    ]


def test_tokens_are_drawn_by_inverting_the_distribution_function():
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(300, 150, generator=generator) * 3
    logits[:, 7] = -torch.inf
    uniforms = torch.rand(300, generator=generator, dtype=torch.float64)
    ends = logits.double().softmax(-1).cumsum(-1)
    tokens, is_conditioned = draw_tokens(logits, uniforms)
    assert torch.equal(tokens, torch.searchsorted(ends, uniforms[:, None], right=True)[:, 0])
    assert is_conditioned.all()
    assert (draw_tokens(logits, torch.zeros(300, dtype=torch.float64))[0] == 0).all()
    last = draw_tokens(logits, torch.full((300,), 1 - 1e-16, dtype=torch.float64))[0]
    assert (last >= 140).all()
    weights = torch.zeros(300, 150, dtype=torch.float64)
    weights[:150, 9] = 0.1
    tokens, is_conditioned = draw_tokens(logits, uniforms, weights)
    assert (tokens[:150] == 9).all()
    assert is_conditioned.tolist() == [True] * 150 + [False] * 150
