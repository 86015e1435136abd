"""How a site that a frozen tokenizer was applied to differs from the one it was learned at."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import polars as pl

from clinrep.ehr.configs.tokenize import TokenizeConfig
from clinrep.ehr.events import EventLog
from clinrep.ehr.site_report import compare_sites, summarize, write_rule, write_site_report
from clinrep.ehr.sources import BEYOND_SCHEMA
from clinrep.ehr.tokenize import Source, Tokenized
from clinrep.ehr.units import spell_category

logger = logging.getLogger("clinrep")


def report_site(source: Source, cohort: pl.DataFrame, tokenized: Tokenized, directory: Path) -> None:
    """Where the tokenizer is frozen, write how this site differs from the one it was learned at."""
    if source.frozen is None:
        return
    frozen, config = source.frozen, source.config
    report = compare_sites(
        *(frozen.categories, tokenized.site, frozen.vocabulary, frozen.quantiles),
        num_train_stays=frozen.num_train_stays,
        num_site_stays=cohort.height,
        unknown_token=config.unknown_token,
        beyond=pl.DataFrame(tokenized.log.beyond, schema=BEYOND_SCHEMA),
        names=_name_categories(tokenized.log, config).filter(~_is_touched(config)),
    )
    write_site_report(
        report,
        directory,
        tokenizer=str(config.tokenizer_dir),
        site=config.clif_dir,
        num_train_stays=frozen.num_train_stays,
        num_site_stays=cohort.height,
        kept_rules=[write_rule(dataclasses.asdict(rule)) for rule in config.unit_rules],
    )
    for line in summarize(report):
        logger.info("site report: %s", line)


def _name_categories(log: EventLog, config: TokenizeConfig) -> pl.DataFrame:
    """Return source, category (its token) and name (the CLIF category) of every code."""
    codes = log.codes.to_frame(config)
    names = [config.sources[number].name for number in codes["source"]]
    table = codes.select(source=pl.Series(names, dtype=pl.String), category="key", name="category")
    return table.unique().sort("source", "category", "name")


def _is_touched(config: TokenizeConfig) -> pl.Expr:
    """Return whether a unit rule already speaks of a category: what it is now called is no unit of the tables."""
    is_touched = pl.lit(False)
    for source in config.sources:
        rules = [rule for rule in config.unit_rules if rule.source == source.name]
        names = [spell_category(rule.category, source, config) for rule in rules]
        is_named = pl.lit(True) if None in names else pl.col("name").is_in(names)
        is_touched |= (pl.col("source") == source.name) & is_named & bool(rules)
    return is_touched.fill_null(False)
