"""A private Slurm on this machine, and a copy of the checkout whose sbatch files it runs as they are."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
ENDED = {"COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "PREEMPTED", "NODE_FAIL", "OUT_OF_MEMORY", "BOOT_FAIL"}

# The demo's settings, smaller still. 01 has steps enough to be stopped in the middle.
CHANGES: dict[str, dict[str, Any]] = {
    "00_tokenize": {},
    "01_pretrain": {
        "block_size": 256,
        "global_batch_tokens": 1024,
        "model": {
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_layers": 2,
            "num_heads": 2,
            "num_key_value_heads": 2,
        },
        "training": {"learning_rate": 0.003, "max_steps": 20, "batch_size": 4, "eval_steps": 20, "keep_checkpoints": 1},
    },
    "02_finetune": {"training": {"learning_rate": 0.001, "max_steps": 4, "batch_size": 16, "eval_steps": 2}},
    "03_extract_reps": {},
    "04_analyze": {"num_bootstraps": 50},
}


def find_obstacle() -> str:
    """Return why no Slurm can run here; '' where it can."""
    if not sys.platform.startswith("linux"):
        return "Slurm needs Linux"
    if os.geteuid() != 0:
        return "a private Slurm needs root (namespaces, Debian packages)"
    if shutil.which("slurmctld") or shutil.which("apt-get"):
        return ""
    return "Slurm is not installed and there is no apt-get to install it"


def write_settings(folder: Path) -> None:
    """Write <stage>.yaml for all stages: the demo's with CHANGES."""
    folder.mkdir(parents=True)
    for stage, changes in CHANGES.items():
        settings = yaml.safe_load((ROOT / "configs/ehr/demo" / f"{stage}.yaml").read_text()) | changes
        for name in ("timelines_dir", "representations_dir", "predictions_dir", "backbone_dir", "output_dir"):
            settings.pop(name, None)  # flags of the sbatch file
        (folder / f"{stage}.yaml").write_text(yaml.safe_dump(settings))


def copy_checkout(folder: Path) -> Path:
    """Copy what git knows or would add to `folder`, with an env.sh for this machine, and return `folder`."""
    words = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"]
    names = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    for name in filter(None, names):
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    write_settings(folder / "site_configs")
    reset_site(folder, f"source {sys.prefix}/bin/activate")
    edit_site(folder, RUN_DIR="runs/site", SITE="site", CONFIG_DIR="site_configs")
    edit_site(folder, PROCESSES_PER_NODE="1", THREADS_PER_PROCESS="1")  # two cores, not two nodes of 8 GPUs
    return folder


def reset_site(folder: Path, python: str) -> None:
    """Give a copy's env.sh the values it is shipped with, whatever this machine's says, and `python` as section 2."""
    path = folder / "slurm/env.sh"
    text = re.sub(r"^export SBATCH_.*\n", "", path.read_text(), flags=re.MULTILINE)
    text, count = re.subn(r"^# 2\. (?:.*\n)+?(?=\n)", f"# 2.\nIN_IMAGE=()\n{python}\n", text, flags=re.MULTILINE)
    assert count == 1
    path.write_text(text)
    edit_site(folder, CLIF_DIR="sample_data/clif_demo", RUN_DIR="runs/main", SITE="main", CONFIG_DIR="configs/ehr")
    edit_site(folder, OUTCOMES="(in_hospital_death long_length_of_stay icu_admission imv_event)", STAGE_SBATCH="()")
    edit_site(folder, PROCESSES_PER_NODE="", THREADS_PER_PROCESS="", MAX_REQUEUES="10")


def edit_site(folder: Path, **values: str) -> None:
    """Give variables of a copy's env.sh other values, as who sets up a site does."""
    path = folder / "slurm/env.sh"
    text = path.read_text()
    for name, value in values.items():
        text, count = re.subn(rf"^{name}=(\([^)]*\)|\S*)", f"{name}={value}", text, flags=re.MULTILINE)
        assert count == 1, name
    path.write_text(text)


