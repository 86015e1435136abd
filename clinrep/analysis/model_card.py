"""The model card (Mitchell et al., Model Cards for Model Reporting, FAT* 2019), filled in as far as the runs know."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import polars as pl

from clinrep import artifacts
from clinrep.analysis.card_facts import RunFacts, StudyFacts, read_facts
from clinrep.analysis.card_words import (
    ask,
    describe_classifier,
    describe_pretraining,
    describe_shape,
    describe_tokenizer,
    tell,
)
from clinrep.analysis.metrics import METRICS
from clinrep.analysis.scores import ALL
from clinrep.analysis.study import Section, Study
from clinrep.analysis.tables import PrintedTable, label_model, label_outcome
from clinrep.artifacts import SPLITS
from clinrep.config import InputError
from clinrep.modality import load_modality

FILE = "model_card.md"
Line = tuple[str, str]
"""What is described, and in which words."""


def build_model_card_section(study: Study) -> Section:
    """Return the card as a section, and write it as model_card.md into the run directory."""
    facts = read_facts(study)
    lines = [(title, *line) for title, describe in PARTS.items() for line in describe(study, facts)]
    table = pl.DataFrame(lines, schema=["part", "item", "content"], orient="row")
    artifacts.write_text(study.directory / FILE, format_card(table))
    words = table.rename({"part": "Part", "item": "Item", "content": "Content"})
    caption = (
        "Headings of Mitchell et al., Model Cards for Model Reporting (FAT* 2019). Filled in from the runs behind this "
        f"report; what they cannot know stands as [to be filled in: ...]. The same as text: {FILE}."
    )
    printed = PrintedTable("model_card", "Model card", caption, table, words, alignment="p{2.2cm}p{3cm}p{9.5cm}")
    return Section("model_card", "Model card", tables=[printed])


def format_card(table: pl.DataFrame) -> str:
    """Return the card as Markdown; a hospital's words make no HTML and no lines of their own."""
    plain = pl.col("item", "content").str.replace_all(r"\s+", " ").str.replace_all("<", r"\<", literal=True)
    parts = ["# Model card"]
    for (title,), rows in table.with_columns(plain).partition_by("part", as_dict=True, maintain_order=True).items():
        lines = [f"- **{item}**: {content}" for _, item, content in rows.iter_rows()]
        parts += [f"\n## {title}\n", *lines]
    return "\n".join(parts) + "\n"


def _describe_model(study: Study, facts: StudyFacts) -> Iterator[Line]:
    yield "Name and version", ask("name, version, who made it, contact, licence")
    if facts.backbone is None:
        yield "Backbone", ask("the run of 01_pretrain.py was not found where stages 02 and 03 read it, or has changed")
    else:
        yield "Backbone", describe_shape(facts.backbone, "backbone")
        yield "Pretraining", describe_pretraining(facts.backbone)
    for run in facts.classifiers:
        yield f"Classifier of {label_outcome(str(run.get('outcome')), study.config)}", describe_classifier(run)
    fitted = sorted({label_model(item.model, item.probe) for item in study.predicted})
    yield "Models judged", "; ".join(fitted)
    yield "Tokenizer", describe_tokenizer(study, facts.tokenized[study.config.fitted_site])
    yield "Software", ", ".join(f"{name} {version}" for name, version in facts.environment.items())
    yield "Code", "; ".join(_describe_code(stage, run) for stage, run in _list_runs(facts))


def _describe_use(study: Study, facts: StudyFacts) -> Iterator[Line]:
    yield "Primary intended uses", ask("what the model is for, at which point of care")
    yield "Primary intended users", ask("who may use it, with what training")
    origin, hours = facts.tokenized[study.config.fitted_site].get("window.origin"), _get_window(study, facts)
    yield (
        "Out of scope",
        f"Patients under {tell(facts.tokenized[study.config.fitted_site].get('min_age_years'))} years; stays that end "
        f"within {hours} h of {tell(origin).replace('_', ' ')}; hospitals whose data were not compared with the "
        "training data; any decision about a patient without a prospective evaluation. "
        + ask("further uses that are out of scope"),
    )


