"""Everything an event can be, numbered: what rows of tables become before they are tokens."""

from __future__ import annotations

from dataclasses import dataclass, field

import polars as pl

from clinrep.ehr.configs.tokenize import TokenizeConfig


@dataclass
class Codes:
    """Everything an event can be: (source, category, unit, word), numbered as it appears."""

    sources: list[int] = field(default_factory=list)
    categories: list[str | None] = field(default_factory=list)
    units: list[str | None] = field(default_factory=list)
    words: list[str | None] = field(default_factory=list)
    """Normalised categorical value; null where the source has none."""

    def __post_init__(self) -> None:
        """Start without any."""
        self._numbers: dict[tuple[int, str | None, str | None, str | None], int] = {}

    def number(self, source: int, category: str | None, unit: str | None, word: str | None) -> int:
        """Return the code of an event, a new one where it is seen for the first time."""
        key = (source, category, unit, word)
        number = self._numbers.get(key)
        if number is None:
            number = self._numbers[key] = len(self.sources)
            self.sources.append(source)
            self.categories.append(category)
            self.units.append(unit)
            self.words.append(word)
        return number

    def to_frame(self, config: TokenizeConfig) -> pl.DataFrame:
        """Return a row per code: code, source u16, category, key (the event's token), unit, word."""
        keys = [config.sources[s].token.format(category=c) for s, c in zip(self.sources, self.categories, strict=True)]
        data = {
            "source": self.sources,
            "category": self.categories,
            "key": keys,
            "unit": self.units,
            "word": self.words,
        }
        schema = {"source": pl.UInt16, "category": pl.String, "key": pl.String, "unit": pl.String, "word": pl.String}
        return pl.DataFrame(data, schema=schema).with_row_index("code")
