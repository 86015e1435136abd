"""The exact validation loss of a causal language model.

B rows, L positions of a batch; a row may hold several documents.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch.utils.data import Dataset, default_collate

from clinrep import distributed
from clinrep.config import InputError
from clinrep.training.throughput import pop_counts


def mean_token_loss(
    model: torch.nn.Module,
    dataset: Dataset[Any],
    batch_size: int,
    collate: Callable[[list[Any]], Any] = default_collate,
) -> dict[str, float]:
    """Return {"eval_loss": mean cross-entropy in nats per target token}, the same on every rank.

    Every target of `dataset` counts once, whatever the batch size and the number of ranks: each rank
    sums over every world_size-th item, and sums and counts are added up. `collate` makes a batch whose
    labels (B, L), any B and L, are not shifted yet; -100 is no target. What else it holds goes to the
    model as it is, but for the counts of throughput.py.
    """
    device = next(model.parameters()).device
    num_items = len(dataset)  # type: ignore[arg-type]
    indices = range(distributed.get_rank(), num_items, distributed.get_world_size())
    total = torch.zeros(2, dtype=torch.float64, device=device)
    for start in range(0, len(indices), batch_size):
        batch = collate([dataset[index] for index in indices[start : start + batch_size]])
        pop_counts(batch)
        batch = {name: value.to(device) if torch.is_tensor(value) else value for name, value in batch.items()}
        targets = batch.pop("labels")[:, 1:].flatten()
        logits = model(**batch, use_cache=False).logits[:, :-1].flatten(0, 1).float()
        losses = F.cross_entropy(logits, targets, ignore_index=-100, reduction="none")
        total += torch.stack([losses.double().sum(), (targets != -100).sum().double()])
    loss, count = distributed.sum_over_ranks(total).tolist()
    if not count:
        raise InputError("no validation block holds a target; every timeline is one token long")
    return {"eval_loss": loss / count}
