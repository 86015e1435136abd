"""What stage 04 costs at the size of real sites: CPU seconds of each step and section, and the peak of memory.

Reads   nothing (simulates the finished runs of two sites)
Writes  a Markdown table to the screen; the runs into --directory, which is made anew
Run     python benchmarks/analyze_sites.py --num_stays 20000
        python benchmarks/analyze_sites.py --num_stays 300 --directory /tmp/sites    # does it work?

`num_stays` is of each site, a fifth of them in test. Each has what stages 00, 02 and 03 write: timelines of realistic
lengths, four outcomes, vectors of width 64, trajectories, what each token told, and two fine-tuned classifiers (one of
them URT) an outcome with their risk after every token of the test stays. Stage 04 runs whole, with its recommended
settings, in a process of its own; other flags after -- are given to it.
"""

# ruff: noqa: E402  (the path must be mended before anything else is imported)

from __future__ import annotations

import sys

sys.path[0] = __file__.rpartition("/benchmarks/")[0] or "."

import argparse
import os
import platform
import resource
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.simulated_sites import SimulatedSite
from clinrep.modality import resolve

SITES = ("first", "second")
SETTINGS = "configs/ehr/04_analyze.yaml"
STEPS = [
    *("read_sites", "read_inputs", "fit_probes", "predict_baselines", "predict_test", "score_anomalies"),
    *("score_predictions", "write_risk_over_time", "write_tables", "write_report"),
]


def main() -> None:
    """Simulate and measure each size, or analyze what --output_dir names in this process."""
    if "--analyze" in sys.argv:
        analyze([flag for flag in sys.argv[1:] if flag != "--analyze"])
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--num_stays", type=int, nargs="+", default=[20_000], help="of each site")
    parser.add_argument("--directory", help="where to put the runs; a temporary one unless given")
    parser.add_argument("flags", nargs="*", help="of stage 04, after --")
    options = parser.parse_args()
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())  # fmt: skip
    print(f"{cpu}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    for num_stays in options.num_stays:
        with tempfile.TemporaryDirectory() as temporary:
            root = Path(options.directory or temporary) / f"sites_{num_stays}"
            flags = []
            for number, name in enumerate(SITES):
                if not (root / name / "03" / "DONE").is_file():
                    SimulatedSite(root / name, num_stays, number).write()
                flags += [f"--{group}_dir.{name}={root / name / folder}" for group, folder in
                          (("timelines", "00"), ("predictions", "02"), ("representations", "03"))]  # fmt: skip
            shutil.rmtree(root / "04", ignore_errors=True)
            print(f"\n{num_stays:,} stays a site\n", flush=True)
            command = [sys.executable, __file__, "--analyze", f"--config={SETTINGS}", f"--output_dir={root / '04'}"]
            subprocess.run([*command, *flags, *options.flags], check=True)


class Meter:
    """Wraps functions so that each call prints its seconds and the peak of the process so far."""

    def __init__(self) -> None:
        """Print the head of the table."""
        print("| step | seconds | CPU seconds | peak MB so far |\n| --- | ---: | ---: | ---: |", flush=True)

    def tell(self, name: str, wall: float, cpu: float) -> None:
        """Print a row."""
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"| {name} | {wall:.1f} | {cpu:.1f} | {peak:,.0f} |", flush=True)

    def wrap(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, measured."""

        def measured(*values: Any, **named: Any) -> Any:
            wall, cpu = time.perf_counter(), time.process_time()
            result = function(*values, **named)
            self.tell(name, time.perf_counter() - wall, time.process_time() - cpu)
            return result

        return measured


def analyze(flags: list[str]) -> None:
    """Run stage 04 with every step and section measured."""
    from clinrep.analysis import sections

    stage = resolve("04_analyze:main")
    meter = Meter()
    for name in STEPS:
        stage.__globals__[name] = meter.wrap(name, stage.__globals__[name])
    for name, build in sections.SECTIONS.items():
        sections.SECTIONS[name] = meter.wrap(f"section {name}", build)
    sections.protect_table = meter.wrap("hide small cells", sections.protect_table)
    meter.wrap("**all**", stage)(flags)


if __name__ == "__main__":
    main()
