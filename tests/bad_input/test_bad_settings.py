"""Settings files and flags of every stage that are none, of another stage, or no numbers."""

from __future__ import annotations

import copy
import dataclasses
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from clinrep.config import InputError
from clinrep.modality import load_stage
from tests.bad_input import settings_cases
from tests.bad_input.workshop import Case, parametrize
from tests.scripts import ROOT

STAGES = ("00_tokenize", "01_pretrain", "02_finetune", "03_extract_reps", "04_analyze")


@parametrize(settings_cases.FILES)
def test_bad_files_are_refused(case: Case, tmp_path: Path) -> None:
    case.damage(tmp_path)
    with pytest.raises(InputError) as refusal:
        load_stage("03_extract_reps", "", [f"--config={tmp_path / 'x.yaml'}"])
    message = str(refusal.value)
    assert "x.yaml" in message
    assert "\n" not in message
    assert not [word for word in case.words if word not in message], message


@pytest.mark.parametrize(("stage", "other"), list(zip(STAGES, [*STAGES[1:], STAGES[0]], strict=True)))
def test_the_file_of_another_stage_is_refused(stage: str, other: str) -> None:
    with pytest.raises(InputError, match=r"another stage|did you mean|not accepted|missing|Expected") as refusal:
        load_stage(stage, "", [f"--config={ROOT / 'configs/ehr/demo' / other}.yaml"])
    assert "\n" not in str(refusal.value)


def list_numbers(config: Any, prefix: str = "") -> list[str]:
    """Return the names of the settings that are numbers, those of groups too."""
    names = []
    for name, hint in get_type_hints(config).items():
        if dataclasses.is_dataclass(hint):
            names += list_numbers(hint, f"{prefix}{name}.")
        elif float in (hint, *get_args(hint)):
            names.append(prefix + name)
    return names


def load_demo(stage: str, *flags: str) -> Any:
    return load_stage(stage, "", [f"--config={ROOT / 'configs/ehr/demo' / stage}.yaml", *flags])[1]


@pytest.mark.parametrize("stage", ["01_pretrain", "02_finetune"])
def test_no_setting_takes_what_is_no_number(stage: str, tmp_path: Path) -> None:
    base = yaml.safe_load((ROOT / "configs/ehr/demo" / f"{stage}.yaml").read_text())
    base |= {"outcome": "icu_admission"} if stage == "02_finetune" else {}
    names = list_numbers(type(load_demo(stage, *(["--outcome=icu_admission"] if stage == "02_finetune" else []))))
    assert len(names) > 5
    for name in ("training.learning_rate", "training.weight_decay", "training.num_epochs"):
        with pytest.raises(InputError, match=name.rpartition(".")[2]):
            load_demo(stage, "--outcome=icu_admission" if stage == "02_finetune" else "--seed=1", f"--{name}=inf")
    path = tmp_path / "x.yaml"
    for name in names:
        content = copy.deepcopy(base)
        *groups, key = name.split(".")
        place = content
        for group in groups:
            place = place.setdefault(group, {})
        place[key] = float("nan")
        path.write_text(yaml.safe_dump(content))
        with pytest.raises(InputError, match=key):
            load_stage(stage, "", [f"--config={path}"])


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=8), st.lists(st.integers(), max_size=2),
    st.dictionaries(st.text(max_size=3), st.integers(), max_size=2),
)  # fmt: skip


@settings(derandomize=True, deadline=None, max_examples=25, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(
    name=st.sampled_from(["seed", "max_length", "batch_tokens", "layers", "poolings", "splits", "zero_shot"]),
    value=VALUES,
)
def test_any_value_of_a_setting_is_taken_or_refused_in_a_line(tmp_path: Path, name: str, value: Any) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(yaml.safe_dump({name: value}))
    flags = ["--timelines_dir=a", "--backbone_dir=b", "--output_dir=c", f"--config={path}"]
    message = name
    try:
        load_stage("03_extract_reps", "", flags)
    except InputError as error:
        message = str(error)
    assert name in message
    assert "\n" not in message
