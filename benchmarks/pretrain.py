"""How fast stage 01 is beside a bare PyTorch loop, and what packing, loading and a second rank cost.

Reads   nothing (simulates and tokenizes a hospital once, under --data_dir)
Writes  Markdown tables to the screen
Run     python benchmarks/pretrain.py            # the GPU part runs only where there is a GPU, and says so

Every job runs in a process of its own, on the same model and the same blocks; jobs take turns, and medians
over the steps after the first few, and then over the turns, are given. Tokens are those that are no padding.
"""

# ruff: noqa: E402  (the path must be mended before anything else is imported)

from __future__ import annotations

import sys

sys.path[0] = __file__.rpartition("/benchmarks/")[0] or "."

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from clinrep.modality import load_stage, resolve

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "ehr"
NUM_SKIPPED = 5  # first steps, which allocate and compile
CPU_MODEL = {"hidden_size": 256, "intermediate_size": 512, "num_layers": 4, "num_heads": 4, "num_key_value_heads": 4}
PEAKS = {"A100": 312.0, "H100": 989.0, "H200": 989.0}  # TFLOP/s in bf16 without sparsity, by the vendor's data sheets
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def main() -> None:
    """Run all jobs, or the one that --job names in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_stays", type=int, default=2_000, help="simulated stays")
    parser.add_argument("--num_steps", type=int, default=20, help="optimizer steps of a job")
    parser.add_argument("--repeats", type=int, default=3, help="turns of each job")
    parser.add_argument("--data_dir", type=Path, default=ROOT / "runs" / "benchmarks", help="simulated hospital, kept")
    parser.add_argument("--peak_tflops", type=float, help="of one GPU in bf16, where its name is not known here")
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    options, flags = parser.parse_known_args()
    if options.job:
        print(json.dumps(JOBS[options.job](flags)))
        return
    import torch
    import transformers

    timelines_dir = prepare(options.num_stays, options.data_dir)
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, transformers {transformers.__version__}"
    print(f"{platform.machine()}, {os.cpu_count()} cores, {versions}")
    measure_cpu(timelines_dir, options)
    if torch.cuda.is_available():
        measure_gpu(timelines_dir, options, torch.cuda.get_device_name())
    else:
        print("\nNo GPU here: utilisation and memory of the 67 M and 1 B models are not measured.")


def prepare(num_stays: int, data_dir: Path) -> Path:
    """Return a finished stage-00 directory of a simulated hospital, made where it does not exist."""
    clif_dir, timelines_dir = data_dir / f"clif_{num_stays}", data_dir / f"timelines_{num_stays}"
    simulate = ["--num_stays", str(num_stays), "--site", "reference", "--seed", "1", "--output_dir", str(clif_dir)]
    if not clif_dir.is_dir():
        subprocess.run([sys.executable, "-m", "clinrep.ehr.simulate", *simulate], cwd=ROOT, check=True)
    tokenize = [f"--config={CONFIGS / '00_tokenize.yaml'}", f"--clif_dir={clif_dir}", f"--output_dir={timelines_dir}"]
    tokenize += ["--train_fraction=0.98", "--val_fraction=0.005", "--log_level=WARNING"]
    subprocess.run([sys.executable, "00_tokenize.py", *tokenize], cwd=ROOT, check=True)
    return timelines_dir


def make_flags(timelines_dir: Path, num_steps: int, block_size: int, batch_size: int) -> list[str]:
    """Return flags of stage 01 that are the same for every job."""
    settings = {
        "timelines_dir": timelines_dir,
        "block_size": block_size,
        "global_batch_tokens": batch_size * block_size,
        "training.batch_size": batch_size,
        "training.max_steps": num_steps,
        "training.eval_steps": num_steps,
        "training.learning_rate": 1e-4,
        "log_level": "WARNING",
        "show_progress": "false",
    }
    return [f"--{name}={value}" for name, value in settings.items()]


# Jobs, each run in a process of its own


def run_stage_01(flags: list[str]) -> dict[str, float]:
    """Run 01_pretrain.py itself."""
    _, config = load_stage("01_pretrain", "", flags)
    resolve("01_pretrain:main")(flags)
    records = [json.loads(line) for line in (Path(config.output_dir) / "metrics.jsonl").read_text().splitlines()]
    late = [record for record in records if record["step"] > NUM_SKIPPED]
    names = ("tokens_per_second", "data_seconds", "mfu")
    values = {name: [record["value"] for record in late if record["name"] == name] for name in names}
    return {name: statistics.median(found) for name, found in values.items() if found} | find_peak_memory()


def run_bare_loop(flags: list[str], attention: str = "packed") -> dict[str, float]:
    """Train the same model on the same blocks with the least code that does it."""
    import torch

    config, model, batches = open_training(flags, attention)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model.to(device).train()
    if config.training.compile:
        for layer in model.model.layers:
            layer.compile(dynamic=False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.training.learning_rate, fused=True)
    rates = []
    for _ in range(config.training.max_steps):
        start = time.perf_counter()
        batch = next(batches)
        num_tokens = batch.pop("num_tokens")
        batch.pop("attention_pairs")
        if attention == "sdpa":  # transformers finds documents by their positions
            batch = {name: batch[name] for name in ("input_ids", "position_ids", "labels")}
        batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
        with torch.autocast(device.type, dtype=torch.bfloat16, enabled=config.training.precision == "bf16"):
            loss = model(**batch, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()
        rates.append(num_tokens / (time.perf_counter() - start))
    return {"tokens_per_second": statistics.median(rates[NUM_SKIPPED:])} | find_peak_memory()


def run_loader(flags: list[str]) -> dict[str, float]:
    """Make batches and nothing else."""
    config, _, batches = open_training(flags, "packed", needs_model=False)
    start, num_tokens = time.perf_counter(), 0
    for _ in range(20 * config.training.max_steps):
        num_tokens += next(batches)["num_tokens"]
    return {"tokens_per_second": num_tokens / (time.perf_counter() - start)} | find_peak_memory()


JOBS: dict[str, Callable[[list[str]], dict[str, float]]] = {
    "stage_01": run_stage_01,
    "bare_loop": run_bare_loop,
    "bare_loop_mask": lambda flags: run_bare_loop(flags, "sdpa"),
    "loader": run_loader,
}


def open_training(flags: list[str], attention: str, needs_model: bool = True) -> tuple[Any, Any, Iterator[Any]]:
    """Return the settings, the model of stage 01 with another attention, and its batches without end."""
    import torch

    modality, config = load_stage("01_pretrain", "", flags)
    torch.set_float32_matmul_precision("high")
    data = modality.load_blocks(config)
    model = modality.build_language_model(config, data) if needs_model else None
    if model is not None:
        model.set_attn_implementation(attention)

    def make_batches() -> Iterator[Any]:
        loader = torch.utils.data.DataLoader(
            data.train, config.training.batch_size, shuffle=True, drop_last=True, collate_fn=data.train.collate
        )
        while True:
            yield from loader

    return config, model, make_batches()


def find_peak_memory() -> dict[str, float]:
    """Return the most memory this process held, of the GPU where there is one."""
    import torch

    if torch.cuda.is_available():
        return {"peak_gb": torch.cuda.max_memory_allocated() / 1e9}
    return {"peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6}


# What is run and printed


def run_jobs(
    jobs: dict[str, tuple[str, list[str], int]], options: argparse.Namespace
) -> dict[str, list[dict[str, float]]]:
    """Run jobs (name -> kind, flags, ranks) in turn, several times, and return what they measured in each turn."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in jobs}
    for _ in range(options.repeats):
        for name, (kind, flags, ranks) in jobs.items():
            output_dir = options.data_dir / "01_pretrain"
            shutil.rmtree(output_dir, ignore_errors=True)
            store = f"--token_store_dir={options.data_dir / 'token_store'}"
            words = [__file__, "--job", kind, *flags, f"--output_dir={output_dir}", store]
            threads = max(1, (os.cpu_count() or 1) // ranks)
            done = subprocess.run(
                [sys.executable, *(TORCHRUN if ranks > 1 else ()), *words],
                cwd=ROOT,
                env=os.environ | {"OMP_NUM_THREADS": str(threads)},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            results[name].append(json.loads(done.stdout.splitlines()[0]))
    shutil.rmtree(options.data_dir / "01_pretrain", ignore_errors=True)
    return results


def find_median(turns: list[dict[str, float]], key: str) -> float:
    """Return the median over turns; NaN for what a job does not measure."""
    return statistics.median(turn.get(key, float("nan")) for turn in turns)


def measure_cpu(timelines_dir: Path, options: argparse.Namespace) -> None:
    """Print what a small model does on this machine's processor, or on its GPU where it has one."""
    shared = make_flags(timelines_dir, options.num_steps, block_size=1024, batch_size=4)
    shared += [f"--model.{name}={value}" for name, value in CPU_MODEL.items()]
    crossing = [*shared, "--packing.method=cross_document"]
    jobs = {
        "stage 01, isolated": ("stage_01", shared, 1),
        "bare loop, isolated": ("bare_loop", shared, 1),
        "bare loop, isolated by transformers' mask": ("bare_loop_mask", shared, 1),
        "stage 01, cross_document": ("stage_01", crossing, 1),
        "bare loop, cross_document": ("bare_loop", crossing, 1),
        "stage 01, isolated, two ranks": ("stage_01", shared, 2),
        "loader alone": ("loader", shared, 1),
    }
    results = run_jobs(jobs, options)
    pairs = {name: name.replace("stage 01", "bare loop") for name in jobs if name.startswith("stage 01")}
    print("\n| job | tokens/s | over the bare loop, turn by turn | seconds waiting for data a step | peak GB |")
    print("| --- | ---: | ---: | ---: | ---: |")
    for name, turns in results.items():
        rate, peak = find_median(turns, "tokens_per_second"), find_median(turns, "peak_gb")
        waited = f"{find_median(turns, 'data_seconds'):.4f}" if "data_seconds" in turns[0] else ""
        ratio = ""
        if pairs.get(name) in results:  # of neighbours in time: the machine's speed drifts
            bare = results[pairs[name]]
            of_turns = [
                one["tokens_per_second"] / two["tokens_per_second"] for one, two in zip(turns, bare, strict=True)
            ]
            ratio = f"{statistics.median(of_turns):.3f} ({min(of_turns):.3f} to {max(of_turns):.3f})"
        print(f"| {name} | {rate:,.0f} | {ratio} | {waited} | {peak:.2f} |")


def measure_gpu(timelines_dir: Path, options: argparse.Namespace, device_name: str) -> None:
    """Print utilisation and memory of the published sizes on this machine's GPU."""
    known = [peak for name, peak in PEAKS.items() if name in device_name]
    peak = options.peak_tflops or (known[0] if known else None)
    if peak is None:
        sys.exit(f"the peak of {device_name} is not known here; give --peak_tflops")
    jobs = {}
    for size, tokens in (("67m", 65_536), ("1b", 16_384)):
        for block_size in (1024, 4096):
            for is_compiled in (False, True):
                flags = [f"--config={CONFIGS / 'model_sizes' / (size + '.yaml')}"]
                flags += make_flags(timelines_dir, options.num_steps, block_size, tokens // block_size)
                flags += ["--training.precision=bf16", f"--training.peak_tflops={peak}"]
                flags += [f"--training.compile={str(is_compiled).lower()}"]
                for kind in ("stage_01", "bare_loop"):
                    compiled = "compiled" if is_compiled else "not compiled"
                    jobs[f"{size} | {block_size} | {compiled} | {kind}"] = (kind, flags, 1)
    print(f"\n{device_name}, peak {peak:g} TFLOP/s\n")
    print("| size | context | | job | tokens/s | MFU | peak GB |")
    print("| --- | ---: | --- | --- | ---: | ---: | ---: |")
    for name, job in jobs.items():
        turns = run_jobs({name: job}, options)[name]
        utilisation = f"{100 * find_median(turns, 'mfu'):.1f} %" if "mfu" in turns[0] else ""
        cells = f"{find_median(turns, 'tokens_per_second'):,.0f} | {utilisation} | {find_median(turns, 'peak_gb'):.1f}"
        print(f"| {name} | {cells} |", flush=True)


if __name__ == "__main__":
    main()
