"""docs/manuscript.md maps every figure and table of the manuscript to a section and a file that exist."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any as AnyConfig

import pytest
import yaml

from clinrep.analysis.published import OUTCOMES
from clinrep.analysis.sections import SECTIONS
from clinrep.config import parse_config
from clinrep.slurm.check import read_config
from clinrep.slurm.study import plan_study
from clinrep.slurm.study_config import StudyConfig
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


def find_commands(file: str, *flags: str) -> dict[tuple[str, str], AnyConfig]:
    """Return step and combination -> the command of each run of a study."""
    words = [f"--config={ROOT}/configs/ehr/{file}/study.yaml", *flags]
    return plan_study(parse_config(StudyConfig, words, "study", "")).commands


def find_configs(file: str, *flags: str) -> dict[tuple[str, str], AnyConfig]:
    """Return step and combination -> the settings that each run of a study would have."""
    return {run: read_config(command) for run, command in find_commands(file, *flags).items()}


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> dict[tuple[str, str], AnyConfig]:
    """What `make manuscript` runs; the hospitals are not simulated for it, a folder will do."""
    folder = tmp_path_factory.mktemp("study")
    for site in ("source", "second"):
        (folder / site / "simulate").mkdir(parents=True)
        (folder / site / "simulate" / "clif_patient.parquet").touch()
    flags = [f"--study_dir={folder}/study"]
    for site in ("source", "second", "sample"):
        flags.append(f"--run_dir.{site}={folder}/{site}")
        flags += [f"--clif_dir.{site}={folder}/{site}/simulate"] * (site != "sample")
    return find_configs("manuscript_small", *flags)


def test_make_manuscript_runs_the_small_study():
    lines = subprocess.run(["make", "-n", "manuscript"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert "clinrep.slurm study configs/ehr/manuscript_small/study.yaml --cluster local" in lines
    for site in ("source", "second"):
        assert f"runs/manuscript_small/{site}/simulate" in lines


def test_make_manuscript_starts_every_classifier_that_the_figures_need(small):
    runs = {run: config for run, config in small.items() if hasattr(config, "training_fraction")}
    assert len({config.output_dir for config in runs.values()}) == len(runs) == 3 + 3 + 2 * (1 + 3 * 3) + 1
    second = [config for config in runs.values() if "/second/" in config.output_dir]
    starts = {
        (config.outcome, config.training_fraction, config.from_scratch, config.backbone_dir is None)
        for config in second
        if not config.random_truncation
    }
    assert starts == {
        (outcome, share, is_new, is_classifier)
        for outcome in ("in_hospital_death", "long_length_of_stay")
        for share in (0.0, 0.1, 0.3, 1.0)
        for is_new, is_classifier in ((True, False), (False, False), (False, True))
        if share or is_classifier
    }
    outcome_of = {str(Path(config.output_dir)): (config.outcome, config.random_truncation) for config in runs.values()}
    for config in second:
        if config.classifier_dir is not None:
            assert outcome_of[config.classifier_dir] == (config.outcome, config.random_truncation)
    followed = {(Path(config.output_dir).parts[-5:], config.random_truncation) for config in runs.values()
                if config.risk_over_time}  # fmt: skip
    sites = {(next(part for part in parts if part in ("source", "second", "sample")), is_urt)
             for parts, is_urt in followed}  # fmt: skip
    assert sites == {(site, is_urt) for site in ("source", "second", "sample") for is_urt in (False, True)}


def test_make_manuscript_reports_on_the_sites_it_ran(small):
    two, one = small["report", ""], small["report_sample", ""]
    assert list(two.timelines_dir) == list(two.predictions_dir) == ["source", "second"]
    assert two.published_sites == {"mimic": "source", "ucmc": "second"}
    assert list(one.representations_dir) == ["sample"]
    assert one.logistic_regression.c == 0.01
    assert two.data_notice.startswith("Two simulated hospitals (python -m clinrep.ehr.simulate): no number")
    demo = yaml.safe_load((ROOT / "configs/ehr/demo/04_analyze.yaml").read_text())["data_notice"]
    assert one.data_notice == demo
    assert small["tokenize_second", ""].tokenizer_dir == small["tokenize_source", ""].output_dir
    assert small["extract_second", ""].backbone_dir == str(Path(small["pretrain_source", ""].output_dir))
    assert small["pretrain_source", ""].model.hidden_size == 64, "of the small settings, read last"


@pytest.mark.slow
def test_the_whole_study_has_the_runs_counted_by_hand():
    sample = f"{ROOT}/sample_data/clif_demo"
    runs = find_commands("manuscript", f"--clif_dir.mimic={sample}", f"--clif_dir.ucmc={sample}")
    counts = Counter(step for step, _ in runs)
    outcomes, seeds, shares = 4, 3, 4
    assert counts == {
        **dict.fromkeys(("tokenize_mimic", "tokenize_ucmc", "pretrain", "extract_mimic", "extract_ucmc", "report"), 1),
        **dict.fromkeys(("classify_mimic", "transfer"), outcomes * seeds),
        **dict.fromkeys(("classify_mimic_urt", "transfer_urt"), seeds),
        **dict.fromkeys(("local_classifier", "local_backbone", "local_scratch"), outcomes * shares * seeds),
    }
    assert sum(counts.values()) == 180
    chosen = [run for run in runs if run[0] == "transfer" or (run[0] == "local_classifier" and "=0.05" in run[1])]
    assert len(chosen) == 2 * outcomes * seeds
    for run in chosen:
        config = read_config(runs[run])
        assert config.classifier_dir.endswith(f"seed={config.seed}/outcome={config.outcome}")
        assert config.backbone_dir is None
