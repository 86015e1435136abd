from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from clinrep.config import InputError, config_to_yaml, parse_config
from clinrep.modality import load_stage
from clinrep.search_config import SearchRange, apply, check_space
from tests.search_example import Example, Training, make

TEXT = """
output_dir: out
search:
  num_trials: 50
  space:
    training.learning_rate: {low: 5e-5, high: 5.0e-4, log: true}
    training.num_epochs: {low: 1, high: 3}
    width: {choices: [8, 16]}
    depth: {choices: [null, 2]}
"""


def parse(tmp_path: Path, text: str, *flags: str) -> Example:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    return parse_config(Example, ["--config", str(path), *flags], prog="x", story="")


def test_names_with_dots_survive_the_yaml_the_flags_and_the_way_back(tmp_path, capsys):
    config = parse(tmp_path, TEXT)
    assert list(config.search.space) == ["training.learning_rate", "training.num_epochs", "width", "depth"]
    assert config.search.space["training.learning_rate"] == SearchRange(low=5e-5, high=5e-4, log=True)
    assert parse(tmp_path, config_to_yaml(config)) == config
    changed = parse(tmp_path, TEXT, "--search.num_trials", "3", "--search.worker", "2")
    assert (changed.search.num_trials, changed.search.worker) == (3, 2)
    assert changed.search.space == config.search.space
    with pytest.raises(SystemExit):
        parse(tmp_path, TEXT, "--print_config")
    printed = capsys.readouterr().out
    assert yaml.safe_load(printed)["search"]["space"].keys() == config.search.space.keys()
    assert parse(tmp_path, printed) == config


def test_flags_need_no_group_in_the_file(tmp_path):
    assert parse(tmp_path, "output_dir: out").search.num_trials == 0
    with pytest.raises(InputError, match=r"search\.num_trials is 3 but must be 0 without a search\.space"):
        parse(tmp_path, "output_dir: out", "--search.num_trials", "3")
    with pytest.raises(InputError, match=r"search\.worker is 2 but must be null without a search"):
        parse(tmp_path, "output_dir: out", "--search.worker", "2")


def test_a_space_takes_the_types_of_its_settings(tmp_path):
    space = check_space(parse(tmp_path, TEXT))
    epochs = space["training.num_epochs"]
    assert (epochs.low, epochs.high) == (1, 3)
    assert isinstance(epochs.low, int)
    assert space["depth"].choices == [None, 2]
    whole = make(tmp_path, space={"training.learning_rate": SearchRange(low=1, high=2)})
    assert isinstance(check_space(whole)["training.learning_rate"].low, float)


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("learning_rate", {"low": 1, "high": 2}, "unknown setting to search 'learning_rate'; known: depth, is_tied,"),
        ("training", {"choices": [1]}, "unknown setting to search 'training'"),
        ("training.num_workers", {"low": 0, "high": 4}, "unknown setting"),
        ("output_dir", {"choices": ["a"]}, "output_dir cannot be searched: a search compares runs of one seed"),
        ("timelines_dir", {"choices": ["a"]}, "unknown setting"),
        ("seed", {"low": 1, "high": 9}, "seed cannot be searched: "),
        ("search.num_trials", {"low": 1, "high": 9}, "search.num_trials cannot be searched: "),
        ("names", {"choices": [["a"]]}, "unknown setting"),
        ("training.num_epochs", {"low": 1.5, "high": 3}, "training.num_epochs is 1.5 but must be a whole number"),
        ("training.learning_rate", {"low": 2, "high": 1}, "must have low at or below high"),
        ("training.learning_rate", {"low": 0, "high": 1, "log": True}, "must have low above 0 with log"),
        ("training.learning_rate", {"low": 0.1}, "must have low and high, or choices"),
        ("training.learning_rate", {}, "must have low and high, or choices"),
        ("training.learning_rate", {"low": 1, "high": 2, "choices": [1.0]}, "no low, high or log beside choices"),
        ("training.learning_rate", {"choices": [True]}, "must be a finite number"),
        ("width", {"choices": [8, 8]}, "must name each choice once"),
        ("width", {"choices": [None]}, "must be a whole number"),
        ("is_tied", {"low": 0, "high": 1}, "must have choices: the setting is no number"),
        ("is_tied", {"choices": ["yes"]}, "must be true or false"),
        ("shape", {"choices": ["oval"]}, r"be one of \['round', 'square'\]"),
        ("width", {"choices": [8, 10]}, "width = 10 makes no valid settings: width is 10 but must be a multiple of 4"),
        ("training.learning_rate", {"low": -1, "high": 1}, "= -1.0 makes no valid settings: learning_rate is -1.0"),
    ],
)
def test_wrong_spaces_are_refused(tmp_path, name, values, words):
    with pytest.raises(InputError, match=words):
        make(tmp_path, space={name: SearchRange(**values)})


def test_values_take_their_place_and_everything_is_checked_anew():
    config = Example(output_dir="out", width=8)
    changed = apply(config, {"training.learning_rate": 0.1, "training.num_epochs": 3, "width": 16})
    assert changed == Example(output_dir="out", width=16, training=Training(learning_rate=0.1, num_epochs=3))
    assert config.training == Training()
    for values in ({"training.learning_rate": -1.0}, {"width": 9}):
        with pytest.raises(InputError, match="must be"):
            apply(config, values)


@pytest.mark.parametrize(
    ("name", "more", "reason"),
    [
        ("block_size", [], "decides which tokens validation predicts"),
        ("packing.predict_padding", [], "decides which tokens validation predicts"),
        ("model.num_layers", ["--backbone_dir", "x"], "--backbone_dir decides it"),
    ],
)
def test_what_would_make_trials_incomparable_is_not_searched(name, more, reason):
    flags = ["--timelines_dir", "x", "--output_dir", "y", "--search.num_trials", "2", *more]
    with pytest.raises(InputError, match=f"{name} cannot be searched: .*{reason}"):
        load_stage("01_pretrain", "", [*flags, "--search.space", f"{{{name}: {{choices: [2, 4]}}}}"])
