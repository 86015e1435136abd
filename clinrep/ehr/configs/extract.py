"""Settings of 03_extract_reps.py for hospital records."""

from __future__ import annotations

from dataclasses import dataclass

from clinrep.ehr.configs.sequences import SequenceConfig
from clinrep.extraction_config import ExtractionConfig


@dataclass(frozen=True, kw_only=True)
class ExtractConfig(ExtractionConfig, SequenceConfig):
    """Turn the observation window of every stay into vectors; of a classifier the head is left out."""
