"""site_report.html, site_report.csv and site_unit_rules.yaml."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
import polars as pl

from clinrep import artifacts
from clinrep.ehr.quantiles import get_bin_words
from clinrep.ehr.site_report.drift import MODERATE_DRIFT, STRONG_DRIFT
from clinrep.ehr.site_report.rules import RULES_NAME, format_unit_rules
from clinrep.ehr.site_report.summary import count_totals, list_attention, summarize_sources
from clinrep.ehr.site_report.units import CONVERSIONS
from clinrep.ehr.site_report.verdicts import VERDICTS, format_number, format_percent

TEMPLATE_PATH = Path(__file__).with_name("site_report.html.j2")
BAR_WIDTH, BAR_GAP, BAR_HEIGHT = 9, 1, 30
_SHARES = ("train", "site")


def write_site_report(
    report: pl.DataFrame,
    directory: Path,
    *,
    tokenizer: str,
    site: str,
    num_train_stays: int,
    num_site_stays: int,
    kept_rules: Sequence[str] = (),
) -> None:
    """Write site_report.csv and site_report.html of compare_sites' `report`; counts only, no stay's data.

    `tokenizer` and `site` name the two in the headings: folders, for example. The page loads nothing from
    elsewhere and needs no script. In the CSV the lists become train_share_q0, ..., site_share_q0, ...
    Where unit rules are suggested they are also written as site_unit_rules.yaml, settings for stage 00, after
    the `kept_rules` that the run had.
    """
    rules = format_unit_rules(report, kept_rules)
    if rules:
        artifacts.write_text(directory / RULES_NAME, rules)
    else:
        (directory / RULES_NAME).unlink(missing_ok=True)  # of an earlier try in this directory
    with artifacts.atomic_path(directory / "site_report.csv") as temporary:
        flatten(report).write_csv(temporary)
    environment = jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"number": format_number, "percent": format_percent, "ratio": _format_ratio}
    text = environment.from_string(TEMPLATE_PATH.read_text(encoding="utf-8")).render(
        tokenizer=tokenizer,
        site=site,
        num_train_stays=num_train_stays,
        num_site_stays=num_site_stays,
        totals=count_totals(report),
        sources=summarize_sources(report).to_dicts(),
        attention=list_attention(report),
        groups=_group_rows(report),
        rules=rules,
        has_beyond=bool((report["num_beyond"] > 0).any()),
        conversions=CONVERSIONS,
        limits=(MODERATE_DRIFT, STRONG_DRIFT),
        draw_bars=draw_bars,
        tell_expected=tell_expected,
    )
    artifacts.write_text(directory / "site_report.html", text)


def flatten(report: pl.DataFrame) -> pl.DataFrame:
    """Return the report without lists: one column per bin and side, in the place of the list."""
    columns: list[pl.Expr] = []
    for name in report.columns:
        side = name.removesuffix("_shares")
        if name == side or side not in _SHARES:
            columns.append(pl.col(name))
            continue
        words = get_bin_words(_count_bins(report))
        columns += [
            pl.col(name).list.get(number, null_on_oob=True).alias(f"{side}_share_{word.lower()}")
            for number, word in enumerate(words)
        ]
    return report.select(columns)


def _count_bins(report: pl.DataFrame) -> int:
    lengths = report.select(pl.col(f"{side}_shares").list.len().max() for side in _SHARES).row(0)
    return max(length or 0 for length in lengths)


def _group_rows(report: pl.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of each verdict, in order, with what the verdict means."""
    groups = [
        {"verdict": verdict, "meaning": meaning, "rows": report.filter(pl.col("verdict") == verdict).to_dicts()}
        for verdict, meaning in VERDICTS.items()
    ]
    return [group for group in groups if group["rows"]]


def draw_bars(train_shares: list[float] | None, site_shares: list[float] | None) -> str:
    """Return a small SVG: a bar for the site's share of each bin, a line at train's, which is what is expected.

    The height is the largest share of the two, but at least twice an even one. Without site shares only
    train's line is drawn; without train's only the bars; without both, nothing.
    """
    shares = [*(train_shares or []), *(site_shares or [])]
    if not shares:
        return ""
    num_bins = len(train_shares or site_shares or [])
    top = max(*shares, 2 / num_bins)
    step = BAR_WIDTH + BAR_GAP
    bars, line = "", ""
    for number, share in enumerate(site_shares or []):
        height = BAR_HEIGHT * share / top
        if height > 0:
            bars += f"M{number * step} {BAR_HEIGHT}v-{height:.1f}h{BAR_WIDTH}v{height:.1f}z"
    for number, share in enumerate(train_shares or []):
        line += f"M{number * step - BAR_GAP / 2:g} {BAR_HEIGHT * (1 - share / top):.1f}h{step}"
    label = " ".join(
        f"{word} {format_percent(share)}"
        for word, share in zip(get_bin_words(num_bins), site_shares or [], strict=False)
    )
    width = num_bins * step
    # Only numbers and Q words go in, so nothing needs escaping.
    return (
        f'<svg width="{width}" height="{BAR_HEIGHT + 2}" viewBox="-1 -1 {width + 1} {BAR_HEIGHT + 2}" role="img">'
        f"<title>{label or 'no binned value at the site'}</title>"
        f'<path class="bar" d="{bars}"/><path class="base" d="M-1 {BAR_HEIGHT}h{width + 1}"/>'
        f'<path class="expected" d="{line}"/></svg>'
    )


def tell_expected(row: dict[str, Any]) -> str:
    """Return what is expected of the bins where that is not the same share of each; else nothing."""
    if row["is_uniform_expected"] is not False:
        return ""
    low, high = (100 * extreme(row["train_shares"]) for extreme in (min, max))
    return f"expected {low:.0f} to {high:.0f}%"


def _format_ratio(value: float | None) -> str:
    return "" if not value else f"\N{MULTIPLICATION SIGN} {format_number(value)}"