class Cluster:
    """Two nodes of 8 false GPUs each, a partition `gpu`, and `scavenge`, whose jobs give way to those of `gpu`."""

    def __init__(self, directory: Path) -> None:
        """Start it in an empty directory; SLURM_CI_* of who calls are slurm_up.sh's knobs."""
        self.directory = directory
        caller = os.environ.items()
        knobs = {name: value for name, value in caller if name.startswith("SLURM_CI_")}
        environment = {name: value for name, value in caller if not name.startswith(("SLURM", "SBATCH"))}
        environment |= knobs | {"SLURM_CI_DIR": str(directory)}
        done = subprocess.run(
            ["bash", str(HERE / "slurm_up.sh")],
            env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "apt failed" in done.stderr:
            shutil.rmtree(directory)
            pytest.skip(f"no Slurm here: its packages cannot be installed: {done.stderr.strip()[-300:]}")
        assert done.returncode == 0, done.stdout + done.stderr
        self.report = done.stdout
        self.environment = environment | {"SLURM_CONF": str(directory / "slurm.conf")}

    def stop(self) -> str:
        """Stop all daemons, remove the directory, and return what was said."""
        command = ["bash", str(HERE / "slurm_down.sh"), "--purge"]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=120, check=False)
        return done.stdout + done.stderr

    def call(self, *command: str, cwd: Path, code: int = 0) -> str:
        """Run a command that sees the cluster and return what it printed."""
        done = subprocess.run(
            command, cwd=cwd, env=self.environment, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stdout + done.stderr
        return done.stdout + (done.stderr if code else "")

    def submit(self, checkout: Path, *words: str) -> str:
        """Submit an sbatch file and return the job's id."""
        return self.call("sbatch", "--parsable", *words, cwd=checkout).strip()

    def show(self, job: str) -> list[dict[str, str]]:
        """Return the fields of a job, or of each task of an array."""
        text = self.call("scontrol", "show", "job", "--oneliner", job, cwd=self.directory)
        return [dict(re.findall(r"(\S+?)=(\S*)", line)) for line in text.splitlines() if line.strip()]

    def wait(self, *jobs: str, seconds: float = 180) -> list[dict[str, str]]:
        """Wait until jobs have ended and return their fields."""
        deadline = time.monotonic() + seconds
        while True:
            shown = [fields for job in jobs for fields in self.show(job)]
            if all(fields["JobState"] in ENDED for fields in shown):
                return shown
            assert time.monotonic() < deadline, shown
            time.sleep(0.5)

    def wait_until_running(self, job: str, count: int = 0, seconds: float = 90) -> dict[str, str]:
        """Wait until a job runs after `count` requeues and return its fields."""
        deadline = time.monotonic() + seconds
        while True:
            (fields,) = self.show(job)
            if fields["JobState"] == "RUNNING" and int(fields["Restarts"]) >= count:
                return fields
            assert time.monotonic() < deadline, fields
            assert fields["JobState"] not in ENDED, fields
            time.sleep(0.2)

    def configure(self, line: str, new_line: str) -> None:
        """Change one line of slurm.conf while the cluster runs."""
        path = self.directory / "slurm.conf"
        lines = path.read_text().splitlines()
        assert lines.count(line) == 1, line
        path.write_text("".join((new_line if one == line else one) + "\n" for one in lines))
        self.call("scontrol", "reconfigure", cwd=self.directory)

    def count_processes(self) -> list[str]:
        """Return the command lines of all processes that know this cluster but us."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                environment, command = (path / "environ").read_bytes(), (path / "cmdline").read_bytes()
            except OSError:
                continue
            if str(self.directory).encode() in environment + command and int(path.name) != os.getpid():
                found.append(command.replace(b"\0", b" ").decode(errors="replace"))
        return found


def wait_for_step(directory: Path, step: int, seconds: float = 120) -> None:
    """Wait until a run has recorded an optimizer step."""
    wait_for_text(directory / "metrics.jsonl", f'"step": {step},', seconds)


def wait_for_text(path: Path, text: str, seconds: float = 120) -> str:
    """Wait until a file holds a text and return all of it."""
    deadline = time.monotonic() + seconds
    while not (path.is_file() and text in path.read_text()):
        assert time.monotonic() < deadline, f"{path} never had {text}"
        time.sleep(0.05)
    return path.read_text()


def read_provenance(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "provenance.json").read_text())
    return content


def read_stop(directory: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((directory / "STOPPED").read_text())
    return content
