"""`python -m clinrep.run verify`: each change under a chain of runs is seen, and a whole one is silent."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import polars as pl
import pytest

from clinrep import artifacts
from clinrep.config import InputError, StageConfig
from clinrep.run import open_run
from clinrep.run.verify import main

ROOT = Path(__file__).parent.parent
OUTCOMES = ("icu_admission", "in_hospital_death")


@dataclass(frozen=True, kw_only=True)
class Tokenize(StageConfig):
    clif_dir: str
    splits_path: str | None = None


@dataclass(frozen=True, kw_only=True)
class Train(StageConfig):
    timelines_dir: str
    backbone_dir: str | None = None


@dataclass(frozen=True, kw_only=True)
class Analyze(StageConfig):
    timelines_dir: dict[str, str] = field(default_factory=dict)
    predictions_dir: dict[str, str] = field(default_factory=dict)


def write(stage: str, config: StageConfig, number: int = 0) -> None:
    """Run a stage that writes one table, or weights, and a page."""
    with open_run(stage, config) as run:
        if stage == "01_pretrain":
            (run.directory / "backbone").mkdir()
            (run.directory / "backbone" / "model.safetensors").write_bytes(b"weights" * (1 + number))
            (run.directory / "backbone" / "config.json").write_text("{}")
            (run.directory / "checkpoints" / "checkpoint-1").mkdir(parents=True)
            (run.directory / "checkpoints" / "checkpoint-1" / "optimizer.pt").write_text("may go")
        else:
            rows = {"patient_id": [f"p{number}"], "subject_id": ["s"], "split": ["train"]}
            run.write("splits", pl.DataFrame(rows))
        (run.directory / "page.html").write_text(f"page {number}")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A chain that no longer lies where it was made."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "first").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder / "first")
        make_chain(folder / "first")
    return (folder / "first").rename(folder / "moved")


@pytest.fixture
def chain(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the runs of a chain that a test may change."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    return tmp_path / "here" / "runs"


def make_chain(tmp_path: Path) -> Path:
    """Two sites; one backbone; classifiers of two outcomes in a grid, one from the backbone's folder itself; scores."""
    runs = tmp_path / "runs"
    for number, site in enumerate(("a", "b")):
        (tmp_path / f"clif_{site}").mkdir()
        (tmp_path / f"clif_{site}" / "clif_labs.parquet").write_text(f"rows of {site}")
        first = "runs/a/00_tokenize/splits.parquet" if site == "b" else None
        config = Tokenize(clif_dir=f"clif_{site}", splits_path=first, output_dir=f"runs/{site}/00_tokenize")
        write("00_tokenize", config, number)
    write("01_pretrain", Train(timelines_dir="runs/a/00_tokenize", output_dir="runs/a/01_pretrain"))
    for number, outcome in enumerate(OUTCOMES):
        backbone = "runs/a/01_pretrain" + "/backbone" * number
        output = f"runs/a/02_finetune/seed={number}/{outcome}"
        config = Train(timelines_dir="runs/a/00_tokenize", backbone_dir=backbone, output_dir=output)
        write("02_finetune", config, number)
    sites = {site: f"runs/{site}/00_tokenize" for site in ("a", "b")}
    config = Analyze(timelines_dir=sites, predictions_dir={"a": "runs/a/02_finetune"}, output_dir="runs/a/04_analyze")
    write("04_analyze", config)
    return runs


def verify(*directories: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, dict[str, str], str]:
    """Return the exit code, the last column of the table by path, and the lines below it."""
    capsys.readouterr()
    code = 0
    try:
        main(["verify", *map(str, directories)])
    except SystemExit as ended:
        code = int(str(ended.code))
    table, _, below = capsys.readouterr().out.partition("\n\n")
    heading, *lines = table.splitlines()
    place = heading.index("found")
    return code, {line.split()[0]: line[place:] for line in lines}, below


def read_all(directory: Path) -> dict[str, tuple[int, bytes]]:
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in directory.rglob("*") if path.is_file()}


