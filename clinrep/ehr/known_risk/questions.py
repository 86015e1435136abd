"""What each model says of the test stays: stage 04's classifiers and probes, token counts, zero-shot, the truth."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import polars as pl

from clinrep.analysis.baselines import fit_baseline
from clinrep.analysis.classifier_runs import CLASSIFIER
from clinrep.analysis.inputs import FIT_SPLIT, TEST_SPLIT, Site
from clinrep.analysis.metrics import Floats
from clinrep.analysis.predictions import ZERO_SHOT
from clinrep.analysis.probe_models import PROBES
from clinrep.analysis.probes import fit_probes, predict_test
from clinrep.analysis.stay_inputs import StayInputs
from clinrep.distributed import derive_seed
from clinrep.ehr.baselines import read_stay_inputs
from clinrep.ehr.known_risk.config import KnownRiskConfig
from clinrep.ehr.known_risk.inputs import join_truth, read_zero_shot
from clinrep.ehr.known_risk.scores import ORACLE, Question

LATENT, COUNTS, FINE_TUNED = "latent truth", "token counts", "fine-tuned"
EVENT_COUNTS = "event_counts"  # the baseline that gives them
ALL_STAYS, ZERO_SHOT_STAYS = "test", "zero-shot"

logger = logging.getLogger("clinrep")


def collect_questions(site: Site, truth: pl.DataFrame, outcomes: list[str], config: KnownRiskConfig) -> list[Question]:
    """Return for each outcome the question over all its labelled test stays, then that over the zero-shot ones."""
    inputs = read_stay_inputs(config.timelines_dir, [EVENT_COUNTS])[site.name]
    questions = []
    for outcome in outcomes:
        stays = site.select_labelled(outcome, TEST_SPLIT)
        truths = join_truth(truth, outcome, stays)
        models = {LATENT: truths["probability_given_state"], ORACLE: truths["probability_given_tables"]}
        models |= _collect_models(site, outcome, config)
        models |= _probe_together(site, outcome, config)
        models |= predict_from_counts(inputs, site, outcome, config)
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
    stays = site.select_labelled(outcome, FIT_SPLIT)
    model.fit(inputs[FIT_SPLIT], stays.labels, stays.patients)
    return {f"probe, {site.source} all of these": model.predict_proba(inputs[TEST_SPLIT])[:, 1]}


def predict_from_counts(inputs: StayInputs, site: Site, outcome: str, config: KnownRiskConfig) -> dict[str, Floats]:
    """Return (N,) probabilities of stage 04's logistic regression on how often each token occurs."""
    seed = derive_seed(config.seed, f"counts/{outcome}")
    probe, _ = fit_baseline(site, inputs, outcome, EVENT_COUNTS, "logistic_regression", config, seed)
    if probe is None:
        return {}
    rows = inputs.find_rows(site.select_labelled(outcome, TEST_SPLIT).subject_ids)
    return {COUNTS: probe.predict_proba(inputs.features[EVENT_COUNTS].values[rows])[:, 1]}


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
