"""Compares finished runs, and all that they were made from, with what was written down when they ended."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from clinrep import artifacts
from clinrep.config import InputError, flatten
from clinrep.run.origins import describe_run, find_input_runs, read_json, select_paths

MOST_NAMES = 4  # of files that a message lists


@dataclass
class Finding:
    """What was found of one run, or of one input that no stage wrote."""

    path: Path
    stage: str
    commits: tuple[str, ...] = ()
    """Of the run and of the sessions it was resumed from, the last first; '' where git could not tell."""
    is_dirty: bool = False
    """Whether a session had uncommitted changes, or git could not tell."""
    environment: str | None = None
    """Digest of the packages installed."""
    changes: list[str] = field(default_factory=list)
    """What is not as recorded."""
    notes: list[str] = field(default_factory=list)
    """What is not recorded, so that nobody can tell."""


def find_all_runs(directory: Path) -> list[Path]:
    """Return `directory` when it is a run's, else every run under it, ended or not.

    Raises:
        InputError: it does not exist, or holds no run.
    """
    if not directory.is_dir():
        raise InputError(f"{directory} is no directory; give one that a stage wrote, or a folder of them")
    runs = list(_walk(directory))
    if not runs:
        raise InputError(f"{directory} holds no run (no DONE or config.yaml); give a directory that a stage wrote")
    return runs


def _walk(directory: Path) -> Iterator[Path]:
    if artifacts.find_runs(directory) == [directory]:
        yield directory
        return
    for folder in sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")):
        yield from _walk(folder)


class Chain:
    """Checks runs and, from input to input, those they were made from; each once, in `findings`."""

    def __init__(self) -> None:
        self.findings: dict[Path, Finding] = {}
        self._fingerprints: dict[Path, str] = {}

    def check(self, directory: Path) -> None:
        """Add the findings of a run, then of its inputs, unless they are there already."""
        if directory.resolve() in self.findings:
            return
        provenance = read_json(directory / "provenance.json")
        finding = _describe(directory, provenance)
        self.findings[directory.resolve()] = finding
        done = _read_done(directory, finding)
        if done is None:
            return
        finding.stage = str(done.get("stage"))
        _check_files(directory, done, finding)
        self._check_inputs(directory, done, provenance, finding)

    def _check_inputs(
        self, directory: Path, done: Mapping[str, Any], provenance: Mapping[str, Any], finding: Finding
    ) -> None:
        """Compare every input with the digest that DONE has of it, and go on to the runs that it is."""
        inputs = done.get("inputs") or {}
        if provenance and provenance.get("inputs") != inputs:
            finding.changes.append("provenance.json and DONE name other inputs")
        settings = _read_settings(directory)
        for key in sorted(select_paths(settings).keys() - inputs.keys()):
            finding.changes.append(f"{key} of config.yaml is no input by DONE")
        for key, digest in sorted(inputs.items()):
            path = _locate(flatten(settings).get(key), directory, settings, provenance)
            if path is None:
                finding.notes.append(f"{key}: config.yaml does not say where it lies")
            elif not path.exists():
                finding.changes.append(f"{key}: not found at {show(path)}")
            else:
                self._check_input(key, path, digest, provenance, finding)

    def _check_input(self, key: str, path: Path, digest: str, provenance: Mapping[str, Any], finding: Finding) -> None:
        runs = find_input_runs(path)
        recorded = (provenance.get("input_runs") or {}).get(key)
        differences = _compare_runs(path, runs, recorded)
        try:
            is_same = self._fingerprint(path) == digest
        except (InputError, OSError) as error:
            is_same, differences = False, [f"it cannot be read ({error})"]
        if not is_same:
            why = f" ({'; '.join(differences)})" if differences else ""
            finding.changes.append(f"{key}: {show(path)} is not what was read{why}")
        elif differences:
            finding.changes.append(
                f"{key}: {show(path)} holds the same tables and weights, but {'; '.join(differences)}"
            )
        runs = runs or ([path] if path.is_dir() and artifacts.find_runs(path) == [path] else [])  # ended or not
        for run in runs:
            self.check(run)
        if not runs:
            leaf = self.findings.setdefault(path.resolve(), Finding(path, "(input)"))
            leaf.changes += [] if is_same else [f"not what {show(finding.path)} read"]

    def _fingerprint(self, path: Path) -> str:
        key = path.resolve()
        if key not in self._fingerprints:
            self._fingerprints[key] = artifacts.fingerprint(path)
        return self._fingerprints[key]


def _describe(directory: Path, provenance: Mapping[str, Any]) -> Finding:
    """Return a finding with what provenance.json tells of the code."""
    sessions = [provenance, *reversed(provenance.get("resumed") or [])] if provenance else []
    commits = tuple(dict.fromkeys(session.get("commit") or "" for session in sessions))
    is_dirty = any(session.get("is_dirty") is not False for session in sessions)
    finding = Finding(directory, str(provenance.get("stage", "?")), commits, is_dirty, provenance.get("environment"))
    if not provenance:
        finding.notes.append("no readable provenance.json: nothing tells which code made it")
    return finding


def _read_done(directory: Path, finding: Finding) -> dict[str, Any] | None:
    """Return DONE, or None where there is nothing to compare with."""
    if not (directory / "DONE").is_file():
        finding.changes.append("no DONE: this run has not ended")
        return None
    done = read_json(directory / "DONE")
    if not isinstance(done.get("outputs"), dict) or not done.get("stage"):
        finding.changes.append("DONE is damaged")
        return None
    return done


def _read_settings(directory: Path) -> dict[str, Any]:
    """Return config.yaml, {} where it is missing or damaged."""
    try:
        settings = yaml.safe_load((directory / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return settings if isinstance(settings, dict) else {}


def _check_files(directory: Path, done: Mapping[str, Any], finding: Finding) -> None:
    """Compare every file with its digest in DONE, and look for files that DONE does not list."""
    listed = {**done["outputs"], **(done.get("files") or {})}
    states: dict[str, list[str]] = {"missing": [], "changed": [], "not readable": []}
    for name, digest in sorted(listed.items()):
        path = directory / name
        try:
            if not path.is_file():
                states["missing"].append(name)
            elif artifacts.fingerprint_file(path) != digest:
                states["changed"].append(name)
        except OSError:
            states["not readable"].append(name)
    outputs, files = artifacts.list_recorded(directory)
    states["not of the run"] = [name for name in outputs if name not in listed]
    others = [name for name in files if name not in listed]
    if "files" in done:
        states["not of the run"] += others
    elif others:
        finding.notes.append(f"{len(others)} files have no digest (DONE of earlier code)")
    finding.changes += [f"{state}: {_list_names(names)}" for state, names in states.items() if names]


def _list_names(names: list[str]) -> str:
    more = len(names) - MOST_NAMES
    return ", ".join(names[:MOST_NAMES]) + (f" and {more} more" if more > 0 else "")


def _locate(value: Any, directory: Path, settings: Mapping[str, Any], provenance: Mapping[str, Any]) -> Path | None:
    """Return where an input lies now: beside a run that moved with it, or where it was; None without a setting."""
    if not isinstance(value, str):
        return None
    start = Path(str(provenance.get("working_dir") or Path.cwd()))
    was = start / value
    places = [was, Path(value)]  # without working_dir, the latter alone: seen from here
    if isinstance(settings.get("output_dir"), str):
        places.insert(0, directory.resolve() / os.path.relpath(was, start / settings["output_dir"]))
    return next((Path(os.path.normpath(place)) for place in places if place.exists()), was)


def _compare_runs(path: Path, runs: list[Path], recorded: Any) -> list[str]:
    """Return how the runs that an input is differ from those it was, in words; [] where that was not recorded."""
    if not isinstance(recorded, list):
        return []
    was = {str(entry.get("run")): entry for entry in recorded if isinstance(entry, dict)}
    now = {entry["run"]: entry for entry in (describe_run(run, path) for run in runs)}
    differences = [f"{_name_run(name)} is gone" for name in sorted(was.keys() - now.keys())]
    differences += [f"{_name_run(name)} is new" for name in sorted(now.keys() - was.keys())]
    for name in sorted(was.keys() & now.keys()):
        if was[name].get("done") != now[name]["done"]:
            parts = {"config": "other settings", "commit": "another commit"}
            because = " and ".join(words for key, words in parts.items() if was[name].get(key) != now[name][key])
            differences.append(f"{_name_run(name)} was made again{' with ' if because else ''}{because}")
    return differences


def _name_run(name: str) -> str:
    return "its run" if name in (".", "..") else name


def show(path: Path) -> str:
    """Return a path as seen from here where it lies below, else whole."""
    absolute = Path(os.path.abspath(path))
    return str(absolute.relative_to(Path.cwd())) if absolute.is_relative_to(Path.cwd()) else str(absolute)
