"""The programs as people start them, on bad input: exit code 2, one line, no traceback, nothing left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.analysis.fake_runs import FakeSite
from tests.bad_input import analyze_cases, export_cases, later_cases, run_cases
from tests.bad_input.test_bad_runs import sound as sound  # a fixture
from tests.bad_input.workshop import Case
from tests.scripts import check_program_refused


def pick(cases: list[Case], name: str) -> Case:
    return next(case for case in cases if case.name == name)


@pytest.mark.parametrize(
    ("program", "case"),
    [
        (["01_pretrain.py"], pick(later_cases.PRETRAINING, "unequal")),
        (["02_finetune.py"], pick(run_cases.TIMELINES, "done_bytes")),
        (["03_extract_reps.py"], pick(run_cases.MODELS, "pickle")),
        (["-m", "clinrep.export"], pick(export_cases.EXPORTS, "changed")),
    ],
    ids=["01", "02", "03", "export"],
)
def test_programs_on_bad_runs(program: list[str], case: Case, sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "x"
    shutil.copytree(sound, folder)
    for name in ("00", "01"):
        os.utime(folder / name / "DONE")
    case.damage(folder)
    flags = [f"--timelines_dir={folder / '00'}", f"--output_dir={tmp_path / 'out'}"]
    if program[-1] != "01_pretrain.py":
        flags.append(f"--backbone_dir={folder / '01'}")
    settings = sound / f"{program[-1].removesuffix('.py')}.yaml"
    check_program_refused([*program, *([f"--config={settings}"] if settings.is_file() else []), *flags], case.words)
    assert not (tmp_path / "out").exists()


def test_stage_04_on_a_bad_site(tmp_path: Path) -> None:
    case = pick(analyze_cases.SITES, "probability_nan")
    site = FakeSite(tmp_path / "x", num_stays=60).write()
    case.damage(tmp_path / "x")
    check_program_refused(["04_analyze.py", *site.flags("s"), f"--output_dir={tmp_path / 'out'}"], case.words)
    assert not (tmp_path / "out").exists()
