"""What is learned, how it is validated, and in which order its items are shown."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, Sampler, default_collate, get_worker_info

from clinrep import distributed
from clinrep.stop_signal import STOP_SIGNALS

Evaluate = Callable[[torch.nn.Module], dict[str, float]]


@dataclass(frozen=True)
class Task:
    """What is learned and how it is validated."""

    dataset: Dataset[Any]
    """Items; each counts once per epoch. May have `set_epoch(epoch)`, called before an epoch, its length unchanged, and
    `lengths`, i64 (number of items,), of this epoch: then items of like length share the passes of a step."""
    filler: Any
    """An item with no label but -100; copies of it round an epoch up to whole steps, so that nothing is repeated."""
    evaluate: Evaluate
    """Called on every rank with the model in eval mode, without gradients; returns the same metrics on each,
    names beginning with eval_."""
    items_per_step: int
    """Items in one optimizer step, over all ranks."""
    collate: Callable[[list[Any]], Any] = default_collate
    """Makes a batch, with `labels`, of a list of items; may add the counts of throughput.py."""
    is_divided_by_collate: bool = False
    """Whether `collate` is given all items of a rank's share of a step and returns `passes`, one batch for each forward
    pass, beside the `labels` of all; else a pass has up to `batch_size` items of the settings."""
    metric_for_best: str = "eval_loss"
    """Metric of `evaluate` that chooses the best weights and, where early_stopping_patience asks, ends the training."""
    greater_is_better: bool = False
    """Whether that metric should rise."""
    find_rate_factor: Callable[[str], float] | None = None
    """Parameter name -> factor of the learning rate, as of layer_rates.py; None: the same for all."""


class FilledDataset(Dataset[Any]):
    """`dataset`, then copies of `filler` up to a multiple of the items in one optimizer step.

    Without it accelerate evens out the ranks by repeating items. In a worker process of a DataLoader it
    also makes the stop signals harmless: torchrun, Slurm and Ctrl-C send them to every process, and a
    worker that died of one would end the run before it is saved.
    """

    def __init__(self, dataset: Dataset[Any], multiple: int, filler: Any) -> None:
        """Fill `dataset`, which must have a length, to a multiple of `multiple`."""
        self._dataset, self._filler = dataset, filler
        self._is_shielded = False
        self._num_items: int = len(dataset)  # type: ignore[arg-type]
        self._length = -(-self._num_items // multiple) * multiple

    def __len__(self) -> int:
        return self._length

    @property
    def lengths(self) -> np.ndarray | None:
        """Length of each item in this epoch, i64 (len(self),), of a filler 0; None where items have none."""
        lengths = getattr(self._dataset, "lengths", None)
        if lengths is None:
            return None
        return np.concatenate([lengths, np.zeros(self._length - self._num_items, dtype=np.int64)])

    def start_epoch(self, epoch: int) -> None:
        """Tell the dataset which epoch begins, if it cares; must come before the workers are started.

        The name is not set_epoch: accelerate calls that, for some combinations of ranks and resumes only.
        """
        set_epoch = getattr(self._dataset, "set_epoch", None)
        if set_epoch is not None:
            set_epoch(epoch)
            assert len(self._dataset) == self._num_items, "an epoch changed the number of items"  # type: ignore[arg-type]

    def __getitem__(self, index: int) -> Any:
        if not self._is_shielded and get_worker_info() is not None:
            for number in STOP_SIGNALS:
                signal.signal(number, signal.SIG_IGN)
            self._is_shielded = True
        return self._dataset[index] if index < self._num_items else self._filler


class EpochSampler(Sampler[int]):
    """A permutation of the items for each epoch that only the seed and the epoch decide.

    So the items of each step are the same for any number of ranks and workers, and after a resume. Where items have
    lengths, those of one optimizer step come longest first: what the step learns is the same, but its forward passes,
    and in each pass the ranks, get items of like length and so little padding. With `num_shares` they are dealt to so
    many ranks in turn, each of which takes its share at once.
    """

    def __init__(self, dataset: FilledDataset, items_per_step: int, seed: int, num_shares: int = 1) -> None:
        """Order the items of `dataset` by the generator of `seed`."""
        self._dataset, self._items_per_step, self._seed, self._epoch = dataset, items_per_step, seed, 0
        self._num_shares = num_shares

    def start_epoch(self, epoch: int) -> None:
        """Use the order of `epoch` from the next iterator on."""
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._dataset)

    def __iter__(self) -> Iterator[int]:
        generator = np.random.default_rng((distributed.derive_seed(self._seed, "batches"), self._epoch))
        order = generator.permutation(len(self._dataset))
        lengths = self._dataset.lengths
        if lengths is not None:
            step = np.arange(len(order)) // self._items_per_step
            order = order[np.lexsort((-lengths[order], step))]
            dealt = order.reshape(-1, self._items_per_step // self._num_shares, self._num_shares)
            order = dealt.swapaxes(1, 2).ravel()
        return iter(order.tolist())
