"""Say whether runs, and all that they were made from, are as they were when they ended.

Reads   DIR...      directories that stages wrote, or folders of them, and from input to input all that led to them
Writes  nothing
Run     python -m clinrep.run verify runs/demo/04_analyze
"""

import sys

from clinrep.run import run_stage
from clinrep.run.verify import main

if __name__ == "__main__":
    sys.argv[0] = "clinrep.run"  # what messages call this program
    run_stage(main)
