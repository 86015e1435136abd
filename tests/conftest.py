"""Tests run from a checkout: the repository root is on the path, and torch takes one thread.

The models here are tiny: more threads only wait for each other, most of all when two ranks run.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))
