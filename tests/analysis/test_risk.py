"""Risk over time of probes: equal to the probe on every prefix, and joined by id."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from clinrep import artifacts
from clinrep.analysis.risk import compute_risk
from clinrep.config import InputError
from clinrep.ehr.sequences import load_sequences
from tests.analysis.fake_runs import EPOCH, FakeSite, run_main
from tests.extracting import extract, load_tiny_encoder, run_layer_by_layer, write_runs


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A tiny transformer, sequences, and the probe of one pooling after the other on made-up labels."""
    dirs = write_runs(tmp_path_factory.mktemp("runs"))
    encoder, data = load_tiny_encoder(dirs), load_sequences(str(dirs[0]), 64)
    labels = np.random.default_rng(1).random(len(data)) < 0.5
    table = extract(encoder, data, poolings=["last_token", "mean", "random_token"])
    probes = {
        pooling: make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(
            table.filter(pooling=pooling)["representation"].to_numpy(), labels
        )
        for pooling in ("last_token", "mean", "random_token")
    }
    return encoder, data, probes


def prefix_vectors(encoder, tokens: np.ndarray, pooling: str) -> np.ndarray:
    """Return (T, D) what the encoder makes of every prefix, each run alone."""
    rows = []
    for length in range(1, len(tokens) + 1):
        states = run_layer_by_layer(encoder, tokens[:length])[-1]
        rows.append(states.mean(0) if pooling == "mean" else states[-1])
    return np.array(rows)


@pytest.mark.parametrize("pooling", ["last_token", "mean", "random_token"])
def test_one_pass_equals_every_prefix(real, pooling):
    encoder, data, probes = real
    for row in np.argsort(data.lengths)[[0, 10, -1]]:
        tokens = data.get(row)
        expected = probes[pooling].predict_proba(prefix_vectors(encoder, tokens, pooling))[:, 1]
        states = run_layer_by_layer(encoder, tokens)[-1]
        assert np.abs(compute_risk(probes[pooling], pooling, states) - expected).max() < 1e-5
        assert np.ptp(expected) > 0.01


@pytest.mark.parametrize("pooling", ["last_token", "mean"])
def test_rounding_to_float16_changes_it_by_no_more_than_its_bound(real, pooling):
    encoder, data, probes = real
    scaler, model = probes[pooling]
    weights = np.abs(model.coef_[0] / scaler.scale_)
    for row in range(len(data)):
        states = run_layer_by_layer(encoder, data.get(row))[-1]
        exact = compute_risk(probes[pooling], pooling, states)
        rounded = compute_risk(probes[pooling], pooling, states.astype(np.float16))
        sizes = np.abs(states).astype(np.float64)
        if pooling == "mean":
            sizes = np.cumsum(sizes, axis=0) / np.arange(1, len(sizes) + 1)[:, None]
        # half a unit in the last place of each state (2^-25 where it is below float16's normal numbers), and
        # the logistic function is nowhere steeper than 1/4
        allowed = (sizes * 2**-11 + 2**-25) @ weights / 4
        assert (np.abs(rounded - exact) <= allowed).all()
        assert allowed.max() < 0.01
    assert np.abs(rounded - exact).max() > 0


def write_states(site: FakeSite, layers: tuple[int, ...] = (0, 2), num_stays: int = 20) -> pl.DataFrame:
    """Write hidden states of test stays in two parts of mixed rows, and return them in order."""
    rng = np.random.default_rng(8)
    frames = []
    for subject_id in site.stays.filter(split="test")["subject_id"].sort()[:num_stays]:
        length = int(rng.integers(1, 9))
        for layer in layers:
            states = rng.normal(size=(length, site.width)).astype(np.float16)
            times = [EPOCH + timedelta(minutes=int(minute)) for minute in rng.integers(0, 99, length).cumsum()]
            frames.append(
                pl.DataFrame(
                    {
                        "subject_id": subject_id,
                        "split": "test",
                        "layer": pl.Series([layer] * length, dtype=pl.Int16),
                        "position": pl.Series(range(length), dtype=pl.UInt32),
                        "time": pl.Series(times, dtype=pl.Datetime("us")),
                        "hidden_state": pl.Series(states, dtype=pl.Array(pl.Float16, site.width)),
                    }
                )
            )
    table = pl.concat(frames)
    ids = table["subject_id"].unique().sort()
    for part, some in enumerate((ids[:7], ids[7:])):
        rows = table.filter(pl.col("subject_id").is_in(some.implode()))
        artifacts.write_table("hidden_states", rows[rng.permutation(rows.height)], site.representations, "test", part)
    return table


