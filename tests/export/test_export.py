"""The bundle as people make and use it: what may leave, what not, and that it still works at another site."""

import hashlib
import json
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml

from clinrep import artifacts
from clinrep.config import InputError
from clinrep.ehr.compatibility import check_model_fits
from clinrep.ehr.token_people import count_people
from clinrep.export.__main__ import main
from clinrep.export.bundle import find_files, is_allowed
from clinrep.export.edges import round_down
from clinrep.export.private import find_private
from clinrep.modality import resolve
from tests.analysis.fake_runs import finish_again
from tests.fake_weights import write_weights

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.slow  # stage 00 runs on the sample
SAMPLE = ROOT / "sample_data" / "clif_demo"
LEAST = 5


def tokenize(directory: Path, *flags: str) -> Path:
    config = ROOT / "configs" / "ehr" / "demo" / "00_tokenize.yaml"
    given = [f"--config={config}", f"--clif_dir={SAMPLE}", f"--output_dir={directory}", "--show_progress=false"]
    resolve("00_tokenize:main")([*given, *flags])
    return directory


def write_model(directory: Path, timelines: Path, folder: str, stage: str) -> Path:
    """Write a finished run with a model of zeros that fits the vocabulary."""
    size = artifacts.read_table("vocabulary", timelines).height
    write_weights(directory / folder / "model.safetensors", {"model.embed_tokens.weight": [size, 4]}, {"format": "pt"})
    config = {"vocab_size": size, "model_type": "llama", "_name_or_path": "/home/someone/model"}
    (directory / folder / "config.json").write_text(json.dumps(config))
    for name in ("vocabulary", "quantiles"):
        shutil.copy(timelines / f"{name}.parquet", directory / folder)
    settings = {"timelines_dir": str(timelines), "output_dir": str(directory), "outcome": "icu_admission", "seed": 3}
    (directory / "config.yaml").write_text(yaml.safe_dump(settings))
    note = {"stage": stage, "host": socket.gethostname(), "commit": "abc", "started": "2031-05-06T07:08:09+00:00"}
    (directory / "provenance.json").write_text(json.dumps(note | {"command": [f"{stage}.py", str(directory)]}))
    (directory / "run.log").write_text("log")
    artifacts.write_done(directory, stage, {}, {"timelines_dir": artifacts.fingerprint(timelines)})
    return directory


def write_classifier(directory: Path, timelines: Path, outcome: str) -> Path:
    labelled = artifacts.read_table("outcomes", timelines).filter(pl.col("outcome") == outcome).drop_nulls("label")
    splits = artifacts.read_table("splits", timelines)
    rows = labelled.join(splits, on="subject_id").with_columns(probability=pl.lit(0.5, pl.Float32))
    artifacts.write_table("predictions", rows, directory)
    return write_model(directory, timelines, "classifier", "02_finetune")


def write_analysis(directory: Path, min_cell_count: int = 11) -> Path:
    counts = [("all", 900, 100), ("sex: female", 400, 40), ("race: few", 60, 3), ("race: often", 60, 15)]
    rows = [
        ("s", "m", "none", "icu_admission", group, "auroc", 0.7, 0.6, 0.8, size, events)
        for group, size, events in counts
    ]
    frame = pl.DataFrame(rows, schema=list(artifacts.TABLES["scores"].columns), orient="row")
    artifacts.write_table("scores", frame.cast({"num_subjects": pl.UInt64, "num_events": pl.UInt64}), directory)
    people = [("s", "icu_admission", group, 4 if group == "race: often" else events, size - events)
              for group, size, events in counts]  # fmt: skip
    schema = list(artifacts.TABLES["class_patients"].columns)
    counted = pl.DataFrame(people, schema=schema, orient="row")
    counted = counted.cast({"num_event_patients": pl.UInt64, "num_other_patients": pl.UInt64})
    artifacts.write_table("class_patients", counted, directory)
    tables = {
        "fine": "site,num_stays,auroc\ns,400,0.7\n",
        "small": "site,num_stays\ns,3\n",
        "words": "characteristic,train\nSex: female,3 (1.0)\n",
        "listed": "outcome,excluded_because\nicu_admission,event before index_time (2)\n",
        "stays": "subject_id,risk\nabc,0.3\n",
        "paths": "site,from\ns,/home/someone/runs\n",
    }
    for name, text in tables.items():
        artifacts.write_text(directory / "tables" / f"{name}.csv", text)
    artifacts.write_text(directory / "report.html", "<html>/home/someone</html>")
    artifacts.write_text(directory / "model_card.md", "# Model card\n")
    artifacts.write_text(directory / "tripod_ai.md", f"made on {socket.gethostname()}\n")
    settings = {"timelines_dir": {"s": "/data/x"}, "seed": 1, "min_cell_count": min_cell_count}
    artifacts.write_text(directory / "config.yaml", yaml.safe_dump(settings))
    artifacts.write_done(directory, "04_analyze", {}, {})
    return directory


