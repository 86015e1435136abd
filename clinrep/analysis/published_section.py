"""Section of the report: the manuscript's numbers beside ours, where a site plays the role of one of its two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl

from clinrep.analysis.anomalies import select_main
from clinrep.analysis.anomaly_cohort import AFTER, AGE, STAYS, TOKENS, describe_by_anomaly
from clinrep.analysis.inputs import TEST_SPLIT, Site
from clinrep.analysis.local_fine_tuning import choose_probe
from clinrep.analysis.probes import NO_PROBE
from clinrep.analysis.published import COHORT, FINE_TUNED, LOCAL, PROBED, REGRESSION, ROLES, TERMS, list_published
from clinrep.analysis.scores import ALL
from clinrep.analysis.study import Section, Study
from clinrep.analysis.tables import PrintedTable, label_outcome
from clinrep.analysis.trajectory_fits import fit_regressions

ROLE_LABELS = {"mimic": "MIMIC-IV", "ucmc": "UCMC"}
_KEYS = ["role", "model", "split", "outcome", "subgroup", "quantity"]
_OURS = dict.fromkeys(("site", *_KEYS), pl.String) | {
    **dict.fromkeys(("estimate", "low", "high"), pl.Float64),
    "reason": pl.String,
}


@dataclass(frozen=True)
class Quantity:
    """How one kind of number is printed."""

    label: str
    format: str


QUANTITIES = {
    "auroc": Quantity("AUROC", ".3f"),
    "num_subjects": Quantity("Stays", ",.0f"),
    "num_tokens": Quantity("Tokens before index time, mean", ",.1f"),
    "age": Quantity("Age in years, mean", ".1f"),
    "female": Quantity("Share of women", ".3f"),
    "seen_before": Quantity("Share with the event before index time", ".3f"),
    "prevalence": Quantity("Share with the event", ".3f"),
    "path_length": Quantity("Coefficient of path length", ".3e"),
    "max_jump": Quantity("Coefficient of maximum jump", ".4f"),
    "anomaly_score": Quantity("Coefficient of anomaly score", ".4f"),
    "pseudo_r2": Quantity("Pseudo R\N{SUPERSCRIPT TWO}", ".4f"),
}
_PUBLISHED_WHERE = (
    "The manuscript's numbers stand beside ours once the sites that play their part are named: "
    "--published_sites.mimic SITE, --published_sites.ucmc SITE (docs/manuscript.md)."
)


def build_published_section(study: Study) -> Section:
    """Return ours with its interval beside each published number of the sites named in the settings."""
    title, name = "Beside the published numbers", "published"
    roles = study.config.published_sites
    if not roles:
        return Section(name, title, text=_PUBLISHED_WHERE)
    published = list_published().filter(
        pl.col("role").is_in(list(roles)) & pl.col("outcome").is_in(["", *study.outcomes])
    )
    joined = published.join(collect_ours(study), on=_KEYS, how="left", maintain_order="left").with_columns(
        site=pl.col("role").replace_strict(roles, return_dtype=pl.String)
    )
    return Section(name, title, tables=[_build_table(joined, study)])


def collect_ours(study: Study) -> pl.DataFrame:
    """Return our numbers that have a published one to stand beside, a row each, keyed as in `list_published`."""
    sites = {site.name: site for site in study.sites}
    rows: list[dict[str, Any]] = []
    for role in ROLES:
        if role in study.config.published_sites:
            site = sites[study.config.published_sites[role]]
            found = [
                *_count_cohort(study, site),
                *_describe_cohort(study, site),
                *_find_scores(study, site),
                *_list_regressions(study, site),
            ]
            rows += [{"role": role, "site": site.name} | row for row in found]
    return pl.DataFrame(rows, schema=_OURS).drop("site")


def _count_cohort(study: Study, site: Site) -> list[dict[str, Any]]:
    """Return stays and shares with the event by split, of inliers, outliers and all (Tables 1 and 2).

    What section cohort_by_anomaly hides of inliers or outliers, or another of all, is hidden here too.
    """
    anomalies = select_main(study.anomalies, study.config).filter(pl.col("site") == site.name)
    stays = site.stays.select("subject_id", "patient_id", "split").join(
        anomalies.select("subject_id", "is_outlier"), on="subject_id", how="left"
    )
    rows = []
    for (split,), of_split in stays.partition_by("split", as_dict=True).items():
        groups = {ALL: of_split}
        if of_split["is_outlier"].null_count() == 0:
            groups |= {"inliers": of_split.filter(~pl.col("is_outlier")), "outliers": of_split.filter("is_outlier")}
        common, where = {"model": COHORT, "split": split}, (site.name, str(split))
        sizes = {subgroup: [_count_patients(chosen)] for subgroup, chosen in groups.items()}
        counted = {subgroup: float(chosen.height) for subgroup, chosen in groups.items()}
        hidden = _find_hidden(study, where, STAYS, "n") | ({ALL} if study.people.is_hidden("stays", *where) else set())
        rows += _hide_small(counted, sizes, hidden, common | {"outcome": "", "quantity": "num_subjects"}, study)
        for outcome in study.outcomes:
            labels = site.outcomes.filter(outcome=outcome).select("subject_id", "label").drop_nulls()
            chosen = {name: labels.join(group, on="subject_id") for name, group in groups.items()}
            sizes = {
                name: [_count_patients(rows.filter("label")), _count_patients(rows.filter(~pl.col("label")))]
                for name, rows in chosen.items()
            }
            shares = {name: rows["label"].mean() for name, rows in chosen.items()}
            words = AFTER.format(label_outcome(outcome, study.config))
            hidden = _find_hidden(study, where, words, "percent")
            if study.people.hides_labelled(site.name, outcome, str(split)):
                hidden.add(ALL)
            rows += _hide_small(shares, sizes, hidden, common | {"outcome": outcome, "quantity": "prevalence"}, study)
    return rows


def _describe_cohort(study: Study, site: Site) -> list[dict[str, Any]]:
    """Return the numbers of Tables 1 and 2 that section cohort_by_anomaly has, hidden as there."""
    kinds = {
        TOKENS: ("", "num_tokens", "mean", 1.0, ("inliers", "outliers", ALL)),
        AGE: ("", "age", "mean", 1.0, (ALL,)),
        "Sex: female, n (%)": ("", "female", "percent", 100.0, (ALL,)),
    }
    for outcome in study.outcomes:
        words = f"{label_outcome(outcome, study.config)}: before index time, n (%)"
        kinds[words] = (outcome, "seen_before", "percent", 100.0, (ALL,))
    rows = []
    for row in describe_by_anomaly(study).filter(site=site.name).iter_rows(named=True):
        outcome, quantity, column, scale, groups = kinds.get(row["characteristic"], ("", "", "", 1.0, ()))
        for group in groups:
            value = row[f"{group}_{column}"]
            common = {"model": COHORT, "split": row["split"], "outcome": outcome, "subgroup": group}
            told = {"reason": "not shown (min_cell_count)"} if value is None else {"estimate": value / scale}
            rows.append(common | {"quantity": quantity} | told)
    return rows


def _find_hidden(study: Study, where: tuple[str, str], words: str, column: str) -> set[str]:
    """Return for which of inliers and outliers section cohort_by_anomaly hides a line of a (site, split)."""
    site, split = where
    lines = describe_by_anomaly(study).filter(site=site, split=split, characteristic=words)
    if not study.config.min_cell_count or lines.is_empty():
        return set()
    return {group for group in ("inliers", "outliers") if lines[f"{group}_{column}"].item() is None}


def _hide_small(
    values: dict[str, Any], sizes: dict[str, list[int]], hidden: set[str], common: dict[str, Any], study: Study
) -> list[dict[str, Any]]:
    """Return a row a subgroup; where one counts too few people, or is hidden, it and what gives it away have none."""
    least = study.config.min_cell_count
    small = hidden | {name for name, counts in sizes.items() if any(count < least for count in counts)}
    if small:
        small |= {"inliers", "outliers"}  # the one is the whole without the other
    reason = f"not shown: fewer than {least} people, or would give such a number away"
    return [
        common | {"subgroup": name} | ({"reason": reason} if name in small else {"estimate": value})
        for name, value in values.items()
    ]


def _count_patients(rows: pl.DataFrame) -> int:
    return rows["patient_id"].n_unique()


def _find_scores(study: Study, site: Site) -> list[dict[str, Any]]:
    """Return the AUROC of probe, fine-tuned and locally fine-tuned classifier in each subgroup (Tables 3 to 5)."""
    rows = []
    of_site = study.scores.filter((pl.col("site") == site.name) & (pl.col("metric") == "auroc"))
    for outcome in study.outcomes:
        items = [item for item in study.predicted if (item.site, item.outcome) == (site.name, outcome)]
        probe = choose_probe([item for item in items if item.probe == "logistic_regression"])
        chosen = {FINE_TUNED: _choose_main(study, site, outcome), LOCAL: _choose_local(study, site, outcome)}
        models = {name: (model, NO_PROBE) for name, model in chosen.items() if model}
        models |= {PROBED: (probe.model, probe.probe)} if probe else {}
        for name, (model, kind) in models.items():
            found = of_site.filter(
                (pl.col("outcome") == outcome) & (pl.col("model") == model) & (pl.col("probe") == kind)
            )
            for row in study.people.hide_scored(found).iter_rows(named=True):
                common = {"model": name, "split": TEST_SPLIT, "outcome": outcome, "quantity": "auroc"}
                rows.append(common | {key: row[key] for key in ("subgroup", "estimate", "low", "high", "reason")})
    return rows


def _choose_main(study: Study, site: Site, outcome: str) -> str | None:
    """Return the classifier of the source: trained there, elsewhere applied as it is; the first of several seeds."""
    runs = site.classifier_runs.get(outcome, {})
    is_source = site.name == study.config.fitted_site
    return next(
        (model for model, run in runs.items() if run.is_main and not run.is_urt and (is_source or run.is_applied)), None
    )


def _choose_local(study: Study, site: Site, outcome: str) -> str | None:
    """Return the source classifier that learned from the largest share of local patients; the first of several."""
    runs = site.classifier_runs.get(outcome, {}) if site.name != study.config.fitted_site else {}
    runs = {model: run for model, run in runs.items() if run.start == "classifier" and not run.is_urt}
    learned = {model: run.training_fraction for model, run in runs.items() if not run.is_applied}
    return max(learned, key=lambda model: learned[model]) if learned else None


def _list_regressions(study: Study, site: Site) -> list[dict[str, Any]]:
    """Return coefficients with intervals by patient, stays and pseudo R2 of Tables 6 to 13; [] without trajectories."""
    rows: list[dict[str, Any]] = []
    for one in fit_regressions(study):
        if one.site.name != site.name:
            continue
        common = {"model": REGRESSION, "split": TEST_SPLIT, "outcome": one.outcome, "subgroup": ALL}
        is_hidden = one.has_hidden(study)
        told = {"reason": "not shown: it would tell small numbers of people"}
        size = told if is_hidden else {"estimate": float(one.test.labels.size)}
        rows.append(common | {"quantity": "num_subjects"} | size)
        if one.logit is None:
            rows += [common | {"quantity": name, "reason": one.reason} for name in (*TERMS, "pseudo_r2")]
            continue
        for term in one.logit.terms.filter(pl.col("term").is_in(TERMS)).iter_rows(named=True):
            numbers = {"estimate": term["coefficient"], "low": term["low_clustered"], "high": term["high_clustered"]}
            rows.append(common | {"quantity": term["term"]} | numbers)
        rows.append(common | {"quantity": "pseudo_r2"} | (told if is_hidden else {"estimate": one.logit.pseudo_r2}))
    return rows


def _format_ours(row: dict[str, Any]) -> str:
    pattern = QUANTITIES[row["quantity"]].format
    if row["estimate"] is None:
        return row["reason"] or "not in this run"
    estimate = format(row["estimate"], pattern)
    if row["low"] is None:
        return f"{estimate}, no interval: {row['reason']}" if row["reason"] else estimate
    return f"{estimate} ({format(row['low'], pattern)}\N{EN DASH}{format(row['high'], pattern)})"


def _build_table(joined: pl.DataFrame, study: Study) -> PrintedTable:
    config = study.config
    columns = ["source", "role", "site", "model", "split", "outcome", "subgroup", "quantity"]
    numbers = joined.select(*columns, "published", "estimate", "low", "high", "reason")
    cells = pl.struct("quantity", "estimate", "low", "high", "reason")
    words = joined.select(
        pl.col("source").alias("Source"),
        pl.format("{} ({})", pl.col("role").replace_strict(ROLE_LABELS), "site").alias("Site (ours)"),
        pl.format("{}, {}", "model", "split").alias("Of what"),
        pl.col("outcome")
        .map_elements(lambda outcome: label_outcome(outcome, config) if outcome else "any", pl.String)
        .alias("Outcome"),
        pl.col("subgroup").alias("Stays"),
        pl.col("quantity").replace_strict({name: one.label for name, one in QUANTITIES.items()}).alias("Number"),
        pl.struct("quantity", "published")
        .map_elements(lambda row: format(row["published"], QUANTITIES[row["quantity"]].format), pl.String)
        .alias("Published"),
        cells.map_elements(_format_ours, pl.String).alias("Ours"),
    )
    caption = (
        "Numbers of the manuscript (arXiv 2504.10422), which gives no intervals, and the same numbers of the sites "
        f"named here in its place; in parentheses {config.level} intervals: of AUROCs by "
        "bootstrap over patients, of coefficients with standard errors by patient. Coefficients are of unscaled "
        "regressors, so they depend on the width of the model. The manuscript's "
        "mean tokens are of sequences cut at 1,024 tokens, ours of all tokens before index time, so ours are higher "
        "where stays have more. What differs on purpose is told in docs/manuscript.md."
    )
    return PrintedTable("published", "The manuscript's numbers and ours", caption, numbers, words, 3)
