"""ElasticSampler: each sample of an epoch once, however the ranks change meanwhile."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterable, Iterator, Sized
from typing import Any

import torch

from hora import runtime


class ElasticSampler(torch.utils.data.Sampler):
    """Partitions what is left of an epoch among the ranks of now.

    Part of a `TorchState`. After each batch `record_batch(index, size)` says that it was processed,
    by this rank and, since they train in step, its like by the others: all ranks use one batch
    size. When ranks change, what was recorded by the commit that training goes on from is not
    visited again in this epoch. `set_epoch` belongs at the *end* of an epoch, so that an epoch that
    was interrupted is not begun anew.

    As with DistributedSampler, some samples are visited twice if they do not divide evenly.
    """

    def __init__(self, dataset: Sized, shuffle: bool = True, seed: int = 0) -> None:
        self.dataset = dataset
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.processed_indices: set[int] = set()
        self._peers_indices: set[int] = set()  # those that other ranks have processed meanwhile
        self.num_replicas = self.rank = self.num_samples = self.total_size = 0
        self.remaining_indices: list[int] = []
        self._order: list[int] = []
        self.reset()

    @property
    def indices(self) -> list[int]:
        """This rank's samples, in order."""
        return self._order[self.rank : self.total_size : self.num_replicas]

    def set_epoch(self, epoch: int) -> None:
        """Nothing of epoch `epoch` was processed yet; shuffles anew."""
        self.epoch = epoch
        self.processed_indices = set()
        self._peers_indices = set()
        self.reset()

    def record_batch(self, batch_idx: int, batch_size: int) -> None:
        """The `batch_idx`-th batch of this iteration was processed, on all ranks."""
        first = batch_idx * batch_size * self.num_replicas
        batch = self._order[first : first + batch_size * self.num_replicas]
        self.processed_indices.update(batch[self.rank :: self.num_replicas])
        self._peers_indices.update(batch)

    def record_indices(self, indices: Iterable[int]) -> None:
        """These samples were processed by this rank."""
        self.processed_indices.update(indices)

    def get_indices(self, batch_idx: int, batch_size: int) -> list[int]:
        """The samples of a batch of this rank."""
        return self.indices[batch_idx * batch_size : (batch_idx + 1) * batch_size]

    def all_processed(self) -> set[int]:
        """What this rank knows to have been processed by any."""
        return self.processed_indices | self._peers_indices

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` takes."""
        return {"epoch": self.epoch, "processed_indices": self.all_processed()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on with what `state_dict` leaves of its epoch."""
        self.epoch = state_dict["epoch"]
        self.processed_indices = set(state_dict["processed_indices"])
        self._peers_indices = set()
        self.reset()

    def reset(self) -> None:
        """Partitions what is left anew."""
        self.num_replicas, self.rank = runtime.size(), runtime.rank()
        done = self.all_processed()
        self.remaining_indices = [i for i in range(len(self.dataset)) if i not in done]
        self.num_samples = math.ceil(len(self.remaining_indices) / self.num_replicas)
        self.total_size = self.num_samples * self.num_replicas
        self._shuffle()

    def _shuffle(self) -> None:
        order = self.remaining_indices[:]
        if self.shuffle:
            random.Random(self.seed + self.epoch).shuffle(order)
        self._order = list(itertools.islice(itertools.cycle(order), self.total_size))

    def __iter__(self) -> Iterator[int]:
        return iter(self.indices)

    def __len__(self) -> int:
        return self.num_samples
