"""report.html: one self-contained page of tables and figures."""

from __future__ import annotations

import base64
import json
import shlex
from pathlib import Path
from typing import Any

import jinja2

from clinrep import artifacts
from clinrep.analysis.config import AnalyzeConfig
from clinrep.analysis.inputs import Site
from clinrep.analysis.predictions import ZERO_SHOT, find_prediction_runs
from clinrep.analysis.study import Section, Study
from clinrep.analysis.tables import label_outcome
from clinrep.config import config_to_yaml
from clinrep.run import Run

TEMPLATE_PATH = Path(__file__).with_name("report.html.j2")


def write_report(run: Run, study: Study, sections: list[Section]) -> Path:
    """Write report.html into the run directory and return its path; it loads nothing from elsewhere."""
    provenance = json.loads((run.directory / "provenance.json").read_text())
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string(TEMPLATE_PATH.read_text(encoding="utf-8"))
    text = template.render(
        title="Clinical representations: analysis report",
        config=study.config,
        summary=_summarize(study.sites, study.outcomes, study.config),
        sections=sections,
        images={figure.name: _embed_image(figure.png_path) for section in sections for figure in section.figures},
        command=shlex.join(provenance["command"]),
        commit=provenance["commit"] or "unknown",
        is_dirty=provenance["is_dirty"],
        started=provenance["started"],
        host=provenance["host"],
        inputs=_list_inputs(study.config),
        settings=config_to_yaml(study.config),
    )
    path = run.directory / "report.html"
    artifacts.write_text(path, text)
    return path


def _embed_image(path: Path) -> tuple[str, int]:
    """Return a PNG as base64 and the width to show it at: half its pixels, so that text is as large in each."""
    content = path.read_bytes()
    width = int.from_bytes(content[16:20], "big")  # the first field of the header (PNG specification, IHDR)
    return base64.b64encode(content).decode(), width // 2


def _summarize(sites: list[Site], outcomes: list[str], config: AnalyzeConfig) -> list[dict[str, Any]]:
    """Return what was analyzed at each site: counts and sources."""
    return [
        {
            "name": site.name,
            "num_stays": site.stays.height,
            "num_patients": site.stays["patient_id"].n_unique(),
            "is_fitted": site.name == config.fitted_site,
            "classified": [
                label_outcome(outcome, config)
                for outcome in outcomes
                if site.predictions.get(outcome, {}).keys() - {ZERO_SHOT}
            ],
        }
        for site in sites
    ]


def _list_inputs(config: AnalyzeConfig) -> list[tuple[str, str, str]]:
    """Return setting, path and content digest of every input run; a folder of runs is listed run by run."""
    groups = {"timelines_dir": config.timelines_dir, "representations_dir": config.representations_dir}
    inputs = [(f"{group}.{site}", Path(given)) for group, sites in groups.items() for site, given in sites.items()]
    for site, given in config.predictions_dir.items():
        inputs += [(f"predictions_dir.{site}", path) for path in find_prediction_runs(Path(given))]
    return [(setting, str(path), artifacts.fingerprint(path)) for setting, path in inputs]
