"""Rank, world size, device and seed, under torchrun, srun or alone. The floor's only user of torch.

torch is imported inside functions, so that stages 00 and 04 can ask for their rank without it.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar, cast

from clinrep.config import InputError

if TYPE_CHECKING:
    import torch

ValueT = TypeVar("ValueT")

# srun describes its tasks in SLURM_* variables; SLURM_STEP_NUM_TASKS exists only inside a step, so
# a plain `python` in an allocation is rightly one process.
_TORCHRUN_NAMES = {"RANK": "SLURM_PROCID", "WORLD_SIZE": "SLURM_STEP_NUM_TASKS", "LOCAL_RANK": "SLURM_LOCALID"}


def _launcher_number(name: str, alone: int) -> int:
    if "RANK" not in os.environ and "SLURM_STEP_NUM_TASKS" in os.environ and "MASTER_ADDR" in os.environ:
        return int(os.environ.get(_TORCHRUN_NAMES[name], alone))
    return int(os.environ.get(name, alone))


def get_rank() -> int:
    """Return this process's number among all, 0 when alone."""
    return _launcher_number("RANK", 0)


def get_local_rank() -> int:
    """Return this process's number on its machine, 0 when alone."""
    return _launcher_number("LOCAL_RANK", 0)


def get_world_size() -> int:
    """Return the number of processes of this run, 1 when alone."""
    return _launcher_number("WORLD_SIZE", 1)


def derive_seed(seed: int, name: str) -> int:
    """Return the seed of the generator called `name`: adding a generator shifts no other."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest()
    return int.from_bytes(digest, "little") & 0x7FFFFFFF


def seed_torch(seed: int) -> None:
    """Seed torch on every device."""
    import torch

    torch.manual_seed(seed)


def choose_device() -> torch.device:
    """Return this rank's GPU where there is one, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", get_local_rank() % torch.cuda.device_count())
    return torch.device("cpu")


def start_process_group() -> None:
    """Join the other ranks (nccl with GPUs, gloo without); does nothing for a run of one process."""
    if get_world_size() == 1:
        return
    import torch
    import torch.distributed as dist

    if dist.is_initialized():
        return
    # accelerate and env:// read torchrun's names; all are read before one is set: srun's do not count beside RANK
    os.environ |= {name: str(_launcher_number(name, 0)) for name in _TORCHRUN_NAMES}
    device = choose_device()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=timedelta(minutes=30))


def end_process_group(is_failing: bool = False) -> None:
    """Leave the other ranks, after waiting for them unless this rank fails; nothing where there is no group.

    Without this, gloo runs aborted at interpreter exit in 3 of 12 tries (spec/stack.md section 1).
    """
    if "torch" not in sys.modules:  # stages 00 and 04 never import it
        return
    import torch.distributed as dist

    if dist.is_available() and dist.is_initialized():
        if not is_failing:
            dist.barrier()
        dist.destroy_process_group()


def share_from_main(value: ValueT | None) -> ValueT:
    """Return rank 0's `value` on every rank; what the others pass is ignored."""
    box = [value]
    if get_world_size() > 1:
        import torch.distributed as dist

        dist.broadcast_object_list(box, src=0, device=choose_device())
    return cast("ValueT", box[0])


def run_on_main(action: Callable[[], ValueT], *kinds: type[Exception]) -> ValueT:
    """Return on every rank what `action` returns on rank 0, or raise its InputError, or one of `kinds`, on every rank.

    If rank 0 alone raised, the others would wait for it.
    """
    caught: tuple[type[Exception], ...] = (InputError, *kinds)
    value: ValueT | None = None
    fault: tuple[type[Exception], str] | None = None
    if get_rank() == 0:
        try:
            value = action()
        except caught as error:
            fault = (type(error), str(error))
    value, fault = share_from_main((value, fault))
    if fault is not None:
        kind, words = fault
        raise kind(words)
    return cast("ValueT", value)


def wait_for_all() -> None:
    """Block until every rank is here."""
    if get_world_size() == 1:
        return
    import torch.distributed as dist

    if dist.is_initialized():
        dist.barrier()


def sum_over_ranks(values: torch.Tensor) -> torch.Tensor:
    """Return the elementwise sum of `values` over ranks, on every rank."""
    import torch.distributed as dist

    if dist.is_initialized():
        values = values.to(choose_device())
        dist.all_reduce(values)
    return values


def sum_numbers(numbers: Sequence[float]) -> list[float]:
    """Return the elementwise sum of plain numbers over ranks, on every rank; exact below 2^53."""
    if get_world_size() == 1:
        return list(numbers)
    import torch

    return sum_over_ranks(torch.tensor(numbers, dtype=torch.float64)).tolist()