def test_a_whole_chain_is_as_recorded_up_to_the_tables_of_both_hospitals_and_nothing_is_written(chain, capsys):
    before = read_all(chain.parent)
    code, found, below = verify(chain / "a" / "04_analyze", capsys=capsys)
    assert code == 0
    classifiers = {f"runs/a/02_finetune/seed={number}/{outcome}" for number, outcome in enumerate(OUTCOMES)}
    tokenized = {"runs/a/00_tokenize", "runs/b/00_tokenize"}
    assert found.keys() == {"runs/a/04_analyze", "runs/a/01_pretrain", "clif_a", "clif_b"} | classifiers | tokenized
    assert set(found.values()) == {"as recorded"}
    assert "6 runs and 2 other inputs: all as recorded" in below
    assert read_all(chain.parent) == before


def test_digests_of_a_run_are_those_of_hashlib(chain):
    """Every file but DONE, the log and checkpoints; and DONE's own digest in provenance.json of the run after it."""
    run = chain / "a" / "01_pretrain"
    done = json.loads((run / "DONE").read_text())
    assert done["outputs"].keys() == {"backbone/model.safetensors"}
    named = {"backbone/config.json", "config.yaml", "environment.txt", "page.html", "provenance.json"}
    assert done["files"].keys() == named

    def digest(path: Path) -> str:
        return hashlib.blake2b(path.read_bytes(), digest_size=16).hexdigest()

    for name, value in {**done["outputs"], **done["files"]}.items():
        assert value == digest(run / name), name
    after = json.loads((chain / "a/02_finetune/seed=1" / OUTCOMES[1] / "provenance.json").read_text())
    told = {"stage": "01_pretrain", "config": digest(run / "config.yaml"), "done": digest(run / "DONE")}
    assert after["input_runs"]["backbone_dir"] == [
        {"run": ".."} | told | {key: after[key] for key in ("commit", "is_dirty")}
    ]
    assert after["config"] == digest(chain / "a/02_finetune/seed=1" / OUTCOMES[1] / "config.yaml")
    assert Path(after["working_dir"]).name == "first"


def change_table(runs: Path) -> None:
    (runs / "b/00_tokenize/splits.parquet").write_bytes(b"others")


def remove_page(runs: Path) -> None:
    (runs / "a/01_pretrain/page.html").unlink()


def add_file(runs: Path) -> None:
    (runs / "a/04_analyze/tables").mkdir()
    (runs / "a/04_analyze/tables/late.csv").write_text("1,2")


def change_setting(runs: Path) -> None:
    path = runs / "a/02_finetune/seed=0/icu_admission/config.yaml"
    path.write_text(path.read_text().replace("seed: 42", "seed: 7"))


def change_source(runs: Path) -> None:
    (runs.parent / "clif_a/clif_labs.parquet").write_text("rows of a, corrected")


def add_source(runs: Path) -> None:
    (runs.parent / "clif_b/clif_vitals.parquet").write_text("a table more")


def move_source(runs: Path) -> None:
    (runs.parent / "clif_b").rename(runs.parent / "elsewhere")


def make_again(runs: Path) -> None:
    """The same table by another setting: fingerprints are equal, the run is not the one that was read."""
    shutil.rmtree(runs / "b/00_tokenize")
    first = "runs/a/00_tokenize/splits.parquet"
    write("00_tokenize", Tokenize(clif_dir="clif_b", splits_path=first, output_dir="runs/b/00_tokenize", seed=7), 1)


def train_again(runs: Path) -> None:
    shutil.rmtree(runs / "a/01_pretrain")
    write("01_pretrain", Train(timelines_dir="runs/a/00_tokenize", output_dir="runs/a/01_pretrain"), 1)


def remove_done(runs: Path) -> None:
    (runs / "a/01_pretrain/DONE").unlink()


def damage_done(runs: Path) -> None:
    (runs / "b/00_tokenize/DONE").write_text("{")


def add_outcome(runs: Path) -> None:
    backbone = {"backbone_dir": "runs/a/01_pretrain", "timelines_dir": "runs/a/00_tokenize"}
    write("02_finetune", Train(**backbone, output_dir="runs/a/02_finetune/seed=0/imv_event"), 5)


