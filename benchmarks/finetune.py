"""How fast stage 02 learns from 24 h sequences, beside the plain way: every sequence padded to 1,024 tokens, in fp32.

Reads   nothing (draws sequences of realistic lengths)
Writes  a Markdown table to the screen
Run     python benchmarks/finetune.py

Every job runs in a process of its own, on the same model and the same sequences, and does whole optimizer steps of
64 stays; jobs take turns. Tokens are those that are no padding. The rate of the processor's (or GPU's) matrix
multiplication is measured in the same turns.
"""

# ruff: noqa: E402  (the path must be mended before anything else is imported)

from __future__ import annotations

import sys

sys.path[0] = __file__.rpartition("/benchmarks/")[0] or "."

import argparse
import json
import os
import platform
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.lengths import LENGTHS, MAX_LENGTH, draw_lengths

NUM_SKIPPED = 2  # first steps, which allocate
ITEMS_PER_STEP, VOCABULARY = 64, 512
SHAPES = {
    "cpu": {"hidden_size": 256, "intermediate_size": 512, "num_layers": 4, "num_heads": 4, "num_key_value_heads": 4},
    "cuda": {"hidden_size": 1024, "intermediate_size": 2048, "num_layers": 8, "num_heads": 8, "num_key_value_heads": 8},
}


def main() -> None:
    """Run all jobs, or the one that --job names in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_steps", type=int, default=6, help="optimizer steps of a job")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each job")
    parser.add_argument("--batch_size", type=int, default=4, help="stays in one forward pass of stage 02")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--lengths", choices=LENGTHS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(JOBS[options.job](options)))
        return
    import torch
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{device}, {os.cpu_count()} cores, {versions}\n")
    print("| lengths | mean | padding ratio | job | tokens/s | over plain, turn by turn | GFLOP/s | of fp32 matmul |")
    print("| --- | ---: | ---: | --- | ---: | ---: | ---: | ---: |")
    for name in LENGTHS:
        print_rows(name, run_jobs(name, options))


def print_rows(name: str, results: dict[str, list[dict[str, float]]]) -> None:
    """Print one row a job."""
    mean = draw_lengths(name, 4000).mean()
    for job, turns in results.items():
        if job == "matmul":
            continue
        ratios = [one["rate"] / two["rate"] for one, two in zip(turns, results["plain"], strict=True)]
        shares = [one["gflops"] / two["gflops"] for one, two in zip(turns, results["matmul"], strict=True)]
        rate, gflops = (statistics.median(turn[key] for turn in turns) for key in ("rate", "gflops"))
        ratio = "" if job == "plain" else f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        cells = f"{rate:,.0f} | {ratio} | {gflops:,.0f} | {statistics.median(shares):.2f}"
        print(f"| {name} | {mean:.0f} | {MAX_LENGTH / mean:.1f} | {job.replace('_', ' ')} | {cells} |", flush=True)


def run_jobs(lengths: str, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Run the jobs in turn, several times, and return what they measured in each turn."""
    results: dict[str, list[dict[str, float]]] = {job: [] for job in JOBS}
    words = [sys.executable, __file__, "--lengths", lengths, "--num_steps", str(options.num_steps)]
    words += ["--batch_size", str(options.batch_size)]
    for _ in range(options.repeats):
        for job, turns in results.items():
            done = subprocess.run([*words, "--job", job], stdout=subprocess.PIPE, text=True, check=True)
            turns.append(json.loads(done.stdout.splitlines()[-1]))
    return results


# Jobs, each run in a process of its own


def open_model() -> Any:
    """Return a classifier with random weights."""
    import polars as pl
    import torch

    from clinrep.ehr.configs.pretrain import LlamaShape
    from clinrep.ehr.models import LlamaClassifier, make_llama_config

    vocabulary = pl.DataFrame({"token": ["PAD"], "token_id": [0], "kind": ["special"]})
    config = make_llama_config(LlamaShape(**SHAPES["cuda" if torch.cuda.is_available() else "cpu"]), vocabulary)
    config.vocab_size = VOCABULARY
    config._attn_implementation = "sdpa"
    torch.manual_seed(0)
    return LlamaClassifier(config)


def open_sequences(lengths: str, num_stays: int) -> Any:
    """Return random tokens in sequences of these lengths, a tenth of them positive."""
    import numpy as np
    import polars as pl

    from clinrep.sequences import Sequences

    drawn = draw_lengths(lengths, num_stays)
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, VOCABULARY, drawn.sum(), dtype=np.uint32)
    names = [f"H{row}" for row in range(num_stays)]
    is_val = np.arange(num_stays) < 8
    subjects = pl.DataFrame({"subject_id": names, "patient_id": names, "label": rng.random(num_stays) < 0.1})
    subjects = subjects.with_columns(
        split=pl.Series(np.where(is_val, "val", "train")), label=pl.col("label") | (pl.col("subject_id") == "H9")
    )
    offsets = np.concatenate([[0], np.cumsum(drawn)])
    return Sequences(subjects, tokens, np.zeros(len(tokens), "datetime64[us]"), offsets, 0, Path("none"))


