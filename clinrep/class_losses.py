"""What a classifier minimizes: one entry per loss, each a loss of every sequence by itself.

B sequences of two classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812

from clinrep.config import lookup

ItemLoss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def make_cross_entropy(labels: np.ndarray, config: Any) -> ItemLoss:
    """Return the negative log-likelihood, nats."""
    return compute_cross_entropy


def compute_cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return f32 (B,) of logits (B, 2) and labels i64 (B,) of 0 and 1."""
    return F.cross_entropy(logits.float(), labels, reduction="none")


def make_balanced(labels: np.ndarray, config: Any) -> ItemLoss:
    """Return cross-entropy times N / (2 N of its class), as scikit-learn's class_weight="balanced".

    `labels` is bool (N,), of the train stays; the weights have mean 1 over them.
    """
    counts = np.bincount(labels.astype(np.int64), minlength=2)
    weights = torch.tensor(len(labels) / (2 * counts), dtype=torch.float32)
    return lambda logits, labels: compute_cross_entropy(logits, labels) * weights.to(logits.device)[labels]


def make_focal(labels: np.ndarray, config: Any) -> ItemLoss:
    """Return cross-entropy times (1 - probability of the true class) ** focal_gamma (Lin et al. 2017, eq. 4)."""

    def compute(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        losses = compute_cross_entropy(logits, labels)
        # 1 - exp(-loss), exact where the probability is nearly 1
        return losses * (-torch.expm1(-losses)).clamp_min(torch.finfo(losses.dtype).tiny) ** config.focal_gamma

    return compute


# name -> a function of the train labels bool (N,) and the settings
LOSSES: dict[str, Callable[[np.ndarray, Any], ItemLoss]] = {
    "cross_entropy": make_cross_entropy,
    "balanced": make_balanced,
    "focal": make_focal,
}


def make_loss(labels: np.ndarray, config: Any) -> ItemLoss:
    """Return the loss that `config.loss` names, for train labels bool (N,) of both classes."""
    return lookup(LOSSES, config.loss, "loss")(labels, config)
