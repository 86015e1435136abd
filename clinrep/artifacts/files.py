"""Files that appear whole or not at all, and digests of what they hold."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from clinrep.artifacts import durable
from clinrep.artifacts.columns import ArtifactError
from clinrep.config import InputError
from clinrep.failures import say

# Folders of a run that no result is read from, which may be removed, or go on growing with the search they are of.
WORK_FOLDERS = frozenset({"checkpoints", "search", "tensorboard", "token_store", "trials", "workers"})
UNRECORDED = frozenset({("DONE",), ("STOPPED",), ("run.log",)})  # written after the digests, or the digests themselves
_FILE_WORD = re.compile(r"[\w=][\w=.-]{0,99}")


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path` that takes its place, kept even if power fails, when the block succeeds."""
    durable.make_folder(path.parent)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    durable.remove(temporary)  # of a killed process that had the same number
    try:
        yield temporary
        durable.put_in_place(temporary, path)
    finally:
        durable.remove(temporary)


def check_file_word(word: str, what: str) -> None:
    """Refuse a word of a table or of the settings, part of file names, that could lead into another folder.

    Raises:
        InputError: it is not of letters, digits, _ = . and -, or begins with one of the last two.
    """
    if not _FILE_WORD.fullmatch(word):
        raise InputError(
            f"{what} {word[:60]!r} becomes part of file names and must be of letters, digits, _, = and -; rename it"
        )


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_done(directory: Path, stage: str, rows: dict[str, int], inputs: dict[str, str]) -> None:
    """Write DONE, the last file of a run: what it holds and what it was made from.

    `outputs` are the tables and weights, which make a run's fingerprint; `files` everything else that stays as it is.
    """
    outputs, files = (
        {name: fingerprint_file(directory / name) for name in names} for names in list_recorded(directory)
    )
    content = {"stage": stage, "rows": rows, "inputs": inputs, "outputs": outputs, "files": files}
    write_text(directory / "DONE", json.dumps(content, indent=2, sort_keys=True) + "\n")


def list_recorded(directory: Path) -> tuple[list[str], list[str]]:
    """Return the names of a run's files that DONE holds digests of: tables and weights, then all others.

    Left out are checkpoints, what may go or grow after DONE, and hidden files.
    """
    outputs, files = [], []
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        parts = path.relative_to(directory).parts
        if path.suffix in {".parquet", ".safetensors"} and "checkpoints" not in parts:
            outputs.append("/".join(parts))
        elif not (WORK_FOLDERS & set(parts[:-1]) or parts in UNRECORDED or any(part[0] == "." for part in parts)):
            files.append("/".join(parts))
    return outputs, files


def read_done(directory: Path, stage: str, *others: str) -> dict[str, Any]:
    """Return the content of DONE of a finished directory of `stage`, or one of `others`, else raise ArtifactError."""
    if not directory.is_dir():
        raise ArtifactError(f"{directory} is not a directory; expected what {stage}.py writes")
    path = directory / "DONE"
    if not path.is_file():
        raise ArtifactError(f"{directory} holds no DONE, so no finished run; run {stage}.py to its end first")
    content = read_content(path)
    found = content["stage"]
    if found not in (stage, *others):
        raise ArtifactError(f"{directory} was written by {found}.py, expected a directory of {stage}.py")
    return content


def read_content(path: Path) -> dict[str, Any]:
    """Return what a DONE file says, with its parts of the types they must have; else raise ArtifactError."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        is_whole = isinstance(content["stage"], str) and all(
            isinstance(content.get(part, {}), dict) for part in ("rows", "inputs", "outputs", "files")
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise ArtifactError(f"{path} is damaged ({say(error)}); run that stage again in a new directory") from error
    if not is_whole:
        raise ArtifactError(f"{path} is damaged (a part is of another type); run that stage again in a new directory")
    return content


def read_settings(path: Path) -> dict[str, Any]:
    """Return what the config.yaml of a run says, whichever stage's; one that is damaged is an ArtifactError."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ArtifactError(f"{path} cannot be read ({say(error)}); restore it, or run that stage again") from error
    if not isinstance(content, dict):
        raise ArtifactError(f"{path} holds no settings; restore it, or run that stage again")
    return content


