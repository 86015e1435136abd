"""The schemas of the tables that cross stages, declared once; docs/data.md is made from them."""

from __future__ import annotations

from clinrep.artifacts.columns import Column, Table

SPLITS = ("train", "val", "test")

_SUBJECT = Column("str", "one hospitalization (CLIF hospitalization_id)")
_PATIENT = Column("str", "a person; in exactly one split")
_SPLIT = Column("str", "train, val or test")
_OUTCOME = Column("str", "name in the outcome table, for example in_hospital_death")

TABLES: dict[str, Table] = {
    "splits": Table(
        "00_tokenize",
        "splits.parquet",
        "Every adult stay, also those a filter drops later.",
        {"patient_id": _PATIENT, "subject_id": _SUBJECT, "split": _SPLIT},
    ),
    "vocabulary": Table(
        "00_tokenize",
        "vocabulary.parquet",
        "The tokens, ids 0..V-1 in order.",
        {
            "token_id": Column("u32", "0..V-1, sorted"),
            "token": Column("str", "unique"),
            "kind": Column("str", "special, bin, time, static, discharge, or the event source's name"),
            "train_count": Column("u64", "occurrences in kept train timelines; null where an export hides them", True),
        },
    ),
    "quantiles": Table(
        "00_tokenize",
        "quantiles.parquet",
        "Bin edges learned on train; a category without a finite train value has no row.",
        {
            "category": Column("str", "the token of the category, for example LAB_sodium"),
            "unit": Column("str", "normalised unit; null where the source declares none or it is missing", True),
            "train_count": Column(
                "u64", "train values the edges come from; infinite ones only where quantiles_include_infinite says so"
            ),
            "edges": Column("list[f64]", "num_bins - 1 edges, never decreasing, ties repeated"),
        },
    ),
    "categories": Table(
        "00_tokenize",
        "categories.parquet",
        "What adult train stays chart of each category: with vocabulary and quantiles, what a frozen tokenizer is.",
        {
            "source": Column("str", "event source, or static or discharge for the tokens at the ends of a timeline"),
            "category": Column("str", "the token of the category, for example LAB_sodium"),
            "unit": Column("str", "normalised unit; null where the source declares none or it is missing", True),
            "value": Column("str", "the token of a categorical value; null where the source has none", True),
            "num_events": Column("u64", "events (of static and discharge: stays)"),
            "num_missing": Column("u64", "of these, with a numeric value that is null, NaN or infinite"),
            "bin_counts": Column("list[u64]", "finite values of this category and unit in each bin; empty without"),
            "median": Column("f64", "median of those values; null where there are none", True),
        },
    ),
    "timelines": Table(
        "00_tokenize",
        "timelines/{split}/part-{part:05d}.parquet",
        "Whole timelines, one row a stay, sorted by subject_id; later stages cut them at index_time.",
        {
            "subject_id": _SUBJECT,
            "token_ids": Column("list[u32]", "tokens in order: static, events by time, discharge"),
            "times": Column(
                "list[datetime]",
                "UTC without zone, same length, never going backwards (but at the ends with edge_time_sources)",
            ),
        },
    ),
    "outcomes": Table(
        "00_tokenize",
        "outcomes.parquet",
        "One row per stay with a timeline and outcome.",
        {
            "subject_id": _SUBJECT,
            "outcome": _OUTCOME,
            "index_time": Column("datetime", "end of the observation window, UTC"),
            "label": Column("bool", "null = excluded, never false", True),
            "event_time": Column("datetime", "first time of the event, UTC; null where there is none", True),
            "excluded_reason": Column("str", "why label is null", True),
        },
    ),
    "subjects": Table(
        "00_tokenize",
        "subjects.parquet",
        "The stays that have a timeline, for subgroups and cohort tables.",
        {
            "subject_id": _SUBJECT,
            "patient_id": _PATIENT,
            "start": Column("datetime", "admission, UTC"),
            "end": Column("datetime", "discharge, UTC"),
            "age": Column("f64", "years at admission"),
            "sex": Column("str", "normalised sex_category", True),
            "race": Column("str", "normalised race_category", True),
            "ethnicity": Column("str", "normalised ethnicity_category", True),
            "length_of_stay_hours": Column("f64", "end - start"),
        },
    ),
    "ledger": Table(
        "00_tokenize",
        "ledger.parquet",
        "Every row read is kept or accounted for.",
        {
            "table": Column("str", "CLIF table"),
            "step": Column("str", "filter, in order; 'SOURCE: ...' for those of one event source"),
            "rows_in": Column("u64", "rows before the step"),
            "rows_out": Column("u64", "rows after the step"),
            "reason": Column("str", "why the difference was dropped, or what was noted"),
        },
    ),
    "predictions": Table(
        "02_finetune",
        "predictions.parquet",
        "The classifier's probability for every labelled stay of every split.",
        {
            "subject_id": _SUBJECT,
            "split": _SPLIT,
            "outcome": _OUTCOME,
            "label": Column("bool", "the outcome"),
            "probability": Column("f32", "predicted probability that label is true"),
        },
    ),
    "risk_over_time": Table(
        "02_finetune",
        "risk_over_time.parquet",
        "Asked for: the probability after every token of the cut sequence: of the classifier, and in 04 of each probe.",
        {
            "subject_id": _SUBJECT,
            "split": _SPLIT,
            "model": Column("str", "classifier, classifier_urt (trained on truncated sequences), or the probe"),
            "outcome": _OUTCOME,
            "times": Column("list[datetime]", "time of each token, UTC"),
            "probability": Column("list[f32]", "of the outcome, given the tokens up to and with this one"),
        },
        other_stages=("04_analyze",),
    ),
    "representations": Table(
        "03_extract_reps",
        "representations/{split}/part-{part:05d}.parquet",
        "One row per stay, layer and pooling.",
        {
            "subject_id": _SUBJECT,
            "split": _SPLIT,
            "layer": Column("i16", "0 = embeddings, n = after layer n (the last includes the final norm)"),
            "pooling": Column("str", "last_token, mean, random_token, or position_N"),
            "representation": Column("array[f32]", "the pooled hidden state, width = the model's"),
        },
    ),
    "trajectories": Table(
        "03_extract_reps",
        "trajectories.parquet",
        "Asked for: how far the hidden state moves from token to token of the cut sequence of T tokens.",
        {
            "subject_id": _SUBJECT,
            "split": _SPLIT,
            "times": Column("list[datetime]", "time of each token, UTC; T"),
            "jumps": Column("list[f32]", "Euclidean norm of the difference to the state before; T - 1"),
            "path_length": Column("f64", "sum of the jumps; 0 for one token"),
            "max_jump": Column("f32", "largest jump; null for one token", True),
            "mean_jump": Column("f32", "mean jump; null for one token", True),
        },
    ),
    "hidden_states": Table(
        "03_extract_reps",
        "hidden_states/{split}/part-{part:05d}.parquet",
        "Asked for: the hidden state of every token of the cut sequence, one row per stay, layer and token.",
        {
            "subject_id": _SUBJECT,
            "split": _SPLIT,
            "layer": Column("i16", "as in representations"),
            "position": Column("u32", "number of the token in the cut sequence, from 0"),
            "time": Column("datetime", "of the token, UTC"),
            "hidden_state": Column("array[f16]", "width = the model's"),
        },
    ),
    "information": Table(
        "03_extract_reps",
        "information/{split}/part-{part:05d}.parquet",
        "Asked for: how surprising each token of the cut sequence of T tokens is to the backbone.",
        {
            "subject_id": _SUBJECT,
            "split": _SPLIT,
            "token_ids": Column("list[u32]", "the sequence; T"),
            "times": Column("list[datetime]", "time of each token, UTC; T"),
            "bits": Column("list[f32]", "-log2 of the probability of tokens 2 to T, each given those before; T - 1"),
            "total_bits": Column("f64", "their sum"),
        },
    ),
    "zero_shot": Table(
        "03_extract_reps",
        "zero_shot/{split}/part-{part:05d}.parquet",
        "Asked for: how often continuations sampled from the backbone hold the outcome, labelled stays only.",
        {
            "subject_id": _SUBJECT,
            "split": _SPLIT,
            "outcome": _OUTCOME,
            "label": Column("bool", "the outcome"),
            "probability": Column("f32", "share of the continuations with the event; an unfinished one has none"),
            "standard_error": Column("f32", "Monte-Carlo standard error of the probability"),
            "unfinished": Column("f32", "share of continuations cut off before event, discharge or horizon"),
        },
    ),
    "token_embeddings": Table(
        "03_extract_reps",
        "token_embeddings.parquet",
        "The model's input embedding of every token, for the embedding figures.",
        {
            "token_id": Column("u32", "as in vocabulary.parquet"),
            "token": Column("str", "as in vocabulary.parquet"),
            "kind": Column("str", "as in vocabulary.parquet"),
            "embedding": Column("array[f32]", "width = the model's"),
        },
    ),
    "scores": Table(
        "04_analyze",
        "scores.parquet",
        "Performance on test, one row per number. Complete, small counts too: for the hospital. What may leave it are "
        "tables/ and report.html, where `min_cell_count` hides small cells.",
        {
            "site": Column("str", "name given on the command line"),
            "model": Column("str", "what produced the input of the probe, or the predictions"),
            "probe": Column("str", "name in the probe table; none for a fine-tuned classifier"),
            "outcome": _OUTCOME,
            "subgroup": Column("str", "all, or the subgroup, for example `sex: female`, `age: 65-79`, `outliers`"),
            "metric": Column("str", "name in the metric table"),
            "estimate": Column("f64", "null where there are too few events", True),
            "low": Column(
                "f64",
                "lower end of the bootstrap interval, 95 % unless set otherwise; null where there are too few events",
                True,
            ),
            "high": Column("f64", "upper end of it; null where there are too few events", True),
            "num_subjects": Column("u64", "labelled test stays"),
            "num_events": Column("u64", "of these, with the event"),
        },
    ),
    "class_patients": Table(
        "04_analyze",
        "class_patients.parquet",
        "Of how many patients the scored stays are, by which a bundle decides what may leave. Complete, as scores.",
        {
            "site": Column("str", "as in scores"),
            "outcome": _OUTCOME,
            "subgroup": Column("str", "as in scores"),
            "num_event_patients": Column("u64", "patients of the labelled test stays with the event"),
            "num_other_patients": Column(
                "u64", "patients of those without it; one with both kinds of stays counts twice"
            ),
        },
    ),
}
