"""Stage 00: turn the tables of a hospital into integer timelines, a tokenizer and labels.

Reads   --clif_dir        CLIF tables (clif_*.parquet)
        --tokenizer_dir   optional: a finished stage-00 directory whose tokenizer is applied frozen
        --splits_path     optional: an existing splits.parquet
Writes  --output_dir      splits, vocabulary, quantiles, categories, timelines/<split>/, outcomes, subjects,
                          ledger; leakage.csv, leakage_tokens.csv; with --tokenizer_dir also site_report.html and .csv
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
        run.clear("timelines")
        with modality.read_events(source, cohort, run.directory) as events:
            tokenized = modality.tokenize(source, cohort, splits, events)
            for split, part, rows in modality.iterate_parts(tokenized, config):
                run.write("timelines", rows, split, part)

        run.write("splits", splits)
        run.write("vocabulary", tokenized.tokenizer.vocabulary)
        run.write("quantiles", tokenized.tokenizer.quantiles)
        run.write("categories", tokenized.tokenizer.categories)
        run.write("outcomes", tokenized.outcomes)
        modality.report_site(source, cohort, tokenized, run.directory)
        run.write("subjects", tokenized.subjects)
        run.write("ledger", source.ledger.to_frame())
        modality.audit_timelines(run, config)


if __name__ == "__main__":
    run_stage(main)
