"""Stage 03: turn the first hours of every stay into vectors.

Reads   --timelines_dir   finished directory of 00_tokenize.py
        --backbone_dir    finished directory of 01_pretrain.py (or --classifier_dir, of 02_finetune.py)
Writes  --output_dir      representations/<split>/, token_embeddings.parquet; asked for: information/<split>/,
                          zero_shot/<split>/
Run     python 03_extract_reps.py --config configs/ehr/demo/03_extract_reps.yaml
        torchrun --nproc_per_node=8 03_extract_reps.py --config configs/ehr/03_extract_reps.yaml
"""

from functools import partial

from clinrep.artifacts import SPLITS
from clinrep.modality import load_stage
from clinrep.run import open_run, run_stage, show_progress

STAGE = "03_extract_reps"


def main(argv: list[str]) -> None:
    """Run stage 03 with the settings in `argv`."""
    modality, config = load_stage(STAGE, __doc__, argv)
    with open_run(STAGE, config) as run:
        from clinrep import representations as reps  # after the settings: torch loads slowly
        from clinrep.language import write_language_tables

        encoder = modality.load_encoder(config)
        sequences = modality.load_sequences(config.timelines_dir, config.max_length, truncation=config.truncation)
        write_language_tables(run, modality, config, sequences)
        progress = partial(show_progress, config=config, title="extracting")
        extractor = reps.Extractor(
            encoder, config.layers, config.poolings, config.batch_tokens, config.precision, progress
        )
        if run.is_main:
            run.write("token_embeddings", reps.read_token_embeddings(encoder, sequences.vocabulary_path))
        run.clear("representations")
        for split in SPLITS:
            chosen = sequences.select(split)
            for part, rows in reps.share_parts(len(chosen), config.subjects_per_part):
                run.write("representations", extractor.extract(chosen.take(rows)), split, part)
            run.rows[f"representations/{split}"] = len(chosen) * extractor.num_vectors


if __name__ == "__main__":
    run_stage(main)
