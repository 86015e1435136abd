"""A tiny backbone directory as 01_pretrain.py leaves it, without pretraining."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

from clinrep import artifacts
from clinrep.ehr.configs.pretrain import LlamaShape
from clinrep.ehr.models import make_llama_config

SHAPE = LlamaShape(
    hidden_size=16, intermediate_size=32, num_layers=2, num_heads=2, num_key_value_heads=1, max_positions=256
)


def write_fake_backbone_run(directory: Path, timelines_dir: Path, seed: int = 0) -> Path:
    """Write backbone/ with random weights for the vocabulary of `timelines_dir`, and DONE; return `directory`."""
    torch.manual_seed(seed)
    model = LlamaForCausalLM(make_llama_config(SHAPE, artifacts.read_table("vocabulary", timelines_dir)))
    with torch.no_grad():  # larger than the initial weights, so that wrong attention shows
        for parameter in model.parameters():
            parameter.mul_(4 if parameter.dim() > 1 else 1)
    model.save_pretrained(directory / "backbone")
    for name in ("vocabulary.parquet", "quantiles.parquet"):
        shutil.copy(timelines_dir / name, directory / "backbone")
    (directory / "config.yaml").write_text(f"modality: ehr\ntimelines_dir: {timelines_dir}\n")
    artifacts.write_done(directory, "01_pretrain", {}, {"timelines_dir": artifacts.fingerprint(timelines_dir)})
    return directory
