"""Whether stages 00, 01, 03 and 04 bear what is large or strange, within a memory budget.

Reads   nothing (simulates hospitals, under --data_dir)
Writes  a Markdown table to the screen: exit code, seconds and peak memory of every stage
Run     python benchmarks/soak.py --num_stays 200000
        python benchmarks/soak.py --cases vocabulary long_stay no_events one_patient --num_stays 2000

Each stage is a process of its own. Stage 01 makes only a few steps: 03 needs a model, of whatever quality. Where a
stage cannot have a result (one patient has no test split), exit code 2 with one message is expected; it is printed.
"""

# ruff: noqa: E402  (the path must be mended before anything else is imported)

from __future__ import annotations

import sys

sys.path[0] = __file__.rpartition("/benchmarks/")[0] or "."  # else tokenize.py here hides Python's own

import argparse
import os
import platform
import shutil
import subprocess
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs" / "ehr"
NUM_LABS = 60_000
NUM_EVENTS = 200_000


def main() -> None:
    """Run every case."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_stays", type=int, default=200_000)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=["stays"])
    parser.add_argument("--memory_gb", type=float, default=4.0, help="budget of stage 00, and what no stage may exceed")
    parser.add_argument("--num_steps", type=int, default=20, help="of stage 01")
    parser.add_argument("--data_dir", type=Path, default=ROOT / "runs" / "soak")
    options = parser.parse_args()
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, polars {pl.__version__}")
    print("\n| case | stays | stage | exit code | seconds | peak GB |")
    print("| --- | ---: | --- | ---: | ---: | ---: |", flush=True)
    peaks = [peak for case in options.cases for peak in run_case(case, options)]
    if max(peaks) > options.memory_gb:
        sys.exit(f"a stage took {max(peaks):.1f} GB, more than {options.memory_gb:g}")


def run_case(case: str, options: argparse.Namespace) -> list[float]:
    """Make the hospital of a case, run the stages on it, print a line each, and return their peaks in GB."""
    home = options.data_dir / f"{case}_{options.num_stays}"
    shutil.rmtree(home, ignore_errors=True)
    clif = home / "clif"
    simulate = ["--num_stays", str(options.num_stays), "--seed", "1", "--output_dir", str(clif)]
    subprocess.run([sys.executable, "-m", "clinrep.ehr.simulate", *simulate], cwd=ROOT, check=True, capture_output=True)
    CASES[case](clif)
    (clif / "DONE").unlink()  # it is another hospital now than the simulator wrote
    at = ["--timelines_dir", str(home / "00_tokenize")]
    commands = {
        "00_tokenize": ["--config", str(CONFIGS / "00_tokenize.yaml"), "--clif_dir", str(clif)],
        "01_pretrain": ["--config", str(CONFIGS / "known_risk" / "01_pretrain.yaml"), *at],
        "03_extract_reps": ["--config", str(CONFIGS / "known_risk" / "03_extract_reps.yaml"), *at],
        "04_analyze": [f"--timelines_dir.site={home / '00_tokenize'}"],
    }
    commands["00_tokenize"] += ["--memory_gb", str(options.memory_gb)]
    commands["01_pretrain"] += ["--training.max_steps", str(options.num_steps), "--training.eval_steps", str(10**6)]
    commands["03_extract_reps"] += [
        "--backbone_dir",
        str(home / "01_pretrain"),
        "--layers",
        "[-1]",
        "--trajectories",
        "true",
    ]
    commands["04_analyze"] += [f"--representations_dir.site={home / '03_extract_reps'}"]
    peaks = []
    for stage, flags in commands.items():
        words = [sys.executable, f"{stage}.py", *flags, "--output_dir", str(home / stage), "--log_level", "WARNING"]
        code, seconds, peak, message = measure(words, home / f"{stage}.txt")
        print(f"| {case} | {options.num_stays:,} | {stage} | {code} | {seconds:,.0f} | {peak:.2f} |", flush=True)
        peaks.append(peak)
        if code:
            print(f"\n{stage}: {message}\n", flush=True)
            break
    return peaks


def measure(words: list[str], log: Path) -> tuple[int, float, float, str]:
    """Run a command; return its exit code, seconds, peak resident size in GB, and the last line it printed."""
    start = time.perf_counter()
    with log.open("w") as file:
        process = subprocess.Popen(words, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
    lines = log.read_text().splitlines()
    return (
        os.waitstatus_to_exitcode(status),
        time.perf_counter() - start,
        usage.ru_maxrss / 1e6,
        lines[-1] if lines else "",
    )


def leave(clif: Path) -> None:
    """Change nothing."""


def spread_labs(clif: Path) -> None:
    """Give labs 60,000 categories."""
    path = clif / "clif_labs.parquet"
    rows = pl.read_parquet(path)
    number = pl.Series(np.random.default_rng(0).integers(0, NUM_LABS, rows.height))
    rows.with_columns(lab_category=pl.format("lab {}", number)).write_parquet(path)


def lengthen_stay(clif: Path) -> None:
    """Give one stay 200,000 heart rates more."""
    path, stays = clif / "clif_vitals.parquet", pl.read_parquet(clif / "clif_hospitalization.parquet")
    rows = pl.read_parquet(path)
    one = rows.filter(pl.col("hospitalization_id") == stays["hospitalization_id"][0])
    times = [one["recorded_dttm"][0] + timedelta(milliseconds=400 * number) for number in range(NUM_EVENTS)]
    more = one.sample(NUM_EVENTS, with_replacement=True, seed=0)
    more = more.with_columns(recorded_dttm=pl.Series(times, dtype=rows.schema["recorded_dttm"]))
    pl.concat([rows, more]).write_parquet(path)


def drop_events(clif: Path) -> None:
    """Take the events of every tenth stay away."""
    stays = pl.read_parquet(clif / "clif_hospitalization.parquet")["hospitalization_id"].gather_every(10)
    for path in clif.glob("clif_*.parquet"):
        rows = pl.read_parquet(path)
        if "hospitalization_id" in rows.columns and path.stem != "clif_hospitalization":
            rows.filter(~pl.col("hospitalization_id").is_in(stays.implode())).write_parquet(path)


def keep_one_patient(clif: Path) -> None:
    """Leave the stays of one patient."""
    patient = pl.read_parquet(clif / "clif_patient.parquet")["patient_id"][0]
    stays = pl.read_parquet(clif / "clif_hospitalization.parquet").filter(pl.col("patient_id") == patient)
    for path in clif.glob("clif_*.parquet"):
        rows = pl.read_parquet(path)
        key, kept = (
            ("patient_id", [patient])
            if "patient_id" in rows.columns
            else ("hospitalization_id", stays["hospitalization_id"])
        )
        rows.filter(pl.col(key).is_in(list(kept))).write_parquet(path)


CASES: dict[str, Callable[[Path], None]] = {
    "stays": leave,
    "vocabulary": spread_labs,
    "long_stay": lengthen_stay,
    "no_events": drop_events,
    "one_patient": keep_one_patient,
}

if __name__ == "__main__":
    main()