def export(output: Path, timelines: Path, backbone: Path, *flags: str) -> Path:
    main([f"--timelines_dir={timelines}", f"--backbone_dir={backbone}", f"--output_dir={output}", *flags])
    return output / "bundle"


@pytest.fixture(scope="module")
def timelines(tmp_path_factory):
    return tokenize(tmp_path_factory.mktemp("run") / "00_tokenize")


@pytest.fixture(scope="module")
def backbone(timelines):
    return write_model(timelines.parent / "01_pretrain", timelines, "backbone", "01_pretrain")


@pytest.fixture(scope="module")
def bundle(timelines, backbone):
    root = timelines.parent
    for outcome in ("icu_admission", "in_hospital_death"):
        write_classifier(root / "02" / outcome, timelines, outcome)
    given = [f"--classifier_dir={root / '02'}", f"--analyze_dir={write_analysis(root / '04')}"]
    return export(root / "export", timelines, backbone, f"--min_cell_count={LEAST}", "--notice=Open data.", *given)


@pytest.fixture(scope="module")
def people(timelines):
    """Patients of each token, counted row by row."""
    patient_of = dict(artifacts.read_table("subjects", timelines).select("subject_id", "patient_id").iter_rows())
    tokens = artifacts.read_table("vocabulary", timelines)["token"].to_list()
    found = {token: set() for token in tokens}
    bins = {}
    for subject, ids in artifacts.read_table("timelines", timelines, "train").select("subject_id", "token_ids").rows():
        words = [tokens[number] for number in ids]
        for word, after in zip(words, [*words[1:], ""], strict=True):
            found[word].add(patient_of[subject])
            if re.fullmatch(r"Q\d", after):
                bins.setdefault((word, int(after[1])), set()).add(patient_of[subject])
    return {token: len(who) for token, who in found.items()}, bins


def test_only_files_of_the_list_are_in_it(bundle):
    names = [path.relative_to(bundle).as_posix() for path in find_files(bundle)]
    assert all(is_allowed(name) for name in names)
    assert {name.partition("/")[0] for name in names} == {
        *("README.md", "MANIFEST.json", "model_card.md"),
        *("backbone", "classifiers", "tokenizer", "settings", "scores", "tables"),
    }
    manifest = json.loads((bundle / "MANIFEST.json").read_text())
    assert sorted([*manifest["files"], "MANIFEST.json"]) == sorted(names)
    for name, entry in manifest["files"].items():
        assert entry["sha256"] == hashlib.sha256((bundle / name).read_bytes()).hexdigest()
        assert entry["num_bytes"] == (bundle / name).stat().st_size


def test_no_path_machine_or_id_is_in_any_file(bundle, timelines):
    splits = artifacts.read_table("splits", timelines)
    ids = {*splits["subject_id"], *splits["patient_id"]}
    for path in find_files(bundle):
        content = path.read_bytes()
        assert b"/home/someone" not in content, path
        assert str(timelines.parent).encode() not in content, path
        if path.suffix in (".md", ".json", ".yaml", ".csv", ""):
            words = set(re.findall(r"\w+", content.decode()))
            assert not ids & words, path
            assert not find_private(content.decode()), path
        if path.suffix == ".parquet":
            frame = pl.read_parquet(path)
            texts = frame.select(pl.col(pl.String))
            assert not ids & {value for name in texts.columns for value in texts[name].drop_nulls()}


