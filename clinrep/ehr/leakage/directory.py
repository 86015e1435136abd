"""What the audit reads of a stage-00 directory, finished or about to be: tables without asking for DONE."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl

from clinrep.artifacts import SPLITS, ArtifactError, find_parts, read_table_file
from clinrep.ehr.tokenizer import load_settings


@dataclass(frozen=True)
class Tokenized:
    """A stage-00 directory."""

    path: Path

    def read(self, name: str, split: str = "") -> pl.DataFrame:
        """Return a table; one that is missing is an ArtifactError."""
        paths = find_parts(name, self.path, split)
        if not paths:
            raise ArtifactError(
                f"{self.path} holds no table {name}{f' of {split}' if split else ''}; run stage 00 again"
            )
        return pl.concat([read_table_file(name, path) for path in paths])

    def find_timelines(self) -> list[tuple[str, Path]]:
        """Return (split, file) of every part of the timelines."""
        return [(split, path) for split in SPLITS for path in find_parts("timelines", self.path, split)]

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The saved settings."""
        return load_settings(self.path, "static_tokens", "discharge_tokens", "sources", "window.is_end_closed")

    @cached_property
    def vocabulary(self) -> pl.DataFrame:
        """Table `vocabulary`."""
        return self.read("vocabulary")

    @cached_property
    def outcomes(self) -> pl.DataFrame:
        """Table `outcomes`."""
        return self.read("outcomes")

    @cached_property
    def splits(self) -> pl.DataFrame:
        """Table `splits`."""
        return self.read("splits")

    @cached_property
    def subjects(self) -> pl.DataFrame:
        """Table `subjects`."""
        return self.read("subjects")
