"""Settings of a run that reads one directory."""

from __future__ import annotations

from dataclasses import dataclass

from clinrep.config import StageConfig


@dataclass(frozen=True, kw_only=True)
class Config(StageConfig):
    timelines_dir: str
