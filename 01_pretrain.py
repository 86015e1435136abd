"""Stage 01: pretrain a causal transformer on packed timelines, or search for the settings to do it with.

Reads   --timelines_dir   finished directory of 00_tokenize.py: vocabulary, train and val timelines
        --backbone_dir    optional: a backbone to continue from
Writes  --output_dir      backbone/ (config.json, model.safetensors, vocabulary.parquet): the best weights on val
                          leakage.csv, checkpoints/, metrics.jsonl; of a search also search/ and trials/
Run     python 01_pretrain.py --config configs/ehr/demo/01_pretrain.yaml
        torchrun --nproc_per_node=8 01_pretrain.py --config configs/ehr/01_pretrain.yaml

SIGUSR1, SIGTERM or Ctrl-C saves a checkpoint, writes STOPPED and ends with exit code 75; the same command
continues. torchrun passes SIGUSR1 on only with --signals-to-handle (README).
"""

from functools import partial
from pathlib import Path
from typing import Any

from clinrep.modality import Modality, load_stage
from clinrep.run import Run, open_run, run_stage
from clinrep.stop_signal import StopSignal

STAGE = "01_pretrain"


def main(argv: list[str]) -> None:
    """Run stage 01 with the settings in `argv`."""
    modality, config = load_stage(STAGE, __doc__, argv)
    with StopSignal() as stop, open_run(STAGE, config) as run:
        modality.audit_outputs(run, config)  # at the end too; before the first GPU second what can be told then
        from clinrep.training import check_share, save_model  # late: torch loads slowly, and Optuna is seldom needed

        if config.search.num_trials:
            from clinrep.training.search import search

            search(config, run, stop, partial(pretrain, modality, stop), check=check_share)
        else:
            model, companions = pretrain(modality, stop, config, run)
            if not run.is_stopped:
                save_model(model, run, "backbone", companions)
        modality.audit_outputs(run, config)


def pretrain(
    modality: Modality, stop: StopSignal, config: Any, run: Run, on_validation: Any = None
) -> tuple[Any, list[Path]]:
    """Return the best model of one run, or of one trial of a search, and the files to lie beside it."""
    from clinrep.training import check_start, train

    check_start(run, config.training, config.items_per_step)
    data = modality.load_blocks(config)
    run.rows |= data.count_rows()
    model = modality.build_language_model(config, data)
    model = train(model, data.make_task(config), config.training, run, stop, on_validation=on_validation)
    return model, data.companions


if __name__ == "__main__":
    run_stage(main)
