"""Stage 02: fine-tune a classifier of one outcome on the first hours of every stay, or search for the settings to.

Reads   --timelines_dir   finished directory of 00_tokenize.py
        --backbone_dir    finished directory of 01_pretrain.py (or --classifier_dir, of this stage)
Writes  --output_dir      classifier/, predictions.parquet (every labelled stay of every split),
                          checkpoints/, metrics.jsonl; asked for, risk_over_time.parquet (after every token);
                          of a search also search/ and trials/
Run     python 02_finetune.py --config configs/ehr/demo/02_finetune.yaml --outcome in_hospital_death

One outcome a run; with --training_fraction 0 it only predicts, with the classifier of --classifier_dir as it is.
SIGUSR1, SIGTERM or Ctrl-C saves, writes STOPPED and ends with exit code 75; the same command continues.
"""

from functools import partial
from typing import Any

from clinrep.distributed import choose_device
from clinrep.modality import Modality, load_stage
from clinrep.run import Run, open_run, run_stage
from clinrep.stop_signal import StopSignal

STAGE = "02_finetune"


def main(argv: list[str]) -> None:
    """Run stage 02 with the settings in `argv`."""
    modality, config = load_stage(STAGE, __doc__, argv)
    with StopSignal() as stop, open_run(STAGE, config) as run:
        # late: torch loads slowly, and Optuna is seldom needed
        from clinrep.classification import choose_metric, list_outputs
        from clinrep.training import check_share

        if config.search.num_trials:
            from clinrep.training.search import search

            metric, should_rise = choose_metric(config)
            search(
                config,
                run,
                stop,
                partial(finetune, modality, stop),
                save=write,
                outputs=list_outputs(config),
                check=check_share,
                metric=metric,
                greater_is_better=should_rise,
            )
        else:
            trained = finetune(modality, stop, config, run)
            if not run.is_stopped:
                write(trained, run)
        modality.audit_outputs(run, config)


def finetune(modality: Modality, stop: StopSignal, config: Any, run: Run, on_validation: Any = None) -> tuple[Any, Any]:
    """Return the best classifier of one run, or of one trial of a search, and its data."""
    from clinrep.classification import Classification
    from clinrep.training import add_lora, check_start, make_rate_factors, merge_lora, train

    check_start(run, config.training, config.global_batch_size)
    classifier = modality.load_classifier(config)
    sequences = modality.load_sequences(config.timelines_dir, config.max_length, config.outcome, config.truncation)
    data = Classification(sequences, config)
    if not data.is_learned_from:
        return classifier.to(choose_device()), data
    classifier.item_loss = data.make_loss()
    classifier = add_lora(classifier, config.lora, classifier.HEAD, config.seed)
    rates = make_rate_factors(classifier, config.layer_learning_rate_decay, classifier.HEAD)
    classifier = train(classifier, data.make_task(rates), config.training, run, stop, on_validation=on_validation)
    return merge_lora(classifier), data


def write(trained: tuple[Any, Any], run: Run) -> None:
    """Write the classifier and its predictions."""
    classifier, data = trained
    data.write(classifier, run)


if __name__ == "__main__":
    run_stage(main)
