"""Settings of the page of timelines."""

from __future__ import annotations

from dataclasses import dataclass

from clinrep.config import require


@dataclass(frozen=True, kw_only=True)
class TimelinesConfig:
    """Stays to show one by one in timelines.html."""

    num_stays: int = 12
    """Test stays to draw at random; 0 writes no page."""
    subject_ids: list[str] | None = None
    """Stays to show instead, of any split; the page does not name them."""
    site: str | None = None
    """Site they are of; null is the site the probes are fitted on."""

    def __post_init__(self) -> None:
        """Refuse no stay where some were meant, or one twice."""
        require(self.num_stays >= 0, "timelines.num_stays", self.num_stays, "be 0 or more", "use 12, or 0 for no page")
        ids = self.subject_ids
        is_fine = ids is None or 0 < len(ids) == len(set(ids))
        shown = None if ids is None else f"{len(ids)} ids"
        require(is_fine, "timelines.subject_ids", shown, "name one stay or more, each once", "use num_stays 0 for none")
