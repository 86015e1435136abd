"""The audit as stages and the command run it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import polars as pl

from clinrep import artifacts, distributed
from clinrep.ehr.leakage import findings as found
from clinrep.ehr.leakage.directory import Tokenized
from clinrep.ehr.leakage.findings import Finding
from clinrep.ehr.leakage.input_counts import count_inputs
from clinrep.ehr.leakage.outputs import check_outputs
from clinrep.ehr.leakage.single_tokens import describe_tokens, find_telling_tokens
from clinrep.ehr.leakage.splits import SOURCE_CHECK, check_source, check_splits, find_source
from clinrep.ehr.leakage.statistics import check_statistics
from clinrep.ehr.leakage.timing import check_index_times, check_sources, check_times
from clinrep.run import Run, RunError

TOKENS_FILE = "leakage_tokens.csv"
FINDINGS_FILE = "leakage.csv"
HOW = "audit it by python -m clinrep.ehr.leakage"


def audit_site(directory: Path, source_dir: str | None) -> tuple[list[Finding], pl.DataFrame]:
    """Return what is wrong or doubtful in a stage-00 directory, finished or about to be, and the table of its tokens.

    Args:
        directory: holds all tables of stage 00.
        source_dir: stage-00 directory whose train stays the model or the tokenizer learned from; None: itself.
    """
    site = Tokenized(directory)
    counts = count_inputs(site)
    tokens = describe_tokens(counts, site.vocabulary)
    findings = [
        *check_sources(site.settings),
        *check_index_times(site),
        *check_times(counts, site.vocabulary),
        *check_splits(site),
        *check_statistics(site),
        *find_telling_tokens(tokens, counts),
        *check_against(site, source_dir),
    ]
    return findings, tokens


def check_against(site: Tokenized, source_dir: str | None) -> list[Finding]:
    """Return which stays of val and test are among those that `source_dir` trained on."""
    if source_dir is None or Path(source_dir).resolve() == site.path.resolve():
        return []
    source = find_source(Path(source_dir))
    if source is None:
        what = f"{source_dir} does not tell its stays: whether some of val or test were trained on cannot be checked"
        return [Finding("doubtful", SOURCE_CHECK, what)]
    return check_source(site, Tokenized(source))


def audit_timelines(run: Run, config: Any) -> None:
    """End stage 00: write leakage.csv and leakage_tokens.csv; a RunError where a leak is certain."""
    findings, tokens = audit_site(run.directory, config.tokenizer_dir)
    write_audit(run.directory, findings, tokens)
    found.tell(findings)
    found.refuse_leaks(findings)


def audit_outputs(run: Run, config: Any) -> None:
    """Look at stages 01 (at its start too), 02 and 03, on every rank; nothing where the run was stopped.

    Whom a model that the run began from had learned of is looked for at the start (compatibility.py).

    Raises:
        RunError: patients are in two splits, or a table has other splits or labels than stage 00 gave.
        InputError: a table of stage 00 is missing or damaged.
    """
    if run.is_stopped:
        return
    site = Tokenized(Path(config.timelines_dir))
    distributed.run_on_main(lambda: _audit_outputs(run, site), RunError)


def _audit_outputs(run: Run, site: Tokenized) -> None:
    findings = [*check_splits(site), *check_outputs(run.directory, site)]
    artifacts.write_text(run.directory / FINDINGS_FILE, found.make_table(findings).write_csv())
    found.tell(findings)
    found.refuse_leaks(findings)


def audit_sites(run: Run, config: Any) -> pl.DataFrame:
    """Begin stage 04: what stage 00 found at every site, and other sites' test stays that `train_site` learned from.

    Writes leakage.csv and returns it: site, and what `findings.hide_small` leaves.

    Raises:
        RunError: a leak is certain.
    """
    frames, new = [pl.DataFrame(schema={"site": pl.String(), **found.SCHEMA})], []
    for name, directory in config.timelines_dir.items():
        site = Tokenized(Path(directory))
        told = _read_findings(site.path)
        findings = [*check_splits(site), *check_against(site, config.timelines_dir[config.train_site])]
        new += findings
        frames.append(pl.concat([told, found.make_table(findings)]).select(pl.lit(name).alias("site"), pl.all()))
    # what stage 00 found of a site's own source, it finds again
    table = found.hide_small(pl.concat(frames).unique(maintain_order=True), config.min_cell_count)
    artifacts.write_text(run.directory / FINDINGS_FILE, table.write_csv())
    found.tell(new)
    found.refuse_leaks(new)
    return table


def _read_findings(directory: Path) -> pl.DataFrame:
    """Return what the audit of stage 00 wrote; one doubtful finding where there is nothing to read."""
    path = directory / FINDINGS_FILE
    try:
        told = pl.read_csv(path, schema_overrides=found.SCHEMA).with_columns(pl.col(pl.String).fill_null(""))
        return told.select(list(found.SCHEMA))
    except FileNotFoundError:
        what = f"{directory} holds no {FINDINGS_FILE}; {HOW}"
    except pl.exceptions.PolarsError:
        what = f"{path} is not as stage 00 writes it today; {HOW}"
    missing = [Finding("doubtful", "not audited", what)]
    found.tell(missing)
    return found.make_table(missing)


def write_audit(directory: Path, findings: list[Finding], tokens: pl.DataFrame) -> None:
    """Write both tables."""
    artifacts.write_text(directory / FINDINGS_FILE, found.make_table(findings).write_csv())
    artifacts.write_text(directory / TOKENS_FILE, tokens.write_csv(float_precision=4))
