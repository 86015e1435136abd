"""What a modality supplies to the stages, and where each is found."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from clinrep.config import lookup, parse_config, scan_setting

# Name in a YAML -> package with a MODALITY. A new modality is one line here and one folder.
MODALITIES = {"ehr": "clinrep.ehr"}


@dataclass(frozen=True)
class Modality:
    """The config classes and functions that make the five stages those of one kind of data.

    Functions that need torch are `lazy`, so that stages 00 and 04 never import it.
    """

    name: str
    config_classes: dict[str, str]
    """Stage stem -> 'module:class' of its config."""
    # stage 00
    open_source: Callable[..., Any]
    read_cohort: Callable[..., Any]
    split_patients: Callable[..., Any]
    read_events: Callable[..., Any]
    tokenize: Callable[..., Any]
    iterate_parts: Callable[..., Any]
    report_site: Callable[..., Any]
    audit_timelines: Callable[..., Any]
    # stage 01, which begins and ends with audit_outputs
    load_blocks: Callable[..., Any]
    build_language_model: Callable[..., Any]
    # stages 02 and 03
    load_sequences: Callable[..., Any]
    load_classifier: Callable[..., Any]
    load_encoder: Callable[..., Any]
    load_frozen_language_model: Callable[..., Any]
    read_questions: Callable[..., Any]
    audit_outputs: Callable[..., Any]
    # stage 04 and the export
    read_stay_inputs: Callable[..., Any]
    describe_question: Callable[..., Any]
    audit_sites: Callable[..., Any]
    export_tokenizer: Callable[..., Any]


def lazy(target: str) -> Callable[..., Any]:
    """Return a function that imports 'module:function' when first called."""

    def call(*positional: Any, **named: Any) -> Any:
        return resolve(target)(*positional, **named)

    call.__name__ = target.partition(":")[2]
    call.__doc__ = f"Call {target}."
    call.target = target  # type: ignore[attr-defined]  # a test resolves every target
    return call


def resolve(target: str) -> Any:
    """Return the object that 'module:name' names."""
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)


def load_modality(name: str) -> Modality:
    """Return the modality called `name`; an unknown one is an InputError listing the known."""
    modality: Modality = importlib.import_module(lookup(MODALITIES, name, "modality")).MODALITY
    return modality


def load_stage(stage: str, story: str | None, argv: Sequence[str]) -> tuple[Modality, Any]:
    """Return the modality a stage's settings name and the stage's frozen config."""
    modality = load_modality(scan_setting(argv, "modality", "ehr"))
    config_class = resolve(lookup(modality.config_classes, stage, "stage"))
    return modality, parse_config(config_class, argv, prog=f"{stage}.py", story=story or "")
