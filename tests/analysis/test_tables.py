"""Printed cells, LaTeX and cohort numbers."""

import re

import polars as pl
import pytest

from clinrep.analysis.scores import explain_too_few
from clinrep.analysis.tables import PrintedTable, format_latex, format_score, label_model


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"estimate": 0.8123, "low": 0.7, "high": 0.9, "reason": None}, "0.812 (0.700\N{EN DASH}0.900)"),
        (
            {"estimate": 0.5, "low": None, "high": None, "reason": "too few events (3)"},
            "0.500, no interval: too few events (3)",
        ),
        ({"estimate": None, "low": None, "high": None, "reason": "too few events (1)"}, "too few events (1)"),
    ],
)
def test_cell_says_a_number_or_why_there_is_none(row, words):
    assert format_score(row) == words


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ((50, 1), "too few events (1)"),
        ((50, 49), "too few non-events (1)"),
        ((50, 2), ""),
        ((0, 0), "too few events (0)"),
    ],
)
def test_too_few_counts_both_classes(counts, words):
    assert explain_too_few(*counts, 2, min_cell_count=0) == words
    assert explain_too_few(*counts, 2) == re.sub(r"\d+", "fewer than 11", words)


def test_latex_escapes_and_prints_repeated_keys_once():
    words = pl.DataFrame({"Key": ["a_b", "a_b"], "Share (%)": ["<1", "2\N{EN DASH}3"]})
    text = format_latex(PrintedTable("t", "Title", "Words.", words, words))
    assert r"Key & Share (\%) \\" in text
    assert "a\\_b & $<$1 \\\\\n & 2--3 \\\\" in text


def test_model_names_are_words():
    assert label_model("backbone layer 4 last_token", "logistic_regression") == (
        "Logistic regression on backbone layer 4 last token"
    )
    assert label_model("classifier", "none") == "Fine-tuned classifier"
    assert label_model("classifier training_fraction 0.05", "none") == "Fine-tuned classifier training fraction 0.05"
