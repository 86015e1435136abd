from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_sample_weight

from clinrep.class_losses import LOSSES, make_loss
from clinrep.config import InputError

LABELS = np.array([True] * 3 + [False] * 9)
LOGITS = np.random.default_rng(0).normal(size=(12, 2)) * 3


def compute(name: str, gamma: float = 2.0) -> np.ndarray:
    loss = make_loss(LABELS, SimpleNamespace(loss=name, focal_gamma=gamma))
    return loss(torch.tensor(LOGITS), torch.tensor(LABELS.astype(np.int64))).numpy()


def probabilities_of_the_label() -> np.ndarray:
    odds = np.exp(LOGITS - LOGITS.max(axis=1, keepdims=True))
    return (odds / odds.sum(axis=1, keepdims=True))[np.arange(12), LABELS.astype(int)]


def test_cross_entropy_is_the_negative_log_likelihood():
    assert compute("cross_entropy") == pytest.approx(-np.log(probabilities_of_the_label()), rel=1e-5)


def test_balanced_weighs_as_scikit_learn_does():
    weights = compute_sample_weight("balanced", LABELS)
    assert weights[:3].sum() == pytest.approx(weights[3:].sum())
    assert compute("balanced") == pytest.approx(-weights * np.log(probabilities_of_the_label()), rel=1e-5)


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_is_the_formula_of_the_paper(gamma):
    p = probabilities_of_the_label()
    assert compute("focal", gamma) == pytest.approx(-((1 - p) ** gamma) * np.log(p), rel=1e-5)


def test_every_loss_has_finite_gradients_where_the_answer_is_certain():
    for name in LOSSES:
        logits = torch.tensor([[200.0, -200.0], [-200.0, 200.0]], requires_grad=True)
        loss = make_loss(np.array([False, True]), SimpleNamespace(loss=name, focal_gamma=0.5))
        for labels in ([0, 1], [1, 0]):
            loss(logits, torch.tensor(labels)).sum().backward()
            assert torch.isfinite(logits.grad).all(), name


def test_an_unknown_loss_lists_the_known():
    with pytest.raises(InputError, match="unknown loss 'hinge'; known: balanced, cross_entropy, focal"):
        compute("hinge")
