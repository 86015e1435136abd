"""The model card says what the runs know, and asks for what they cannot know."""

import json
import re
import socket
from pathlib import Path

import polars as pl
import pytest
import yaml

from clinrep import artifacts
from clinrep.analysis.model_card import PARTS, format_card
from clinrep.modality import resolve
from tests.analysis.fake_runs import FakeSite, finish_again
from tests.fake_weights import write_weights

STAGE_00 = {
    "min_age_years": 18.0,
    "min_length_of_stay_hours": 24.0,
    "window": {"origin": "admission", "length_hours": 24.0, "is_end_closed": False},
    "train_fraction": 0.7,
    "val_fraction": 0.1,
    "num_bins": 10,
    "token_style": "separate",
    "gap_minutes": [],
    "clock_hours": 0,
    "clif_dir": "/data/secret/clif",
}
SHAPE = {"architectures": ["LlamaForCausalLM"], "num_hidden_layers": 3, "hidden_size": 8, "vocab_size": 100}


def write_backbone(directory: Path) -> Path:
    write_weights(directory / "backbone" / "model.safetensors", {"embed_tokens.weight": [100, 8], "norm.weight": [8]})
    (directory / "backbone" / "config.json").write_text(json.dumps(SHAPE))
    (directory / "config.yaml").write_text(yaml.safe_dump({"global_batch_tokens": 4096, "block_size": 512, "seed": 1}))
    (directory / "provenance.json").write_text(
        json.dumps({"commit": "abcdef0123456789", "is_dirty": False, "started": "2031-05-06T07:08:09+00:00"})
    )
    losses = [(1, "train", "loss", 5.5), (9, "train", "loss", 2.25), (5, "val", "eval_loss", 2.5)]
    losses += [(9, "val", "eval_loss", 2.75)]
    lines = [dict(zip(("step", "split", "name", "value"), loss, strict=True)) for loss in losses]
    (directory / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 10')
    artifacts.write_done(directory, "01_pretrain", {"tokens/train": 123_456}, {})
    return directory


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    site = FakeSite(tmp_path_factory.mktemp("site"), num_stays=400).write()
    backbone = write_backbone(site.root / "01")
    saved = yaml.safe_load((site.timelines / "config.yaml").read_text())
    (site.timelines / "config.yaml").write_text(yaml.safe_dump(saved | STAGE_00))
    finish_again(site.timelines)
    (site.representations / "config.yaml").write_text(yaml.safe_dump({"backbone_dir": str(backbone)}))
    inputs = artifacts.read_done(site.representations, "03_extract_reps")["inputs"]
    inputs["backbone_dir"] = artifacts.fingerprint(backbone)
    artifacts.write_done(site.representations, "03_extract_reps", {}, inputs)
    return site


def run(site, output: Path, *flags: str) -> Path:
    quick = ["--num_bootstraps=50", "--layers=[2]", "--poolings=[mean]", "--sections=[model_card,tripod]"]
    resolve("04_analyze:main")([*quick, *site.flags("demo"), f"--output_dir={output}", *flags])
    return output


@pytest.fixture(scope="module")
def output(site, tmp_path_factory):
    return run(site, tmp_path_factory.mktemp("run") / "out")


def read_card(output: Path) -> dict[tuple[str, str], str]:
    table = pl.read_csv(output / "tables" / "model_card.csv")
    return {(part, item): content for part, item, content in table.iter_rows()}


def test_card_has_the_headings_of_mitchell_et_al(output):
    titles = re.findall(r"^## (.*)$", (output / "model_card.md").read_text(), re.MULTILINE)
    assert titles == list(PARTS)
    assert titles == [
        *("Model details", "Intended use", "Factors", "Metrics", "Training data", "Evaluation data"),
        *("Quantitative analyses", "Ethical considerations", "Caveats and recommendations"),
    ]


def test_card_tells_the_model_and_its_training(output):
    card = read_card(output)
    assert "3 layers, width 8" in card["Model details", "Backbone"]
    assert "808 parameters" in card["Model details", "Backbone"]  # 100 x 8 + 8
    words = card["Model details", "Pretraining"]
    assert "9 optimizer steps of 4,096 places for tokens" in words
    assert "123,456 tokens" in words
    assert "last loss 2.25 nats a token in training, best in validation 2.5" in words
    assert "01_pretrain: commit abcdef012345, run on 2031-05-06" in card["Model details", "Code"]
    assert "70% train, 10% validation, 20% test" in card["Training data", "Split"]
    assert "discharge_category is Expired" in card["Evaluation data", "Outcome: In hospital death"]


def test_card_prints_the_scores_of_the_table_and_none_of_few_stays(output):
    card, scores = read_card(output), artifacts.read_table("scores", output)
    name = "In hospital death at demo: Fine-tuned classifier"
    auroc = scores.filter(outcome="in_hospital_death", metric="auroc", model="classifier").row(0, named=True)
    words = f"AUROC {auroc['estimate']:.3f} ({auroc['low']:.3f}\N{EN DASH}{auroc['high']:.3f})"
    assert words in card["Quantitative analyses", name]
    few = {item: content for (_, item), content in card.items() if item.startswith("Imv event at")}
    assert few
    assert all(content.startswith("not shown: fewer than 11 test patients") for content in few.values())
    assert not re.search(r"\(1\)", (output / "model_card.md").read_text())


def test_card_counts_stays_and_hides_small_splits(site, output, tmp_path):
    test = site.stays.filter(split="test")
    shown = f"{test.height} stays of {test['patient_id'].n_unique()} patients"
    assert read_card(output)["Evaluation data", "Size of test at demo"] == shown
    hidden = run(site, tmp_path / "out", f"--min_cell_count={test['patient_id'].n_unique() + 1}")
    assert read_card(hidden)["Evaluation data", "Size of test at demo"].startswith("fewer than")


def test_card_asks_for_what_no_run_knows_and_names_no_path_or_machine(output):
    card, text = read_card(output), (output / "model_card.md").read_text()
    for item in ("Primary intended uses", "Primary intended users"):
        assert card["Intended use", item].startswith("[to be filled in: ")
    assert "not assessed" in card["Ethical considerations", "Memorisation"]
    assert "/data" not in text
    assert str(output) not in text
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)


def test_a_backbone_that_changed_is_not_described(site, tmp_path):
    other = FakeSite(tmp_path / "site", num_stays=400).write()
    backbone = write_backbone(other.root / "01")
    (other.representations / "config.yaml").write_text(yaml.safe_dump({"backbone_dir": str(backbone)}))
    inputs = artifacts.read_done(other.representations, "03_extract_reps")["inputs"] | {"backbone_dir": "another"}
    artifacts.write_done(other.representations, "03_extract_reps", {}, inputs)
    card = read_card(run(other, tmp_path / "out"))
    assert card["Model details", "Backbone"].startswith("[to be filled in: the run of 01_pretrain.py was not found")
    assert ("Model details", "Pretraining") not in card
    assert "[to be filled in: not known to the run]" in card["Training data", "Cohort"]


def test_words_of_a_hospital_make_no_html_and_no_line():
    row = {"part": "Factors", "item": "race: <script>\n# x", "content": "a\r\n- **b** <img src=x>"}
    assert format_card(pl.DataFrame([row])).splitlines()[-1] == (r"- **race: \<script> # x**: a - **b** \<img src=x>")
