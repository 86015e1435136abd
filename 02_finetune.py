"""Stage 02: fine-tune a classifier of one outcome on the first hours of every stay.

Reads   --timelines_dir   finished directory of 00_tokenize.py
        --backbone_dir    finished directory of 01_pretrain.py (or --classifier_dir, of this stage)
Writes  --output_dir      classifier/, predictions.parquet (every labelled stay of every split),
                          checkpoints/, metrics.jsonl
Run     python 02_finetune.py --config configs/ehr/demo/02_finetune.yaml --outcome in_hospital_death

One outcome a run. SIGUSR1 or SIGTERM saves, writes STOPPED and ends with exit code 75; the same
command continues.
"""

from clinrep.modality import load_stage
from clinrep.run import open_run, run_stage

STAGE = "02_finetune"


def main(argv: list[str]) -> None:
    """Run stage 02 with the settings in `argv`."""
    modality, config = load_stage(STAGE, __doc__, argv)
    with open_run(STAGE, config) as run:
        from clinrep import classification as classes  # after the settings: torch loads slowly
        from clinrep.sequences import LabelledItems
        from clinrep.training import save_model, train

        sequences = modality.load_sequences(config.timelines_dir, config.max_length, config.outcome)
        classes.check_classes(sequences, config.outcome, config.metric_for_best)
        classifier = modality.load_classifier(config)
        items = LabelledItems(sequences.select("train"))
        classifier = train(
            classifier,
            items,
            items.make_filler(),
            classes.ClassifierValidation(sequences.select("val"), config.prediction_batch_size),
            config.training,
            run,
            metric_for_best=f"eval_{config.metric_for_best}",
            greater_is_better=config.metric_for_best != "loss",
            collate=classes.LeftPaddedCollator(sequences.pad_token_id),
        )
        if run.is_stopped:
            return
        predictions = classes.make_predictions(classifier, sequences, config.outcome, config.prediction_batch_size)
        if run.is_main:
            save_model(classifier, run, "classifier", [sequences.vocabulary_path])
            run.write("predictions", predictions)


if __name__ == "__main__":
    run_stage(main)
