"""Judge models of simulated stays by the exact risk, beside the best possible prediction.

Reads   --simulate_dir            what python -m clinrep.ehr.simulate wrote: truth.parquet
        timelines_dir.SITE        finished directory of 00_tokenize.py on it
        representations_dir.SITE  finished directory of 03_extract_reps.py
        predictions_dir.SITE      folder of 02_finetune.py's directories, one per outcome (optional)
        --zero_shot_dir           directory of 03_extract_reps.py with zero-shot answers (optional)
Writes  --output_dir              scores.csv, report.md; the latter is printed too
Run     python -m clinrep.ehr.known_risk --config configs/ehr/known_risk/report.yaml
"""

import sys
from pathlib import Path

from clinrep import artifacts
from clinrep.analysis.inputs import choose_outcomes, read_sites
from clinrep.config import parse_config
from clinrep.ehr.known_risk.config import KnownRiskConfig
from clinrep.ehr.known_risk.inputs import read_truth
from clinrep.ehr.known_risk.page import find_times, write_markdown
from clinrep.ehr.known_risk.questions import collect_questions
from clinrep.ehr.known_risk.scores import score_questions
from clinrep.run import open_run, run_stage


def main(argv: list[str]) -> None:
    """Write the report of one simulated site."""
    config = parse_config(KnownRiskConfig, argv, prog="python -m clinrep.ehr.known_risk", story=__doc__)
    with open_run("known_risk", config) as run:
        site = read_sites(config)[0]
        truth = read_truth(Path(config.simulate_dir), Path(config.timelines_dir[site.name]))
        outcomes = choose_outcomes([site], config)
        questions = collect_questions(site, truth, outcomes, config)
        scores = score_questions(questions, config)
        page = write_markdown(scores, find_times(config))
        artifacts.write_text(run.directory / "scores.csv", scores.write_csv())
        artifacts.write_text(run.directory / "report.md", page)
        run.rows["scores"] = scores.height
    print(page)


if __name__ == "__main__":
    sys.argv[0] = "clinrep.ehr.known_risk"  # what messages and provenance.json call this program
    run_stage(main)
