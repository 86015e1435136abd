"""How fast stage 00 is and what memory it takes, beside merely reading, sorting and writing the same columns.

Reads   nothing (simulates hospitals once, under --data_dir)
Writes  a Markdown table to the screen
Run     python benchmarks/tokenize.py --num_stays 2000 20000 200000

Every job runs in a process of its own, so that its peak memory is its own. Times are of the job alone,
without starting Python and importing libraries. Jobs of one size take turns, and medians are given.
"""

# ruff: noqa: E402  (the path must be mended before anything else is imported)

import sys

sys.path[0] = __file__.rpartition("/benchmarks/")[0] or "."  # else this file hides Python's own `tokenize`

import argparse
import json
import platform
import resource
import shutil
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

import polars as pl
import yaml

ROOT = Path(__file__).resolve().parent.parent
CONFIG = ROOT / "configs" / "ehr" / "00_tokenize.yaml"
COLUMNS = ("time_column", "category_column", "value_column", "categorical_value_column", "unit_column")


def main() -> None:
    """Run all jobs, or the one that --job names in this process."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_stays", type=int, nargs="+", default=[2_000, 20_000])
    parser.add_argument("--repeats", type=int, default=3, help="runs of each job")
    parser.add_argument("--memory_gb", type=float, default=4.0, help="budget of stage 00")
    parser.add_argument("--data_dir", type=Path, default=ROOT / "runs" / "benchmarks", help="simulated hospitals, kept")
    parser.add_argument(
        "--baseline_up_to", type=int, default=20_000, help="larger ones have no baseline: it needs memory"
    )
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--clif_dir", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        run_job(options.job, options.clif_dir, options.memory_gb)
        return
    versions = f"Python {platform.python_version()}, polars {pl.__version__}"
    print(f"{platform.machine()}, {pl.thread_pool_size()} threads, {versions}")
    print("\n| stays | rows | tokens | job | seconds | rows/s | tokens/s | peak MB | ratio |")
    print("| ---: | ---: | ---: | --- | ---: | ---: | ---: | ---: | ---: |", flush=True)
    for num_stays in options.num_stays:
        measure(num_stays, options)


def measure(num_stays: int, options: argparse.Namespace) -> None:
    """Simulate a hospital, run every job on it in turn, and print a line per job."""
    clif_dir = options.data_dir / f"clif_{num_stays}"
    simulate = ["--num_stays", str(num_stays), "--site", "reference", "--seed", "1", "--output_dir", str(clif_dir)]
    if not clif_dir.is_dir():
        subprocess.run([sys.executable, "-m", "clinrep.ehr.simulate", *simulate], cwd=ROOT, check=True)
    jobs = [job for job in JOBS if job == "stage_00" or num_stays <= options.baseline_up_to]
    results: dict[str, list[dict[str, Any]]] = {job: [] for job in jobs}
    for _ in range(options.repeats):
        for job in jobs:
            command = [sys.executable, __file__, "--job", job, "--clif_dir", str(clif_dir)]
            command += ["--memory_gb", str(options.memory_gb)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
            results[job].append(json.loads(done.stdout.splitlines()[-1]))
    stage = results["stage_00"]
    num_rows, num_tokens = stage[0]["num_rows"], stage[0]["num_tokens"]
    seconds = {job: statistics.median(result["seconds"] for result in results[job]) for job in jobs}
    for job in jobs:
        peak = max(result["peak_mb"] for result in results[job])
        ratio = f"{seconds['stage_00'] / seconds[job]:.2f}" if job != "stage_00" else ""
        tokens = f"{num_tokens / seconds[job]:,.0f}" if job == "stage_00" else ""
        cells = [f"{num_stays:,}", f"{num_rows:,}", f"{num_tokens:,}", job, f"{seconds[job]:.2f}"]
        cells += [f"{num_rows / seconds[job]:,.0f}", tokens, f"{peak:,.0f}", ratio]
        print("| " + " | ".join(cells) + " |", flush=True)


def run_job(job: str, clif_dir: Path, memory_gb: float) -> None:
    """Run one job in this process, and print what it took as JSON."""
    output_dir = clif_dir.with_name(f"{clif_dir.name}.{job}")
    shutil.rmtree(output_dir, ignore_errors=True)
    work = JOBS[job](clif_dir, output_dir, memory_gb)
    start = time.perf_counter()
    work()
    seconds = time.perf_counter() - start
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(json.dumps({"seconds": seconds, "peak_mb": peak_mb, **count(output_dir, clif_dir)}))
    shutil.rmtree(output_dir)


def count(output_dir: Path, clif_dir: Path) -> dict[str, int]:
    """Return the rows of the event tables read, and the tokens written."""
    num_rows = sum(pl.scan_parquet(path).select(pl.len()).collect().item() for path in list_tables(clif_dir).values())
    parts = sorted(output_dir.glob("timelines/*/*.parquet"))
    lengths = [pl.scan_parquet(path).select(pl.col("token_ids").list.len().sum()).collect().item() for path in parts]
    return {"num_rows": num_rows, "num_tokens": sum(lengths)}


def prepare_stage(clif_dir: Path, output_dir: Path, memory_gb: float) -> Any:
    """Return the whole of 00_tokenize.py, as a function."""
    from clinrep.modality import resolve

    resolve("clinrep.ehr.tokenize:tokenize")  # import what it imports before the clock starts
    flags = [f"--config={CONFIG}", f"--clif_dir={clif_dir}", f"--output_dir={output_dir}", f"--memory_gb={memory_gb}"]
    return lambda: resolve("00_tokenize:main")([*flags, "--log_level=WARNING"])


def list_tables(clif_dir: Path) -> dict[str, Path]:
    """Return the event tables that the recommended settings read."""
    names = {source["table"] for source in yaml.safe_load(CONFIG.read_text())["sources"]}
    paths = {name: clif_dir / f"clif_{name}.parquet" for name in sorted(names)}
    return {name: path for name, path in paths.items() if path.is_file()}


def list_columns(table: str, path: Path) -> tuple[str, list[str]]:
    """Return the time column and the other columns that the recommended settings read of a table."""
    present, found = pl.read_parquet_schema(path), []
    for source in yaml.safe_load(CONFIG.read_text())["sources"]:
        if source["table"] == table:
            conditions = source.get("keep_if", [])
            asked = [source.get(name) for name in COLUMNS]
            asked += [one.get(name) for one in conditions for name in ("column", "fallback_column")]
            found += [name for name in asked if name in present]
    found = list(dict.fromkeys(found))
    time_column = next(name for name in found if isinstance(present[name], pl.Datetime))
    return time_column, [name for name in found if name != time_column]


def prepare_one_sort(clif_dir: Path, output_dir: Path, memory_gb: float) -> Any:
    """Return reading the tables as rows of (stay, time, up to three texts, a number), one sort, and writing."""
    del memory_gb

    def work() -> None:
        frames = []
        for table, path in list_tables(clif_dir).items():
            time_column, columns = list_columns(table, path)
            schema = pl.read_parquet_schema(path)
            numbers = [name for name in columns if schema[name].is_float()]
            texts = [name for name in columns if schema[name] == pl.String]
            row = {f"text_{i}": pl.col(texts[i]) if i < len(texts) else pl.lit(None, dtype=pl.String) for i in range(3)}
            row["number"] = pl.col(numbers[0]).cast(pl.Float64) if numbers else pl.lit(None, dtype=pl.Float64)
            frames.append(pl.scan_parquet(path).select("hospitalization_id", pl.col(time_column).alias("time"), **row))
        output_dir.mkdir(parents=True)
        pl.concat(frames).sort("hospitalization_id", "time").collect().write_parquet(output_dir / "sorted.parquet")

    return work


def prepare_table_sorts(clif_dir: Path, output_dir: Path, memory_gb: float) -> Any:
    """Return reading every table, sorting it by (stay, time) and writing it: less than one sort of all."""
    del memory_gb

    def work() -> None:
        output_dir.mkdir(parents=True)
        for table, path in list_tables(clif_dir).items():
            time_column, columns = list_columns(table, path)
            frame = pl.scan_parquet(path).select("hospitalization_id", time_column, *columns)
            frame.sort("hospitalization_id", time_column).collect().write_parquet(output_dir / f"{table}.parquet")

    return work


JOBS = {"stage_00": prepare_stage, "one_sort": prepare_one_sort, "table_sorts": prepare_table_sorts}

if __name__ == "__main__":
    main()
