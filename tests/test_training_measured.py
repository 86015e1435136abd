"""Speed, FLOPs and disk as they are measured and said, against numbers worked out by hand."""

from __future__ import annotations

import logging
import shutil
import time
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import LlamaConfig, LlamaForSequenceClassification
from transformers.integrations import integration_utils

from clinrep.training import mean_token_loss
from clinrep.training.arguments import prepare_model
from clinrep.training.checkpoints import Checkpoints
from clinrep.training.throughput import ModelFlops, StepMeter, count_parameters, measure_model
from tests.tiny_training import CONFIG, LENGTH, Rows, collate_with_counts, make_model, read_metrics, run_training

# hidden 16, inner 16, 1 layer: 4 attention and 3 feed-forward matrices
LAYER_WEIGHTS = 4 * 16 * 16 + 3 * 16 * 16
EMBEDDING = 11 * 16


def test_a_tied_embedding_is_a_matmul_once_and_an_untied_one_never() -> None:
    assert measure_model(make_model()) == ModelFlops(LAYER_WEIGHTS + EMBEDDING, 1 * 2 * 8)
    assert measure_model(make_model(tie_word_embeddings=False)) == ModelFlops(LAYER_WEIGHTS + EMBEDDING, 1 * 2 * 8)
    wide = make_model(num_hidden_layers=3, head_dim=6)
    assert measure_model(wide).attention_width == 3 * 2 * 6


def test_a_classifier_counts_its_head_and_not_its_embedding() -> None:
    config = make_model().config.to_dict() | {"num_labels": 2}
    model = LlamaForSequenceClassification(LlamaConfig(**config))
    assert measure_model(model).matmul_weights == LAYER_WEIGHTS + 2 * 16


def test_flops_are_six_a_weight_and_token_and_twelve_a_pair_and_width() -> None:
    assert ModelFlops(1000, 16).count(num_tokens=10, attention_pairs=55) == 6 * 1000 * 10 + 12 * 16 * 55
    # of frozen weights no gradient is computed: forward and the gradient of their inputs are left
    half = ModelFlops(1000, 16, frozen_weights=400)
    assert half.count(num_tokens=10, attention_pairs=0) == (6 * 600 + 4 * 400) * 10


class Clock:
    """A clock that a test sets forward."""

    now = 100.0

    def __call__(self) -> float:
        return self.now

    def give(self, batches: list[dict[str, Any]], seconds: float) -> Iterator[dict[str, Any]]:
        for batch in batches:
            self.now += seconds
            yield batch


def run_step(meter: StepMeter, clock: Clock, batches: list[dict[str, Any]]) -> dict[str, float]:
    """Load `batches` in 0.25 s each, compute 1 s, and return what was measured."""
    clock.now += 50  # validation and saving
    meter.pause()
    meter.start()
    seen = list(meter.watch(clock.give(batches, 0.25)))
    assert all(batch.keys() == {"labels"} for batch in seen)
    clock.now += 1
    return meter.finish()


def test_a_step_is_measured_from_its_first_batch_to_its_end_over_all_ranks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two ranks: the other has 80 tokens and 300 pairs and waited 0.1 s; a step of 1.5 s."""
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr("clinrep.distributed.sum_numbers", lambda own: [own[0] + 80, own[1] + 300, own[2] + 0.1])
    clock = Clock()
    meter = StepMeter(ModelFlops(1000, 16), peak_tflops=1e-6, clock=clock)
    batches = [{"labels": 0, "num_tokens": 40, "attention_pairs": 100} for _ in range(2)]
    for _ in range(2):  # a second step begins at 0 again
        found = run_step(meter, clock, [dict(batch) for batch in batches])
        flops = 6 * 1000 * 160 + 12 * 16 * 500
        assert found == pytest.approx(
            {"tokens_per_second": 160 / 1.5, "data_seconds": 0.3, "mfu": flops / (1.5 * 2 * 1e6)}
        )


def test_without_a_pause_a_step_lasts_from_the_end_of_the_last() -> None:
    """Records, trackers and progress between two steps are somebody's time too."""
    clock = Clock()
    meter = StepMeter(ModelFlops(1, 1), None, clock)
    batch = {"labels": 0, "num_tokens": 40, "attention_pairs": 100}
    run_step(meter, clock, [dict(batch)])
    clock.now += 0.75
    meter.start()
    list(meter.watch(clock.give([dict(batch)], 0.25)))
    clock.now += 1
    assert meter.finish()["tokens_per_second"] == pytest.approx(40 / 2.0)


def test_what_is_not_known_is_not_written() -> None:
    clock = Clock()
    full, tokens, none = (
        {"labels": 0, "num_tokens": 40, "attention_pairs": 100},
        {"labels": 0, "num_tokens": 40},
        {"labels": 0},
    )
    with_peak, without = (StepMeter(ModelFlops(1000, 16), peak, clock) for peak in (1.0, None))
    assert run_step(with_peak, clock, [dict(full)]).keys() == {"tokens_per_second", "data_seconds", "mfu"}
    assert run_step(without, clock, [dict(full)]).keys() == {"tokens_per_second", "data_seconds"}
    assert run_step(with_peak, clock, [dict(full), dict(tokens)]).keys() == {"tokens_per_second", "data_seconds"}
    assert run_step(with_peak, clock, [dict(full), dict(none)]) == {}