def _describe_factors(study: Study, facts: StudyFacts) -> Iterator[Line]:
    groups = [name for name in study.scores["subgroup"].unique(maintain_order=True) if name != ALL]
    yield "Groups judged apart", ", ".join(groups) or "none in this report"
    yield "Recorded of every stay", "age, sex, race and ethnicity as the hospital charted them, length of stay"
    yield "Instrumentation", ask("how and with which devices measurements were made; differences between units")
    yield "Factors not recorded", ask("relevant factors that the tables lack, for example language or insurance")


def _describe_metrics(study: Study, facts: StudyFacts) -> Iterator[Line]:
    config = study.config
    known = [METRICS[name].label for name in METRICS if name in set(study.scores["metric"])]
    yield "Measures", ", ".join(known)
    yield "Decision thresholds", ask("thresholds, if any, and how they were chosen")
    yield (
        "Uncertainty",
        f"{config.level} percentile intervals of {config.num_bootstraps:,} bootstrap replicates "
        f"resampled by patient (of the ECE basic ones, from 0 on where chance "
        f"alone gives as much); none where fewer than {config.min_events_for_interval} stays have, or do not have, "
        "the outcome",
    )


def _describe_training_data(study: Study, facts: StudyFacts) -> Iterator[Line]:
    site = study.config.fitted_site
    run = facts.tokenized[site]
    yield "Source", f"CLIF tables of site {site}. " + ask("hospital, years, how the data were collected and approved")
    yield "Cohort", _describe_cohort(run)
    yield "Split", _describe_split(run)
    yield from _count_splits(study, site, [split for split in SPLITS if split != "test"])
    yield "Left out", "counted step by step in section exclusions (tables/exclusions.csv)"


def _describe_evaluation_data(study: Study, facts: StudyFacts) -> Iterator[Line]:
    for site in facts.tokenized:
        yield from _count_splits(study, site, ["test"])
    hours = _get_window(study, facts)
    origin = tell(facts.tokenized[study.config.fitted_site].get("window.origin")).replace("_", " ")
    for outcome in study.outcomes:
        try:
            definition, horizon, asked = load_modality(study.config.modality).describe_question(outcome)
        except InputError:  # of tables made by other code
            yield f"Outcome: {label_outcome(outcome, study.config)}", ask("its definition and horizon")
            continue
        until = "to the end of the stay" if horizon is None else f"within {horizon:g} h of the prediction"
        words = f"{definition}; predicted {hours} h after {origin}, {until}; asked of {asked}"
        yield f"Outcome: {label_outcome(outcome, study.config)}", words
    yield "Preprocessing", "as the training data: the same tokenizer, learned on the training split alone"


def _describe_results(study: Study, facts: StudyFacts) -> Iterator[Line]:
    keys = ["site", "outcome", "subgroup", "model", "probe"]
    for values, rows in study.scores.partition_by(keys, as_dict=True, maintain_order=True).items():
        site, outcome, subgroup, model, probe = (str(value) for value in values)
        of_whom = "" if subgroup == ALL else f", {subgroup}"
        name = f"{label_outcome(outcome, study.config)} at {site}{of_whom}: {label_model(model, probe)}"
        patients = study.class_patients.filter(site=site, outcome=outcome, subgroup=subgroup)
        yield name, _format_results(rows, patients, study.config.min_cell_count)


def _format_results(rows: pl.DataFrame, patients: pl.DataFrame, least: int) -> str:
    """Return the numbers of one model, without those that rest on the stays of few patients."""
    counts = patients.select("num_event_patients", "num_other_patients").rows()
    if min(counts[0] if counts else (0,)) < least:
        return f"not shown: fewer than {least} test patients with the outcome, or without it (min_cell_count)"
    if rows["estimate"].null_count() == rows.height:
        return "not given: too few events, or no model; the report says which"
    words = []
    for metric, estimate, low, high in rows.select("metric", "estimate", "low", "high").iter_rows():
        label = METRICS[metric].label if metric in METRICS else metric
        interval = "" if low is None or high is None else f" ({low:.3f}\N{EN DASH}{high:.3f})"
        words += [f"{label} {estimate:.3f}{interval}"] if estimate is not None else []
    return ", ".join(words)


