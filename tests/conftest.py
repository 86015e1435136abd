"""Tests run from a checkout: the repository root is on the path."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