def run_stage(options: argparse.Namespace, precision: str) -> dict[str, float]:
    """Train by what 02_finetune.py trains by."""
    import logging

    from clinrep.classification import Classification
    from clinrep.ehr.configs.finetune import FinetuneConfig
    from clinrep.run import Run
    from clinrep.stop_signal import StopSignal
    from clinrep.training import train
    from clinrep.training_config import TrainingConfig

    logging.disable(logging.WARNING)
    steps, size = options.num_steps, options.batch_size
    training = TrainingConfig(
        learning_rate=1e-4, max_steps=steps, eval_steps=steps, batch_size=size, precision=precision, peak_tflops=1e-3
    )
    with tempfile.TemporaryDirectory() as folder, StopSignal() as stop:
        config = FinetuneConfig(
            timelines_dir="none", backbone_dir="none", outcome="x", output_dir=folder, metric_for_best="loss",
            global_batch_size=ITEMS_PER_STEP, training=training, show_progress=False,
        )  # fmt: skip
        data = Classification(open_sequences(options.lengths, steps * ITEMS_PER_STEP + 8), config)
        model = open_model()
        train(model, data.make_task(None), training, Run("02_finetune", config, Path(folder), {}), stop)
        records = [json.loads(line) for line in (Path(folder) / "metrics.jsonl").read_text().splitlines()]
    late = [record for record in records if record["step"] > NUM_SKIPPED]
    found = {name: statistics.median(r["value"] for r in late if r["name"] == name) for name in MEASURED}
    # mfu against a peak of 1 GFLOP/s is GFLOP/s
    return {"rate": found["tokens_per_second"], "gflops": found["mfu"]}


MEASURED = ("tokens_per_second", "mfu")


def run_plain(options: argparse.Namespace) -> dict[str, float]:
    """Train in passes of 8 sequences, in file order, each padded left to 1,024 tokens."""
    import numpy as np
    import torch

    from clinrep.batches import pad_left
    from clinrep.training.throughput import measure_model

    steps = min(options.num_steps, 2 + NUM_SKIPPED)
    sequences = open_sequences(options.lengths, steps * ITEMS_PER_STEP)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = open_model().to(device).train()
    flops = measure_model(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    longest = np.zeros(MAX_LENGTH, np.uint32)
    rates, speeds = [], []
    for step in range(steps):
        start, lengths = time.perf_counter(), []
        for first in range(step * ITEMS_PER_STEP, (step + 1) * ITEMS_PER_STEP, 8):
            rows = range(first, first + 8)
            batch = {name: value[:-1].to(device) for name, value in
                     pad_left([*(sequences.get(row) for row in rows), longest], 0).items()}  # fmt: skip
            labels = torch.tensor(sequences.labels[first : first + 8].astype(np.int64)).to(device)
            model(**batch, labels=labels, num_items_in_batch=ITEMS_PER_STEP).loss.backward()
            lengths += [len(sequences.get(row)) for row in rows]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - start
        pairs = sum(length * (length + 1) // 2 for length in lengths)
        rates.append(sum(lengths) / seconds)
        speeds.append(flops.count(sum(lengths), pairs) / seconds / 1e9)
    return {"rate": statistics.median(rates[NUM_SKIPPED:]), "gflops": statistics.median(speeds[NUM_SKIPPED:])}


def run_matmul(options: argparse.Namespace) -> dict[str, float]:
    """Multiply fp32 matrices of 2,048 x 2,048."""
    import torch

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    left, right = torch.randn(2048, 2048, device=device), torch.randn(2048, 2048, device=device)
    seconds = []
    for _ in range(12):
        start = time.perf_counter()
        (left @ right)[0, 0].item()
        seconds.append(time.perf_counter() - start)
    return {"rate": 0.0, "gflops": 2 * 2048**3 / statistics.median(seconds[2:]) / 1e9}


JOBS: dict[str, Callable[[argparse.Namespace], dict[str, float]]] = {
    "plain": run_plain,
    "stage_02_fp32": lambda options: run_stage(options, "fp32"),
    "stage_02_bf16": lambda options: run_stage(options, "bf16"),
    "matmul": run_matmul,
}


if __name__ == "__main__":
    main()
