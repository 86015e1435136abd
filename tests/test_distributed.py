"""Rank and world size as the launchers tell them."""

from __future__ import annotations

import pytest

from clinrep import distributed

LAUNCHERS = {
    "alone": ({}, (0, 0, 1)),
    "torchrun": ({"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8"}, (5, 1, 8)),
    "srun": (
        {"SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_STEP_NUM_TASKS": "8", "MASTER_ADDR": "n1"},
        (5, 1, 8),
    ),
    "torchrun within srun": (
        {"RANK": "5", "LOCAL_RANK": "1", "WORLD_SIZE": "8", "MASTER_ADDR": "n1"}
        | {"SLURM_PROCID": "1", "SLURM_LOCALID": "0", "SLURM_STEP_NUM_TASKS": "2"},
        (5, 1, 8),
    ),
    "python in a batch script": ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8", "MASTER_ADDR": "n1"}, (0, 0, 1)),
}


@pytest.fixture
def environment(monkeypatch, request):
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "SLURM_NTASKS"):
        monkeypatch.setenv(name, "")  # so that whatever is set meanwhile is undone
        monkeypatch.delenv(name)
    for name in ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_each_launcher_tells_who_this_process_is(environment, launcher):
    variables, expected = LAUNCHERS[launcher]
    for name, value in variables.items():
        environment.setenv(name, value)
    assert (distributed.get_rank(), distributed.get_local_rank(), distributed.get_world_size()) == expected


@pytest.mark.parametrize("launcher", [name for name, (_, (_, _, size)) in LAUNCHERS.items() if size > 1])
def test_the_process_group_starts_with_the_same_numbers(environment, launcher):
    torch_distributed = pytest.importorskip("torch.distributed")
    variables, (rank, local_rank, world_size) = LAUNCHERS[launcher]
    for name, value in variables.items():
        environment.setenv(name, value)
    started = []
    environment.setattr(torch_distributed, "is_initialized", lambda: False)
    environment.setattr(torch_distributed, "init_process_group", lambda *_, **__: started.append(True))
    distributed.start_process_group()
    assert started
    assert (distributed.get_rank(), distributed.get_local_rank(), distributed.get_world_size()) == (
        rank,
        local_rank,
        world_size,
    )
