"""What the head of the backbone tells when asked: information of timelines, and zero-shot answers."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import Any

from clinrep.config import InputError
from clinrep.information import InformationMeter
from clinrep.modality import Modality
from clinrep.parts import parts_to_do, write_part
from clinrep.run import Run, show_progress
from clinrep.sequences import Sequences
from clinrep.zero_shot.answers import write_answers
from clinrep.zero_shot.sampling import Sampler

logger = logging.getLogger("clinrep")


def write_language_tables(
    run: Run, modality: Modality, config: Any, sequences: Sequences, chosen: Mapping[str, Sequences]
) -> None:
    """Write tables `information` and `zero_shot` where the settings of stage 03 ask for them.

    `chosen` are the stays of each split to extract; zero-shot has splits and a sample of its own. Parts that are
    there already stay: a run that was cut off goes on where it was.
    """
    asked = config.zero_shot
    if not (config.information or asked.outcomes):
        return
    questions = modality.read_questions(config, sequences) if asked.outcomes else None  # may refuse: so it is first
    model = modality.load_frozen_language_model(config)
    if config.information:
        progress = partial(show_progress, config=config, title="information")
        meter = InformationMeter(model, config.batch_tokens, config.precision, progress)
        num_stays = {split: len(stays) for split, stays in chosen.items()}
        run.rows |= {f"information/{split}": number for split, number in num_stays.items()}
        for split, part, rows in parts_to_do(run, "information", num_stays, config.subjects_per_part):
            write_part(run, "information", meter.measure(chosen[split].take(rows)), split, part)
    if questions is not None:
        sampler = Sampler(
            model,
            asked.num_samples,
            asked.max_new_tokens,
            asked.batch_size,
            config.batch_tokens,
            config.seed,
            config.precision,
            None if asked.beyond_trained_positions else find_trained_positions(model, config.max_length),
        )
        write_answers(
            run, sampler, asked, sequences, questions, partial(show_progress, config=config, title="zero-shot")
        )


def find_trained_positions(model: Any, max_length: int) -> int | None:
    """Return how many positions a backbone was trained on; None where its config.json does not say.

    Raises:
        InputError: they leave the longest prompts no continuation.
    """
    known: int | None = getattr(model.config, "trained_positions", None)
    if known is None:
        logger.warning("the backbone does not say on how many positions it was trained; zero-shot may go beyond them")
    elif max_length >= known:
        raise InputError(
            f"max_length is {max_length} but the backbone was trained on {known} positions (its block_size): zero-shot "
            "has no room to go on; lower max_length, or use --zero_shot.beyond_trained_positions true"
        )
    return known
