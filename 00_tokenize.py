"""Stage 00: turn the tables of a hospital into integer timelines, a tokenizer and labels.

Reads   --clif_dir        CLIF tables (clif_*.parquet)
        --tokenizer_dir   optional: a finished stage-00 directory whose tokenizer is applied frozen
        --splits_path     optional: an existing splits.parquet
Writes  --output_dir      splits, vocabulary, quantiles, timelines/<split>/, outcomes, subjects, ledger
Run     python 00_tokenize.py --config configs/ehr/demo/00_tokenize.yaml
"""

from clinrep.modality import load_stage
from clinrep.run import open_run, run_stage


def main(argv: list[str]) -> None:
    """Tokenize one site."""
    modality, config = load_stage("00_tokenize", __doc__, argv)
    with open_run("00_tokenize", config) as run:
        source = modality.open_source(config)
        cohort = modality.read_cohort(source)
        splits = modality.split_patients(source, cohort)
        events = modality.read_events(source, cohort)
        tokenized = modality.tokenize(source, cohort, splits, events)

        run.write("splits", splits)
        run.write("vocabulary", tokenized.tokenizer.vocabulary)
        run.write("quantiles", tokenized.tokenizer.quantiles)
        run.clear("timelines")
        for split, part, rows in modality.iterate_parts(tokenized, config):
            run.write("timelines", rows, split, part)
        run.write("outcomes", tokenized.outcomes)
        run.write("subjects", tokenized.subjects)
        run.write("ledger", source.ledger.to_frame())


if __name__ == "__main__":
    run_stage(main)
