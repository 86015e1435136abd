"""Known holes in what requirements.lock pins, by pip-audit; never silent where its advisory data cannot be had.

Run     make audit; behind it: python tools/audit.py PIP_AUDIT LOCK [flag of pip-audit...]

Exit codes: 0 every package was looked up and none has a known hole; 1 known holes, listed; 3 not audited, or not all.
pip-audit itself ends with 0 where an index without advisories knows none of the packages.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from typing import Any

EXIT_HOLES, EXIT_NOT_AUDITED = 1, 3
FLAGS = ("--require-hashes", "--disable-pip", "--format=json", "--desc=off", "--progress-spinner=off")


def main(words: Sequence[str]) -> int:
    """Run pip-audit on a lock file, print what it found, and return the exit code."""
    program, lock, *flags = words
    done = subprocess.run(
        [program, f"--requirement={lock}", *FLAGS, *flags], capture_output=True, text=True, check=False
    )
    lines, code = judge(done.stdout, done.stderr)
    print("\n".join(lines), file=sys.stderr if code == EXIT_NOT_AUDITED else sys.stdout)
    return code


def judge(output: str, errors: str) -> tuple[list[str], int]:
    """Return what to say of pip-audit's JSON and messages, and the exit code."""
    try:
        packages: list[dict[str, Any]] = json.loads(output)["dependencies"]
    except (ValueError, KeyError, TypeError):
        last = (errors.strip().splitlines() or ["no message"])[-1]
        return [
            f"NOT AUDITED: pip-audit gave no answer; is its advisory database reachable from here? ({last})"
        ], EXIT_NOT_AUDITED
    holes = [
        f"{package['name']} {package['version']}: {hole['id']}, mended in {' or '.join(hole['fix_versions']) or 'none'}"
        for package in packages
        for hole in package.get("vulns", [])
    ]
    skipped = [package for package in packages if "skip_reason" in package]
    lines = [f"{len(packages) - len(skipped)} of {len(packages)} packages looked up, {len(holes)} known holes", *holes]
    if skipped or not packages:
        reason = f" ({skipped[0]['skip_reason']})" if skipped else ""
        what = "nothing was" if len(skipped) == len(packages) else "not all were"
        lines.append(f"NOT AUDITED: {what} found in an advisory database; run it where one can be reached{reason}")
    if holes:
        return lines, EXIT_HOLES
    return lines, EXIT_NOT_AUDITED if skipped or not packages else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