def test_rare_words_are_blank_and_ids_are_as_they_were(bundle, timelines, people):
    of_token, _ = people
    before, after = (
        artifacts.read_table("vocabulary", timelines),
        pl.read_parquet(bundle / "backbone/vocabulary.parquet"),
    )
    assert after["token_id"].equals(before["token_id"])
    assert after["kind"].equals(before["kind"])
    num_rare = 0
    for number, token, kind in before.select("token_id", "token", "kind").iter_rows():
        is_rare = kind not in ("special", "bin", "time") and of_token[token] < LEAST
        assert after["token"][number] == (f"RARE_{number}" if is_rare else token)
        if of_token[token] < LEAST:
            assert after["train_count"][number] is None
        num_rare += is_rare
    assert num_rare > 5
    assert json.loads((bundle / "MANIFEST.json").read_text())["suppressed"]["tokens of few people"] == num_rare
    rare = set(before["token"]) - set(after["token"])
    for name in ("quantiles", "categories"):
        frame = pl.read_parquet(bundle / f"tokenizer/{name}.parquet").select(pl.col(pl.String))
        assert not rare & {value for column in frame.columns for value in frame[column].drop_nulls()}


def test_people_are_counted_as_row_by_row(timelines, people):
    of_token, bins = people
    settings = yaml.safe_load((timelines / "config.yaml").read_text())
    tables = [artifacts.read_table(name, timelines) for name in ("vocabulary", "categories")]
    counted = count_people(timelines, *tables, settings)
    assert dict(zip(tables[0]["token"], counted.of_token, strict=True)) == of_token
    for category in ("LAB_sodium", "VITAL_heart_rate", "LAB_lactate"):
        of_bin = [bins.get((category, number), set()) for number in range(10)]
        found = counted.of_bins[category]
        assert found.within.tolist() == [len(one) for one in of_bin]
        assert found.at_most.tolist() == [len(set().union(*of_bin[: i + 1])) for i in range(10)]
        assert found.at_least.tolist() == [len(set().union(*of_bin[i:])) for i in range(10)]


def test_every_count_told_is_rounded_and_no_small_one_follows_from_a_total(bundle, timelines):
    """The adversary knows how many stays train has, and that every stay has one word of each static template."""
    after = pl.read_parquet(bundle / "tokenizer/categories.parquet")
    before = artifacts.read_table("categories", timelines)
    total = artifacts.read_table("splits", timelines).filter(split="train").height
    for name in ("num_events", "num_missing"):
        assert (after[name] % LEAST == 0).all()
    assert (after["bin_counts"].explode().drop_nulls() % LEAST == 0).all()
    vocabulary = pl.read_parquet(bundle / "tokenizer/vocabulary.parquet")
    assert (vocabulary["train_count"].drop_nulls() % LEAST == 0).all()
    hidden_somewhere = 0
    for prefix in ("RACE_", "ETHNICITY_", "SEX_", "ADMISSION_", "DISCHARGE_"):
        words = before.filter(
            pl.col("category").str.starts_with(prefix) & pl.col("source").is_in(["static", "discharge"])
        )
        told = set(after["category"])
        hidden = words.filter(~pl.col("category").is_in(told))
        if hidden.height:  # what is left over is of two words or more, and no small number of stays
            assert hidden.height >= 2
            left_over = total - words.filter(pl.col("category").is_in(told))["num_events"].sum()
            assert left_over == hidden["num_events"].sum() >= LEAST
            hidden_somewhere += 1
    assert hidden_somewhere


def test_edges_told_rest_on_enough_people(bundle, timelines, people):
    _, bins = people
    before, after = (
        artifacts.read_table("quantiles", timelines),
        pl.read_parquet(bundle / "tokenizer/quantiles.parquet"),
    )
    units = dict(before.group_by("category").len().iter_rows())
    assert 0 < after.height < before.height
    num_checked = 0
    old = {(category, unit): edges for category, unit, edges in before.select("category", "unit", "edges").iter_rows()}
    for category, unit, edges in after.select("category", "unit", "edges").iter_rows():
        assert len(edges) == 9
        assert edges == sorted(edges)
        if units[category] > 1 or not any((category, number) in bins for number in range(10)):
            continue  # tokens do not tell units apart; a static column has tokens of another form
        known = round_down(np.array(old[category, unit]), 4).tolist()
        for edge in set(edges):
            above = set().union(*(bins.get((category, number), set()) for number in range(known.index(edge) + 1, 10)))
            assert len(above) >= LEAST
            num_checked += 1
    assert num_checked > 100


