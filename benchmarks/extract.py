"""How fast stage 03 is beside a plain implementation, on the lengths that 24 h sequences have.

Reads   nothing (draws lengths and tokens from a seed, weights at random)
Writes  Markdown tables to the screen
Run     python benchmarks/extract.py                       # on a GPU where there is one
        python benchmarks/extract.py --width 128 --num_layers 2 --num_stays 64 --repeats 1      # does it work?

plain: batches of 32 in file order, padded right to 1,024 with a mask, every layer's states of every position
kept, fp32, as the manuscript's code does it (spec: 05_extract_hidden_states.py). Stage 03 makes the same vectors
(last token, last layer) and, in one more job, the trajectories beside them. Every job runs in a process of its
own; jobs take turns, and medians over the turns are given. Tokens are those that are no padding. FLOPs are 2 for
each matmul weight and token, and 4 x layers x width for each pair of tokens that a causal mask lets attend.
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
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.lengths import LENGTHS, MAX_LENGTH, draw_lengths

VOCABULARY = 400
PLAIN_BATCH = 32


def main() -> None:
    """Run all jobs, or the one that --job names in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_stays", type=int, default=1_000, help="sequences of a job; plain ones are a tenth")
    parser.add_argument("--width", type=int, default=512, help="of the hidden states; heads are 64 wide")
    parser.add_argument("--num_layers", type=int, default=8)
    parser.add_argument("--batch_tokens", type=int, help="of stage 03; 16,384 on a GPU, else 2,048")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each job")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--lengths", choices=LENGTHS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        print(json.dumps(run_job(options)))
        return
    import torch
    import transformers

    device = torch.cuda.get_device_name() if torch.cuda.is_available() else f"{os.cpu_count()} cores"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{platform.machine()}, {device}, {versions}; width {options.width}, {options.num_layers} layers")
    for name in LENGTHS:
        print_table(name, measure(name, options), options.num_stays)


# One job, in a process of its own


def run_job(options: argparse.Namespace) -> dict[str, float]:
    """Return tokens a second, TFLOP/s and seconds of one job, and this machine's matrix products just before it."""
    import torch

    kind, precision, has_trajectories = JOBS[options.job]
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates = {f"{name}_peak": measure_products(kind_of, device) for name, kind_of in PRODUCTS.items()}
    num_stays = options.num_stays // 10 if kind == "plain" else options.num_stays
    lengths = draw_lengths(options.lengths, max(PLAIN_BATCH, num_stays))
    encoder = build_encoder(options, "sdpa" if kind == "plain" else "packed").to(device)
    rng = np.random.default_rng(1)
    tokens = [rng.integers(1, VOCABULARY, min(length, MAX_LENGTH)) for length in lengths]
    run = run_plain if kind == "plain" else run_stage_03
    run(encoder, tokens[: 4 if kind == "plain" else 64], precision, has_trajectories, options)  # allocates
    start = time.perf_counter()
    run(encoder, tokens, precision, has_trajectories, options)
    seconds = time.perf_counter() - start
    num_tokens = sum(map(len, tokens))
    return {
        "tokens_per_second": num_tokens / seconds,
        "tflops": count_flops(encoder, tokens) / seconds / 1e12,
        "seconds": seconds,
    } | rates


# job -> implementation, precision, trajectories
JOBS = {
    "plain fp32": ("plain", "fp32", False),
    "stage 03 fp32": ("stage_03", "fp32", False),
    "stage 03 fp32, trajectories": ("stage_03", "fp32", True),
    "stage 03 bf16": ("stage_03", "bf16", False),
}
PRODUCTS = {"fp32": "float32", "bf16": "bfloat16"}


def build_encoder(options: argparse.Namespace, attention: str) -> Any:
    """Return a Llama without head, of random weights."""
    import torch
    from transformers import LlamaConfig, LlamaModel

    import clinrep.training.attention  # noqa: F401  (registers the packed attention)

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=options.width,
        intermediate_size=2 * options.width,
        num_hidden_layers=options.num_layers,
        num_attention_heads=options.width // 64,
        num_key_value_heads=options.width // 64,
        max_position_embeddings=MAX_LENGTH,
        attn_implementation=attention,
        use_cache=False,
        pad_token_id=0,
    )
    return LlamaModel(config).eval()


def run_plain(
    encoder: Any, tokens: list[np.ndarray], precision: str, has_trajectories: bool, options: argparse.Namespace
) -> None:
    """Pool as a first script would: pad everything to the longest allowed, and keep every layer."""
    import torch

    device = next(encoder.parameters()).device
    vectors = []
    for start in range(0, len(tokens), PLAIN_BATCH):
        batch = tokens[start : start + PLAIN_BATCH]
        input_ids = torch.zeros(len(batch), MAX_LENGTH, dtype=torch.long)
        for row, sequence in enumerate(batch):
            input_ids[row, : len(sequence)] = torch.from_numpy(sequence)
        input_ids = input_ids.to(device)
        lengths = torch.tensor([len(sequence) for sequence in batch], device=device)
        with torch.no_grad():
            output = encoder(input_ids=input_ids, attention_mask=(input_ids > 0).long(), output_hidden_states=True)
        last = output.hidden_states[-1]
        vectors.append(last[torch.arange(len(batch), device=device), lengths - 1].cpu())
    torch.cat(vectors)


