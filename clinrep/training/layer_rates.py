"""Learning rates that fall from the head to the embeddings (layer-wise decay; Clark et al. 2020, ELECTRA, app. B)."""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
from transformers import PreTrainedModel


def make_rate_factors(model: PreTrainedModel, decay: float, head: str) -> Callable[[str], float] | None:
    """Return parameter name -> factor of the learning rate; None where `decay` is 1.

    The module called `head` has 1, the last of L layers and the final norm `decay`, the layer before decay ** 2,
    and the embeddings decay ** (L + 1).
    """
    if decay == 1:
        return None
    num_layers = int(model.config.num_hidden_layers)

    def find_factor(name: str) -> float:
        layer = re.search(r"\.layers\.(\d+)\.", name)
        if name.startswith(f"{head}."):
            depth = 0
        elif layer:
            depth = num_layers - int(layer[1])
        else:
            depth = 1 if name.endswith(".norm.weight") else num_layers + 1
        return float(decay**depth)

    return find_factor


def split_by_rate(
    optimizer: torch.optim.Optimizer, names: dict[torch.nn.Parameter, str], find_factor: Callable[[str], float]
) -> None:
    """Split the groups of a new optimizer by learning rate, in place; the highest rate comes first (it is logged)."""
    groups = []
    for group in optimizer.param_groups:
        settings = {key: value for key, value in group.items() if key != "params"}
        by_factor: dict[float, list[torch.nn.Parameter]] = {}
        for weight in group["params"]:
            by_factor.setdefault(find_factor(names[weight]), []).append(weight)
        groups += [settings | {"params": weights, "lr": group["lr"] * factor} for factor, weights in by_factor.items()]
    optimizer.param_groups[:] = sorted(groups, key=lambda group: -group["lr"])