def test_a_whole_tokenizer_still_gives_the_same_timelines(timelines, backbone, tmp_path):
    """Where nothing is hidden, another site cannot tell the bundle from the original."""
    bundle = export(tmp_path / "export", timelines, backbone, "--min_cell_count=0", "--edge_digits=null")
    frozen = tokenize(tmp_path / "00", f"--tokenizer_dir={bundle / 'tokenizer'}")
    for split in artifacts.SPLITS:
        ours, theirs = (artifacts.read_table("timelines", directory, split) for directory in (frozen, timelines))
        assert ours.equals(theirs)


def test_a_hidden_tokenizer_works_at_another_site_and_fits_its_backbone(bundle, timelines, tmp_path):
    frozen = tokenize(tmp_path / "00", f"--config={bundle / 'tokenizer' / 'config.yaml'}",
                      f"--tokenizer_dir={bundle / 'tokenizer'}")  # fmt: skip
    check_model_fits(bundle / "backbone", frozen)
    assert artifacts.find_model(bundle, "backbone", "01_pretrain") == bundle / "backbone"
    tokens = artifacts.read_table("vocabulary", timelines)["token"].to_list()
    unknown = tokens.index("UNK")
    told = pl.read_parquet(bundle / "tokenizer/quantiles.parquet")
    hidden = set(artifacts.read_table("quantiles", timelines)["category"]) - set(told["category"])
    names = pl.read_parquet(bundle / "tokenizer/vocabulary.parquet")["token"].to_list()
    is_same = [not name.startswith("RARE_") and not re.fullmatch(r"Q\d", name) and name != "UNK" for name in names]
    seen = 0
    before, after = (artifacts.read_table("timelines", one, "train") for one in (timelines, frozen))
    for old, new in zip(before["token_ids"].to_list(), after["token_ids"].to_list(), strict=True):
        assert len(new) == len(old)  # simultaneous events may change places: they stand in order of their ids
        assert sorted(one for one in old if is_same[one]) == sorted(one for one in new if is_same[one])
        assert not any(names[one].startswith("RARE_") for one in new)  # a blanked word is unknown
        for place, one in enumerate(new[:-1]):
            if tokens[one] in hidden and is_same[one]:  # a category without edges
                assert new[place + 1] in (unknown, tokens.index("MISSING_VALUE"))
                seen += 1
    assert seen > 10


def test_scores_and_tables_are_checked_and_not_trusted(bundle):
    scores = pl.read_csv(bundle / "scores" / "scores.csv")
    assert not {"num_subjects", "num_events"} & set(scores.columns)
    told = dict(scores.select("subgroup", "estimate").iter_rows())
    assert told == {"all": 0.7, "sex: female": 0.7, "race: few": None, "race: often": None}
    assert [path.name for path in (bundle / "tables").iterdir()] == ["fine.csv"]
    left_out = json.loads((bundle / "MANIFEST.json").read_text())["left_out"]
    assert {name.removeprefix("tables/") for name in left_out} == {
        *(
            "small.csv",
            "words.csv",
            "listed.csv",
            "stays.csv",
            "paths.csv",
            "tripod_ai.md",
            "classifiers/in_hospital_death",
        )
    } - ({"classifiers/in_hospital_death"} if (bundle / "classifiers/in_hospital_death").exists() else set())
    assert "single patients" in left_out["tables/stays.csv"]


def test_an_analysis_that_hid_nothing_gives_no_table_and_no_card(timelines, backbone, tmp_path):
    given = f"--analyze_dir={write_analysis(tmp_path / '04', min_cell_count=0)}"
    bundle = export(tmp_path / "export", timelines, backbone, f"--min_cell_count={LEAST}", given)
    assert not (bundle / "tables").exists()
    assert not (bundle / "model_card.md").exists()
    left_out = json.loads((bundle / "MANIFEST.json").read_text())["left_out"]
    assert "stage 04 hid numbers under 0 only" in left_out["tables/fine.csv"]
    assert "stage 04 hid numbers under 0 only" in left_out["model_card.md"]


def test_an_analysis_that_did_not_count_patients_gives_no_scores(timelines, backbone, tmp_path):
    analysis = write_analysis(tmp_path / "04")
    (analysis / "class_patients.parquet").unlink()
    bundle = export(tmp_path / "export", timelines, backbone, f"--analyze_dir={analysis}")
    assert not (bundle / "scores").exists()
    assert "of how many patients" in json.loads((bundle / "MANIFEST.json").read_text())["left_out"]["scores/scores.csv"]


