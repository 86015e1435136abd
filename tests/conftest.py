"""Tests run from a checkout: the root is on the path, torch takes one thread, and no file waits for the disk.

The models here are tiny: more threads only wait for each other, most of all when two ranks run. What tests write need
not survive a loss of power; what is asked of the disk, tests/test_power_cut.py looks at.
"""

import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent.parent))
os.fsync = lambda descriptor: None
