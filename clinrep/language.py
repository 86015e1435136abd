"""What the head of the backbone tells when asked: information of timelines, and zero-shot answers."""

from __future__ import annotations

from functools import partial
from typing import Any

from clinrep import artifacts
from clinrep.artifacts import SPLITS
from clinrep.information import InformationMeter
from clinrep.modality import Modality
from clinrep.parts import iterate_missing_parts
from clinrep.run import Run, show_progress
from clinrep.sequences import Sequences
from clinrep.zero_shot.answers import write_answers
from clinrep.zero_shot.sampling import Sampler


def write_language_tables(run: Run, modality: Modality, config: Any, sequences: Sequences) -> None:
    """Write tables `information` and `zero_shot` where the settings of stage 03 ask for them.

    Parts that are there already stay: a run that was cut off goes on where it was.
    """
    asked = config.zero_shot
    if not (config.information or asked.outcomes):
        return
    questions = modality.read_questions(config, sequences) if asked.outcomes else None  # may refuse: so it is first
    model = modality.load_frozen_language_model(config)
    if config.information:
        progress = partial(show_progress, config=config, title="information")
        meter = InformationMeter(model, config.batch_tokens, config.precision, progress)
        for split in SPLITS:
            chosen = sequences.select(split)
            run.rows[f"information/{split}"] = len(chosen)
            size = config.subjects_per_part
            for part, rows in iterate_missing_parts("information", run.directory, split, len(chosen), size):
                artifacts.write_table("information", meter.measure(chosen.take(rows)), run.directory, split, part)
    if questions is not None:
        sampler = Sampler(
            model,
            asked.num_samples,
            asked.max_new_tokens,
            asked.batch_size,
            config.batch_tokens,
            config.seed,
            config.precision,
        )
        write_answers(
            run, sampler, asked, sequences, questions, partial(show_progress, config=config, title="zero-shot")
        )
