from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
import yaml

from clinrep.config import InputError, StageConfig, config_to_yaml, lookup, parse_config, require, scan_setting


@dataclass(frozen=True, kw_only=True)
class Group:
    """A group."""

    rate: float = 0.5
    """Share of something."""

    def __post_init__(self) -> None:
        require(self.rate > 0, "rate", self.rate, "be above 0", "try 0.5")


@dataclass(frozen=True, kw_only=True)
class Slope:
    """A group that may be null, and that needs two of its settings."""

    rise: float
    run: float
    steps: int | None = None

    def __post_init__(self) -> None:
        require(self.run != 0, "slope.run", self.run, "not be 0", "use 1")


@dataclass(frozen=True, kw_only=True)
class Span:
    """An entry."""

    low: float | None = None
    high: float | None = None
    choices: list[Any] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A group with groups."""

    limit: int | None = None
    slope: Slope | None = None
    inner: Group = field(default_factory=Group)


@dataclass(frozen=True, kw_only=True)
class Rich(StageConfig):
    """Settings of every type."""

    words: list[str] = field(default_factory=list)
    some_words: list[str] | None = None
    level: Literal["a", "b"] | None = None
    either: int | bool | None = None
    dirs: dict[str, str] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    slopes: list[Slope] = field(default_factory=list)
    outer: Outer = field(default_factory=Outer)


@dataclass(frozen=True, kw_only=True)
class Example(StageConfig):
    """Settings of nothing."""

    words: list[str] = field(default_factory=list)
    dirs: dict[str, str] = field(default_factory=dict)
    group: Group = field(default_factory=Group)


def parse(*argv: str) -> Example:
    return parse_config(Example, argv, "example.py", "Story.")


def write(path, **values):
    path.write_text(yaml.safe_dump(values))
    return str(path)


def test_later_files_win_over_earlier_and_flags_over_files(tmp_path):
    first = write(tmp_path / "a.yaml", output_dir="a", seed=1, group={"rate": 0.1}, words=["x"])
    second = write(tmp_path / "b.yaml", seed=2)
    config = parse("--config", first, "--config", second, "--group.rate", "0.3")
    assert (config.output_dir, config.seed, config.group.rate, config.words) == ("a", 2, 0.3, ["x"])


def test_a_dictionary_takes_one_flag_per_key(tmp_path):
    path = write(tmp_path / "a.yaml", output_dir="a", dirs={"mimic": "m"})
    assert parse("--config", path, "--dirs.ucmc", "u").dirs == {"mimic": "m", "ucmc": "u"}


def test_saved_config_reads_back_equal(tmp_path):
    config = parse("--output_dir", "a", "--words", "[é, b]", "--dirs.s", "d", "--group.rate", "0.25")
    path = tmp_path / "config.yaml"
    path.write_text(config_to_yaml(config))
    assert parse("--config", str(path)) == config


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["--output_dir", "a", "--sed", "1"], ["--sed"]),
        (["--output_dir", "a", "--group.rat", "1"], ["group.rat"]),
        (["--output_dir", "a", "--group.rat", "1"], ["did you mean 'group.rate'"]),
        (["--output_dir", "a", "--seed", "one"], ["seed", "Expected a whole number", "one"]),
        (["--output_dir", "a", "--log_level", "LOUD"], ["log_level", "LOUD", "Expected one of 'DEBUG', 'INFO'"]),
        (["--output_dir", "a", "--group.rate", "0"], ["rate", "0.0", "be above 0", "try 0.5"]),
        (["--output_dir", "a", "--seed", "-1"], ["seed", "-1", "use 42"]),
        (["--seed", "1"], ["output_dir", "required"]),
        (["--config", "nowhere.yaml"], ["nowhere.yaml", "does not exist"]),
        (["--output_di", "a"], ["output_di"]),
    ],
)
def test_a_wrong_setting_is_one_line_that_names_it(argv, words):
    with pytest.raises(InputError) as caught:
        parse(*argv)
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


JARGON = ("Union", "class_path", "Namespace", "<class", "Subtypes", "Parser key", "subclass", "NoneType", "functools")


def refuse(*argv: str) -> str:
    """Return how `Rich` refuses the words."""
    with pytest.raises(InputError) as caught:
        parse_config(Rich, ["--output_dir", "a", *argv], "example.py", "Story.")
    message = str(caught.value)
    assert "\n" not in message
    assert not [word for word in JARGON if word in message], message
    return message


SOME_SPAN = "in an entry (Span): Expected some of {low: ..., high: ..., choices: ...}"
SOME_OUTER = "--outer: Expected settings, as --outer.NAME VALUE or {NAME: VALUE}"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("outer.limit", "1.5", "--outer.limit: Expected a whole number or null, got '1.5'"),
        ("outer.limit", "none", "--outer.limit: Expected a whole number or null, got 'none'"),
        ("outer.limit", "[1]", "--outer.limit: Expected a whole number or null, got [1]"),
        ("either", "x", "--either: Expected a whole number or true or false or null, got 'x'"),
        ("level", "c", "--level: Expected one of 'a', 'b' or null, got 'c'"),
        ("seed", "null", "--seed: Expected a whole number, got null"),
        ("seed", "", "--seed: Expected a whole number, got ''"),
        ("show_progress", "3", "--show_progress: Expected true or false, got '3'"),
        ("words", "tensorboard", "--words: Expected a list, as [tensorboard], got 'tensorboard'"),
        ("words", "null", "--words: Expected a list, got null"),
        ("words", "{a: 1}", "--words: Expected a list, got {'a': 1}"),
        ("words", "[1]", "--words: Expected text, got '1'"),
        ("some_words", "x", "--some_words: Expected a list or null, as [x], got 'x'"),
        ("some_words", "[1]", "--some_words: Expected text, got '1'"),
        ("dirs", "[a]", "--dirs: Expected one value a name, as {NAME: VALUE}, got ['a']"),
        ("outer.slope", "{rise: 1}", "--outer.slope: missing run"),
        ("outer.slope.rise", "1", "--outer.slope: missing run"),
        ("outer.slope", "3", "--outer.slope: Expected {rise: ..., run: ...} or null, got '3'"),
        ("outer.slope", "{up: 1}", "--outer.slope: unknown 'up'; known: rise, run, steps"),
        ("outer.slope", "{rise: x, run: 1}", "--outer.slope: rise: Expected a number, got 'x'"),
        (
            *("outer.slope", "{rise: 1, run: 1, steps: x}"),
            "--outer.slope: steps: Expected a whole number or null, got 'x'",
        ),
        ("outer.slope", "{rise: 1, run: 0}", "slope.run is 0.0 but must not be 0; use 1"),
        ("spans", "{a.b: [1, 2]}", f"--spans: {SOME_SPAN}, got [1, 2]"),
        ("spans", "{a.b: null}", f"--spans: {SOME_SPAN}, got null"),
        ("spans", "{a.b: {min: 1}}", "--spans: in an entry (Span): unknown 'min'; known: low, high, choices"),
        ("spans", "{a.b: {low: x}}", "--spans: in an entry (Span): low: Expected a number or null, got 'x'"),
        ("slopes", "[{run: 1}]", "--slopes: in an entry (Slope): missing rise"),
        ("slopes", "[3]", "--slopes: in an entry (Slope): Expected {rise: ..., run: ...}, got '3'"),
        ("outer", "null", f"{SOME_OUTER}, got null"),
        ("outer", "3", f"{SOME_OUTER}, got '3'"),
        ("outer", "{", f"{SOME_OUTER}, got {{"),
        ("outer", "{limit: x}", "--outer.limit: Expected a whole number or null, got 'x'"),
        ("outer", "{limits: 1}", "Group 'outer' does not accept option 'limits'; did you mean 'limit'?"),
    ],
)
def test_a_wrong_value_is_refused_in_plain_words(name, value, message):
    assert refuse(f"--{name}", value) == message


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("outer: {limit: 1.5}", "--outer.limit: Expected a whole number or null, got '1.5'"),
        ("outer: {slope: {rise: 1}}", "--outer.slope: missing run"),
        ("outer: {slope: 3}", "--outer.slope: Expected {rise: ..., run: ...} or null, got '3'"),
        ("outer: null", f"{SOME_OUTER}, got null"),
        ("outer: [1]", f"{SOME_OUTER}, got [1]"),
        (
            "outer: {inner: null}",
            "--outer.inner: Expected settings, as --outer.inner.NAME VALUE or {NAME: VALUE}, got null",
        ),
        ("seed: null", "--seed: Expected a whole number, got null"),
        ("words: null", "--words: Expected a list, got null"),
        ("log_level: null", "--log_level: Expected one of 'DEBUG', 'INFO', 'WARNING', got null"),
        ("spans: {a: [1]}", f"--spans: {SOME_SPAN}, got [1]"),
    ],
)
def test_a_wrong_value_of_a_file_is_refused_in_plain_words(tmp_path, text, message):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    assert refuse("--config", str(path)) == message


def test_null_is_a_value_where_a_setting_may_have_none(tmp_path):
    path = write(tmp_path / "a.yaml", output_dir="a", some_words=None, outer={"limit": None, "slope": None})
    assert parse_config(Rich, ["--config", path], "example.py", "Story.") == Rich(output_dir="a")


def test_an_unknown_key_of_a_file_is_refused(tmp_path):
    path = write(tmp_path / "a.yaml", output_dir="a", grupo={"rate": 1})
    with pytest.raises(InputError, match="grupo"):
        parse("--config", path)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "holds nothing; expected lines of 'key: value'"),
        ("- a\n- b\n", "holds a list"),
        ("seed: 1\nwords: [a\n", "is not valid YAML in line"),
        ("seed: 1\nseed: 2\n", "is not valid YAML in line 1: twice: seed"),
        ("group: {rate: 1, rate: 2}\n", "twice: rate"),
        ("group: &a {rate: 1}\ndirs: {<<: *a, x: 1, x: 2}\n", "in line 2: twice: x"),
    ],
)
def test_a_broken_file_is_named(tmp_path, text, words):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        parse("--config", str(path), "--output_dir", "a")
    assert f"--config {path}" in str(caught.value)
    assert words in str(caught.value)


def test_merged_keys_are_taken_over_and_may_be_set_anew(tmp_path):
    """What is merged was written once, also where a group that merges is merged into another."""
    path = tmp_path / "a.yaml"
    path.write_text(
        "output_dir: a\nouter:\n  slope: &slope {rise: 1, run: 2}\n"
        "slopes:\n- &steep {<<: *slope, rise: 5}\n- {<<: [*steep, *slope], steps: 3}\n"
    )
    config = parse_config(Rich, ["--config", str(path)], "example.py", "Story.")
    assert config.slopes == [Slope(rise=5, run=2), Slope(rise=5, run=2, steps=3)]


def test_names_of_a_dictionary_may_hold_dots_and_config(tmp_path):
    path = write(tmp_path / "a.yaml", output_dir="a", dirs={"site.a": "m", "config": "n"})
    config = parse("--config", path)
    assert config.dirs == {"site.a": "m", "config": "n"}
    saved = tmp_path / "config.yaml"
    saved.write_text(config_to_yaml(config))
    assert parse("--config", str(saved)) == config


def test_help_shows_field_docstrings(capsys):
    with pytest.raises(SystemExit) as caught:
        parse("--help")
    assert caught.value.code == 0
    assert "Share of something." in capsys.readouterr().out


def test_print_config_is_complete(capsys):
    with pytest.raises(SystemExit):
        parse("--output_dir", "a", "--print_config")
    assert yaml.safe_load(capsys.readouterr().out)["group"] == {"rate": 0.5}


def test_lookup_lists_known_names_and_guesses():
    with pytest.raises(InputError) as caught:
        lookup({"death": 1, "icu_admission": 2}, "icu_admision", "outcome")
    assert str(caught.value) == (
        "unknown outcome 'icu_admision'; known: death, icu_admission. Did you mean 'icu_admission'?"
    )


def test_modality_is_scanned_by_the_same_precedence(tmp_path):
    first, second = write(tmp_path / "a.yaml", modality="ecg"), write(tmp_path / "b.yaml", modality="notes")
    assert scan_setting([], "modality", "ehr") == "ehr"
    assert scan_setting(["--config", first, f"--config={second}"], "modality", "ehr") == "notes"
    assert scan_setting(["--modality", "text", "--config", first], "modality", "ehr") == "text"


def test_config_without_a_file_is_refused(tmp_path):
    path = write(tmp_path / "a.yaml", seed=1, output_dir="of the file")
    with pytest.raises(InputError, match="--config stands last, without a file"):
        parse(str(path), "--config")


def test_flags_win_over_files_wherever_they_stand(tmp_path):
    path = write(tmp_path / "a.yaml", seed=1, output_dir="of the file")
    for argv in (["--seed", "5", "--config", str(path)], ["--seed=5", f"--config={path}"]):
        assert parse(*argv).seed == 5


def test_one_reading_of_settings_leaves_nothing_to_the_next(tmp_path):
    """What reads them is made once a class, and lists, dictionaries and groups can be changed in place."""
    plain = ["--output_dir=out"]
    path = write(
        tmp_path / "a.yaml", dirs={"file": "f"}, words=["file"], outer={"limit": 3, "slope": {"rise": 1, "run": 2}}
    )
    changes = [["--dirs.a=1"], ["--dirs.b=2"], ["--words+=x"], ["--words=[y]"], [f"--config={path}"], ["--seed=x"],
               ["--nonsense=1"], ["--outer.slope.rise=1", "--outer.slope.run=2"], ["--outer.slope.rise=1"],
               ["--outer.inner.rate=0.1"], ["--spans.a.low=1"]]  # fmt: skip
    default = Rich(output_dir="out")
    for change in [*changes, *changes[::-1]]:
        with contextlib.suppress(InputError):
            assert parse_config(Rich, [*plain, *change], "stage", "") != default, change
        assert parse_config(Rich, plain, "stage", "") == default, change
