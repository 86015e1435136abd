"""Extraction in tests: a tiny encoder, tiny sequences, and the same hidden states computed another way."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import torch

from clinrep import extraction
from clinrep.ehr.configs.extract import ExtractConfig
from clinrep.ehr.models import load_encoder
from clinrep.sequences import Sequences
from tests.ehr.fake_models import write_fake_backbone_run
from tests.ehr.fake_timelines import write_fake_tokenizer_run


def write_runs(root: Path) -> tuple[Path, Path]:
    """Write fake directories of stages 00 and 01."""
    timelines = write_fake_tokenizer_run(root / "00", num_subjects=25, seed=2)
    return timelines, write_fake_backbone_run(root / "01", timelines)


def make_config(**settings: Any) -> ExtractConfig:
    names = {"timelines_dir": "unused", "backbone_dir": "unused", "output_dir": "unused", "max_length": 64}
    return ExtractConfig(**(names | settings))


def load_tiny_encoder(dirs: tuple[Path, Path]) -> Any:
    return load_encoder(make_config(timelines_dir=str(dirs[0]), backbone_dir=str(dirs[1])))


def extract(encoder: Any, data: Sequences, table: str = "representations", **settings: Any) -> pl.DataFrame:
    """Return one table of all sequences."""
    subjects = data.subjects.with_columns(pl.Series(extraction.STORED, np.ones(len(data), dtype=bool)))
    whole = Sequences(subjects, data.tokens, data.times, data.offsets, data.pad_token_id, data.vocabulary_path)
    return extraction.Extractor(encoder, make_config(**settings)).extract(whole, [table])[table]


def run_layer_by_layer(encoder: Any, tokens: np.ndarray) -> list[np.ndarray]:
    """Return the hidden states (L, D) of one sequence after 0, 1, 2 layers, by calling the layers one by one."""
    with torch.no_grad():
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        hidden = encoder.embed_tokens(ids)
        positions = torch.arange(ids.shape[1])[None]
        rotary = encoder.rotary_emb(hidden, positions)
        states = [hidden]
        for layer in encoder.layers:
            hidden = layer(hidden, position_embeddings=rotary, position_ids=positions)
            hidden = hidden[0] if isinstance(hidden, tuple) else hidden
            states.append(hidden)
        states[-1] = encoder.norm(states[-1])
    return [state[0].numpy() for state in states]
