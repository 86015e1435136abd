"""The stay of a patient at a time, for tables that know only the patient: N rows."""

from __future__ import annotations

import numpy as np
import polars as pl


class PatientStays:
    """Finds the stay of a patient at a time, for tables that know only the patient."""

    def __init__(self, cohort: pl.DataFrame) -> None:
        """Take the stays with their admission and discharge."""
        patients = cohort["patient_id"].unique().sort()
        self.numbers: dict[str, int] = dict(zip(patients, range(patients.len()), strict=True))
        number = cohort["patient_id"].replace_strict(self.numbers, return_dtype=pl.Int64)
        stays = cohort.select("stay", "admission_dttm", "discharge_dttm", patient=number)
        self._stays = stays.sort("admission_dttm", "stay")
        earlier = self._stays.select("stay", before=pl.col("stay").shift(1).over("patient")).sort("stay")
        self._before = earlier["before"].cast(pl.Int64).fill_null(-1).to_numpy()
        never = np.iinfo(np.int64).max
        self._end = cohort["discharge_dttm"].to_physical().fill_null(never).to_numpy()

    def find(self, patient: np.ndarray, time: np.ndarray) -> np.ndarray:
        """Return i64 (N,): of the stays the time is in, both ends included, that admitted last; -1 for none."""
        rows = pl.DataFrame({"patient": patient, "time": time}).with_columns(pl.col("time").cast(pl.Datetime("us")))
        rows = rows.with_row_index("row").sort("time")
        joined = rows.join_asof(
            self._stays, left_on="time", right_on="admission_dttm", by="patient", check_sortedness=False
        ).sort("row")
        stay = joined["stay"].cast(pl.Int64).fill_null(-1).to_numpy().copy()
        while len(over := np.flatnonzero((stay >= 0) & (time > self._end[stay]))):  # stays may overlap
            stay[over] = self._before[stay[over]]
        return stay
