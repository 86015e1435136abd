"""Audit a site for leakage: tokens that tell the outcome, patients on both sides, statistics of more than train.

Reads   --timelines_dir          finished directory of 00_tokenize.py
        --source_timelines_dir   that of the site the model learned from (optional)
        --results_dir.NAME       finished directory of 02_finetune.py or 03_extract_reps.py on it (optional, several)
Writes  --output_dir             leakage.csv, leakage_tokens.csv
Run     python -m clinrep.ehr.leakage --timelines_dir runs/demo/00_tokenize --output_dir runs/demo/leakage

Ends with exit code 1 where a leak is certain; what is only doubtful is listed.
"""

import sys
from pathlib import Path

from clinrep import artifacts
from clinrep.config import InputError, parse_config
from clinrep.ehr.leakage import findings as found
from clinrep.ehr.leakage.audit import audit_site, write_audit
from clinrep.ehr.leakage.config import LeakageConfig
from clinrep.ehr.leakage.directory import Tokenized
from clinrep.ehr.leakage.outputs import check_outputs
from clinrep.ehr.leakage.relearn import check_by_learning_anew
from clinrep.run import open_run, run_stage


def main(argv: list[str]) -> None:
    """Audit one site."""
    config = parse_config(LeakageConfig, argv, prog="python -m clinrep.ehr.leakage", story=__doc__)
    with open_run("leakage", config) as run:
        directory = Path(config.timelines_dir)
        artifacts.read_done(directory, "00_tokenize")
        if config.source_timelines_dir is not None:
            artifacts.read_done(Path(config.source_timelines_dir), "00_tokenize")
        site = Tokenized(directory)
        if config.learn_anew and site.settings.get("tokenizer_dir"):
            raise InputError(
                f"{directory} has a frozen tokenizer: audit {site.settings['tokenizer_dir']}, which learned it"
            )
        source_dir = config.source_timelines_dir or site.settings.get("tokenizer_dir")
        findings, tokens = audit_site(directory, source_dir)
        for path in config.results_dir.values():
            artifacts.read_done(Path(path), "02_finetune", "03_extract_reps")
            findings += check_outputs(Path(path), site)
        if config.learn_anew:
            findings += check_by_learning_anew(site, config.clif_dir)
        write_audit(run.directory, findings, tokens)
        found.tell(findings)
        found.refuse_leaks(findings)
        num_pairs, num_doubtful = tokens.height, len(findings)
    print(f"no certain leak; {num_doubtful} doubtful findings; {num_pairs} pairs of token and outcome looked at")


if __name__ == "__main__":
    sys.argv[0] = "clinrep.ehr.leakage"  # what messages and provenance.json call this program
    run_stage(main)