def test_a_run_records_its_speed_without_padding_and_validation(tmp_path: Path) -> None:
    """5 rows a step of 6 items: the filler is no token. mfu / tokens_per_second is FLOPs a token / peak."""

    class SlowRows(Rows):
        def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
            time.sleep(0.03)
            return super().__getitem__(index)

    def evaluate_slowly(model: torch.nn.Module) -> dict[str, float]:
        time.sleep(0.5)
        return {"eval_loss": 1.0}

    config = replace(CONFIG, peak_tflops=1e-3)
    run_training(tmp_path, SlowRows(5), config, evaluate_slowly, items_per_step=6, collate=collate_with_counts)
    speed, mfu, waited = (read_metrics(tmp_path, name) for name in ("tokens_per_second", "mfu", "data_seconds"))
    assert speed.keys() == mfu.keys() == waited.keys() == set(range(1, 13))
    per_token = 6 * (LAYER_WEIGHTS + EMBEDDING) + 12 * 16 * (LENGTH + 1) / 2
    assert mfu[7] / speed[7] == pytest.approx(per_token / 1e9)
    for step in (4, 5, 8, 9):  # before and after a validation
        seconds = 5 * LENGTH / speed[step]
        assert 5 * 0.03 <= waited[step] < seconds < 0.5


# Disk


@pytest.fixture
def larger_model() -> Any:
    return make_model(hidden_size=128, intermediate_size=256, num_hidden_layers=2)


def test_the_disk_said_at_the_start_is_what_a_run_takes(
    tmp_path: Path, larger_model: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "clinrep"):
        run_training(tmp_path, Rows(5), replace(CONFIG, keep_checkpoints=3), model=larger_model)
    num_parameters = count_parameters(larger_model)
    checkpoints = Checkpoints(tmp_path / "checkpoints", 3)
    assert len(list(checkpoints.directory.iterdir())) == 3
    estimate = checkpoints.estimate_bytes(num_parameters)
    assert checkpoints.count_bytes() == pytest.approx(estimate * 3 / 4, rel=0.05), "and a fourth while it is written"
    assert f"disk: checkpoints and model need up to {(estimate + 4 * num_parameters) / 1e9:.3g} GB" in caplog.text
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_too_little_disk_is_a_warning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: namedtuple("Usage", "free")(1000))
    run_training(tmp_path, Rows(5))
    assert "are free: too little" in caplog.text


# How a model computes


def test_gradient_checkpointing_computes_layers_again(tmp_path: Path) -> None:
    counts = []
    for is_on in (False, True):
        model, calls = make_model(), []
        model.model.layers[0].mlp.register_forward_pre_hook(
            lambda *unused, calls=calls: calls.append(torch.is_grad_enabled())
        )
        config = replace(CONFIG, max_steps=4, gradient_checkpointing=is_on)
        run_training(tmp_path / str(is_on), Rows(4), config, model=model, evaluate=lambda model: {"eval_loss": 1.0})
        counts.append(len(calls))
    assert counts == [4, 8]
    losses = [read_metrics(tmp_path / name, "loss") for name in ("False", "True")]
    assert losses[0] == losses[1]


def test_compile_is_asked_for_each_layer_with_fixed_shapes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled: list[tuple[str, dict[str, Any]]] = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **named: compiled.append((type(self).__name__, named)))
    run_training(tmp_path, Rows(4), replace(CONFIG, compile=True), model=make_model(num_hidden_layers=2))
    assert compiled == [("LlamaDecoderLayer", {"dynamic": False})] * 2


def test_bf16_on_a_gpu_takes_tf32_for_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    for device, precision in (("cpu", "bf16"), ("cuda", "fp32"), ("cuda", "bf16")):
        monkeypatch.setattr("clinrep.distributed.choose_device", lambda device=device: torch.device(device))
        prepare_model(make_model(), replace(CONFIG, precision=precision))
    assert asked == ["highest", "high"], "an fp32 trial of a search may follow one in bf16"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="torch.compile on a CPU needs a C++ compiler")
def test_a_compiled_model_learns_and_is_saved_as_any_other(tmp_path: Path) -> None:
    """Validated on batches of the size of training's: every other shape would be compiled too, for seconds."""
    config = replace(CONFIG, max_steps=4)
    evaluate = partial(mean_token_loss, dataset=Rows(4, seed=5), batch_size=2)
    plain, _ = run_training(tmp_path / "plain", Rows(4), config, evaluate)
    found, _ = run_training(tmp_path / "compiled", Rows(4), replace(config, compile=True), evaluate)
    assert found.model.layers[0]._compiled_call_impl is not None
    losses = [list(read_metrics(tmp_path / name, "loss").values()) for name in ("plain", "compiled")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)
    assert found.state_dict().keys() == plain.state_dict().keys()
    resumed, _ = run_training(tmp_path / "compiled", Rows(4), replace(config, compile=True), evaluate)
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in resumed.state_dict().items())


# Trackers


def test_metrics_reach_a_tracker_whose_files_lie_in_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """tensorboard, as transformers calls it, but for its writer."""
    scalars: dict[tuple[str, int], float] = {}
    folders: list[str] = []

    class Writer:
        def __init__(self, log_dir: str) -> None:
            folders.append(log_dir)

        def add_scalar(self, name: str, value: float, step: int) -> None:
            scalars[name, step] = value

        def __getattr__(self, name: str) -> Any:
            return lambda *words: None

    class Callback(integration_utils.TensorBoardCallback):
        def __init__(self) -> None:
            self._SummaryWriter, self.tb_writer, self.logging_dir = Writer, None, "/elsewhere"

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "tensorboard", Callback)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name)
    run_training(tmp_path, Rows(4), replace(CONFIG, report_to=["tensorboard"]), collate=collate_with_counts)
    assert folders == [str(tmp_path / "tensorboard")]
    assert scalars["train/loss", 5] == read_metrics(tmp_path, "loss")[5]
    assert scalars["train/tokens_per_second", 12] == read_metrics(tmp_path, "tokens_per_second")[12]
    assert scalars["eval/loss", 8] == read_metrics(tmp_path, "eval_loss")[8]
