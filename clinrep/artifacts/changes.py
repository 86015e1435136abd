"""Files of finished runs that are no longer what DONE says: found before anything is made of them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from clinrep.artifacts.columns import ArtifactError
from clinrep.artifacts.files import find_runs, fingerprint_file, read_content, stamp
from clinrep.artifacts.schema import TABLES
from clinrep.artifacts.tables import read_table_file


def check_outputs(path: Path) -> None:
    """Refuse files of finished runs, in `path` or below as `find_runs`, that are not what DONE says was written.

    The fingerprint of a run is made of what DONE says, so it would vouch for numbers of something else. Looked into
    are files not older than DONE, which is written last: all that a change, or a copy without its times, leaves.

    Raises:
        ArtifactError: names the first such file, what is wrong with it if that can be told, and how many there are.
    """
    for run in find_runs(path) if path.is_dir() else []:
        if (run / "DONE").is_file():
            content = read_content(run / "DONE")
            _check_parts(run, content)
            _check_digests(run, content)


def _check_digests(run: Path, content: dict[str, Any]) -> None:
    outputs, since = content.get("outputs", {}), stamp(run / "DONE")[1]
    young = [name for name in outputs if (run / name).is_file() and stamp(run / name)[1] >= since]
    changed = [name for name in young if fingerprint_file(run / name) != outputs[name]]
    for name in changed:
        for table, spec in TABLES.items():
            pattern = re.escape(spec.path).replace(r"\{split\}", r"\w+").replace(r"\{part:05d\}", r"\d+")
            if content["stage"] in (spec.stage, *spec.other_stages) and re.fullmatch(pattern, name):
                read_table_file(table, run / name)  # raises where it can tell what is wrong
    if changed:
        others = f" (nor are {len(changed) - 1} others)" if len(changed) > 1 else ""
        raise ArtifactError(
            f"{run / changed[0]} is not what {content['stage']}.py wrote there{others}: it is younger than DONE and "
            "has another digest; restore it, or run that stage again in a new directory"
        )


def _check_parts(run: Path, content: dict[str, Any]) -> None:
    """Refuse a table in parts of which some are gone: it would look whole, with fewer rows."""
    by_folder: dict[str, list[str]] = {}
    for name in content.get("outputs", {}):
        folder, _, file = name.rpartition("/")
        if file.startswith("part-"):
            by_folder.setdefault(folder, []).append(name)
    for folder, names in by_folder.items():
        gone = [name for name in names if not (run / name).is_file()]
        if gone and len(gone) < len(names):
            raise ArtifactError(
                f"{run / folder} lacks {len(gone)} of its {len(names)} parts, as {Path(gone[0]).name}; restore "
                f"them, or run {content['stage']}.py again in a new directory"
            )
