from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize("closed", [(2,), (0, 1, 2)])
def test_closed_streams_are_open_to_nowhere(tmp_path, closed):
    """No file of a run may get the number that libraries print their errors to."""
    program = (
        "import os, sys\n"
        "from clinrep.config import StageConfig\n"
        "from clinrep.run import open_run, run_stage, show_progress\n"
        "def main(argv):\n"
        "    config = StageConfig(output_dir=argv[0])\n"
        "    with open_run('00_tokenize', config), open(argv[1], 'w') as file:\n"
        "        assert file.fileno() > 2\n"
        "        list(show_progress(range(3), config, 'items'))\n"
        "        print('printed', file=sys.stderr); os.write(2, b'by a library')\n"
        "run_stage(main)\n"
    )
    words = [sys.executable, "-c", program, str(tmp_path / "out"), str(tmp_path / "data")]
    shell = ["sh", "-c", 'exec "$@" ' + " ".join(f"{number}>&-" for number in closed), "sh", *words]
    assert subprocess.run(shell, check=False, cwd=ROOT).returncode == 0
    assert (tmp_path / "out" / "DONE").is_file()
    assert (tmp_path / "data").read_text() == ""
