"""`verify`: prints whether runs, and all that led to them, are as they were when they ended."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from clinrep.config import InputError
from clinrep.run.checks import Chain, Finding, find_all_runs, show

EXIT_CHANGED = 1
HEADINGS = ("run or input", "made by", "code", "found")
COMMIT_LETTERS = 12


class _Parser(argparse.ArgumentParser):
    """Tells what is wrong as the rest of the project does."""

    def error(self, message: str) -> NoReturn:
        """Raise an InputError instead of printing the usage."""
        raise InputError(f"{message}; see python -m clinrep.run --help")


def main(words: Sequence[str]) -> None:
    """Carry out `verify DIR...`.

    Raises:
        SystemExit: 1 where something is not as recorded.
        InputError: wrong words, or a directory without a run.
    """
    parser = _Parser(prog="python -m clinrep.run", allow_abbrev=False)
    commands = parser.add_subparsers(dest="command", required=True)
    told = "say whether runs, and the runs and data they were made from, are as recorded; writes nothing"
    verify = commands.add_parser("verify", help=told, description=told, allow_abbrev=False)
    verify.add_argument("directories", metavar="DIR", nargs="+", type=Path, help="a run, or a folder of runs")
    chain = Chain()
    for run in [run for given in parser.parse_args(words).directories for run in find_all_runs(given)]:
        chain.check(run)
    findings = list(chain.findings.values())
    print("\n".join([*_make_table(findings), "", *_sum_up(findings)]))
    if any(finding.changes for finding in findings):
        raise SystemExit(EXIT_CHANGED)


def _make_table(findings: Sequence[Finding]) -> list[str]:
    """Return the lines of the table, one a run or input; the last column is as wide as its words."""
    rows = [HEADINGS, *(_make_row(finding) for finding in findings)]
    widths = [max(len(row[column]) for row in rows) for column in range(3)]
    return ["  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[3]]) for row in rows]


def _make_row(finding: Finding) -> tuple[str, str, str, str]:
    found = "; ".join(finding.changes) or "as recorded"
    if finding.notes:
        found += f" [{'; '.join(finding.notes)}]"
    return show(finding.path), finding.stage, _name_code(finding), found


def _name_code(finding: Finding) -> str:
    names = [commit[:COMMIT_LETTERS] or "unknown" for commit in finding.commits]
    return ", ".join(names) + (" + changes" if finding.is_dirty else "") if names else "-"


def _sum_up(findings: Sequence[Finding]) -> list[str]:
    """Return the lines below the table: what changed, and whether one code and one set of packages made it all."""
    changed = sum(bool(finding.changes) for finding in findings)
    num_runs = sum(finding.stage != "(input)" for finding in findings)
    total = f"{num_runs} runs and {len(findings) - num_runs} other inputs"
    lines = [f"{total}: {changed} not as recorded" if changed else f"{total}: all as recorded"]
    runs = [finding for finding in findings if finding.commits]
    commits = list(dict.fromkeys(commit for finding in runs for commit in finding.commits))
    if len(commits) == 1 and commits[0]:
        lines.append(f"code: all by commit {commits[0]}")
    elif commits:
        lines.append(f"code: {len(commits)} commits: {', '.join(commit or 'unknown' for commit in commits)}")
    dirty = [show(finding.path) for finding in runs if finding.is_dirty]
    if dirty:
        lines.append(f"code: with uncommitted or unknown changes, which no commit tells: {', '.join(dirty)}")
    environments = {finding.environment for finding in runs} - {None}
    if len(environments) > 1:
        lines.append(f"packages: {len(environments)} different sets (environment.txt)")
    return lines
