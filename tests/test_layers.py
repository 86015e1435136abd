"""DESIGN section 2, kept: who may import whom."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

import pytest

from clinrep.ehr import MODALITY
from clinrep.modality import MODALITIES, load_modality, resolve

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "clinrep").rglob("*.py"))
SCRIPTS = sorted(ROOT.glob("0*.py"))
STAGES = [script.stem for script in SCRIPTS]
FLOOR = {
    "artifacts",
    "config",
    "directory_lock",
    "error_text",
    "failures",
    "file_access",
    "file_lock",
    "run",
    "distributed",
    "training_config",
    "search_config",
    "extraction_config",
    "modality",
    "offline",
    "settings_file",
}
# library -> where it may be imported
HOMES = {
    "torch": ("clinrep/distributed.py", "clinrep/training/", "clinrep/representations.py", "clinrep/batches.py",
              "clinrep/extraction.py", "clinrep/hidden_states.py", "clinrep/trajectories.py", "clinrep/class_losses.py",
              "clinrep/information.py", "clinrep/zero_shot/",
              "clinrep/classification.py", "clinrep/ehr/models.py", "clinrep/ehr/model_files.py",
              "clinrep/ehr/blocks.py"),
    "transformers": ("clinrep/training/", "clinrep/ehr/models.py", "clinrep/ehr/model_files.py"),
    "sklearn": ("clinrep/analysis/",),
    "statsmodels": ("clinrep/analysis/",),
    "lightgbm": ("clinrep/analysis/",),
    "matplotlib": ("clinrep/analysis/",),
    "optuna": ("clinrep/training/",),
    "peft": ("clinrep/training/",),
    "submitit": ("clinrep/slurm/",),
}  # fmt: skip


@cache
def find_imports(path: Path) -> set[str]:
    """Return every module that `path` imports, also inside functions, but not for types only."""
    tree = ast.parse(path.read_text())
    guarded = {
        id(node)
        for branch in ast.walk(tree)
        if isinstance(branch, ast.If) and getattr(branch.test, "id", "") == "TYPE_CHECKING"
        for node in ast.walk(branch)
    }
    modules = set()
    for node in ast.walk(tree):
        if id(node) in guarded:
            continue
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return modules


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_libraries_are_imported_only_at_home(path):
    for library, homes in HOMES.items():
        is_used = any(module.split(".")[0] == library for module in find_imports(path))
        assert not is_used or name(path).startswith(homes), f"{name(path)} imports {library}"


@pytest.mark.parametrize("path", SOURCES, ids=name)
def test_layers_point_downwards(path):
    ours = {module.split(".")[1] for module in find_imports(path) if module.startswith("clinrep.")}
    packages = {module.split(".")[0] for module in find_imports(path)}
    assert not any(package.split("_")[0].isdigit() for package in packages), "the package imports a script"
    part = path.relative_to(ROOT / "clinrep").parts[0].removesuffix(".py")
    modalities = set(MODALITIES)
    if part in modalities:
        assert not ours & (modalities - {part}), "a modality imports another"
    else:
        assert not ours & modalities, f"{name(path)} imports a modality"
    if part in FLOOR:
        assert ours <= FLOOR, f"{name(path)} is of the floor and imports {ours - FLOOR}"


@pytest.mark.parametrize("path", SCRIPTS, ids=name)
def test_scripts_are_thin(path):
    text = path.read_text()
    assert len(text.splitlines()) <= 80
    assert "if modality" not in text
    docstring = ast.get_docstring(ast.parse(text))
    assert all(word in docstring for word in ("Reads", "Writes", "Run")), docstring


def test_no_file_is_a_heap():
    assert not list((ROOT / "clinrep").rglob("utils.py"))
    long = {name(path): n for path in SOURCES if (n := len(path.read_text().splitlines())) > 330}
    assert not long, long


def test_every_stage_has_its_stem_everywhere():
    assert STAGES == ["00_tokenize", "01_pretrain", "02_finetune", "03_extract_reps", "04_analyze"]
    for stem in STAGES:
        assert (ROOT / "configs" / "ehr" / f"{stem}.yaml").is_file(), stem
        assert (ROOT / "configs" / "ehr" / "demo" / f"{stem}.yaml").is_file(), stem
        assert (ROOT / "slurm" / f"{stem}.sbatch").is_file(), stem
        assert (ROOT / "tests" / f"test_{stem}.py").is_file(), stem


def test_everything_a_modality_names_exists():
    assert load_modality("ehr") is MODALITY
    assert list(MODALITY.config_classes) == STAGES
    targets = list(MODALITY.config_classes.values())
    targets += [value.target for value in vars(MODALITY).values() if hasattr(value, "target")]
    for target in targets:
        assert callable(resolve(target)), target
