"""All five stages on recognisable data: what they write, print and send, and who may read it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.ehr.fake_models import write_fake_backbone_run
from tests.ehr.fake_timelines import write_fake_tokenizer_run
from tests.privacy.chain import CANARY, SECRETS, VALUE
from tests.scripts import TWO_RANKS

ROOT = Path(__file__).parents[2]
DRIVER = Path(__file__).with_name("chain.py")
# tables of single stays by contract, and pictures; weights and optimizer states hold no text
BINARY = {".parquet", ".npy", ".png", ".pdf", ".safetensors", ".pt", ".pth", ".bin"}


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


@pytest.mark.slow
def test_everything_written_is_closed_to_others(chain):
    root, _ = chain
    paths = [path for name in ("first", "second") for path in [root / name, *(root / name).rglob("*")]]
    assert len(paths) > 150
    assert not [str(path) for path in paths if path.lstat().st_mode & 0o007]
    closed_to_group = [path for path in paths if path.is_file() and not path.lstat().st_mode & 0o040]
    assert not closed_to_group, "the group must be able to go on with the files"


@pytest.mark.slow
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


@pytest.mark.parametrize(
    "text",
    [
        "no stay CANARYh123", "admitted 2550-03-04 10:00", "2550-03-04T10:00", "datetime.datetime(2550, 3, 4)",
        "numpy.datetime64('2550-03-04')", "at 18308160000000000 us", "at 18308160000", "glucose 24681.3579",
    ],
)  # fmt: skip
def test_the_search_for_secrets_finds_them(text):
    assert SECRETS.search(text)


@pytest.mark.slow
def test_nothing_was_sent(chain):
    assert "NETWORK" not in chain[1]


def test_the_cut_network_is_noticed():
    code = (
        "from tests.privacy.chain import cut_network; cut_network(); import socket; "
        "socket.create_connection(('192.0.2.1', 80))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "NETWORK socket.connect" in done.stderr or "NETWORK socket.getaddrinfo" in done.stderr


@pytest.mark.slow
def test_two_ranks_reach_nobody_but_each_other(tmp_path):
    timelines = write_fake_tokenizer_run(tmp_path / "00_tokenize", num_subjects=40, seed=5)
    write_fake_backbone_run(tmp_path / "01_pretrain", timelines)
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(
        f"import sys; sys.path.insert(0, {str(ROOT)!r})\nfrom tests.privacy.chain import cut_network\ncut_network()\n"
    )
    command = [
        *TWO_RANKS, "03_extract_reps.py", "--max_length=64", "--layers=[-1]", f"--timelines_dir={timelines}",
        f"--backbone_dir={tmp_path / '01_pretrain'}", f"--output_dir={tmp_path / 'out'}",
    ]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(tmp_path / "site")}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False, timeout=1200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "NETWORK" not in done.stderr
    paths = list((tmp_path / "out").rglob("*"))
    assert paths
    assert not [path for path in paths if path.lstat().st_mode & 0o007]
