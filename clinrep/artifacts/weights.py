"""What a file of weights says of itself, read without loading a tensor."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from clinrep.artifacts.columns import ArtifactError
from clinrep.failures import say

LENGTH_BYTES = 8  # little-endian length of the header (safetensors format)


def read_weight_header(path: Path) -> tuple[dict[str, Any], int]:
    """Return name -> dtype, shape and data_offsets of every tensor, and the place where their bytes begin.

    Notes beside the tensors, if any, are `__metadata__`.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(LENGTH_BYTES), "little")
        content = file.read(length) if length <= path.stat().st_size else b""
    try:
        header: dict[str, Any] = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(
            f"{path} is no safetensors file ({say(error)}); run the stage that wrote it again"
        ) from error
    if not isinstance(header, dict):
        raise ArtifactError(f"{path} is no safetensors file (no table of tensors); run the stage that wrote it again")
    return header, LENGTH_BYTES + length


def count_parameters(path: Path) -> int:
    """Return how many numbers the tensors of a file hold; tied weights are there once."""
    header, _ = read_weight_header(path)
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
