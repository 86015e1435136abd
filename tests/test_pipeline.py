"""The five scripts in a row on the sample under other ids, with the demo's configs cut short and the network cut.

Does each read what the last wrote, who may read what they write, and does any of it tell of a patient?
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from clinrep import artifacts
from tests.privacy.chain import CANARY, SECRETS, VALUE
from tests.scripts import ROOT

DRIVER = ROOT / "tests" / "privacy" / "chain.py"
STAGES = ("00_tokenize", "01_pretrain", "02_finetune", "03_extract_reps", "04_analyze")
# tables of single stays by contract, and pictures; weights and optimizer states hold no text
BINARY = {".parquet", ".npy", ".png", ".pdf", ".safetensors", ".pt", ".pth", ".bin"}
pytestmark = pytest.mark.slow


def isolate() -> list[str]:
    """Return the words that start a program without any network, where this machine lets us."""
    words = ["unshare", "--map-root-user", "--net"]
    if shutil.which("unshare") is None:
        return []
    return [] if subprocess.run([*words, "true"], capture_output=True, check=False).returncode else words


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> tuple[Path, str]:
    """Return the folder of a finished chain and all that it printed."""
    root = tmp_path_factory.mktemp("chain") / "runs"
    command = [*isolate(), sys.executable, str(DRIVER), str(root)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=3000)
    assert done.returncode == 0, done.stderr[-3000:]
    return root, done.stdout + done.stderr


@pytest.fixture(scope="module")
def runs(chain) -> Path:
    """The folder with one folder a stage, of the site that learned the tokenizer."""
    return chain[0] / "first"


def test_every_stage_is_done_and_names_its_inputs_by_content(runs):
    for stage in STAGES:
        directory = runs / stage / "imv_event" if stage == "02_finetune" else runs / stage
        done = artifacts.read_done(directory, stage)
        for name in ("config.yaml", "provenance.json", "environment.txt", "run.log"):
            assert (directory / name).is_file(), (stage, name)
        for key, digest in done["inputs"].items():
            path = json.loads((directory / "provenance.json").read_text())["inputs"]
            assert path[key] == digest
    made_from = artifacts.read_done(runs / "03_extract_reps", "03_extract_reps")["inputs"]
    assert made_from["timelines_dir"] == artifacts.fingerprint(runs / "00_tokenize")
    assert made_from["backbone_dir"] == artifacts.fingerprint(runs / "01_pretrain")


def test_every_stay_goes_all_the_way_under_its_own_id(runs):
    kept = set(artifacts.read_table("subjects", runs / "00_tokenize")["subject_id"])
    assert len(kept) == 245
    representations = artifacts.read_table("representations", runs / "03_extract_reps")
    assert set(representations["subject_id"]) == kept
    predictions = artifacts.read_table("predictions", runs / "02_finetune" / "imv_event")
    outcomes = artifacts.read_table("outcomes", runs / "00_tokenize").filter(pl.col("outcome") == "imv_event")
    at_risk = outcomes.filter(pl.col("label").is_not_null())
    assert set(predictions["subject_id"]) == set(at_risk["subject_id"])
    assert predictions["label"].sum() == 19


def test_scores_say_how_many_and_are_null_where_one_event_cannot_make_a_number(runs):
    scores = artifacts.read_table("scores", runs / "04_analyze").filter(pl.col("subgroup") == "all")
    counts = {row[0]: row[1:] for row in scores.select("outcome", "num_subjects", "num_events").unique().iter_rows()}
    assert counts == {
        "in_hospital_death": (50, 3),
        "long_length_of_stay": (50, 10),
        "icu_admission": (26, 2),
        "imv_event": (39, 1),
    }
    of_ventilation, of_stay = (
        scores.filter(pl.col("outcome") == name) for name in ("imv_event", "long_length_of_stay")
    )
    assert of_ventilation["estimate"].null_count() == of_ventilation.height > 0
    assert of_stay["estimate"].null_count() == of_stay["low"].null_count() == 0
    vectors = {"backbone layer 4 last_token", "backbone layer 4 mean"}
    assert set(of_ventilation["model"]) == {"classifier", "token counts", "last values", *vectors}


def test_the_report_is_one_file_with_every_figure(runs):
    text = (runs / "04_analyze" / "report.html").read_text()
    figures = {path.stem for path in (runs / "04_analyze" / "figures").glob("*.png")}
    assert text.count("data:image/png;base64,") == len(figures)
    assert figures > {"roc_first", "calibration_first", "flow_first", "token_embeddings", "map_pca"}
    assert "too few events (1)" in text
    assert "Open Database License" in text
    assert 'src="http' not in text


def test_everything_written_is_closed_to_others(chain):
    root, _ = chain
    paths = [path for name in ("first", "second") for path in [root / name, *(root / name).rglob("*")]]
    assert len(paths) > 150
    assert not [str(path) for path in paths if path.lstat().st_mode & 0o007]
    closed_to_group = [path for path in paths if path.is_file() and not path.lstat().st_mode & 0o040]
    assert not closed_to_group, "the group must be able to go on with the files"


def test_no_id_date_or_value_of_a_patient_is_told(chain):
    root, printed = chain
    assert CANARY in "".join(pl.read_parquet(root / "first/00_tokenize/subjects.parquet")["subject_id"].to_list())
    assert (pl.read_parquet(root / "clif/clif_labs.parquet")["lab_value_numeric"] == VALUE).any()
    texts = {"screen": printed}
    for name in ("first", "second"):
        for path in (root / name).rglob("*"):
            if path.is_file() and path.suffix not in BINARY:
                texts[str(path.relative_to(root))] = path.read_text(errors="replace")
    looked_at = {Path(name).name for name in texts}
    assert looked_at >= {"run.log", "report.html", "timelines.html", "site_report.html", "site_report.csv"}
    assert looked_at >= {"metrics.jsonl", "config.yaml", "provenance.json", "environment.txt", "DONE"}
    found = {name: SECRETS.findall(text) for name, text in texts.items()}
    assert not {name: secrets[:3] for name, secrets in found.items() if secrets}
    assert " D " in printed, "the log was not that of DEBUG"


def test_nothing_was_sent(chain):
    """Of one process; two ranks: tests/test_03_zero_shot.py."""
    assert "NETWORK" not in chain[1]