def _describe_ethics(study: Study, facts: StudyFacts) -> Iterator[Line]:
    yield "Approval", ask("ethics committee, number, consent or its waiver")
    yield (
        "Data",
        "Routine care records of patients who were not asked by this software. " + ask("legal basis, safeguards"),
    )
    yield (
        "Memorisation",
        "not assessed: weights can remember training patients; whether any can be recognised from them (membership "
        "inference, extraction) was not tested, and training added no noise (no differential privacy)",
    )
    yield "Harms and fairness", ask("who could be harmed by wrong predictions, and what was done about it")


def _describe_caveats(study: Study, facts: StudyFacts) -> Iterator[Line]:
    yield "Unknown words", "training never meets the unknown token, so its embedding is untrained"
    yield "Labels", "are what the hospital charted: an outcome that was not charted counts as absent"
    if len(facts.tokenized) == 1:
        yield "Transport", "judged at the training site alone"
    if study.config.data_notice:
        yield "Notice", study.config.data_notice
    yield "Recommendations", ask("what to check before the model is used anywhere else")


# the headings of Mitchell et al. 2019, in their order
PARTS: dict[str, Callable[[Study, StudyFacts], Iterator[Line]]] = {
    "Model details": _describe_model,
    "Intended use": _describe_use,
    "Factors": _describe_factors,
    "Metrics": _describe_metrics,
    "Training data": _describe_training_data,
    "Evaluation data": _describe_evaluation_data,
    "Quantitative analyses": _describe_results,
    "Ethical considerations": _describe_ethics,
    "Caveats and recommendations": _describe_caveats,
}


def _describe_cohort(run: RunFacts) -> str:
    window = run.get("admission_window")
    when = f"admitted {window[0]} to {window[1]}" if window else "of all admissions in the tables"
    return (
        f"hospital stays {when}, of patients aged {tell(run.get('min_age_years'))} years or more, of "
        f"{tell(run.get('min_length_of_stay_hours'))} h or more"
    )


def _describe_split(run: RunFacts) -> str:
    if run.get("splits_path"):
        return "by patient, as given (splits_path)"
    shares = [run.get("train_fraction"), run.get("val_fraction")]
    if None in shares:
        return ask("how patients were split: the settings of stage 00 are not there")
    rest = 1 - sum(shares)
    return (
        f"by patient, in order of first admission: {shares[0]:.0%} train, {shares[1]:.0%} validation, {rest:.0%} test; "
        "a patient is in one split only"
    )


def _count_splits(study: Study, site: str, splits: list[str]) -> Iterator[Line]:
    stays = next(one.stays for one in study.sites if one.name == site)
    for split in splits:
        rows, least = stays.filter(pl.col("split") == split), study.config.min_cell_count
        patients = rows["patient_id"].n_unique()
        shown = [
            study.people.format(count, what, site, split)
            for count, what in ((rows.height, "stays"), (patients, "patients"))
        ]
        is_few = patients < least
        words = f"fewer than {least} patients" if is_few else f"{shown[0]} stays of {shown[1]} patients"
        yield f"Size of {split} at {site}", words


def _list_runs(facts: StudyFacts) -> Iterator[tuple[str, RunFacts]]:
    for site, run in facts.tokenized.items():
        yield f"00_tokenize ({site})", run
    if facts.backbone is not None:
        yield "01_pretrain", facts.backbone
    for run in facts.classifiers:
        yield f"02_finetune ({run.get('outcome')})", run
    yield "03_extract_reps", facts.extracted
    yield "04_analyze", facts.analysis


def _describe_code(stage: str, run: RunFacts) -> str:
    commit = run.provenance.get("commit")
    changed = " with uncommitted changes" if run.provenance.get("is_dirty") else ""
    return f"{stage}: commit {tell(commit and commit[:12])}{changed}, run on {run.date or ask('day')}"


def _get_window(study: Study, facts: StudyFacts) -> str:
    return tell(facts.tokenized[study.config.fitted_site].get("window.length_hours"))