def remove_outcome(runs: Path) -> None:
    shutil.rmtree(runs / "a/02_finetune/seed=1/in_hospital_death")


def tell_other_inputs(runs: Path) -> None:
    path = runs / "a/04_analyze/provenance.json"
    content = json.loads(path.read_text())
    content["inputs"]["timelines_dir.b"] = "0" * 32
    path.write_text(json.dumps(content))


SCORES, SITE, BACKBONE = "runs/a/04_analyze", "runs/b/00_tokenize", "runs/a/01_pretrain"
CHANGES: list[tuple[Callable[[Path], None], dict[str, str]]] = [
    (change_table, {SITE: "changed: splits.parquet"}),
    (remove_page, {BACKBONE: "missing: page.html"}),
    (add_file, {SCORES: "not of the run: tables/late.csv"}),
    (change_setting, {"runs/a/02_finetune/seed=0/icu_admission": "changed: config.yaml"}),
    (change_source, {"runs/a/00_tokenize": "clif_dir: clif_a is not what was read", "clif_a": "not what runs/a/00"}),
    (add_source, {SITE: "clif_dir: clif_b is not what was read", "clif_b": "not what runs/b/00_tokenize read"}),
    (move_source, {SITE: "clif_dir: not found at /"}),
    (make_again, {SCORES: "timelines_dir.b: runs/b/00_tokenize holds the same tables and weights, but its run was "
                          "made again with other settings"}),
    (train_again, {"runs/a/02_finetune/seed=0/icu_admission": "backbone_dir: runs/a/01_pretrain is not what was read "
                                                              "(its run was made again)",
                   "runs/a/02_finetune/seed=1/in_hospital_death": "backbone_dir: runs/a/01_pretrain/backbone is not"}),
    (damage_done, {SITE: "DONE is damaged", SCORES: "timelines_dir.b: runs/b/00_tokenize is not what was read"}),
    (add_outcome, {SCORES: "predictions_dir.a: runs/a/02_finetune is not what was read (seed=0/imv_event is new)"}),
    (remove_outcome, {SCORES: "runs/a/02_finetune is not what was read (seed=1/in_hospital_death is gone)"}),
    (tell_other_inputs, {SCORES: "changed: provenance.json; provenance.json and DONE name other inputs"}),
]  # fmt: skip


@pytest.mark.parametrize(("change", "expected"), CHANGES, ids=[change.__name__ for change, _ in CHANGES])
def test_each_change_is_found_where_it_is_and_nowhere_else(chain, capsys, change, expected):
    change(chain)
    code, found, below = verify(chain / "a" / "04_analyze", capsys=capsys)
    assert code == 1
    assert {path for path, words in found.items() if words != "as recorded"} == expected.keys()
    for path, words in expected.items():
        assert words in found[path]
    assert f"{len(expected)} not as recorded" in below


def test_a_run_without_done_is_no_input_and_has_not_ended(chain, capsys):
    remove_done(chain)
    code, found, _ = verify(chain / "a", capsys=capsys)
    assert code == 1
    assert found[BACKBONE] == "no DONE: this run has not ended"
    assert (
        "backbone_dir: runs/a/01_pretrain is not what was read (its run is gone)"
        in found["runs/a/02_finetune/seed=0/icu_admission"]
    )


def test_a_folder_of_runs_is_checked_run_by_run_and_each_once(chain, capsys):
    (chain / "notes.txt").write_text("of nobody's run")
    code, found, below = verify(chain, chain / "a" / "04_analyze", capsys=capsys)
    assert code == 0
    assert len(found) == 8
    assert "6 runs and 2 other inputs" in below


def test_runs_that_moved_together_are_found_beside_each_other(tmp_path, capsys, monkeypatch):
    """And a copy is checked by its own neighbours, not by what it was copied from."""
    (tmp_path / "first").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    chain = make_chain(tmp_path / "first")
    other = chain.parent / "other"
    shutil.copytree(chain, other / "runs")
    shutil.copytree(chain.parent / "clif_b", other / "clif_b")
    monkeypatch.chdir(ROOT)
    code, found, _ = verify(other / "runs/a/04_analyze", capsys=capsys)
    assert code == 0, found
    assert {str(other / "clif_b"), str(chain.parent / "clif_a")} < found.keys()  # clif_a stayed where it was
    change_table(other / "runs")
    assert verify(other / "runs/a/04_analyze", capsys=capsys)[0] == 1
    assert verify(chain / "a/04_analyze", capsys=capsys)[0] == 0


