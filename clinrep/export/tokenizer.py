"""What a modality hands over of its tokenizer, with nothing left in it that few people made."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import polars as pl


@dataclass(frozen=True)
class ExportedTokenizer:
    """The tables of a tokenizer as they may leave, and what was taken out of them."""

    vocabulary: pl.DataFrame
    """Ids as they were, so that they still are the rows of the embedding."""
    quantiles: pl.DataFrame
    categories: pl.DataFrame
    settings: dict[str, Any]
    """Those of stage 00, paths and all; the bundle strips them."""
    num_train_stays: int
    """Rounded as every count."""
    suppressed: dict[str, int]
    """What was hidden -> how often."""
