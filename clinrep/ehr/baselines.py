"""What can be predicted from without a neural network: how often each token occurs, and the last values.

N stays, T tokens in all, V tokens of the vocabulary, B bins.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
from scipy.sparse import csr_matrix, vstack

from clinrep.analysis.stay_inputs import Features, StayInputs
from clinrep.config import InputError, lookup
from clinrep.ehr.compatibility import find_tokenizer_difference
from clinrep.ehr.sequences import load_sequences
from clinrep.ehr.tokenizer import read_vocabulary
from clinrep.sequences import Sequences

UNCUT_TOKENS = 1_000_000  # longer than any sequence: a baseline sees all of the window
CHUNK_STAYS = 20_000
_FUSED_BIN = re.compile(r"(.+)_(Q\d+)")  # LAB_sodium_Q3


def read_stay_inputs(timelines_dirs: dict[str, str], names: list[str]) -> dict[str, StayInputs]:
    """Return the features called `names` of every stay of each site, from its timelines cut at index_time.

    Raises:
        InputError: an unknown name, an unfinished directory, or sites with different tokenizers.
    """
    builders = {name: lookup(BASELINES, name, "baseline") for name in names}
    directories = {site: Path(directory) for site, directory in timelines_dirs.items()}
    first = next(iter(directories))
    for site, directory in directories.items() if names else ():
        difference = find_tokenizer_difference(directories[first], directory)
        if difference:
            raise InputError(
                f"{difference}.parquet of site {site} ({directory}) differs from that of site {first} "
                f"({directories[first]}): tokens would mean other things; tokenize {site} with --tokenizer_dir "
                f"{directories[first]}, or name no baselines (--baselines [])"
            )
    return {site: _read_site(directory, builders) for site, directory in directories.items()}


def _read_site(directory: Path, builders: dict[str, Callable[[Sequences, pl.DataFrame], Features]]) -> StayInputs:
    sequences = load_sequences(str(directory), UNCUT_TOKENS)
    vocabulary = read_vocabulary(directory)
    features = {name: _build_in_chunks(build, sequences, vocabulary) for name, build in builders.items()}
    return StayInputs(sequences.subjects["subject_id"], sequences.lengths, features)


def _build_in_chunks(
    build: Callable[[Sequences, pl.DataFrame], Features], sequences: Sequences, vocabulary: pl.DataFrame
) -> Features:
    """Return what `build` makes of all stays, some at a time: its arrays of all would be ten times the tokens."""
    starts = range(0, max(1, len(sequences)), CHUNK_STAYS)
    parts = [
        build(sequences.take(np.arange(start, min(start + CHUNK_STAYS, len(sequences)))), vocabulary)
        for start in starts
    ]
    whole = vstack([part.values for part in parts], format="csr")
    return replace(parts[0], values=_with_small_indices(whole))


def count_events(sequences: Sequences, vocabulary: pl.DataFrame) -> Features:
    """Return log(1 + how often each token occurs), f32 (N, V)."""
    shape = (len(sequences), vocabulary.height)
    ones = np.ones(len(sequences.tokens), dtype=np.float32)
    # copies: sum_duplicates works in place
    values = csr_matrix((ones, sequences.tokens.astype(np.int64), sequences.offsets.copy()), shape=shape)
    values.sum_duplicates()
    values.data = np.log1p(values.data)
    return Features("token counts", _with_small_indices(values), vocabulary["token"].to_list())


def find_last_values(sequences: Sequences, vocabulary: pl.DataFrame) -> Features:
    """Return which bin the last value of each category is in, one column a category and bin, f32 (N, V B + V).

    A category is the token before a bin's, or, with fused tokens, what stands before the bin in a token. After these
    columns each token has one more: 1 where it is a category with a value (so 0 says that it was not measured), or a
    static token (sex, race) of the stay.
    """
    tokens = sequences.tokens.astype(np.int64)
    rows = np.repeat(np.arange(len(sequences)), sequences.lengths)
    bins, categories, numbers = _find_values(tokens, rows, vocabulary)
    num_tokens, num_bins = vocabulary.height, len(bins)
    is_value = numbers >= 0
    # the first of the reversed array is the last in time
    pairs = (rows[is_value] * num_tokens + categories[is_value])[::-1]
    last, at = np.unique(pairs, return_index=True)
    stays, measured = last // num_tokens, last % num_tokens
    columns = measured * num_bins + numbers[is_value][::-1][at]
    is_static = (vocabulary["kind"] == "static").to_numpy()[tokens]
    stays = np.concatenate([stays, stays, rows[is_static]])
    columns = np.concatenate([columns, num_tokens * num_bins + np.concatenate([measured, tokens[is_static]])])
    shape = (len(sequences), num_tokens * num_bins + num_tokens)
    values = csr_matrix((np.ones(len(columns), dtype=np.float32), (stays, columns)), shape=shape)
    values.sum_duplicates()
    values.data[:] = 1
    words = vocabulary["token"].to_list()
    names = [f"{word} {name}" for word in words for name in bins] + words
    return Features("last values", _with_small_indices(values), names)


def _find_values(
    tokens: np.ndarray, rows: np.ndarray, vocabulary: pl.DataFrame
) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Return the names of the bins, and of each token the category and bin, i64 (T,); -1 where it is no value."""
    words, kinds = vocabulary["token"].to_list(), vocabulary["kind"].to_list()
    fused = [None if kind == "bin" else _FUSED_BIN.fullmatch(word) for word, kind in zip(words, kinds, strict=True)]
    names = {word for word, kind in zip(words, kinds, strict=True) if kind == "bin"} or {m[2] for m in fused if m}
    bins = sorted(names, key=lambda name: (len(name), name))
    number_of = {name: number for number, name in enumerate(bins)}
    if "bin" in kinds:
        bin_of = np.array([number_of[word] if kind == "bin" else -1 for word, kind in zip(words, kinds, strict=True)])
        is_first = np.diff(rows, prepend=-1) != 0
        categories = np.where(is_first, -1, np.roll(tokens, 1))
        return bins, categories, np.where(categories >= 0, bin_of[tokens], -1)
    # a category is the first token that has it, of those with a bin
    first: dict[str, int] = {}
    for token, match in enumerate(fused):
        if match:
            first.setdefault(match[1], token)
    category_of = np.array([first[match[1]] if match else -1 for match in fused])
    bin_of = np.array([number_of[match[2]] if match else -1 for match in fused])
    return bins, category_of[tokens], bin_of[tokens]


def _with_small_indices(values: csr_matrix) -> csr_matrix:
    """Return the matrix with 32-bit indices where they suffice: scikit-learn's solvers take no others."""
    if max(values.nnz, *values.shape) < 2**31:
        values.indices, values.indptr = values.indices.astype(np.int32), values.indptr.astype(np.int32)
    return values


# name in the settings -> its features from the sequences and the vocabulary
BASELINES: dict[str, Callable[[Sequences, pl.DataFrame], Features]] = {
    "event_counts": count_events,
    "last_values": find_last_values,
}
