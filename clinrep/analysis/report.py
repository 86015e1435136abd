"""report.html: one self-contained page of tables and figures."""

from __future__ import annotations

import json
import logging
import re
import shlex
from pathlib import Path

from markupsafe import Markup

from clinrep import artifacts
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.images import MAX_PAGE_BYTES, embed_images
from clinrep.analysis.key_numbers import summarize_sites
from clinrep.analysis.page import render_page
from clinrep.analysis.predictions import find_prediction_runs
from clinrep.analysis.study import Section, Study
from clinrep.analysis.tables import PrintedTable
from clinrep.config import config_to_yaml
from clinrep.run import Run

logger = logging.getLogger("clinrep")

PRIVATE_SETTING = "subject_ids"  # names patients: neither the page's command nor its settings show the value
ROOM_FOR_WORDS = 0.8  # of the page's bytes: what figures may take


def write_report(run: Run, study: Study, sections: list[Section]) -> Path:
    """Write report.html into the run directory and return its path; it loads nothing from elsewhere."""
    provenance = json.loads((run.directory / "provenance.json").read_text())
    paths = {figure.name: figure.png_path for section in sections for figure in section.figures}
    text = render_page(
        "report.html.j2",
        ["page.css", "report.css"],
        ["page.js", "report.js"],
        title="Clinical representations: analysis report",
        config=study.config,
        summary=summarize_sites(study),
        level=study.config.level,
        sections=sections,
        images=embed_images(paths, int(ROOM_FOR_WORDS * MAX_PAGE_BYTES)),
        command=hide_ids(shlex.join(hide_arguments(provenance["command"]))),
        config_path=run.directory / "config.yaml",
        commit=provenance["commit"] or "unknown",
        is_dirty=provenance["is_dirty"],
        started=provenance["started"],
        host=provenance["host"],
        inputs=_list_inputs(study.config),
        settings=hide_ids(config_to_yaml(study.config)),
        pair_rows=_pair_rows,
        name_classes=_name_classes,
        describe=_shorten,
    )
    path = run.directory / "report.html"
    artifacts.write_text(path, text)
    _check_size(path)
    return path


def hide_arguments(command: list[str]) -> list[str]:
    """Return the words of a command without those that hold, or follow, `subject_ids`."""
    hidden = []
    for before, word in zip(["", *command], command, strict=False):
        is_named = PRIVATE_SETTING in word
        is_value = before.startswith("--") and PRIVATE_SETTING in before and "=" not in before
        name = word.partition("=")[0] if is_named and word.startswith("--") else ""
        hidden.append(f"{name}=[...]" if name and "=" in word else name or "[...]" if is_named or is_value else word)
    return hidden


def hide_ids(text: str) -> str:
    """Return a command or YAML settings without the ids that `subject_ids` lists."""
    of_command = rf"(--[\w.]*\b{PRIVATE_SETTING}[= ]+)('[^']*'|\"[^\"]*\"|\[[^\]]*\]|\S+)"
    text = re.sub(of_command, r"\1[...]", text)
    of_yaml = rf"(?m)^( *){PRIVATE_SETTING}:(?! *null\b)[^\n]*(\n\1 *- [^\n]*)*"
    return re.sub(of_yaml, rf"\1{PRIVATE_SETTING}: [...]", text)


def _check_size(path: Path) -> None:
    size = path.stat().st_size
    if size > MAX_PAGE_BYTES:
        logger.warning(
            "%s has %.1f MB, more than the %.1f MB it should have: make fewer sections (--sections) or models",
            path,
            size / 1e6,
            MAX_PAGE_BYTES / 1e6,
        )


def _pair_rows(table: PrintedTable) -> list[tuple[list[str], tuple[str, ...]]]:
    """Return each row as printed, repeated keys blank, and whole."""
    return list(zip(table.rows, table.words.iter_rows(), strict=True))


def _name_classes(cell: str, is_again: bool) -> Markup:
    """Return the class attribute of a cell: short ones are kept on a line, repeated keys are not seen."""
    names = ["short"] * (len(cell) <= 24) + ["again"] * is_again
    return Markup(f' class="{" ".join(names)}"' if names else "")


def _shorten(caption: str) -> str:
    """Return the first sentence of a caption, for who cannot see the figure."""
    return re.split(r"(?<=[.;:])\s", caption, maxsplit=1)[0]


def _list_inputs(config: AnalyzeConfig) -> list[tuple[str, str, str]]:
    """Return setting, path and content digest of every input run; a folder of runs is listed run by run."""
    groups = {"timelines_dir": config.timelines_dir, "representations_dir": config.representations_dir}
    inputs = [(f"{group}.{site}", Path(given)) for group, sites in groups.items() for site, given in sites.items()]
    for site, given in config.predictions_dir.items():
        inputs += [(f"predictions_dir.{site}", path) for path in find_prediction_runs(Path(given))]
    return [(setting, str(path), artifacts.fingerprint(path)) for setting, path in inputs]
