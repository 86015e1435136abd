"""Stage 02: fine-tune a classifier of one outcome on the first hours of every stay.

Reads   --timelines_dir   finished directory of 00_tokenize.py
        --backbone_dir    finished directory of 01_pretrain.py (or --classifier_dir, of this stage)
Writes  --output_dir      classifier/, predictions.parquet (every labelled stay of every split),
                          checkpoints/, metrics.jsonl
Run     python 02_finetune.py --config configs/ehr/demo/02_finetune.yaml --outcome in_hospital_death

One outcome a run. SIGUSR1, SIGTERM or Ctrl-C saves, writes STOPPED and ends with exit code 75; the same
command continues.
"""

from clinrep.modality import load_stage
from clinrep.run import open_run, run_stage
from clinrep.stop_signal import StopSignal

STAGE = "02_finetune"


def main(argv: list[str]) -> None:
    """Run stage 02 with the settings in `argv`."""
    modality, config = load_stage(STAGE, __doc__, argv)
    with StopSignal() as stop, open_run(STAGE, config) as run:
        from clinrep import classification as classes  # late: torch loads slowly
        from clinrep.training import Task, check_start, save_model, train

        check_start(run, config.training, config.global_batch_size)
        classifier = modality.load_classifier(config)
        sequences = modality.load_sequences(config.timelines_dir, config.max_length, config.outcome, config.truncation)
        classes.check_classes(sequences, config.outcome, config.metric_for_best)
        data = classes.Classification(sequences, config.prediction_batch_size, config.training.precision)
        task = Task(
            dataset=data.train_items,
            filler=data.train_items.make_filler(),
            evaluate=data.validate,
            items_per_step=config.global_batch_size,
            collate=data.collate,
            metric_for_best=f"eval_{config.metric_for_best}",
            greater_is_better=config.metric_for_best != "loss",
        )
        classifier = train(classifier, task, config.training, run, stop)
        if run.is_stopped:
            return
        predictions = data.predict(classifier, config.outcome)
        if run.is_main:
            save_model(classifier, run, "classifier", sequences.companions)
            run.write("predictions", predictions)


if __name__ == "__main__":
    run_stage(main)
