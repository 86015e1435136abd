"""Flat token and offset arrays derived once from the timelines, read by every rank and worker through one memory map.

N timelines, T tokens in all.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
import polars as pl

from clinrep import artifacts, distributed, file_access
from clinrep.config import InputError

logger = logging.getLogger("clinrep")

SPLITS = ("train", "val")
CHECKED_AT_ONCE = 1 << 24  # tokens
SECONDS_TO_DERIVE = 3600  # far more than any process takes


class TokenStore:
    """The timelines of one split, end to end. Pickled as its folder, so no process ever copies the tokens.

    tokens: u16 (T,), or u32 where the vocabulary has more than 65,536 tokens; memory-mapped.
    offsets: i64 (N + 1,): timeline i is tokens[offsets[i]:offsets[i + 1]]; none is empty.
    """

    def __init__(self, folder: Path) -> None:
        """Map the two files of `folder`."""
        self.folder = folder
        self.tokens: np.ndarray = np.load(folder / "tokens.npy", mmap_mode="r", allow_pickle=False)
        self.offsets: np.ndarray = np.load(folder / "offsets.npy", mmap_mode="r", allow_pickle=False)

    def __reduce__(self) -> tuple[type[TokenStore], tuple[Path]]:
        return TokenStore, (self.folder,)

    def __len__(self) -> int:
        return len(self.offsets) - 1


def open_token_stores(
    timelines_dir: Path, store_dir: Path, vocabulary: pl.DataFrame, pad_token_id: int
) -> dict[str, TokenStore]:
    """Return the stores of train and val under `store_dir`, derived first where these timelines have none yet.

    Every rank calls it. Rank 0 derives them; where `store_dir` is a disk of one machine, the first rank of
    each other machine too. They lie in a folder named by the content of `timelines_dir`, so other
    timelines are never mistaken for these.

    Raises:
        InputError: a split without timelines or without anything to predict, a token id the vocabulary does
            not hold, PAD inside a timeline, or a `store_dir` that cannot be written.
    """
    folder = store_dir / artifacts.fingerprint(timelines_dir)
    for is_mine in (distributed.get_rank() == 0, distributed.get_local_rank() == 0):
        problem = _prepare(timelines_dir, folder, vocabulary.height, pad_token_id) if is_mine else ""
        _agree_on(problem)
    return {split: TokenStore(folder / split) for split in SPLITS}


def _prepare(timelines_dir: Path, folder: Path, vocabulary_size: int, pad_token_id: int) -> str:
    """Derive `folder` where it does not exist, check it where it does; return what is wrong, '' for nothing."""
    try:
        if not folder.is_dir():
            _derive(timelines_dir, folder, vocabulary_size, pad_token_id)
        elif not _is_whole(folder):
            logger.warning("%s is damaged: laid out anew", folder)
            shutil.rmtree(folder)
            _derive(timelines_dir, folder, vocabulary_size, pad_token_id)
        else:
            for split in SPLITS:
                _check_tokens(TokenStore(folder / split).tokens, vocabulary_size, pad_token_id, timelines_dir)
    except InputError as error:
        return str(error)
    except OSError as error:
        return (
            f"the tokens of {timelines_dir} cannot be laid out in {folder.parent}: {error}; "
            "make room there, or give another --token_store_dir"
        )
    return ""


def _is_whole(folder: Path) -> bool:
    """Return whether the arrays are what was written, as their digests say."""
    try:
        digests = json.loads((folder / "digests.json").read_text())
        return bool(_digest_arrays(folder) == digests)
    except (OSError, ValueError):
        return False


def _digest_arrays(folder: Path) -> dict[str, str]:
    """Return the digest of each array of a store by its name there."""
    return {str(path.relative_to(folder)): artifacts.fingerprint_file(path) for path in sorted(folder.glob("*/*.npy"))}


def _agree_on(problem: str) -> None:
    """Raise an InputError on every rank where one has a problem: alone it would leave the others waiting."""
    if problem and distributed.get_rank() != 0:
        logger.error(problem)  # only rank 0 shows what it raises
    of_main = distributed.share_from_main(problem)
    (num_problems,) = distributed.sum_numbers([float(bool(problem))])
    if num_problems:
        raise InputError(problem or of_main or "another rank cannot lay out the tokens; it says why")


def _derive(timelines_dir: Path, folder: Path, vocabulary_size: int, pad_token_id: int) -> None:
    """Write `folder` with the arrays of both splits, at once or not at all.

    Another process may derive the same at the same time: the first one's folder stays, since others may
    have mapped it by then.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    for left in folder.parent.glob(f".{folder.name}.*.tmp"):
        if time.time() - left.stat().st_mtime > SECONDS_TO_DERIVE:  # of a process that was killed
            shutil.rmtree(left, ignore_errors=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent))
    try:
        for split in SPLITS:
            (temporary / split).mkdir()
            _derive_split(timelines_dir, split, temporary / split, vocabulary_size, pad_token_id)
        (temporary / "digests.json").write_text(json.dumps(_digest_arrays(temporary), indent=2) + "\n")
        file_access.apply_access(temporary)
        try:
            temporary.rename(folder)
        except OSError:
            if not folder.is_dir():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _derive_split(timelines_dir: Path, split: str, folder: Path, vocabulary_size: int, pad_token_id: int) -> None:
    """Write tokens.npy and offsets.npy of one split, part by part of its timelines."""
    paths = artifacts.find_parts("timelines", timelines_dir, split)
    lengths = _read_lengths(timelines_dir, split, paths)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    data_type = np.uint16 if vocabulary_size <= 1 << 16 else np.uint32
    _reserve(folder, int(offsets[-1]) * np.dtype(data_type).itemsize)
    tokens = np.lib.format.open_memmap(folder / "tokens.npy", mode="w+", dtype=data_type, shape=(int(offsets[-1]),))
    begin = 0
    for path in paths:
        part = artifacts.read_table_file("timelines", path)["token_ids"].explode(empty_as_null=False).to_numpy()
        _check_tokens(part, vocabulary_size, pad_token_id, path)
        tokens[begin : begin + len(part)] = part
        begin += len(part)
    tokens.flush()
    np.save(folder / "offsets.npy", offsets, allow_pickle=False)
    logger.info("%s: %d tokens of %d timelines laid out for training", split, begin, len(lengths))


