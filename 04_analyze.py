"""Score probes and fine-tuned classifiers on held-out patients, and write the tables, figures and report.

Reads   timelines_dir.SITE        a finished 00_tokenize.py directory, one for each site
        representations_dir.SITE  a finished 03_extract_reps.py directory of the same site
        predictions_dir.SITE      a finished 02_finetune.py directory, or a folder with one per outcome (optional)
Writes  scores.parquet, class_patients.parquet, tables/*.csv and *.tex, figures/*.pdf and *.png, report.html,
        leakage.csv, timelines.html (single stays); asked for: risk_over_time.parquet
Run     python 04_analyze.py --config configs/ehr/demo/04_analyze.yaml

Probes and baselines (which read the timelines alone) are fitted on the train split of `train_site` and
judged, like the classifiers, on the test split of every site. The last line printed is the path of the report.
"""

from clinrep.analysis.anomalies import score_anomalies
from clinrep.analysis.baselines import predict_baselines, read_inputs
from clinrep.analysis.differences import check_reference
from clinrep.analysis.inputs import choose_outcomes, read_sites
from clinrep.analysis.probes import fit_probes, predict_test
from clinrep.analysis.report import write_report
from clinrep.analysis.risk import write_risk_over_time
from clinrep.analysis.scores import score_predictions
from clinrep.analysis.sections import build_sections, choose_sections
from clinrep.analysis.study import Study
from clinrep.analysis.subgroups import choose_subgroups
from clinrep.analysis.tables import write_tables
from clinrep.modality import load_stage
from clinrep.run import open_run, run_stage


def main(argv: list[str]) -> None:
    """Analyze what the earlier stages made of one site or several."""
    modality, config = load_stage("04_analyze", __doc__, argv)
    choose_sections(config)
    choose_subgroups(config)
    with open_run("04_analyze", config) as run:
        sites = read_sites(config)
        outcomes = choose_outcomes(sites, config)
        leaks = modality.audit_sites(run, config)
        inputs = read_inputs(modality.read_stay_inputs, config)
        probes = fit_probes(sites, outcomes, config)
        baselines = predict_baselines(sites, outcomes, inputs, config)
        predicted = predict_test(sites, outcomes, probes, baselines)
        check_reference(predicted, config)
        anomalies = score_anomalies(sites, config)

        scores = score_predictions(predicted, sites, anomalies, config)
        run.write("scores", scores)
        if config.risk_over_time:
            write_risk_over_time(run, sites, probes, config)

        study = Study(config, run.directory, sites, outcomes, probes, predicted, anomalies, scores, inputs, leaks)
        run.write("class_patients", study.class_patients)
        sections = build_sections(study)
        write_tables(sections, run.directory / "tables")
        report_path = write_report(run, study, sections)
    print(report_path)


if __name__ == "__main__":
    run_stage(main)