def stamp_files(path: Path) -> dict[str, tuple[int, ...]]:
    """Return file -> size and time of change of all that `fingerprint` tells of; nothing is read.

    Files are named by their path in a folder; a single file by ''.
    """
    if path.is_file():
        return {"": stamp(path)}
    if not path.is_dir():
        return {}
    if (path / "DONE").is_file():
        files = [path / "DONE", *path.rglob("*.parquet"), *path.rglob("*.safetensors")]
    else:
        files = [file for file in path.iterdir() if not file.name.startswith(".")]
        files += [run / "DONE" for run in find_runs(path)]
    return {file.relative_to(path).as_posix(): stamp(file) for file in files if file.is_file()}


def stamp(path: Path) -> tuple[int, ...]:
    """Return size, time of change in nanoseconds and number of a file: another stamp, probably another content."""
    found = path.stat()
    return found.st_size, found.st_mtime_ns, found.st_ino


def find_model(directory: Path, folder: str, stage: str) -> Path:
    """Return the saved model (`backbone` or `classifier`) that `directory` names.

    `directory` is a finished run of `stage`, or the model's folder itself: inside a run directory
    (then that run must be finished) or copied away on its own.
    """
    model = directory / folder if (directory / folder).is_dir() else directory
    _refuse_pickles(model)
    run = model.parent if (model.parent / "config.yaml").is_file() else None
    if model == directory and not (directory / "model.safetensors").is_file():
        run = directory
    if run is not None:
        read_done(run, stage)
    for path in (model / "config.json", model / "model.safetensors", *list_tokenizer_files(model)):
        if not path.is_file():
            raise ArtifactError(f"{path} does not exist; {stage}.py writes it into {folder}/")
    return model


def _refuse_pickles(model: Path) -> None:
    """Refuse weights that are a pickle, which may run any code when it is opened."""
    pickles = [path.name for pattern in ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt") for path in model.glob(pattern)]
    if pickles and not (model / "model.safetensors").is_file():
        raise ArtifactError(
            f"{model} holds {', '.join(sorted(pickles))} but no model.safetensors; pickles may run any code and are "
            "never opened: save the model as model.safetensors where it was trained"
        )


def list_tokenizer_files(directory: Path) -> list[Path]:
    """Return the tables of a stage-00 directory that must lie beside a model: the tokenizer it was trained with."""
    return [directory / "vocabulary.parquet", directory / "quantiles.parquet"]


def find_runs(directory: Path) -> list[Path]:
    """Return `directory` when it is a run's, finished or not, else the runs directly in it, or in a grid's folders.

    A grid's folders are called setting=value, one in the other; no other folder is searched: it may hold anything.
    """
    if _is_run(directory):
        return [directory]
    runs = []
    for folder in sorted(path for path in directory.iterdir() if path.is_dir() and not path.name.startswith(".")):
        runs += find_runs(folder) if _is_run(folder) or "=" in folder.name else []
    return runs


def would_be_found(directory: Path, run: Path) -> bool:
    """Return whether `find_runs` and `fingerprint` would tell of a run in `directory` that is about to be made."""
    place, inner = directory.resolve(), run.resolve()
    if inner == place or not inner.is_relative_to(place) or not place.is_dir() or _is_run(place):
        return False
    *between, name = inner.relative_to(place).parts
    folders = [place.joinpath(*between[: number + 1]) for number in range(len(between))]
    is_searched = all("=" in folder.name and folder.name[0] != "." and not _is_run(folder) for folder in folders)
    return is_searched and name[0] != "."


def _is_run(directory: Path) -> bool:
    return (directory / "DONE").is_file() or (directory / "config.yaml").is_file()


def fingerprint_file(path: Path) -> str:
    """Return a digest of a file's content."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


def fingerprint_text(text: str) -> str:
    """Return the digest of the file that `write_text` makes of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def fingerprint(path: Path) -> str:
    """Return a digest of an input's content: a finished run, any other folder, or a file.

    Equal digests mean equal inputs wherever they lie. Of a plain folder the files directly in it count,
    and the finished runs in it (runs/NAME/02_finetune holds one per outcome, a grid folders of them).
    """
    if path.is_file():
        return fingerprint_file(path)
    if not path.is_dir():
        raise InputError(f"{path} does not exist")
    if (path / "DONE").is_file():
        content = read_content(path / "DONE")
        if "outputs" not in content:
            raise ArtifactError(f"{path / 'DONE'} is damaged (it lists no outputs); run that stage again")
        parts = [content["stage"], *sorted(content["outputs"].items())]
    else:
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        runs = [run for run in find_runs(path) if (run / "DONE").is_file()]
        parts = [(file.name, fingerprint_file(file)) for file in files]
        parts += [(str(run.relative_to(path)), fingerprint(run)) for run in runs]
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
