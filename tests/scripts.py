"""Numbered scripts in tests: called in this process, or run as a user would."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from clinrep.config import InputError

ROOT = Path(__file__).parent.parent
TWO_RANKS = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")


def load_main(stage: str) -> Callable[[list[str]], None]:
    """Return the `main` of a numbered script."""
    spec = importlib.util.spec_from_file_location(f"stage_{stage}", ROOT / f"{stage}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    main: Callable[[list[str]], None] = module.main
    return main


def run_script(stage: str, *flags: str, launcher: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    """Run a numbered script from the repository root and return what it printed."""
    command = [*(launcher or (sys.executable,)), f"{stage}.py", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)


def check_refused(stage: str, flags: list[str], words: str) -> None:
    """Assert that a script's `main` raises an InputError of one line that holds `words`."""
    with pytest.raises(InputError, match=re.escape(words)) as refusal:
        load_main(stage)(flags)
    assert "\n" not in str(refusal.value)


def check_program_refused(program: list[str], words: tuple[str, ...]) -> None:
    """Assert that a program ends with exit code 2 and one message that holds all `words`, without a traceback.

    A process that loads torch takes seconds: once a stage is enough, of whatever else is refused see `check_refused`.
    """
    done = subprocess.run(
        [sys.executable, *program], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 2, done.stderr
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert not [word for word in words if word not in errors[0]], errors
    assert "Traceback" not in done.stderr
