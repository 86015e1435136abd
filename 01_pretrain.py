"""Stage 01: pretrain a causal transformer on packed timelines, or search for the settings to do it with.

Reads   --timelines_dir   finished directory of 00_tokenize.py: vocabulary, train and val timelines
        --backbone_dir    optional: a backbone to continue from
Writes  --output_dir      backbone/ (config.json, model.safetensors, vocabulary.parquet): the best weights on val
                          checkpoints/, metrics.jsonl; of a search also search/ and trials/
Run     python 01_pretrain.py --config configs/ehr/demo/01_pretrain.yaml
        torchrun --nproc_per_node=8 01_pretrain.py --config configs/ehr/01_pretrain.yaml

SIGUSR1, SIGTERM or Ctrl-C saves a checkpoint, writes STOPPED and ends with exit code 75; the same command
continues. torchrun passes SIGUSR1 on only with --signals-to-handle (slurm/launch.sh).
"""

from clinrep.modality import load_stage
from clinrep.run import open_run, run_stage
from clinrep.stop_signal import StopSignal

STAGE = "01_pretrain"


def main(argv: list[str]) -> None:
    """Run stage 01 with the settings in `argv`."""
    modality, config = load_stage(STAGE, __doc__, argv)
    with StopSignal() as stop, open_run(STAGE, config) as run:
        from clinrep.training import check_start, save_model, train  # late: torch loads slowly

        check_start(run, config.training, config.items_per_step)
        data = modality.load_blocks(config)
        model = modality.build_language_model(config, data)
        model = train(model, data.make_task(config), config.training, run, stop)
        if not run.is_stopped:
            save_model(model, run, "backbone", data.companions)
            run.rows |= data.count_rows()


if __name__ == "__main__":
    run_stage(main)
