"""No setting is code, no name leads out of the output directory, no pickle stands in for weights."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import polars as pl
import pytest

from clinrep import artifacts
from clinrep.analysis.inputs import choose_outcomes
from clinrep.artifacts import ArtifactError, find_model
from clinrep.config import InputError, StageConfig
from clinrep.export.bundle import is_allowed
from clinrep.modality import load_stage
from clinrep.run import open_run
from clinrep.slurm.grid import GRID_FILE, combine, read_grid
from tests.scripts import check_refused

ROOT = Path(__file__).parents[2]
CODE = "{class_path: subprocess.Popen, init_args: {args: [touch, MARK]}}"
EVIL = [
    ("01_pretrain", f"model: {CODE}"),
    ("01_pretrain", f"training: {CODE}"),
    ("01_pretrain", f"model: {{rope_llama3: {CODE}}}"),
    ("01_pretrain", f"search: {{space: {{seed: {CODE}}}}}"),
    ("01_pretrain", "model: evil_module.Evil"),
    ("01_pretrain", "model: {rope_llama3: evil_module.Evil}"),
    ("01_pretrain", "model: {class_path: os.system, init_args: {command: touch MARK}}"),
    ("01_pretrain", "model: !!python/object/apply:os.system ['touch MARK']"),
    ("00_tokenize", f"sources: [{CODE}]"),
    ("00_tokenize", "unit_rules: [evil_module.Evil]"),
    ("00_tokenize", "window: {class_path: evil_module.Evil}"),
    ("00_tokenize", "modality: evil_module"),
    ("04_analyze", "timelines: {class_path: evil_module.Evil}"),
    ("04_analyze", "logistic_regression: evil_module.Evil"),
    ("04_analyze", "timelines_dir: {demo: {class_path: evil_module.Evil}}"),
]


@pytest.mark.parametrize(("stage", "text"), EVIL)
def test_a_setting_that_names_code_runs_nothing(tmp_path: Path, monkeypatch, stage: str, text: str):
    mark = tmp_path / "mark"
    (tmp_path / "evil_module.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Evil: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "evil_module", raising=False)
    path = tmp_path / "evil.yaml"
    path.write_text(text.replace("MARK", str(mark)) + "\n")
    with pytest.raises(InputError):
        load_stage(stage, "", [f"--config=configs/ehr/demo/{stage}.yaml", f"--config={path}"])
    assert not mark.exists(), "it was run, if only to be refused"


@pytest.mark.slow
def test_a_program_ends_with_code_2_on_code_in_a_setting(tmp_path: Path):
    path = tmp_path / "evil.yaml"
    path.write_text(f"model: {CODE.replace('MARK', str(tmp_path / 'mark'))}\n")
    flags = ["--config=configs/ehr/demo/01_pretrain.yaml", f"--config={path}"]
    check_refused("01_pretrain", flags, "'subprocess.Popen' looks like the name of code, which no setting may be")
    assert not (tmp_path / "mark").exists()


def test_what_looks_like_interpolation_is_a_name(tmp_path: Path):
    flags = ["--config=configs/ehr/demo/01_pretrain.yaml", "--output_dir=${oc.env:HOME}/$(id)"]
    assert load_stage("01_pretrain", "", flags)[1].output_dir == "${oc.env:HOME}/$(id)"


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.pkl"])
def test_a_pickle_in_place_of_weights_is_refused(tmp_path: Path, name: str):
    (tmp_path / "backbone").mkdir()
    (tmp_path / "backbone" / name).write_bytes(b"\x80\x04cos\nsystem\n.")
    with pytest.raises(ArtifactError, match=rf"holds {name} but no model.safetensors; pickles .* are never opened"):
        find_model(tmp_path / "backbone", "backbone", "01_pretrain")


@pytest.mark.parametrize("word", ["../x", "a/b", "/etc/x", "..", ".x", "-x", "a\0b", "", "a\nb", "x" * 200])
def test_words_that_could_lead_elsewhere_make_no_file_name(word: str):
    with pytest.raises(InputError, match="becomes part of file names"):
        artifacts.check_file_word(word, "outcome")
    sites = [SimpleNamespace(name="demo", outcomes=pl.DataFrame({"outcome": [word]}))]
    with pytest.raises(InputError, match="becomes part of file names"):
        choose_outcomes(sites, SimpleNamespace(outcomes=None))


@pytest.mark.parametrize("word", ["icu_admission", "roc_site-1", "a=1", "größe.2"])
def test_plain_words_are_file_names(word: str):
    artifacts.check_file_word(word, "outcome")


@pytest.mark.parametrize("site", ["../x", "a/b", "..", "", "a b"])
def test_a_site_is_no_path(site: str):
    flags = ["--config=configs/ehr/demo/04_analyze.yaml"]
    groups = [f"--{group}_dir={{{site!r}: x}}" for group in ("timelines", "representations", "predictions")]
    with pytest.raises(InputError, match="site"):
        load_stage("04_analyze", "", [*flags, *groups])


@pytest.mark.parametrize("kind", ["folder", "file", "deep"])
def test_a_link_out_of_the_output_directory_is_refused(tmp_path: Path, kind: str):
    out, outside = tmp_path / "out", tmp_path / "outside"
    config = StageConfig(output_dir=str(out))
    with pytest.raises(ZeroDivisionError), open_run("01_pretrain", config):
        raise ZeroDivisionError
    outside.mkdir()
    (outside / "metrics.jsonl").write_text("before")
    links = {"folder": ("checkpoints", outside), "file": ("metrics.jsonl", outside / "metrics.jsonl")}
    name, target = links.get(kind, ("deep/er", outside))
    (out / name).parent.mkdir(exist_ok=True)
    (out / name).symlink_to(target)
    with pytest.raises(InputError, match=r"is a link to outside of --output_dir"), open_run("01_pretrain", config):
        pass
    assert (outside / "metrics.jsonl").read_text() == "before"


def test_a_link_to_the_output_directory_or_within_it_is_fine(tmp_path: Path):
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to(tmp_path / "disk")
    config = StageConfig(output_dir=str(tmp_path / "out"))
    with pytest.raises(ZeroDivisionError), open_run("01_pretrain", config):
        raise ZeroDivisionError
    (tmp_path / "disk" / "latest").symlink_to("run.log")
    with open_run("01_pretrain", config):
        pass


def test_nul_in_a_path_is_refused():
    with (
        pytest.raises(InputError, match="--output_dir holds a NUL character"),
        open_run("01_pretrain", StageConfig(output_dir="a\0b")),
    ):
        pass


def test_the_folders_of_a_grid_lie_in_it(tmp_path: Path):
    names = combine({"../../x": ["1"], "y": ["../..", "/etc"], "outcome": ["../../z"]})
    assert all((tmp_path / "grid" / name).resolve().is_relative_to(tmp_path / "grid") for name in names)
    text = '{"stage": "s", "flags": [], "combinations": {"%s": {"a": "1"}}, "submissions": {}}'
    for name in ("../x", "/x", "a=1/../../x"):
        (tmp_path / GRID_FILE).write_text(text % name)
        with pytest.raises(InputError, match="outside of the grid"):
            read_grid(tmp_path)


def test_no_folder_of_a_bundle_leads_out_of_it():
    assert is_allowed("classifiers/seed=1/model.safetensors")
    assert not is_allowed("classifiers/../model.safetensors")


def test_libraries_are_told_to_stay_offline():
    code = (
        "import clinrep.training.loop, huggingface_hub.constants as c, os\n"
        "assert c.HF_HUB_OFFLINE and c.HF_HUB_DISABLE_TELEMETRY, 'hub'\n"
        "assert os.environ['WANDB_MODE'] == 'dryrun' and 'TRACKIO_SPACE_ID' not in os.environ\n"
        "from huggingface_hub import is_offline_mode\n"
        "assert is_offline_mode()\n"
    )
    environment = os.environ | {"HF_HUB_OFFLINE": "0", "WANDB_MODE": "online", "TRACKIO_SPACE_ID": "someone/space"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
