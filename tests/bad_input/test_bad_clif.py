"""Stage 00 on CLIF folders with everything that can be wrong with them."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clinrep.config import InputError
from clinrep.ehr import scan
from tests.bad_input import clif_cases
from tests.bad_input.workshop import PRIVATE, Case, check, parametrize, run_main, write_clif, write_tokenize_settings


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A folder without faults, and the settings."""
    root = tmp_path_factory.mktemp("clif")
    return write_clif(root / "clif"), write_tokenize_settings(root / "settings.yaml")


def run(folder: Path, output: Path, settings: Path, flags: tuple[str, ...] = ()) -> None:
    run_main("00_tokenize", {"clif_dir": str(folder), "output_dir": str(output)}, (f"--config={settings}", *flags))


@parametrize([case for cases in clif_cases.ALL.values() for case in cases])
def test_bad_folders_are_refused_or_counted(case: Case, sound: tuple[Path, Path], tmp_path: Path) -> None:
    folder = tmp_path / "clif"
    shutil.copytree(sound[0], folder)
    case.damage(folder)
    check(case, lambda: run(folder, tmp_path / "out", sound[1], case.flags), tmp_path / "out")


def test_a_category_spelled_as_padding_is_refused(sound: tuple[Path, Path], tmp_path: Path) -> None:
    content = yaml.safe_load(sound[1].read_text())
    content["sources"] = [source | {"token": "{category}"} for source in content["sources"] if source["name"] == "labs"]
    settings = tmp_path / "settings.yaml"
    settings.write_text(yaml.safe_dump(content | {"normalize": "none"}))
    shutil.copytree(sound[0], tmp_path / "clif")
    frame = pl.read_parquet(tmp_path / "clif" / clif_cases.LABS)
    frame.with_columns(lab_category=pl.lit("PAD")).write_parquet(tmp_path / "clif" / clif_cases.LABS)
    with pytest.raises(InputError, match=r"a category is spelled 'PAD'.*give its token a prefix"):
        run(tmp_path / "clif", tmp_path / "out", settings)


def test_a_column_of_free_text_is_refused_while_it_is_read(
    sound: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A million texts would each become a token; the limit is lowered here."""
    monkeypatch.setattr(scan, "MAX_TEXTS", 1000)
    shutil.copytree(sound[0], tmp_path / "clif")
    clif_cases.write_many(1001)(tmp_path / "clif")
    words = r"clif_labs\.parquet: column 'lab_category' has more than 1,000 different values; .*correct the export"
    with pytest.raises(InputError, match=words):
        run(tmp_path / "clif", tmp_path / "out", sound[1])
    assert not (tmp_path / "out").exists()


def check_ledger(ledger: pl.DataFrame, folder: Path) -> None:
    """Assert that the ledger knows every row of each table it tells of, and every time that no hospital meant."""
    for path in sorted(folder.glob("clif_*.parquet")):
        table, frame = path.stem.removeprefix("clif_"), pl.read_parquet(path)
        steps = ledger.filter(table=table)
        if not steps.filter(step="read").is_empty():
            assert steps.filter(step="read")["rows_in"].to_list() == [frame.height], table
        odd = {
            column: frame[column].drop_nulls().dt.year().is_between(1901, 2261).not_().sum()
            for column, dtype in frame.schema.items()
            if column.endswith("_dttm") and (dtype == pl.Date or isinstance(dtype, pl.Datetime))
        }
        told = {
            reason.split(" ")[0]: count
            for reason, count in steps.filter(step="placeholder")["reason", "rows_in"].iter_rows()
        }
        assert told == {column: count for column, count in odd.items() if count}, table


COLUMNS = [(path, column) for path in clif_cases.WRITTEN for column in clif_cases.WRITTEN[path]]
VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-(2**63), 2**63 - 1), st.floats(), st.text(max_size=20), st.datetimes(),
    st.dates(), st.binary(max_size=4), st.lists(st.integers(0, 9), max_size=3),
)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=30, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(place=st.sampled_from(COLUMNS), value=VALUES, share=st.sampled_from([0.1, 0.5, 1.0]))
def test_any_value_in_any_column_is_counted_or_refused(
    sound: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory, place: tuple[str, str], value: Any, share: float
) -> None:
    """Whatever stands in a column: a message of one line without an id, or tables whose ledger adds up."""
    root = tmp_path_factory.mktemp("any")
    shutil.copytree(sound[0], root / "clif")
    path, column = root / "clif" / place[0], place[1]
    frame = pl.read_parquet(path)
    num = max(1, int(share * frame.height))
    new = pl.Series(column, [value] * num)
    if num < frame.height:  # the rest as it was, where both fit into one column
        kept = frame[column][num:]
        if isinstance(kept.dtype, pl.Datetime) and isinstance(new.dtype, pl.Datetime | pl.Date):
            new = new.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
        elif new.dtype != kept.dtype and new.dtype != pl.Null:
            kept = pl.Series(column, [None] * len(kept), dtype=new.dtype)
        new = pl.concat([new.cast(kept.dtype), kept])
    frame.with_columns(new).write_parquet(path)
    message = ""
    try:
        run(root / "clif", root / "out", sound[1])
    except InputError as error:
        message = str(error)
    assert "\n" not in message
    assert not PRIVATE.search(message)
    assert bool(message) != (root / "out" / "DONE").is_file()
    if not message:
        ledger = pl.read_parquet(root / "out" / "ledger.parquet")
        assert (ledger["rows_out"] <= ledger["rows_in"]).all()
        check_ledger(ledger, root / "clif")
        times = clif_cases.read_first(root / "out")["times"].explode(empty_as_null=False)
        assert times.dt.year().is_between(1901, 2261).all()
