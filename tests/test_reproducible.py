"""The same seed gives the same bytes, and the same losses, in every file of all five stages.

Both chains are processes of their own with another PYTHONHASHSEED, so that the order of a set shows, and another
number of polars' threads. tests/test_00_tokenize.py does the latter with the whole sample.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from clinrep import artifacts
from clinrep.run.verify import main as verify
from tests.scripts import ROOT

SHAPE = {"hidden_size": 16, "intermediate_size": 16, "num_layers": 1, "num_heads": 2, "num_key_value_heads": 1}
TRAINING = ["--training.learning_rate=0.01", "--training.batch_size=2", "--training.eval_steps=3"]
CUT = ["--timelines_dir=00", "--max_length=48"]
CONFIGS = ROOT / "configs" / "ehr"
SITE_TOO = ["--timelines_dir.a=00", "--representations_dir.a=03", "--predictions_dir.a=02"]
TOKENIZE = [f"--config={CONFIGS / '00_tokenize.yaml'}", "--clif_dir=../clif"]
STAGES = [
    ("00_tokenize", "00", TOKENIZE),
    ("00_tokenize", "00_again", [*TOKENIZE, "--tokenizer_dir=00"]),
    ("01_pretrain", "01", ["--timelines_dir=00", "--block_size=64", "--global_batch_tokens=256",
                           *(f"--model.{name}={value}" for name, value in SHAPE.items()), "--model.max_positions=64",
                           *TRAINING, "--training.max_steps=7"]),
    ("02_finetune", "02", [*CUT, "--backbone_dir=01", "--outcome=in_hospital_death", "--global_batch_size=16",
                           *TRAINING, "--training.num_epochs=1", "--risk_over_time=[test]"]),
    ("03_extract_reps", "03", [*CUT, "--backbone_dir=01", "--trajectories=true", "--information=true",
                               "--hidden_states=true", "--hidden_state_subjects=3", "--splits=[train,val,test]",
                               "--zero_shot.outcomes=[in_hospital_death]", "--zero_shot.num_samples=2",
                               "--zero_shot.max_new_tokens=12"]),
    ("04_analyze", "04", [*SITE_TOO, "--outcomes=[in_hospital_death]", "--num_bootstraps=20",
                          "--min_events_for_estimate=2", "--min_events_for_interval=3"]),
]  # fmt: skip
DRIVER = """
import json, sys
from tests.scripts import load_main
for stage, output, flags in json.loads(sys.argv[1]):
    sys.argv = [f"{stage}.py", *flags]
    load_main(stage)([*flags, f"--output_dir={output}", "--show_progress=false"])
"""
SESSION = {"provenance.json"}  # when, where and by what it was done, and the digests that follow from it
TIMINGS = {"tokens_per_second", "data_seconds", "mfu"}


def run_chain(folder: Path, number: int) -> Path:
    folder.mkdir()
    environment = {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": str(number), "POLARS_MAX_THREADS": str(number)}
    done = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(STAGES)],
        cwd=folder, env=os.environ | environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


@pytest.fixture(scope="module")
def chains(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The same chain twice, each seen from its own folder by the same paths."""
    root = tmp_path_factory.mktemp("chains")
    simulate = [sys.executable, "-m", "clinrep.ehr.simulate", "--num_stays=150", "--seed=3"]
    subprocess.run([*simulate, f"--output_dir={root / 'clif'}"], cwd=ROOT, check=True, capture_output=True)
    return run_chain(root / "one", 1), run_chain(root / "two", 2)


def read_stable(path: Path) -> bytes:
    """Return a file's content without what tells when it was made."""
    content = path.read_bytes()
    if path.name == "metrics.jsonl":
        records = [json.loads(line) for line in content.splitlines()]
        return repr([{**one, "value": None} if one["name"] in TIMINGS else one for one in records]).encode()
    if path.suffix == ".html":
        return re.sub(rb"<dt>Started</dt>.*", b"", content)
    return content


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "output"), [(stage, output) for stage, output, _ in STAGES])
def test_every_file_is_the_same(chains, stage, output):
    one, two = (folder / output for folder in chains)
    outputs, files = artifacts.list_recorded(one)
    names = [name for name in [*outputs, *files] if name not in SESSION]
    assert [*artifacts.list_recorded(two)[0], *artifacts.list_recorded(two)[1]] == [*outputs, *files]
    assert [name for name in names if read_stable(one / name) != read_stable(two / name)] == []
    assert artifacts.fingerprint(one) == artifacts.fingerprint(two)
    expected = {
        "00_tokenize": {"ledger.parquet", "splits.parquet", "timelines/train/part-00000.parquet"},
        "01_pretrain": {"backbone/model.safetensors", "metrics.jsonl"},
        "02_finetune": {"classifier/model.safetensors", "predictions.parquet", "risk_over_time.parquet"},
        "03_extract_reps": {
            f"{name}/test/part-00000.parquet" for name in ("hidden_states", "information", "zero_shot")
        },
        "04_analyze": {"report.html", "timelines.html", "model_card.md", "scores.parquet", "tables/scores.csv"},
    }
    assert expected[stage] <= set(names)
    if output == "00_again":
        assert {"site_report.html", "site_report.csv"} <= set(names)
    if stage == "04_analyze":
        assert {Path(name).suffix for name in names} >= {".csv", ".tex", ".pdf", ".png", ".html", ".md"}


@pytest.mark.slow
def test_the_chain_of_the_five_stages_is_as_recorded(chains, capsys, monkeypatch):
    monkeypatch.chdir(chains[0])
    verify(["verify", "04", "00_again"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1:8]] == [
        "04",
        "02",
        "01",
        "00",
        str(chains[0].parent / "clif"),
        "03",
        "00_again",
    ]
    assert all(line.endswith("  as recorded") for line in lines[1:8])
    weights = chains[1] / "01" / "backbone" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    monkeypatch.chdir(chains[1])
    with pytest.raises(SystemExit):
        verify(["verify", "04"])
    changed = [line for line in capsys.readouterr().out.splitlines() if "changed: backbone/model.safetensors" in line]
    assert [line.split()[0] for line in changed] == ["01"]
