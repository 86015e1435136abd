"""Files that appear whole or not at all, and digests of what they hold."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from clinrep.artifacts import durable
from clinrep.artifacts.schema import ArtifactError
from clinrep.config import InputError


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


def open_to_others(path: Path) -> None:
    """Give a folder and what is in it the modes that new ones have: some libraries write for the owner alone."""
    mask = os.umask(0o022)  # it can only be read by setting it
    os.umask(mask)
    for one in [path, *path.rglob("*")]:
        one.chmod((0o777 if one.is_dir() else 0o666) & ~mask)


def write_text(path: Path, text: str) -> None:
    """Write a small text file atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_done(directory: Path, stage: str, rows: dict[str, int], inputs: dict[str, str]) -> None:
    """Write DONE, the last file of a run: what it holds and what it was made from."""
    outputs = {
        str(path.relative_to(directory)): fingerprint_file(path)
        for path in sorted(directory.rglob("*"))
        if path.suffix in {".parquet", ".safetensors"} and "checkpoints" not in path.relative_to(directory).parts
    }
    content = {"stage": stage, "rows": rows, "inputs": inputs, "outputs": outputs}
    write_text(directory / "DONE", json.dumps(content, indent=2, sort_keys=True) + "\n")


def read_done(directory: Path, stage: str, *others: str) -> dict[str, Any]:
    """Return the content of DONE of a finished directory of `stage`, or one of `others`, else raise ArtifactError."""
    if not directory.is_dir():
        raise ArtifactError(f"{directory} is not a directory; expected what {stage}.py writes")
    path = directory / "DONE"
    if not path.is_file():
        raise ArtifactError(f"{directory} holds no DONE, so no finished run; run {stage}.py to its end first")
    try:
        content: dict[str, Any] = json.loads(path.read_text())
        found = content["stage"]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise ArtifactError(f"{path} is damaged ({error}); run {stage}.py again in a new directory") from error
    if found not in (stage, *others):
        raise ArtifactError(f"{directory} was written by {found}.py, expected a directory of {stage}.py")
    return content


def find_model(directory: Path, folder: str, stage: str) -> Path:
    """Return the saved model (`backbone` or `classifier`) that `directory` names.

    `directory` is a finished run of `stage`, or the model's folder itself: inside a run directory
    (then that run must be finished) or copied away on its own.
    """
    model = directory / folder if (directory / folder).is_dir() else directory
    run = model.parent if (model.parent / "config.yaml").is_file() else None
    if model == directory and not (directory / "model.safetensors").is_file():
        run = directory
    if run is not None:
        read_done(run, stage)
    for path in (model / "config.json", model / "model.safetensors", *list_tokenizer_files(model)):
        if not path.is_file():
            raise ArtifactError(f"{path} does not exist; {stage}.py writes it into {folder}/")
    return model


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


def _is_run(directory: Path) -> bool:
    return (directory / "DONE").is_file() or (directory / "config.yaml").is_file()


def fingerprint_file(path: Path) -> str:
    """Return a digest of a file's content."""
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while chunk := file.read(1 << 22):
            digest.update(chunk)
    return digest.hexdigest()


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
        try:
            content = json.loads((path / "DONE").read_text())
            parts = [content["stage"], *sorted(content["outputs"].items())]
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path / 'DONE'} is damaged ({error}); run that stage again") from error
    else:
        files = sorted(file for file in path.iterdir() if file.is_file() and not file.name.startswith("."))
        runs = [run for run in find_runs(path) if (run / "DONE").is_file()]
        parts = [(file.name, fingerprint_file(file)) for file in files]
        parts += [(str(run.relative_to(path)), fingerprint(run)) for run in runs]
    return hashlib.blake2b(repr(parts).encode(), digest_size=16).hexdigest()
