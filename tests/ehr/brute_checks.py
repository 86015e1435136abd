"""What a run of stage 00 wrote, held against the brute force, and its ledger against itself."""

from __future__ import annotations

import itertools
from collections import Counter
from datetime import datetime, timedelta

from tests.ehr.brute_force import BruteForce
from tests.ehr.tiny_clif import Result

EPOCH = datetime(1970, 1, 1)
NOTES = (": unknown", ": beyond range", ": unit")  # what is counted beside the chain of steps


def count_microseconds(time: datetime | None) -> int | None:
    return None if time is None else (time - EPOCH) // timedelta(microseconds=1)


def check_against_brute_force(result: Result, brute: BruteForce) -> None:
    assert result.splits == brute.splits
    assert result.quantiles == brute.quantiles  # to the last bit
    assert result.vocabulary == brute.vocabulary  # tokens, kinds and train counts, in id order
    assert list(result.subjects) == sorted(brute.timelines)
    assert result.timelines.keys() == brute.timelines.keys()
    for subject, (tokens, times) in result.timelines.items():
        assert tokens == brute.timelines[subject][0], subject
        assert [count_microseconds(time) for time in times] == brute.timelines[subject][1], subject
    for split, subjects in result.timeline_splits.items():
        assert subjects == sorted(s for s in brute.timelines if brute.splits[s][1] == split)
    found = {
        key: (count_microseconds(row[0]), row[1], count_microseconds(row[2])) for key, row in result.outcomes.items()
    }
    assert found == brute.outcomes
    assert all((row[1] is None) == (row[3] is not None) for row in result.outcomes.values())


def check_ledger(result: Result, brute: BruteForce) -> None:
    """Every step starts with the rows that the one before it left; the last leaves what is in the timelines."""
    steps = [row for row in result.ledger if not row[1].endswith(NOTES) and row[1] != "file"]
    assert all(row[3] <= row[2] for row in steps)
    for table in ("hospitalization", "patient"):
        chain = [row for row in steps if row[0] == table]
        assert chain[0][1] == "read"
        assert all(after[2] == before[3] for before, after in itertools.pairwise(chain))
        if table == "hospitalization":
            assert chain[-1][3] == len(result.timelines)
            adults = [row[3] for row in chain if row[1] in ("adult", "admission window")]
            assert adults[-1] == len(result.splits)
    for source in brute.settings["sources"]:
        table, name = source["table"], source["name"]
        mine = [row for row in steps if row[0] == table and row[1].startswith(f"{name}: ")]
        if mine[0][1] == f"{name}: table":
            assert brute.kept_events[name] == 0
            continue
        (read,) = [row for row in steps if row[:2] == (table, "read")]
        (adult,) = [row for row in steps if row[:2] == (table, "adult stay")]
        chain = [read, adult, *mine]
        assert read[2] == read[3]
        assert all(after[2] == before[3] for before, after in itertools.pairwise(chain)), name
        assert chain[-1][3] == brute.kept_events[name], name


def check_unknown(result: Result, brute: BruteForce) -> None:
    """What became the unknown token is counted in the ledger, all of it."""
    counted: Counter[str] = Counter()
    for _, step, rows_in, rows_out, reason in result.ledger:
        if step.endswith(": unknown"):
            assert rows_in == rows_out > 0
            assert reason.endswith(f"is not in train: kept as {brute.settings['unknown_token']}")
            counted[step.removesuffix(": unknown")] += rows_in
    assert counted == brute.unknown
