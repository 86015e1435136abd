"""Make a bundle of models, tokenizer and aggregate scores that can leave a hospital.

Reads   --timelines_dir    finished directory of 00_tokenize.py that learned the tokenizer
        --backbone_dir     finished directory of 01_pretrain.py on it
        --classifier_dir   directory of 02_finetune.py, or a folder of them (optional)
        --analyze_dir      finished directory of 04_analyze.py (optional)
Writes  --output_dir       bundle/: all that may leave, with README.md and MANIFEST.json;
                           beside it this run's own log and settings, which stay
Run     python -m clinrep.export --timelines_dir runs/S/00_tokenize --backbone_dir runs/S/01_pretrain --output_dir OUT
"""

import sys
from pathlib import Path

from clinrep import artifacts
from clinrep.config import parse_config
from clinrep.export.bundle import Bundle
from clinrep.export.config import ExportConfig
from clinrep.export.models import add_models, find_models
from clinrep.export.readme import write_readme
from clinrep.export.results import add_results
from clinrep.export.settings import add_settings, add_tokenizer
from clinrep.modality import load_modality
from clinrep.run import open_run, run_stage


def main(argv: list[str]) -> None:
    """Export one site's models."""
    config = parse_config(ExportConfig, argv, prog="python -m clinrep.export", story=__doc__)
    with open_run("export", config) as run, artifacts.atomic_path(run.directory / "bundle") as temporary:
        bundle = Bundle(temporary)
        models = find_models(config, bundle)
        tokenizer = load_modality(config.modality).export_tokenizer(Path(config.timelines_dir), config)
        add_tokenizer(bundle, tokenizer)
        add_models(bundle, models, tokenizer)
        made = add_settings(bundle, config, models)
        add_results(bundle, config)
        write_readme(bundle, config)
        bundle.close({"format": "clinrep bundle 1", "min_cell_count": config.min_cell_count, "made_from": made})
    print(run.directory / "bundle")


if __name__ == "__main__":
    sys.argv[0] = "clinrep.export"  # what messages and provenance.json call this program
    run_stage(main)
