"""The known-risk report: models of simulated stays beside the best possible prediction.

On stays of `clinrep.ehr.simulate` the exact probability of each outcome given the observed 24 hours is known:
probability_given_tables, the *filtered oracle*. No model of these hours ranks better, in expectation, or is nearer to
the outcome. All numbers are of labelled test stays, matched by subject_id; intervals are percentiles of a bootstrap by
patient, and all models see the same replicates, so a difference to the oracle is paired.

    AUROC, minus oracle     of each model, and its difference to the oracle's
    slope, intercept        of the logistic regression of the labels on the logit of the probability: 1 and 0 are right
    bias                    mean of probability - risk
    mean abs. error         mean of |probability - risk|
    risk slope              of the least-squares line of the risk on the probability: 1 is right

where the risk is the oracle's probability. Bias and risk slope are against the risk itself, not against labels, so that
they hold no noise of the outcome.

Zero-shot probabilities are shares of n sampled continuations. The share is unbiased for the model's probability, so
bias means what it says. But its noise, p (1 - p) / n, lowers the AUROC and flattens every regression on it, and a share
may be 0 or 1, whose logit is infinite. So a slope of labels on logits is not given; the risk slope is corrected for
that noise, which is known (clinrep/analysis/recalibration.py); and beside the oracle stands the oracle seen through n
draws: what a perfect model would reach with as many continuations.
"""