def read_risk(directory: Path) -> pl.DataFrame:
    return artifacts.read_table_file("risk_over_time", directory / "risk_over_time.parquet")


def test_stage_04_writes_the_probes_risk_of_every_labelled_stay_with_states(tmp_path):
    site = FakeSite(tmp_path / "site").write()
    states = write_states(site)
    more = ["--risk_over_time=true", "--layers=[0,2]", "--poolings=[last_token,mean]"]
    out = run_main(tmp_path / "out", *site.flags("demo"), *more)
    table = read_risk(out)
    assert artifacts.read_done(out, "04_analyze")["rows"]["risk_over_time"] == table.height
    assert set(table["split"]) == {"test"}
    labelled = site.outcomes.drop_nulls("label").filter(pl.col("subject_id").is_in(states["subject_id"].implode()))
    expected = {
        (subject_id, f"backbone layer {layer} {pooling} logistic_regression", outcome)
        for subject_id, outcome in labelled.select("subject_id", "outcome").iter_rows()
        for layer in (0, 2)
        for pooling in ("last_token", "mean")
    }
    found = {row[:3]: row[3:] for row in table.select(
        "subject_id", "model", "outcome", "times", "probability").iter_rows()}  # fmt: skip
    assert found.keys() == expected
    assert table.height == len(expected)
    vectors = artifacts.read_table("representations", site.representations, "train").filter(layer=2)
    for pooling in ("last_token", "mean"):
        rows = vectors.filter(pooling=pooling).join(site.outcomes.filter(outcome="icu_admission"), on="subject_id")
        rows = rows.drop_nulls("label")
        train = rows["representation"].to_numpy().astype(np.float64)
        scaler = StandardScaler().fit(train)
        probe = LogisticRegression(tol=1e-8, max_iter=1000).fit(scaler.transform(train), rows["label"])
        for subject_id in labelled.filter(outcome="icu_admission")["subject_id"]:
            of_stay = states.filter(subject_id=subject_id, layer=2)
            inputs = of_stay["hidden_state"].to_numpy().astype(np.float64)
            if pooling == "mean":
                inputs = np.array([inputs[: end + 1].mean(0) for end in range(len(inputs))])
            times, risk = found[subject_id, f"backbone layer 2 {pooling} logistic_regression", "icu_admission"]
            assert times == of_stay["time"].to_list()
            assert risk == pytest.approx(probe.predict_proba(scaler.transform(inputs))[:, 1].tolist(), abs=1e-5)


def test_of_several_sites_the_name_stands_before_the_model_and_those_without_states_are_left_out(tmp_path):
    sites = {name: FakeSite(tmp_path / name, seed=seed, prefix=name).write() for seed, name in enumerate("abc")}
    for name in "bc":
        write_states(sites[name])
    flags = [flag for name, site in sites.items() for flag in site.flags(name)]
    table = read_risk(run_main(tmp_path / "out", *flags, "--risk_over_time=true"))
    assert set(table["model"]) == {f"{name} backbone layer 2 mean logistic_regression" for name in "bc"}
    assert all(model[0] == subject_id[0] for subject_id, model in table.select("subject_id", "model").iter_rows())
    assert table.select("subject_id", "model", "outcome").is_duplicated().sum() == 0


def refuse(match: str, site: FakeSite, output: Path, *more: str) -> None:
    with pytest.raises(InputError, match=match):
        run_main(output, *site.flags("demo"), "--risk_over_time=true", *more)
    assert not output.exists()


def test_what_lacks_states_is_refused_with_the_remedy(tmp_path):
    site = FakeSite(tmp_path / "site").write()
    refuse("run 03_extract_reps.py --hidden_states true", site, tmp_path / "out")
    write_states(site, layers=(0,))
    refuse(r"has layers \[0\], not the probes' layer 2", site, tmp_path / "out")
    site.stays = site.stays.with_columns(split=pl.lit("test"))
    write_states(site, num_stays=150)  # train stays among them
    refuse(r"\d of 7 stays are not of the test split", site, tmp_path / "out",
           "--layers=[0]")  # fmt: skip


def test_positions_that_not_every_stay_has_are_refused_with_their_number_and_never_followed(tmp_path):
    site = FakeSite(tmp_path / "site", poolings=("position_3",)).write()
    write_states(site)
    refuse("no probe was fitted on one of the poolings last_token, random_token, mean", site, tmp_path / "out",
           "--poolings=[position_3]")  # fmt: skip
    lost = site.stays.filter(split="test")[:2]
    site.write_representations(vectors_of=site.stays.join(lost, on="subject_id", how="anti"))
    refuse("2 of 48 stays .* missing .* name other poolings", site, tmp_path / "out", "--poolings=[position_3]")
