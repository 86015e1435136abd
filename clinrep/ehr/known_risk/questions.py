"""What each model says of the test stays: stage 04's classifiers and probes, token counts, zero-shot, the truth."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import polars as pl
from numpy.typing import NDArray

from clinrep.analysis.inputs import FIT_SPLIT, TEST_SPLIT, Site
from clinrep.analysis.metrics import Floats
from clinrep.analysis.predictions import CLASSIFIER, ZERO_SHOT
from clinrep.analysis.probes import PROBES, fit_probes, predict_test
from clinrep.analysis.recalibration import compute_logits
from clinrep.distributed import derive_seed
from clinrep.ehr.known_risk.config import KnownRiskConfig
from clinrep.ehr.known_risk.inputs import TokenCounts, join_truth, read_zero_shot
from clinrep.ehr.known_risk.scores import ORACLE, Question

LATENT, COUNTS, FINE_TUNED = "latent truth", "token counts", "fine-tuned"
ALL_STAYS, ZERO_SHOT_STAYS = "test", "zero-shot"

logger = logging.getLogger("clinrep")


def collect_questions(site: Site, truth: pl.DataFrame, outcomes: list[str], config: KnownRiskConfig) -> list[Question]:
    """Return for each outcome the question over all its labelled test stays, then that over the zero-shot ones."""
    counts = TokenCounts(Path(config.timelines_dir[site.name]))
    questions = []
    for outcome in outcomes:
        stays = site.select_labelled(outcome, TEST_SPLIT)
        truths = join_truth(truth, outcome, stays)
        models = {LATENT: truths["probability_given_state"], ORACLE: truths["probability_given_tables"]}
        models |= _collect_models(site, outcome, config)
        models |= _probe_together(site, outcome, config)
        models[COUNTS] = predict_from_counts(counts, site, outcome, config)
        question = Question(outcome, ALL_STAYS, stays.labels, stays.patients, models)
        questions.append(question)
        if config.zero_shot_dir is not None:
            answers = read_zero_shot(Path(config.zero_shot_dir), outcome, stays)
            if answers is not None:
                seed = derive_seed(config.seed, f"shares/{outcome}")
                logger.info("%s: %.2g %% of continuations unfinished", outcome, 100 * answers.unfinished)
                questions.append(ask_of_some(question, answers.rows, answers.probabilities, answers.num_samples, seed))
    return questions


def _collect_models(site: Site, outcome: str, config: KnownRiskConfig) -> dict[str, Floats]:
    """Return the probabilities of stage 04's classifiers and probes, by name."""
    models = {}
    for item in predict_test([site], [outcome], fit_probes([site], [outcome], config)):
        if item.model == ZERO_SHOT:
            continue  # asked of its own stays
        name = f"probe, {item.model}" if item.representation else item.model.replace(CLASSIFIER, FINE_TUNED)
        if item.probabilities is None:
            logger.warning("%s of %s: %s", name, outcome, item.reason)
        else:
            models[name] = item.probabilities
    return models


def _probe_together(site: Site, outcome: str, config: KnownRiskConfig) -> dict[str, Floats]:
    """Return the probabilities of one probe on all representations side by side, where there are several."""
    if len(site.representations[FIT_SPLIT]) < 2:
        return {}
    inputs = {}
    for split in (FIT_SPLIT, TEST_SPLIT):
        ids, vectors = site.select_labelled(outcome, split).subject_ids, site.representations[split]
        inputs[split] = np.concatenate([vectors[key].select(ids) for key in sorted(vectors)], axis=1)
    model = PROBES["logistic_regression"](config, derive_seed(config.seed, f"probe/together/{outcome}"))
    model.fit(inputs[FIT_SPLIT], site.select_labelled(outcome, FIT_SPLIT).labels)
    return {f"probe, {site.source} all of these": model.predict_proba(inputs[TEST_SPLIT])[:, 1]}


def predict_from_counts(counts: TokenCounts, site: Site, outcome: str, config: KnownRiskConfig) -> Floats:
    """Return (N,) probabilities of a logistic regression on log(1 + how often each token occurs), fitted on train.

    Of the penalties in `count_c` the one with the least log loss on val is taken.
    """
    inputs, labels = counts.select(site, outcome, FIT_SPLIT)
    val_inputs, val_labels = counts.select(site, outcome, "val")
    is_used = inputs.any(axis=0)
    seed = derive_seed(config.seed, f"counts/{outcome}")
    best: tuple[float, float, object] | None = None
    for c in config.count_c:
        settings = dataclasses.replace(config.logistic_regression, c=c)
        model = PROBES["logistic_regression"](dataclasses.replace(config, logistic_regression=settings), seed)
        model.fit(inputs[:, is_used], labels)
        loss = _compute_log_loss(val_labels, model.predict_proba(val_inputs[:, is_used])[:, 1])
        if best is None or loss < best[0]:
            best = loss, c, model
    assert best is not None
    logger.info("%s: token counts with C = %g, log loss %.4f on val", outcome, best[1], best[0])
    test_inputs, _ = counts.select(site, outcome, TEST_SPLIT)
    probabilities: Floats = best[2].predict_proba(test_inputs[:, is_used])[:, 1]  # type: ignore[attr-defined]
    return probabilities


def _compute_log_loss(labels: NDArray[np.bool_], probabilities: Floats) -> float:
    logits = compute_logits(probabilities)
    return float(np.logaddexp(0, np.where(labels, -logits, logits)).mean())


def ask_of_some(question: Question, rows: np.ndarray, probabilities: Floats, num_samples: int, seed: int) -> Question:
    """Return the question of the stays at `rows`: the oracle beside their zero-shot probabilities.

    A share of a few continuations ranks worse than the probability it estimates, whatever the model. So the
    oracle is there twice: also as the share of `num_samples` draws that come out with exactly its probability,
    which is what zero-shot prediction by a perfect model would be.
    """
    generator = np.random.default_rng(seed)
    models = {ORACLE: question.risks[rows]}
    drawn = f"{ORACLE}, {num_samples} draws"
    models[drawn] = generator.binomial(num_samples, models[ORACLE]) / num_samples
    models[ZERO_SHOT] = probabilities
    patients = np.unique(question.patients[rows], return_inverse=True)[1]
    shares = {drawn: num_samples, ZERO_SHOT: num_samples}
    return Question(question.outcome, ZERO_SHOT_STAYS, question.labels[rows], patients, models, shares)