def test_files_that_may_go_or_grow_are_not_missed(chain, capsys):
    shutil.rmtree(chain / "a/01_pretrain/checkpoints")
    (chain / "a/01_pretrain/run.log").write_text("more")
    (chain / "a/01_pretrain/.nfs0001").write_text("hidden")
    assert verify(chain / "a/04_analyze", capsys=capsys)[0] == 0


def test_commits_that_differ_and_uncommitted_changes_are_said_but_are_no_change(chain, capsys):
    for name, commit, is_dirty in (("b/00_tokenize", "1" * 40, False), ("a/04_analyze", "2" * 40, True)):
        path = chain / name / "provenance.json"
        provenance = json.loads(path.read_text())
        earlier = {"commit": "3" * 40, "is_dirty": False}
        path.write_text(json.dumps(provenance | {"commit": commit, "is_dirty": is_dirty, "resumed": [earlier]}))
        done = json.loads((chain / name / "DONE").read_text())
        done["files"]["provenance.json"] = artifacts.fingerprint_file(path)
        (chain / name / "DONE").write_text(json.dumps(done))
    code, _, below = verify(chain / "b/00_tokenize", capsys=capsys)
    assert code == 0
    line = next(line for line in below.splitlines() if "commits" in line)
    assert line.startswith("code: 3 commits: " + "1" * 40 + ", " + "3" * 40)
    capsys.readouterr()
    with pytest.raises(SystemExit):  # 04 read another DONE of b/00_tokenize
        main(["verify", str(chain / "a/04_analyze")])
    printed = capsys.readouterr().out
    assert "222222222222, 333333333333 + changes" in printed
    assert "with uncommitted or unknown changes, which no commit tells: runs/a/04_analyze" in printed


def test_runs_of_earlier_code_are_checked_as_far_as_they_tell(chain, capsys):
    """Their DONE has digests of tables and weights alone, and provenance.json no working_dir or input_runs."""
    for path in chain.rglob("DONE"):
        done = json.loads(path.read_text())
        del done["files"]
        path.write_text(json.dumps(done))
        provenance = json.loads((path.parent / "provenance.json").read_text())
        del provenance["working_dir"], provenance["input_runs"]
        (path.parent / "provenance.json").write_text(json.dumps(provenance))
    code, found, _ = verify(chain / "a/04_analyze", capsys=capsys)
    assert code == 0
    assert found[SCORES] == "as recorded [4 files have no digest (DONE of earlier code)]"
    (chain / "b/00_tokenize/splits.parquet").write_bytes(b"others")
    assert verify(chain / "a/04_analyze", capsys=capsys)[1][SITE].startswith("changed: splits.parquet")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_cannot_be_read_is_said(chain, capsys):
    (chain / "b/00_tokenize/splits.parquet").chmod(0)
    assert "not readable: splits.parquet" in verify(chain / "b/00_tokenize", capsys=capsys)[1][SITE]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "required: command"),
        (["verify"], "required: DIR"),
        (["check", "runs"], "invalid choice: 'check'"),
        (["verify", "none"], "none is no directory"),
        (["verify", "clif_a"], "clif_a holds no run"),
        (["verify", "runs", "--output_dir", "x"], "unrecognized arguments"),
    ],
)
def test_wrong_arguments_are_input_errors(chain, words, message):
    with pytest.raises(InputError, match=message):
        main(words)


def test_as_a_program_it_ends_with_0_1_or_2(chain):
    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "clinrep.run", *words]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert run("verify", str(chain / "a/04_analyze")).returncode == 0
    change_table(chain)
    changed = run("verify", str(chain / "a/04_analyze"))
    assert (changed.returncode, changed.stderr) == (1, "")
    wrong = run("verify", str(chain / "none"))
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("clinrep.run: error: ")
    assert "Traceback" not in wrong.stderr
