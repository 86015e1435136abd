"""Stage 03: turn the first hours of every stay into vectors.

Reads   --timelines_dir   finished directory of 00_tokenize.py
        --backbone_dir    finished directory of 01_pretrain.py (or --classifier_dir, of 02_finetune.py)
Writes  --output_dir      representations/<split>/, token_embeddings.parquet; asked for: trajectories.parquet,
                          hidden_states/<split>/, information/<split>/, zero_shot/<split>/
Run     python 03_extract_reps.py --config configs/ehr/demo/03_extract_reps.yaml
        torchrun --nproc_per_node=8 03_extract_reps.py --config configs/ehr/03_extract_reps.yaml

A run cut off goes on with the same command: finished parts are kept.
"""

from functools import partial

from clinrep.modality import load_stage
from clinrep.run import open_run, run_stage, show_progress

STAGE = "03_extract_reps"


def main(argv: list[str]) -> None:
    """Run stage 03 with the settings in `argv`."""
    modality, config = load_stage(STAGE, __doc__, argv)
    with open_run(STAGE, config) as run:
        from clinrep import extraction, parts  # after the settings: torch loads slowly
        from clinrep.language import write_language_tables
        from clinrep.representations import read_token_embeddings

        encoder = modality.load_encoder(config)
        sequences = modality.load_sequences(config.timelines_dir, config.max_length, truncation=config.truncation)
        progress = partial(show_progress, config=config, title="extracting")
        extractor = extraction.Extractor(encoder, config, progress)
        if run.is_main:
            run.write("token_embeddings", read_token_embeddings(encoder, sequences.vocabulary_path))
        chosen = extraction.choose_stays(sequences, config)
        write_language_tables(run, modality, config, sequences, chosen)
        num_stays = {split: len(stays) for split, stays in chosen.items()}
        for split, part, rows in parts.parts_to_do(run, "representations", num_stays, config.subjects_per_part):
            tables = extractor.extract(chosen[split].take(rows), config.list_tables(split))
            for name, frame in tables.items():
                parts.write_part(run, name, frame, split, part)
        parts.finish_parts(run, config.splits_by_table)
        modality.audit_outputs(run, config)


if __name__ == "__main__":
    run_stage(main)