def _reserve(folder: Path, num_bytes: int) -> None:
    """Raise an OSError where a disk has no room: to write into a map of a full disk kills the process."""
    with tempfile.TemporaryFile(dir=folder) as file:
        os.posix_fallocate(file.fileno(), 0, max(1, num_bytes))


def _read_lengths(timelines_dir: Path, split: str, paths: list[Path]) -> np.ndarray:
    """Return the length of every timeline that is not empty, i64 (N,)."""
    artifacts.read_done(timelines_dir, "00_tokenize")
    parts = [artifacts.read_table_file("timelines", path)["token_ids"].list.len().to_numpy() for path in paths]
    lengths = np.concatenate([np.zeros(0, dtype=np.int64), *parts]).astype(np.int64)
    lengths = lengths[lengths > 0]
    if not len(lengths):
        raise InputError(
            f"{timelines_dir}: the {split} split holds no timeline; give 00_tokenize.py more patients or other "
            "fractions"
        )
    if lengths.max() < 2:
        raise InputError(f"{timelines_dir}: every timeline of the {split} split is one token long: nothing to predict")
    return lengths


def _check_tokens(tokens: np.ndarray, vocabulary_size: int, pad_token_id: int, source: Path) -> None:
    """Refuse ids outside the vocabulary, and padding inside timelines, which would become a target."""
    for begin in range(0, len(tokens), CHECKED_AT_ONCE):
        some = tokens[begin : begin + CHECKED_AT_ONCE]
        if some.max() >= vocabulary_size:
            raise InputError(
                f"{source}: token id {some.max()} but the vocabulary ends at {vocabulary_size - 1}; "
                "timelines and vocabulary are of different runs: run 00_tokenize.py again"
            )
        if (some == pad_token_id).any():
            raise InputError(f"{source}: PAD (id {pad_token_id}) occurs in timelines; run 00_tokenize.py again")
