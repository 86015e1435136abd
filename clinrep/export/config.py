"""Settings of python -m clinrep.export."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from clinrep.config import StageConfig, require


@dataclass(frozen=True, kw_only=True)
class ExportConfig(StageConfig):
    """What goes into a bundle, and how small what it tells may be."""

    timelines_dir: str
    """Finished directory of 00_tokenize.py that learned the tokenizer and that the backbone was trained on."""
    backbone_dir: str
    """Finished directory of 01_pretrain.py."""
    classifier_dir: str | None = None
    """Finished directory of 02_finetune.py, or a folder that holds several; null: no classifiers."""
    analyze_dir: str | None = None
    """Finished directory of 04_analyze.py; null: no scores, tables, model card or checklist."""
    min_cell_count: int = 11
    """Fewest people, and fewest values, that anything told may rest on: the rule of the US Centers for Medicare and
    Medicaid Services. 0 hides nothing, for data that are public anyway."""
    edge_digits: int | None = 4
    """Significant digits that quantile edges are rounded down to, so that a value equal to an edge stays in its bin;
    null: as they are."""
    rare_tokens: Literal["blank", "keep"] = "blank"
    """Names of tokens of fewer than min_cell_count people: blanked as RARE_<token_id>, or kept where the words are
    public and say nothing about who was treated."""
    notice: str = ""
    """Sentence for the bundle's README, for example what the data's licence asks for."""

    def __post_init__(self) -> None:
        """Refuse numbers that protect nothing by mistake."""
        super().__post_init__()
        require(self.min_cell_count >= 0, "min_cell_count", self.min_cell_count, "be 0 or more", "use 11")
        digits = self.edge_digits
        require(digits is None or 1 <= digits <= 17, "edge_digits", digits, "be in 1 to 17, or null", "use 4")