def run_stage_03(
    encoder: Any, tokens: list[np.ndarray], precision: str, has_trajectories: bool, options: argparse.Namespace
) -> None:
    """Make the same vectors as stage 03 does, tables included, files not."""
    import polars as pl

    from clinrep.ehr.configs.extract import ExtractConfig
    from clinrep.extraction import Extractor
    from clinrep.sequences import Sequences

    on_gpu = next(encoder.parameters()).is_cuda
    config = ExtractConfig(
        timelines_dir="unused",
        backbone_dir="unused",
        output_dir="unused",
        poolings=["last_token"],
        batch_tokens=options.batch_tokens or (16_384 if on_gpu else ExtractConfig.batch_tokens),
        precision=precision,  # type: ignore[arg-type]
    )
    offsets = np.concatenate([[0], np.cumsum([len(sequence) for sequence in tokens])]).astype(np.int64)
    ids = pl.DataFrame({"subject_id": [f"H{row}" for row in range(len(tokens))]}).with_columns(split=pl.lit("test"))
    times = np.zeros(offsets[-1], dtype="datetime64[us]")
    sequences = Sequences(ids, np.concatenate(tokens).astype(np.uint32), times, offsets, 0, Path("unused"))
    names = ["trajectories", "representations"] if has_trajectories else ["representations"]
    extractor = Extractor(encoder, config)
    for start in range(0, len(tokens), config.subjects_per_part):
        rows = np.arange(start, min(start + config.subjects_per_part, len(tokens)))
        extractor.extract(sequences.take(rows), names)


def count_flops(encoder: Any, tokens: list[np.ndarray]) -> float:
    """Return the operations that the forward pass needs for these tokens, without padding."""
    weights = sum(weight.numel() for weight in encoder.layers.parameters() if weight.ndim == 2)
    lengths = np.array([len(sequence) for sequence in tokens], dtype=np.float64)
    width = encoder.config.num_hidden_layers * encoder.config.hidden_size
    return 2.0 * weights * lengths.sum() + 4.0 * width * (lengths * (lengths + 1) / 2).sum()


def measure_products(name: str, device: Any, size: int = 2048, repeats: int = 9) -> float:
    """Return the TFLOP/s of products of square matrices, the median of several."""
    import torch

    one, other = (torch.randn(size, size, device=device).to(getattr(torch, name)) for _ in range(2))
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        torch.mm(one, other)
        if device.type == "cuda":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return 2.0 * size**3 / statistics.median(times[1:]) / 1e12


# What is run and printed


def measure(name: str, options: argparse.Namespace) -> dict[str, list[dict[str, float]]]:
    """Run every job in turn, several times, on one distribution of lengths."""
    results: dict[str, list[dict[str, float]]] = {job: [] for job in JOBS}
    flags = [f"--{key}={value}" for key, value in vars(options).items() if key not in ("job", "lengths") and value]
    for _ in range(options.repeats):
        for job in JOBS:
            words = [sys.executable, __file__, *flags, "--job", job, "--lengths", name]
            done = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=True)
            results[job].append(json.loads(done.stdout.splitlines()[-1]))
    return results


def print_table(name: str, results: dict[str, list[dict[str, float]]], num_stays: int) -> None:
    """Print one distribution's jobs with their ratios, turn by turn, to the plain one's."""
    lengths = np.minimum(draw_lengths(name, num_stays), MAX_LENGTH)
    found = f"median {np.median(lengths):g}, mean {lengths.mean():.0f}, longest {lengths.max()}"
    print(f"\nLengths as in {name}: {found}; padded to {MAX_LENGTH} that is {MAX_LENGTH / lengths.mean():.1f} times\n")
    print("| job | tokens/s | over plain, turn by turn | TFLOP/s | of a matrix product's in its type |")
    print("| --- | ---: | ---: | ---: | ---: |")
    plain = [turn["tokens_per_second"] for turn in results["plain fp32"]]
    for job, turns in results.items():
        ratios = [turn["tokens_per_second"] / one for turn, one in zip(turns, plain, strict=True)]
        peak = f"{JOBS[job][1]}_peak"
        shares = [turn["tflops"] / turn[peak] for turn in turns]
        cells = [
            f"{statistics.median(turn['tokens_per_second'] for turn in turns):,.0f}",
            f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})",
            f"{statistics.median(turn['tflops'] for turn in turns):.3f}",
            f"{100 * statistics.median(shares):.0f} % of {statistics.median(turn[peak] for turn in turns):.3f}",
        ]
        print(f"| {job} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
