"""What is wrong with CLIF folders, and what stage 00 makes of it."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq

from tests.bad_input.workshop import Case, both, change, cut_off, remove, set_rows, write_bytes
from tests.ehr.tiny_clif import at
from tests.ehr.tiny_tables import COLUMNS as COLUMNS_OF

HOSPITALIZATION, PATIENT = "clif_hospitalization.parquet", "clif_patient.parquet"
LABS, VITALS, ADT = "clif_labs.parquet", "clif_vitals.parquet", "clif_adt.parquet"
EXPORT = "export it again"


def arrow(path: str, make: Callable[[pa.Table], pa.Table]) -> Callable[[Path], None]:
    """Return what changes a file as polars cannot."""

    def damage(folder: Path) -> None:
        pq.write_table(make(pq.read_table(folder / path)), folder / path)

    return damage


def replace_column(path: str, column: str, array: Callable[[int], pa.Array]) -> Callable[[Path], None]:
    return arrow(path, lambda t: t.set_column(t.column_names.index(column), column, array(t.num_rows)))


def flip_pages(path: str) -> Callable[[Path], None]:
    """Return what overwrites the data behind a good footer."""

    def damage(folder: Path) -> None:
        content = bytearray((folder / path).read_bytes())
        end = len(content) - int.from_bytes(content[-8:-4], "little") - 8
        content[4:end] = bytes(end - 4)
        (folder / path).write_bytes(bytes(content))

    return damage


def cast(column: str, dtype: pl.DataType | type[pl.DataType]) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.with_columns(pl.col(column).cast(dtype))


def fill(column: str, value: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    return lambda frame: frame.with_columns(value.alias(column))


def link_nowhere(folder: Path) -> None:
    (folder / LABS).unlink()
    (folder / LABS).symlink_to(folder / "gone.parquet")


def make_fifo(folder: Path) -> None:
    (folder / LABS).unlink()
    os.mkfifo(folder / LABS)


FILES = [
    Case("truncated", "a table cut off in the middle", cut_off(LABS), (f"{LABS} is not a readable Parquet", EXPORT)),
    Case("truncated_stays", "the same of the stays", cut_off(HOSPITALIZATION, 0.9), (HOSPITALIZATION, EXPORT)),
    Case("zero_bytes", "a table of zero bytes", write_bytes(VITALS, b""), (f"{VITALS} is not a readable", EXPORT)),
    Case("zero_bytes_patient", "the same", write_bytes(PATIENT, b""), (f"{PATIENT} is not a readable", EXPORT)),
    Case("csv", "CSV under the name of Parquet", write_bytes(ADT, b"a,b\n1,2\n"), (f"{ADT} is not a readable", EXPORT)),
    Case("only_magic", "nothing but the mark of Parquet", write_bytes(LABS, b"PAR1PAR1"), (f"{LABS} is not", EXPORT)),
    Case(
        "lying_footer",
        "a footer that promises more than there is",
        write_bytes(LABS, b"PAR1" + b"\x00" * 8 + b"\xff\xff\xff\x7fPAR1"),
        (f"{LABS} is not a readable", EXPORT),
    ),
    Case(
        "broken_pages",
        "broken data behind a good footer, of stays",
        flip_pages(HOSPITALIZATION),
        (f"{HOSPITALIZATION} is damaged", EXPORT),
    ),
    Case("broken_pages_events", "the same, of events", flip_pages(VITALS), (f"{VITALS} is damaged", EXPORT)),
    Case("broken_pages_patient", "the same, of patients", flip_pages(PATIENT), (f"{PATIENT} is damaged", EXPORT)),
    Case("dangling_link", "a link to nothing", link_nowhere, (LABS, "join its parts")),
    Case(
        "other_form",
        "a table in another form, whose events would be lost",
        lambda folder: (folder / LABS).rename(folder / "clif_labs.csv.gz"),
        ("holds clif_labs.csv.gz, but table labs is read from clif_labs.parquet", "export it as one Parquet file"),
    ),
    Case("pipe", "a pipe in place of a table, which would never end", make_fifo, (LABS, "join its parts")),
    Case("no_columns", "a table without columns", lambda f: pl.DataFrame().write_parquet(f / LABS), (LABS, "column")),
    Case(
        "column_twice",
        "two columns of one name",
        arrow(LABS, lambda t: t.append_column("lab_category", t["lab_category"])),
        (LABS, EXPORT),
    ),
    Case(
        "nested",
        "a list in place of text",
        replace_column(LABS, "lab_category", lambda n: pa.array([["a"]] * n)),
        (f"{LABS}: column 'lab_category' should be text, found List", "correct the export"),
    ),
    Case(
        "odd_zone",
        "a time zone that is not known, also of a column that nobody reads",
        arrow(LABS, lambda t: t.append_column("lab_x_dttm", pa.nulls(t.num_rows, pa.timestamp("us", "+05:30")))),
        (f"{LABS}: column 'lab_x_dttm' has the time zone '+05:30'", "or in a zone by name"),
    ),
    Case(
        "struct",
        "a struct in place of a number",
        replace_column(LABS, "lab_value_numeric", lambda n: pa.array([{"a": 1.0}] * n)),
        (f"{LABS}: column 'lab_value_numeric' should be a number, found Struct", "correct the export"),
    ),
    Case(
        "binary",
        "bytes in place of text",
        replace_column(ADT, "location_category", lambda n: pa.array([b"icu"] * n)),
        (f"{ADT}: column 'location_category' should be text, found Binary", "correct the export"),
    ),
    Case(
        "not_utf8",
        "text that is not UTF-8",
        replace_column(
            LABS,
            "lab_category",
            lambda n: pa.Array.from_buffers(pa.string(), n, pa.array([b"\xff\xfe"] * n).buffers()),
        ),
        (LABS, EXPORT),
    ),
]

COLUMNS = [
    *(
        Case(
            f"no_{path[5:-8]}_{column}",
            f"{path}: no column {column}",
            change(path, lambda f, c=column: f.drop(c)),
            (f"{path} has no column {column!r}", "its columns are", "rename one, or correct the config"),
        )
        for path, column in (
            (HOSPITALIZATION, "hospitalization_id"),
            (HOSPITALIZATION, "patient_id"),
            (HOSPITALIZATION, "admission_dttm"),
            (HOSPITALIZATION, "discharge_dttm"),
            (HOSPITALIZATION, "age_at_admission"),
            (HOSPITALIZATION, "discharge_category"),
            (PATIENT, "patient_id"),
            (PATIENT, "sex_category"),
            (PATIENT, "race_category"),
            (LABS, "hospitalization_id"),
            (LABS, "lab_result_dttm"),
            (LABS, "lab_value_numeric"),
            (VITALS, "vital_category"),
            (VITALS, "recorded_dttm"),
            (ADT, "in_dttm"),
            (ADT, "location_category"),
        )
    ),
    Case(
        "renamed_case",
        "a column in capitals",
        change(LABS, lambda f: f.rename({"lab_category": "LAB_CATEGORY"})),
        ("has no column 'lab_category'", "LAB_CATEGORY", "rename one, or correct the config"),
    ),
    Case(
        "text_in_numbers",
        "text in a column of numbers",
        change(LABS, cast("lab_value_numeric", pl.String)),
        (f"{LABS}: column 'lab_value_numeric' should be a number, found String", "correct the export"),
    ),
    Case(
        "text_in_ages",
        "text in ages",
        change(HOSPITALIZATION, fill("age_at_admission", pl.lit("sixty"))),
        (f"{HOSPITALIZATION}: column 'age_at_admission' should be a number, found String", "correct the export"),
    ),
    Case(
        "numbers_in_text",
        "numbers in a category",
        change(ADT, fill("location_category", pl.lit(3))),
        (f"{ADT}: column 'location_category' should be text, found Int32", "correct the export"),
    ),
    Case(
        "bool_in_numbers",
        "true and false in a column of numbers",
        change(VITALS, fill("vital_value", pl.lit(True))),
        (f"{VITALS}: column 'vital_value' should be a number, found Boolean", "correct the export"),
    ),
    Case(
        "text_times",
        "times as text, of two zones in one column",
        change(
            LABS,
            fill(
                "lab_result_dttm",
                pl.when(pl.int_range(pl.len()) % 2 == 0)
                .then(pl.lit("2150-01-01T08:00:00-06:00"))
                .otherwise(pl.lit("2150-01-01T14:00:00Z")),
            ),
        ),
        (f"{LABS}: column 'lab_result_dttm' should be a datetime, found String", "correct the export"),
    ),
    Case(
        "number_times",
        "times as seconds since 1970",
        change(ADT, fill("in_dttm", pl.lit(5_680_000_000))),
        (f"{ADT}: column 'in_dttm' should be a datetime, found Int64", "correct the export"),
    ),
    Case(
        "time_of_day",
        "a time of day without its date",
        change(VITALS, fill("recorded_dttm", pl.time(3, 4))),
        (f"{VITALS}: column 'recorded_dttm' should be a datetime, found Time", "correct the export"),
    ),
    Case(
        "text_admission",
        "an admission as text",
        change(HOSPITALIZATION, cast("admission_dttm", pl.String)),
        (f"{HOSPITALIZATION}: column 'admission_dttm' should be a datetime, found String", "correct the export"),
    ),
    Case(
        "float_ids",
        "ids as decimal numbers, 1.0 for 1",
        change(LABS, fill("hospitalization_id", pl.lit(1.0))),
        (f"{LABS}: column 'hospitalization_id' should be text or a whole number, found Float64", "correct"),
    ),
    Case(
        "bool_ids",
        "ids that are true and false",
        change(HOSPITALIZATION, fill("patient_id", pl.lit(True))),
        (f"{HOSPITALIZATION}: column 'patient_id' should be text or a whole number, found Boolean", "correct"),
    ),
]

IDS = [
    Case(
        "null_stay_ids",
        "stays without an id",
        change(HOSPITALIZATION, set_rows("hospitalization_id", None, 2)),
        counted=("hospitalization", "key", 2),
    ),
    Case(
        "null_patient_ids",
        "stays without a patient",
        change(HOSPITALIZATION, set_rows("patient_id", None, 2)),
        counted=("hospitalization", "patient", 2),
    ),
    Case(
        "all_ids_null",
        "no stay has an id",
        change(HOSPITALIZATION, set_rows("hospitalization_id", None, 12)),
        ("no adult stay", "see the counts above"),
    ),
    Case(
        "null_ids_of_patients",
        "patients without an id",
        change(PATIENT, set_rows("patient_id", None, 2)),
        counted=("patient", "key", 2),
    ),
    Case(
        "null_ids_of_events",
        "events without a stay",
        change(LABS, set_rows("hospitalization_id", None, 4)),
        counted=("labs", "adult stay", 4),
    ),
    Case(
        "stay_twice",
        "a stay in two rows that differ",
        change(HOSPITALIZATION, lambda f: pl.concat([f, f[:2].with_columns(age_at_admission=pl.lit(33, pl.Int64))])),
        (HOSPITALIZATION, "2 values of hospitalization_id have several rows that differ", "leave one row for each"),
    ),
    Case(
        "stay_again",
        "the same row of a stay again",
        change(HOSPITALIZATION, lambda f: pl.concat([f, f[:3]])),
        counted=("hospitalization", "duplicates", 3),
    ),
    Case(
        "stay_of_two_patients",
        "a stay of two patients",
        change(HOSPITALIZATION, lambda f: pl.concat([f, f[:1].with_columns(patient_id=pl.lit("ZQ911"))])),
        ("1 values of hospitalization_id have several rows that differ", "leave one row for each"),
    ),
    Case(
        "patient_twice",
        "a patient in two rows that differ",
        change(PATIENT, lambda f: pl.concat([f, f[:1].with_columns(sex_category=pl.lit("Male"))])),
        (PATIENT, "1 values of patient_id have several rows that differ", "leave one row for each"),
    ),
    Case(
        "orphan_events",
        "events of stays that are not there",
        change(LABS, set_rows("hospitalization_id", "ZQ77", 5)),
        counted=("labs", "adult stay", 5),
    ),
    Case(
        "all_orphans",
        "all events of a required table of other stays",
        change(ADT, set_rows("hospitalization_id", "other", 12)),
        (f"{ADT}: none of its 12 rows has the id of an adult stay", "correct the export"),
    ),
    Case(
        "orphan_patients",
        "a patient without a stay",
        change(PATIENT, set_rows("patient_id", "ZQ999")),
        counted=("patient", "adult stay", 1),
    ),
    Case(
        "all_patients_others",
        "a patient table of another site",
        change(PATIENT, lambda f: f.with_columns(pl.col("patient_id") + "x")),
        (f"{PATIENT}: none of its 12 rows", "correct the export"),
    ),
    Case(
        "padded_ids",
        "ids with a blank behind, in one table",
        change(ADT, lambda f: f.with_columns(pl.col("hospitalization_id") + " ")),
        (f"{ADT}: none of its 12 rows", "spelled otherwise"),
    ),
    Case(
        "some_padded_ids",
        "ids with a blank behind in some rows: one person would be two",
        change(
            HOSPITALIZATION,
            lambda f: f.with_columns(
                pl.col("patient_id") + pl.when(pl.int_range(pl.len()) % 3 == 0).then(pl.lit(" ")).otherwise(pl.lit(""))
            ),
        ),
        ("4 values of patient_id are those of others but for blanks", "take the blanks off in every table"),
    ),
    Case(
        "nan_patients",
        "`nan` as a patient's id, as programs write a missing one: no person",
        change(HOSPITALIZATION, set_rows("patient_id", "nan", 4)),
        counted=("hospitalization", "patient", 4),
    ),
    Case(
        "blank_stays",
        "blanks as a stay's id",
        change(HOSPITALIZATION, set_rows("hospitalization_id", " ")),
        counted=("hospitalization", "key", 1),
    ),
    Case(
        "empty_ids",
        "an empty text as id of events",
        change(VITALS, set_rows("hospitalization_id", "", 3)),
        counted=("vitals", "adult stay", 3),
    ),
    Case(
        "odd_ids",
        "ids with line breaks and NUL: kept as they are",
        both(
            *(
                change(p, lambda f: f.with_columns(pl.col("hospitalization_id") + "\n\x00\u00e9"))
                for p in (HOSPITALIZATION, LABS, VITALS, ADT)
            )
        ),
        counted=("labs", "adult stay", 36),
    ),
]


def read_first(output: Path) -> pl.DataFrame:
    frames = [pl.read_parquet(path) for path in sorted(output.glob("timelines/*/*.parquet"))]
    return pl.concat(frames)


def check_times(output: Path) -> None:
    times = read_first(output)["times"].explode(empty_as_null=False)
    assert times.is_between(at(-24), at(24 * 40)).all()


def placed(table: str, count: int) -> tuple[str, str, int]:
    return (table, "placeholder", count)


def keeps_times(name: str, what: str, path: str, column: str, value: object, num: int = 2) -> Case:
    table = path.removeprefix("clif_").removesuffix(".parquet")
    return Case(
        name,
        what,
        change(path, cast(column, pl.Datetime("us")), set_rows(column, value, num)),
        counted=placed(table, num),
        check=check_times,
    )


TIMES = [
    Case(
        "death_9999",
        "deaths in the year 9999, which outcomes alone read",
        change(PATIENT, lambda f: f.with_columns(death_dttm=pl.lit(datetime(9999, 12, 31)))),
        counted=placed("patient", 12),
        flags=("--outcomes=[death_within_30_days]",),
    ),
    keeps_times("events_2262", "events in 2262, where nanoseconds end", LABS, "lab_result_dttm", datetime(2262, 4, 11)),
    keeps_times("year_1900", "events in the year 1900", LABS, "lab_result_dttm", datetime(1900, 1, 1)),
    keeps_times("year_9999", "events in the year 9999", VITALS, "recorded_dttm", datetime(9999, 12, 31)),
    keeps_times("year_1", "events in the year 1", ADT, "in_dttm", datetime(1, 1, 1)),
    keeps_times("admission_1900", "stays admitted in 1900", HOSPITALIZATION, "admission_dttm", datetime(1900, 1, 1)),
    keeps_times(
        "discharge_9999", "stays discharged in 9999", HOSPITALIZATION, "discharge_dttm", datetime(9999, 12, 31)
    ),
    Case(
        "overflowing",
        "times beyond what can be counted",
        replace_column(
            LABS,
            "lab_result_dttm",
            lambda n: pa.array([2**63 - 1, -(2**63) + 1] * (n // 2), pa.timestamp("us", tz="UTC")),
        ),
        counted=placed("labs", 36),
    ),
    Case(
        "milliseconds",
        "milliseconds read as seconds",
        replace_column(VITALS, "recorded_dttm", lambda n: pa.array([5_680_284_000_000] * n, pa.timestamp("s"))),
        counted=placed("vitals", 36),
    ),
    Case(
        "dates_1900",
        "dates of 1900 without a time",
        change(ADT, fill("in_dttm", pl.lit(date(1900, 1, 1)))),
        counted=placed("adt", 12),
    ),
    Case(
        "discharge_first",
        "a discharge before the admission",
        change(
            HOSPITALIZATION,
            lambda f: f.with_columns(
                discharge_dttm=pl.when(pl.int_range(pl.len()) < 3)
                .then(pl.col("admission_dttm") - pl.duration(hours=1))
                .otherwise("discharge_dttm")
            ),
        ),
        counted=("hospitalization", "order", 3),
    ),
    Case(
        "no_admission",
        "stays without an admission",
        change(HOSPITALIZATION, set_rows("admission_dttm", None, 2)),
        counted=("hospitalization", "admission", 2),
    ),
    Case(
        "no_discharge",
        "stays without a discharge",
        change(HOSPITALIZATION, set_rows("discharge_dttm", None, 2)),
        counted=("hospitalization", "discharge", 2),
    ),
    Case(
        "no_time",
        "events without a time",
        change(LABS, set_rows("lab_result_dttm", None, 3)),
        counted=("labs", "labs: time", 3),
    ),
    Case(
        "nobody_discharged",
        "no stay has a discharge",
        change(HOSPITALIZATION, set_rows("discharge_dttm", None, 12)),
        ("no stay of", "is left", "lower the filters"),
    ),
    Case(
        "all_in_1900",
        "every admission in 1900",
        change(HOSPITALIZATION, fill("admission_dttm", pl.lit(datetime(1900, 1, 1)))),
        ("no adult stay", "see the counts above"),
    ),
]


def check_bins(output: Path) -> None:
    edges = pl.read_parquet(output / "quantiles.parquet")["edges"].explode(empty_as_null=False)
    assert edges.is_finite().all()


def count_missing(num: int, category: str) -> Callable[[Path], None]:
    def check(output: Path) -> None:
        check_bins(output)
        table = pl.read_parquet(output / "categories.parquet").filter(category=category)
        assert table["num_missing"].sum() == num

    return check


def check_ages(output: Path) -> None:
    assert pl.read_parquet(output / "subjects.parquet")["age"].is_between(18, 150).all()


def check_tokens(output: Path) -> None:
    words = pl.read_parquet(output / "vocabulary.parquet")["token"]
    assert not words.str.contains(r"[\x00-\x1f]").any()
    assert words.n_unique() == words.len()


def count_tokens(least: int) -> Callable[[Path], None]:
    def check(output: Path) -> None:
        assert pl.read_parquet(output / "vocabulary.parquet").height >= least

    return check


def write_many(num: int) -> Callable[[Path], None]:
    """Return what gives labs so many categories."""

    def damage(folder: Path) -> None:
        frame = pl.read_parquet(folder / LABS)
        big = frame[np.arange(num) % frame.height]
        big.with_columns(lab_category="c" + pl.int_range(pl.len()).cast(pl.String)).write_parquet(folder / LABS)

    return damage


VALUES = [
    Case(
        "infinity",
        "infinite values: counted as missing",
        change(LABS, set_rows("lab_value_numeric", np.inf, 4)),
        check=count_missing(4, "LAB_sodium"),
    ),
    Case(
        "minus_infinity",
        "minus infinity: the same",
        change(LABS, set_rows("lab_value_numeric", -np.inf, 4)),
        check=count_missing(4, "LAB_sodium"),
    ),
    Case(
        "nan",
        "NaN: the same",
        change(VITALS, set_rows("vital_value", np.nan, 4)),
        check=count_missing(4, "VITAL_heart_rate"),
    ),
    Case(
        "null_values",
        "values that are null: the same",
        change(VITALS, set_rows("vital_value", None, 4)),
        check=count_missing(4, "VITAL_heart_rate"),
    ),
    Case(
        "largest_values",
        "values near the largest number there is",
        change(LABS, set_rows("lab_value_numeric", 1e300, 18)),
        check=check_bins,
    ),
    Case(
        "infinite_age",
        "ages that are infinite",
        change(HOSPITALIZATION, set_rows("age_at_admission", np.inf, 2, pl.Float64)),
        check=check_ages,
        counted=("hospitalization", "age possible", 2),
    ),
    Case(
        "impossible_age",
        "ages above 150",
        change(HOSPITALIZATION, set_rows("age_at_admission", 2110, 2)),
        check=check_ages,
        counted=("hospitalization", "age possible", 2),
    ),
    Case(
        "nan_age",
        "ages that are NaN",
        change(HOSPITALIZATION, set_rows("age_at_admission", np.nan, 2, pl.Float64)),
        check=check_ages,
        counted=("hospitalization", "age known", 2),
    ),
    Case(
        "negative_age",
        "ages below 0",
        change(HOSPITALIZATION, set_rows("age_at_admission", -1, 2)),
        check=check_ages,
        counted=("hospitalization", "adult", 2),
    ),
    Case(
        "no_category",
        "events without a category",
        change(LABS, set_rows("lab_category", None, 5)),
        counted=("labs", "labs: category", 5),
    ),
    Case(
        "blank_category",
        "events with a blank category",
        change(LABS, set_rows("lab_category", " \t", 5)),
        counted=("labs", "labs: category", 5),
    ),
    Case(
        "odd_categories",
        "line breaks, NUL and signs of other scripts in categories",
        change(
            LABS,
            lambda f: f.with_columns(
                lab_category=pl.Series(
                    [
                        "a\nb",
                        "c\x00d",
                        "\u4f60\u597d",
                        "e\u0301\u202e",
                        "{category}",
                        "Q1",
                        "<b>x</b>",
                        "\\end{table}",
                        "\U0001f9ea",
                    ]
                    * 4
                )
            ),
        ),
        check=check_tokens,
    ),
    Case(
        "long_category",
        "a category of 100,000 letters",
        change(LABS, set_rows("lab_category", "x" * 100_000, 3)),
        check=check_tokens,
    ),
    Case(
        "many_categories",
        "a category with tens of thousands of values: a token each",
        write_many(20_000),
        check=count_tokens(10_000),
    ),
    Case(
        "empty_stays",
        "a stay table without rows",
        change(HOSPITALIZATION, lambda f: f.clear()),
        ("no adult stay", "see the counts above"),
    ),
    Case(
        "empty_patients",
        "a patient table without rows: demographics missing",
        change(PATIENT, lambda f: f.clear()),
        counted=("hospitalization", "patient known", 12),
    ),
    Case("empty_labs", "an event table without rows", change(LABS, lambda f: f.clear()), check=lambda output: None),
    Case(
        "no_tables",
        "no table of CLIF in the folder",
        both(
            *(
                remove(f"clif_{name}.parquet")
                for name in (
                    "hospitalization",
                    "patient",
                    "labs",
                    "vitals",
                    "adt",
                    "medication_admin_continuous",
                    "patient_assessments",
                    "respiratory_support",
                    "position",
                )
            )
        ),
        ("holds no CLIF table", "expected files such as"),
    ),
    Case(
        "minors",
        "children alone",
        change(HOSPITALIZATION, fill("age_at_admission", pl.lit(7))),
        ("no adult stay", "see the counts above"),
    ),
    Case(
        "one_stay",
        "a single stay: nobody left to validate on",
        change(HOSPITALIZATION, lambda f: f[:1]),
        ("no train stay among 1", "raise --train_fraction"),
    ),
    Case(
        "naive_far",
        "times without a zone: taken as UTC, with a warning",
        change(LABS, lambda f: f.with_columns(pl.col("lab_result_dttm").dt.replace_time_zone(None))),
        check=check_times,
    ),
    Case(
        "two_zones",
        "two tables in two time zones: the same instants",
        change(LABS, lambda f: f.with_columns(pl.col("lab_result_dttm").dt.convert_time_zone("America/Chicago"))),
        check=check_times,
    ),
]
ALL = {"Files": FILES, "Columns and types": COLUMNS, "Ids": IDS, "Times": TIMES, "Values and categories": VALUES}
WRITTEN = {f"clif_{table}.parquet": list(COLUMNS_OF[table]) for table in ("hospitalization", "patient", "labs", "adt")}
