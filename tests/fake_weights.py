"""Weights without torch."""

from __future__ import annotations

import json
import math
from pathlib import Path


def write_weights(path: Path, shapes: dict[str, list[int]], metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file of zeros (float32)."""
    header, end = {"__metadata__": metadata} if metadata else {}, 0
    for name, shape in shapes.items():
        size = 4 * math.prod(shape)
        header[name] = {"dtype": "F32", "shape": shape, "data_offsets": [end, end + size]}
        end += size
    content = json.dumps(header).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(len(content).to_bytes(8, "little") + content + bytes(end))
