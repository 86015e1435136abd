"""Files of finished runs that are no longer what DONE says: found before anything is made of them."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

from clinrep.artifacts.columns import ArtifactError
from clinrep.artifacts.files import find_runs, fingerprint_file, read_content
from clinrep.artifacts.schema import TABLES
from clinrep.artifacts.tables import read_table_file

logger = logging.getLogger("clinrep")

SETTINGS_FILE = "config.yaml"
MUCH = 10e9
"""Bytes whose digests take so long that they are worth a line in the log."""


def check_outputs(path: Path) -> None:
    """Refuse files of finished runs, in `path` or below as `find_runs`, that are not what DONE says was written.

    The fingerprint of a run is made of what DONE says, so it would vouch for numbers of something else. Looked into
    are config.yaml, whose settings later stages follow, and files that were written, copied or moved there after
    DONE, which is written last. Of a run that was copied whole `verify` alone finds every change.

    Raises:
        ArtifactError: names the first such file, what is wrong with it if that can be told, and how many there are.
    """
    for run in find_runs(path) if path.is_dir() else []:
        if (run / "DONE").is_file():
            content = read_content(run / "DONE")
            _check_parts(run, content)
            _check_digests(run, content)


def _check_digests(run: Path, content: dict[str, Any]) -> None:
    since, settings = _find_last_change(run / "DONE"), content.get("files", {}).get(SETTINGS_FILE)
    outputs = content.get("outputs", {})
    young = [name for name in outputs if (run / name).is_file() and _find_last_change(run / name) >= since]
    size = sum((run / name).stat().st_size for name in young)
    if size > MUCH:
        words = "%s: %d files (%.1f GB) are not older than DONE, as after a copy: are they what it says?"
        logger.info(words, run, len(young), size / 1e9)
    changed = [name for name in young if fingerprint_file(run / name) != outputs[name]]
    if settings and (run / SETTINGS_FILE).is_file() and fingerprint_file(run / SETTINGS_FILE) != settings:
        changed.append(SETTINGS_FILE)
    for name in changed:
        for table, spec in TABLES.items():
            pattern = re.escape(spec.path).replace(r"\{split\}", r"\w+").replace(r"\{part:05d\}", r"\d+")
            if content["stage"] in (spec.stage, *spec.other_stages) and re.fullmatch(pattern, name):
                read_table_file(table, run / name)  # raises where it can tell what is wrong
    if changed:
        others = f" (nor are {len(changed) - 1} others)" if len(changed) > 1 else ""
        raise ArtifactError(
            f"{run / changed[0]} is not what {content['stage']}.py wrote there{others}: DONE tells another digest; "
            "restore it, or run that stage again in a new directory"
        )


def _find_last_change(path: Path) -> int:
    """Return when a file last got a content, a name or a place, in ns (cp -p and mv keep the time of the content)."""
    found = path.stat()
    return max(found.st_mtime_ns, found.st_ctime_ns)


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
