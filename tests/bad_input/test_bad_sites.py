"""Stage 04 on sites with everything that can be wrong with them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.analysis.fake_runs import OUTCOMES, FakeSite
from tests.bad_input import analyze_cases
from tests.bad_input.workshop import Case, check, parametrize, run_main

FLAGS = (
    *("--num_bootstraps=20", "--subgroups=[]", "--layers=[2]", "--poolings=[mean]", "--baselines=[]"),
    *("--sections=[performance]", "--output_dir=unused", "--show_progress=false"),
    *(f"--{name}_dir.demo=unused" for name in ("timelines", "representations", "predictions")),
)


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("site")
    FakeSite(root, num_stays=60).write()
    return root


@parametrize(analyze_cases.SITES)
def test_bad_sites_are_refused(case: Case, sound: Path, tmp_path: Path) -> None:
    folder = tmp_path / "site"
    shutil.copytree(sound, folder)
    for done in (folder / "00", folder / "03", *(folder / "02" / outcome for outcome in OUTCOMES)):
        os.utime(done / "DONE")  # the youngest, as a stage leaves it
    case.damage(folder)
    paths = {"timelines_dir": "00", "representations_dir": "03", "predictions_dir": "02"}
    settings = {name: {"demo": str(folder / path)} for name, path in paths.items()}
    settings["output_dir"] = str(tmp_path / "out")  # type: ignore[assignment]
    check(case, lambda: run_main("04_analyze", settings, FLAGS), tmp_path / "out")
