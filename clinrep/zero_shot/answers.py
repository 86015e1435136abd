"""Table zero_shot: the counts of the sampler as probabilities, part by part, over all ranks.

N stays, K outcomes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable

import numpy as np
import polars as pl

from clinrep import artifacts, distributed
from clinrep.extraction import sample
from clinrep.parts import parts_to_do, write_part
from clinrep.run import Run
from clinrep.sequences import Sequences
from clinrep.zero_shot.config import ZeroShotConfig
from clinrep.zero_shot.questions import Questions
from clinrep.zero_shot.sampling import Sampler
from clinrep.zero_shot.wave import Tally

logger = logging.getLogger("clinrep")

MUCH_UNFINISHED = 0.01


def write_answers(
    run: Run,
    sampler: Sampler,
    config: ZeroShotConfig,
    sequences: Sequences,
    questions: Questions,
    progress: Callable[[list[int]], Iterable[int]] = iter,
) -> None:
    """Write table `zero_shot` of the splits asked for; a part that is there already is not made again.

    Every rank makes its share of the parts, which are the same for any number of ranks.
    """
    chosen: dict[str, np.ndarray] = {
        split: choose_stays(sequences, questions, split, config.max_subjects, run.config.seed)
        for split in config.splits
    }
    run.rows |= {f"zero_shot/{split}": int(questions.is_asked[rows].sum()) for split, rows in chosen.items()}
    num_stays = {split: len(rows) for split, rows in chosen.items()}
    for split, part, places in parts_to_do(run, "zero_shot", num_stays, config.subjects_per_part):
        rows = chosen[split][places]
        stays, asked = sequences.take(rows), questions.take(rows)
        tally = sampler.sample(stays, asked, progress)
        write_part(run, "zero_shot", make_table(stays, asked, tally, config.num_samples), split, part)
        logger.info("zero-shot: %s, part %d: %d tokens sampled", split, part, tally.num_tokens)
        if tally.num_unconditioned:
            logger.warning(
                "zero-shot: index_time of %d stays is longer after their last event than any gap of train; their "
                "continuations begin at index_time",
                tally.num_unconditioned,
            )
    distributed.wait_for_all()
    if run.is_main:
        _report(pl.concat(map(pl.read_parquet, artifacts.find_parts("zero_shot", run.directory))))


def choose_stays(
    sequences: Sequences, questions: Questions, split: str, max_subjects: int | None, seed: int
) -> np.ndarray:
    """Return the rows of the stays of a split to sample, ascending, i64: those with a label of any outcome.

    Of more than `max_subjects`, a sample as of stage 03's own `max_subjects`.
    """
    is_asked = np.asarray(questions.is_asked.any(axis=1))
    rows = sequences.find_rows(split)
    rows = rows[is_asked[rows]]
    return rows[sample(sequences.take(rows), max_subjects, seed)]


def make_table(sequences: Sequences, questions: Questions, tally: Tally, num_samples: int) -> pl.DataFrame:
    """Return table `zero_shot`: one row per stay and outcome asked of it.

    probability p is the share of continuations with the event, which is unbiased; its standard error
    sqrt(p (1 - p) / num_samples) is therefore 0 where none or all have it, though the truth may be up to
    about 3 / num_samples away (the rule of three).
    """
    stay, outcome = np.nonzero(questions.is_asked)
    probability = tally.events[stay, outcome] / num_samples
    error = np.sqrt(probability * (1 - probability) / num_samples)
    return sequences.subjects[stay].select(
        "subject_id",
        "split",
        outcome=pl.Series(questions.outcomes, dtype=pl.String).gather(outcome),
        label=pl.Series(questions.labels[stay, outcome], dtype=pl.Boolean),
        probability=pl.Series(probability, dtype=pl.Float32),
        standard_error=pl.Series(error, dtype=pl.Float32),
        unfinished=pl.Series(tally.unfinished[stay, outcome] / num_samples, dtype=pl.Float32),
    )


def _report(answers: pl.DataFrame) -> None:
    """Say of every outcome how many continuations were cut off, over all parts, also those of earlier sessions."""
    by_outcome = answers.group_by("outcome", maintain_order=True).agg(pl.len(), share=pl.col("unfinished").mean())
    for name, number, share in by_outcome.iter_rows():
        logger.info("zero-shot %s: %d stays, %.2g %% of the continuations unfinished", name, number, 100 * share)
        if share > MUCH_UNFINISHED:
            logger.warning(
                "zero-shot %s: %.2g %% of the continuations reached zero_shot.max_new_tokens, or the last position the "
                "backbone was trained on (its block_size), before event or discharge, and count as without event: the "
                "probabilities are too low; raise the former, shorten the prompts (max_length), or pretrain on longer "
                "blocks",
                *(name, 100 * share),
            )
