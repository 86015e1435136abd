"""docs/manuscript.md maps every figure and table of the manuscript to a section and a file that exist."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
import yaml

from clinrep.analysis.published import OUTCOMES
from clinrep.analysis.sections import SECTIONS
from clinrep.modality import load_stage
from tests.analysis.fake_runs import FakeSite, run_main

ROOT = Path(__file__).parents[2]
STAGES = ["00_tokenize", "01_pretrain", "02_finetune", "03_extract_reps", "04_analyze"]
# What `make manuscript` may do otherwise than the manuscript's settings: size, and what goes with it.
SIZES = {
    "memory_gb", "global_batch_tokens", "model", "learning_rate", "num_epochs", "eval_steps", "keep_checkpoints",
    "global_batch_size", "batch_size", "hidden_state_subjects", "batch_tokens", "outcomes", "training",
}  # fmt: skip


def read_map() -> list[dict[str, str]]:
    """Return the rows of the table in docs/manuscript.md."""
    lines = (ROOT / "docs" / "manuscript.md").read_text().splitlines()
    first = next(place for place, line in enumerate(lines) if line.startswith("| figure, table |"))
    names = [cell.strip() for cell in lines[first].strip("|").split("|")]
    rows = []
    for line in lines[first + 2 :]:
        if not line.startswith("|"):
            break
        cells = [cell.strip().strip("`") for cell in line.strip("|").split("|")]
        rows.append(dict(zip(names, cells, strict=True)))
    return rows


def test_every_figure_and_table_of_the_paper_is_in_the_map():
    named = " ".join(row["figure, table"] for row in read_map())
    found = {
        ("Figure", number)
        for number in re.findall(r"Figures? [\d, a-f-]*", named)
        for number in re.findall(r"\d+", number)
    }
    assert {number for _, number in found} == {"1", "2", "3", "4", "5"}
    tables: set[int] = set()
    for words in re.findall(r"Tables? [\d, to]*", named):
        numbers = [int(number) for number in re.findall(r"\d+", words)]
        tables |= set(range(numbers[0], numbers[-1] + 1)) if " to " in words else set(numbers)
    assert tables == set(range(1, 14))


def test_every_section_of_the_map_exists_and_writes_the_file_it_names():
    sources = "\n".join(path.read_text() for path in (ROOT / "clinrep" / "analysis").glob("*.py"))
    for row in read_map():
        section, file = row["section"], row["file"]
        if not section:
            continue
        assert section in SECTIONS, section
        stem = file.partition("SITE")[0]
        assert f'"{stem}"' in sources or f'f"{stem}{{' in sources, f"nothing writes {file}"


@pytest.mark.parametrize("stage", STAGES)
def test_the_small_study_differs_from_the_manuscript_in_size_alone(stage):
    whole, small = (
        yaml.safe_load((ROOT / "configs/ehr" / folder / f"{stage}.yaml").read_text())
        for folder in ("manuscript", "manuscript_small")
    )
    for key, value in small.items():
        assert key in SIZES, key
        inner = set(value) if isinstance(value, dict) and key != "model" else set()
        assert inner <= SIZES, inner
    if stage == "04_analyze":
        assert set(whole["outcomes"]) == set(OUTCOMES)
        assert set(small["outcomes"]) < set(OUTCOMES)


def test_the_settings_of_both_are_accepted_together(tmp_path):
    """Stage 04's on fake sites, whole: two sites, every section, the published numbers."""
    home, away = FakeSite(tmp_path / "home", prefix="h").write(), FakeSite(tmp_path / "away", seed=3).write()
    flags = [*home.flags("source"), *away.flags("second"), "--published_sites.mimic=source"]
    files = [f"--config={ROOT}/configs/ehr/{folder}/04_analyze.yaml" for folder in ("manuscript", "manuscript_small")]
    known = [name for name in SECTIONS if name in {row["section"] for row in read_map()}]
    more = [
        "--risk_over_time=false",
        "--outcomes=[in_hospital_death]",
        f"--sections=[{','.join(known)}]",
    ]  # fake sites have no hidden states
    out = run_main(tmp_path / "out", *files, *flags, *more)
    written = {path.stem for path in [*(out / "tables").iterdir(), *(out / "figures").iterdir()]}
    assert {"published", "token_embeddings"} <= written


def call_make(*words: str) -> list[str]:
    """Return the lines that make prints, those continued by a backslash joined."""
    done = subprocess.run(["make", *words], cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.replace("\\\n", " ").splitlines()


def find_files(stage: str) -> list[str]:
    return [f"--config={ROOT}/configs/ehr/{folder}/{stage}.yaml" for folder in ("manuscript", "manuscript_small")]


def test_make_manuscript_starts_every_classifier_that_the_figures_need():
    lines = [line for line in call_make("manuscript-classifiers", "RUN_EACH=cat", "--silent") if line[:2] == "--"]
    runs = [load_stage("02_finetune", "", [*find_files("02_finetune"), *shlex.split(line)])[1] for line in lines]
    assert len({run.output_dir for run in runs}) == len(runs) == 3 + 3 + 2 * (1 + 3 * 3) + 1
    second = [run for run in runs if "/second/" in run.output_dir]
    starts = {
        (run.outcome, run.training_fraction, run.from_scratch, run.backbone_dir is None)
        for run in second
        if not run.random_truncation
    }
    assert starts == {
        (outcome, share, is_new, is_classifier)
        for outcome in ("in_hospital_death", "long_length_of_stay")
        for share in (0.0, 0.1, 0.3, 1.0)
        for is_new, is_classifier in ((True, False), (False, False), (False, True))
        if share or is_classifier
    }
    made = {run.output_dir for run in runs}
    assert {run.classifier_dir for run in second} - {None} <= made, "each classifier to start from is trained before"
    followed = {(run.output_dir.split("/")[2], run.random_truncation) for run in runs if run.risk_over_time}
    assert followed == {(site, is_urt) for site in ("source", "second", "sample") for is_urt in (False, True)}


def test_make_manuscript_gives_the_other_stages_settings_that_they_take():
    calls = [line for line in call_make("--dry-run", "manuscript", "VENV=python") if "_" in line]
    reports = [line.partition("04_analyze.py ")[2] for line in calls if "04_analyze.py" in line]
    two, one = (load_stage("04_analyze", "", shlex.split(words))[1] for words in reports)
    assert list(two.timelines_dir) == list(two.predictions_dir) == ["source", "second"]
    assert two.published_sites == {"mimic": "source", "ucmc": "second"}
    assert list(one.representations_dir) == ["sample"]
    for line in calls:
        if line.startswith("python 00_tokenize.py"):
            load_stage("00_tokenize", "", shlex.split(line.partition("00_tokenize.py ")[2]))
    loops = " ".join(line for line in calls if line.startswith("for "))
    for stage in ("01_pretrain", "03_extract_reps"):
        assert f"{stage}.py --config configs/ehr/manuscript/{stage}.yaml" in loops
        models = ["--backbone_dir=c"] if stage == "03_extract_reps" else []
        load_stage(stage, "", [*find_files(stage), "--timelines_dir=a", "--output_dir=b", *models])
