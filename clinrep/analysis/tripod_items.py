"""The items of TRIPOD+AI in short words of our own, and which parts of a report answer them.

Numbers and topics: Collins et al., BMJ 2024;385:e078378, 27 items with 52 sub-items. What an item asks for is
abridged; the statement's own text and its explanations are at https://www.tripod-statement.org.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Item:
    """One sub-item."""

    number: str
    topic: str
    applies: str
    """D: development of a model, E: its evaluation."""
    asks: str
    sections: tuple[str, ...] = ()
    """Sections of the report that answer it, those that a report has; of the model card, `model_card`."""
    files: tuple[str, ...] = ()
    """Files that answer it, beside or instead of sections; always there."""
    still: str = ""
    """What the authors must add; '' where the sections, if made, are enough."""
    needs_subgroups: bool = False
    """Whether it is answered only where groups of people are judged apart."""


BOTH = "D;E"
ITEMS = (
    Item("1", "Title", BOTH, "Name the study as making or judging a prediction model, of whom and of what",
         still="title"),
    Item("2", "Abstract", BOTH, "Summarise by the separate TRIPOD+AI list for abstracts", still="abstract"),
    Item("3a", "Background", BOTH, "Why the model, in which clinical context, and which models there are already",
         still="rationale and earlier models"),
    Item("3b", "Background", BOTH, "For whom the model is, at which point of care, who uses it",
         still="purpose and users; part Intended use of the model card"),
    Item("3c", "Background", BOTH, "Known inequalities in health between groups", still="inequalities known before"),
    Item("4", "Objectives", BOTH, "Aims, and whether a model is made, judged or both", still="aims"),
    Item("5a", "Data", BOTH, "Sources of the data for making and for judging, why these, and whom they represent",
         ("model_card", "cohort"), still="kind of source, reason, representativeness"),
    Item("5b", "Data", BOTH, "First and last date of inclusion and end of follow-up",
         still="dates; a report holds none of patients (setting admission_window, if used)"),
    Item("6a", "Participants", BOTH, "Setting, number and place of the centres", ("cohort",),
         still="kind and place of the centres"),
    Item("6b", "Participants", BOTH, "Who could take part", ("exclusions", "flow", "model_card")),
    Item("6c", "Participants", BOTH, "Treatments, and how they were dealt with",
         still="treatments are events of the timelines (medications, respiratory support); discuss their effect"),
    Item("7", "Data preparation", BOTH, "Cleaning and checks, and whether they were alike in all groups",
         ("exclusions",), ("config.yaml of 00_tokenize",), "whether checks were alike in all groups"),
    Item("8a", "Outcome", BOTH, "Definition, horizon, when and how assessed, why this one, alike in all groups",
         ("model_card", "outcomes"), still="why these outcomes; whether charting is alike in all groups"),
    Item("8b", "Outcome", BOTH, "Who assessed it, if it takes judgement",
         still="outcomes are read from charted events by one rule; say who charted them"),
    Item("8c", "Outcome", BOTH, "Blinding of its assessment", still="whether those who charted it saw predictions"),
    Item("9a", "Predictors", "D", "How predictors were chosen before modelling",
         (), ("config.yaml of 00_tokenize: sources",), "why these tables"),
    Item("9b", "Predictors", BOTH, "Definition of each, when and how measured, any blinding",
         (), ("config.yaml of 00_tokenize: sources", "vocabulary.parquet"), "how they were measured"),
    Item("9c", "Predictors", BOTH, "Who assessed them, if it takes judgement", still="who charted assessments"),
    Item("10", "Sample size", BOTH, "How the size was arrived at, and why it is enough", ("cohort", "outcomes"),
         still="reason or calculation; intervals show what the size can tell"),
    Item("11", "Missing data", BOTH, "How missing data were dealt with, and why any were left out", ("exclusions",),
         ("config.yaml of 00_tokenize: missing_value_token, keep_if",)),
    Item("12a", "Analytical methods", "D", "What each part of the data was used for", ("model_card", "cohort")),
    Item("12b", "Analytical methods", "D", "How predictors entered the model", ("model_card",),
         ("quantiles.parquet of 00_tokenize",)),
    Item("12c", "Analytical methods", "D", "Kind of model, why, how it was built and tuned, internal validation",
         ("model_card",), ("config.yaml of 01_pretrain and 02_finetune",), "why this kind of model"),
    Item("12d", "Analytical methods", BOTH, "Differences between clusters such as hospitals",
         ("transfer", "local_fine_tuning"), still="how centres were compared, or that there is one"),
    Item("12e", "Analytical methods", BOTH, "Measures and plots, and how models were compared",
         ("performance", "curves", "comparisons", "alarms", "decision_curves"), still="why these measures"),
    Item("12f", "Analytical methods", "E", "Updating of the model, such as recalibration", ("recalibration",),
         still="that none was done, where no section says otherwise"),
    Item("12g", "Analytical methods", "E", "How predictions were made when judging", (),
         ("02_finetune.py, 04_analyze.py", "config.yaml", "provenance.json: commit")),
    Item("13", "Class imbalance", BOTH, "Whether and how imbalance was treated, and recalibration after it",
         ("model_card",), ("config.yaml of 02_finetune: loss",)),
    Item("14", "Fairness", BOTH, "What was done about fairness, and why", ("subgroups",),
         still="what was done beyond judging groups apart"),
    Item("15", "Model output", "D", "What the model gives; thresholds and why", ("alarms",), (),
         "probabilities are given; thresholds of use, if any"),
    Item("16", "Training versus evaluation", BOTH, "How the data for making and judging differ",
         ("cohort", "outcomes"), ("site_report.html of 00_tokenize, at a second site",), "differences of setting"),
    Item("17", "Ethical approval", BOTH, "Committee that approved, consent or waiver", still="approval and consent"),
    Item("18a", "Open science: funding", BOTH, "Who paid, and their role", still="funding"),
    Item("18b", "Open science: conflicts of interest", BOTH, "Interests of all authors", still="interests"),
    Item("18c", "Open science: protocol", BOTH, "Where the protocol is, or that there is none", still="protocol"),
    Item("18d", "Open science: registration", BOTH, "Register and number, or that there is none",
         still="registration"),
    Item("18e", "Open science: data sharing", BOTH, "Whether and how the data can be had", still="access to data"),
    Item("18f", "Open science: code sharing", BOTH, "Whether and how the code can be had", (),
         ("provenance.json: commit", "environment.txt"), "where the code is published"),
    Item("19", "Patient and public involvement", BOTH, "How patients and public took part, or that they did not",
         still="involvement"),
    Item("20a", "Participants", BOTH, "Flow of people, with and without the outcome, follow-up",
         ("flow", "exclusions", "outcomes")),
    Item("20b", "Participants", BOTH, "Characteristics, by source, of people, outcomes, missing data",
         ("cohort", "outcomes"), still="key dates, missing data by characteristic"),
    Item("20c", "Participants", "E", "Evaluation data beside development data: people, predictors, outcome",
         ("cohort", "outcomes"), ("site_report.html of 00_tokenize, at a second site",)),
    Item("21", "Model development", BOTH, "People and outcomes in each analysis", ("outcomes", "performance")),
    Item("22", "Model specification", "D", "The whole model, so that others can use it, and terms of use", (),
         ("bundle of python -m clinrep.export",), "where it can be had, on which terms"),
    Item("23a", "Model performance", BOTH, "Performance with intervals, by groups too",
         ("performance", "subgroups", "curves"), needs_subgroups=True),
    Item("23b", "Model performance", BOTH, "Differences in performance between clusters, if examined",
         ("performance", "comparisons"), still="in words, where there is more than one site"),
    Item("24", "Model updating", "E", "The updated model and its performance", ("recalibration", "local_fine_tuning"),
         still="that none was done, where no section says otherwise"),
    Item("25", "Interpretation", BOTH, "What the results mean, fairness included, beside earlier studies",
         still="interpretation"),
    Item("26", "Limitations", BOTH, "Limits and what they do to bias, uncertainty and generalisability",
         ("model_card",), still="discussion; part Caveats of the model card"),
    Item("27a", "Usability", "D", "What to do with poor or missing input in use",
         (), ("config.yaml of 00_tokenize: unknown_token, missing_value_token",), "what users are to do"),
    Item("27b", "Usability", "D", "What users do with input or model, and what they must know", still="users' part"),
    Item("27c", "Usability", BOTH, "Next steps, for applicability and generalisability", still="next steps"),
)  # fmt: skip
