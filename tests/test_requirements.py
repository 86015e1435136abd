"""requirements.lock is of requirements.txt, with hashes; and `make audit` never calls silent what was not looked up."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.scripts import ROOT
from tools import audit

PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^\s;\\#]+)")


def read_pins(path: Path) -> dict[str, set[str]]:
    """Return package -> the versions pinned, names as PEP 503 has them."""
    pins: dict[str, set[str]] = {}
    for line in path.read_text().splitlines():
        if found := PIN.match(line):
            pins.setdefault(re.sub(r"[-_.]+", "-", found[1]).lower(), set()).add(found[2])
    return pins


def test_every_requirement_is_pinned_exactly():
    for name in ("requirements.txt", "tools/requirements.txt"):
        lines = (line.partition("#")[0].strip() for line in (ROOT / name).read_text().splitlines())
        assert not [line for line in lines if line and not PIN.fullmatch(line)]


def test_the_lock_has_every_pin_of_requirements_in_the_same_version():
    """Changed requirements.txt? `make lock`."""
    wanted, locked = read_pins(ROOT / "requirements.txt"), read_pins(ROOT / "requirements.lock")
    assert len(wanted) >= 20
    assert wanted == {name: locked.get(name) for name in wanted}


def test_every_package_of_the_lock_has_hashes_and_comes_from_an_index():
    blocks = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text())
    packages = [block for block in blocks if not block.startswith("#")]
    assert len(packages) > 80
    for block in packages:
        assert PIN.match(block), block.splitlines()[0]
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", block), block.splitlines()[0]
        assert "://" not in block  # no host of anybody's


def answer(*packages: dict[str, object]) -> str:
    return json.dumps({"dependencies": list(packages), "fixes": []})


FINE = {"name": "numpy", "version": "1.0", "vulns": []}
HOLE = {"id": "GHSA-x", "fix_versions": ["2.1"], "aliases": []}
HOLED = {"name": "jinja2", "version": "2.0", "vulns": [HOLE]}
UNKNOWN = {"name": "torch", "skip_reason": "Dependency not found on PyPI and could not be audited: torch (2.0)"}


@pytest.mark.parametrize(
    ("output", "code", "words"),
    [
        (answer(FINE), 0, "1 of 1 packages looked up, 0 known holes"),
        (answer(FINE, HOLED), audit.EXIT_HOLES, "jinja2 2.0: GHSA-x, mended in 2.1"),
        (answer(UNKNOWN), audit.EXIT_NOT_AUDITED, "NOT AUDITED: nothing was found in an advisory database"),
        (answer(FINE, UNKNOWN), audit.EXIT_NOT_AUDITED, "NOT AUDITED: not all were found"),
        (answer(HOLED, UNKNOWN), audit.EXIT_HOLES, "NOT AUDITED: not all were found"),
        (answer(), audit.EXIT_NOT_AUDITED, "NOT AUDITED"),
        ("", audit.EXIT_NOT_AUDITED, "is its advisory database reachable from here? (no route to host)"),
    ],
)
def test_an_audit_tells_holes_from_what_was_not_looked_up(output, code, words):
    lines, found = audit.judge(output, "Traceback\nno route to host\n")
    assert found == code
    assert words in "\n".join(lines)


def test_an_audit_runs_the_program_and_returns_its_verdict(tmp_path, capsys):
    program = tmp_path / "pip-audit"
    program.write_text(f"#!/bin/sh\necho '{answer(FINE)}'\n")
    program.chmod(0o755)
    assert audit.main([str(program), "requirements.lock"]) == 0
    program.write_text("#!/bin/sh\necho cannot reach it >&2; exit 1\n")
    assert audit.main([str(program), "requirements.lock"]) == audit.EXIT_NOT_AUDITED
    assert "cannot reach it" in capsys.readouterr().err