def copy(directory: Path, to: Path) -> Path:
    shutil.copytree(directory, to)
    return to


def check_refused(words: str, output: Path, *given: object) -> None:
    with pytest.raises(InputError, match=words):
        export(output, *given)
    assert not output.exists()


def test_bad_inputs_are_refused_and_leave_nothing(timelines, backbone, tmp_path):
    out = tmp_path / "out"
    unfinished = copy(backbone, tmp_path / "unfinished")
    (unfinished / "DONE").unlink()
    check_refused("holds no DONE", out, timelines, unfinished)

    changed = copy(backbone, tmp_path / "changed")
    weights = changed / "backbone" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    check_refused("is not what 01_pretrain.py wrote", out, timelines, changed)

    def remake(name: str, *weight_arguments: object) -> Path:
        run = copy(backbone, tmp_path / name)
        write_weights(run / "backbone" / "model.safetensors", *weight_arguments)
        artifacts.write_done(run, "01_pretrain", {}, artifacts.read_done(backbone, "01_pretrain")["inputs"])
        return run

    size = artifacts.read_table("vocabulary", timelines).height
    check_refused("not of one run", out, timelines, remake("short", {"model.embed_tokens.weight": [size - 1, 4]}))
    noted = remake("noted", {"model.embed_tokens.weight": [size, 4]}, {"format": "pt", "command": "x"})
    check_refused("notes beside its tensors", out, timelines, noted)
    longer = copy(backbone, tmp_path / "longer")
    with (longer / "backbone" / "model.safetensors").open("ab") as file:
        file.write(b"hidden")
    artifacts.write_done(longer, "01_pretrain", {}, artifacts.read_done(backbone, "01_pretrain")["inputs"])
    check_refused("longer or shorter than its tensors", out, timelines, longer)

    other_words = copy(backbone, tmp_path / "words")
    path = other_words / "backbone" / "vocabulary.parquet"
    pl.read_parquet(path).with_columns(token=pl.col("token") + "x").write_parquet(path)
    finish_again(other_words)
    check_refused("vocabulary.parquet of the model", out, timelines, other_words)

    other_inputs = copy(backbone, tmp_path / "inputs")
    artifacts.write_done(other_inputs, "01_pretrain", {}, {"timelines_dir": "another"})
    check_refused("made from other timelines", out, timelines, other_inputs)

    check_refused("fewer than --min_cell_count 1000", out, timelines, backbone, "--min_cell_count=1000")
    empty = tmp_path / "empty"
    empty.mkdir()
    check_refused("holds no run", out, timelines, backbone, f"--classifier_dir={empty}")

    occupied = tmp_path / "occupied"
    occupied.mkdir()
    (occupied / "file").write_text("x")
    with pytest.raises(InputError, match="holds files but no run"):
        export(occupied, timelines, backbone)
    assert [path.name for path in occupied.iterdir()] == ["file"]


def test_a_frozen_tokenizer_is_not_exported_again(timelines, backbone, tmp_path):
    frozen = tokenize(tmp_path / "00", f"--tokenizer_dir={timelines}")
    model = write_model(tmp_path / "01", frozen, "backbone", "01_pretrain")
    check_refused("written with a frozen tokenizer", tmp_path / "out", frozen, model)


def test_program_is_one_line_and_exit_code_2_for_wrong_input(timelines, tmp_path):
    command = [
        sys.executable,
        "-m",
        "clinrep.export",
        f"--timelines_dir={timelines}",
        f"--output_dir={tmp_path / 'out'}",
    ]
    done = subprocess.run(
        [*command, f"--backbone_dir={timelines}"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    errors = [line for line in done.stderr.splitlines() if "error:" in line]
    assert len(errors) == 1
    assert "expected a directory of 01_pretrain.py" in errors[0]
    assert "Traceback" not in done.stderr


def test_same_command_again_says_done(bundle, timelines, backbone):
    root = timelines.parent
    flags = [f"--classifier_dir={root / '02'}", f"--analyze_dir={root / '04'}", f"--min_cell_count={LEAST}"]
    with pytest.raises(SystemExit) as stop:
        export(root / "export", timelines, backbone, *flags, "--notice=Open data.")
    assert stop.value.code == 0
