"""Sums of sparse tensors over the ranks.

A sparse tensor is coalesced first, so that each of its entries is sent once. Then there are two
ways: all ranks gather all entries and add them up, or the tensor travels as a dense one. Gathering
moves each rank's entries to every other one, so it loses where they are many. How many there were
in all the ranks last time under the same name is known to every rank, which decides: no rank waits
for another to agree, and ranks may wait for several sums in any order.
"""

from __future__ import annotations

import torch

from hora import runtime
from hora.constants import ReduceOp
from hora.process_sets import ProcessSet, global_process_set
from hora.torch.ops import (
    Average,
    Handle,
    JointHandle,
    Sum,
    _reduction,
    allgather_async,
    allreduce_async_,
)


class _Gathered(JointHandle):
    """Two allgathers that together are a sparse sum."""

    def __init__(
        self, tensor: torch.Tensor, name: str, op: ReduceOp, process_set: ProcessSet
    ) -> None:
        self._shape, self._name, self._process_set = tensor.shape, name, process_set
        self._divisor = process_set.size() if op == Average else 1
        parts = tensor.detach().coalesce()
        # Rows first, since ranks may have different numbers of entries.
        indices = parts.indices().t().contiguous()
        handles = [
            allgather_async(indices, f"{name}.indices", process_set),
            allgather_async(parts.values(), f"{name}.values", process_set),
        ]
        super().__init__(handles)

    def _join(self, results: list[torch.Tensor]) -> torch.Tensor:
        indices, values = results
        if _moves_more_than_dense(indices.shape[0], indices, values, self._shape):
            _dense_names().add((self._process_set.required_id(), self._name))
        if self._divisor != 1:
            values = values / self._divisor
        # Gathered in rank order, so equal on all ranks, and so is the sum.
        return torch.sparse_coo_tensor(
            indices.t(), values, self._shape, check_invariants=False
        ).coalesce()


class _Densified(JointHandle):
    """A sparse sum that travels as a dense one; entries that add up to zero are left out."""

    def __init__(
        self, tensor: torch.Tensor, name: str, op: ReduceOp, process_set: ProcessSet
    ) -> None:
        self._name, self._process_set = name, process_set
        self._sparse_dims = tensor.sparse_dim()
        dense = tensor.detach().to_dense()
        handle = allreduce_async_(dense, None, f"{name}.dense", op, 1.0, 1.0, process_set)
        super().__init__([handle])

    def _join(self, results: list[torch.Tensor]) -> torch.Tensor:
        (dense,) = results
        total = dense.to_sparse(self._sparse_dims)
        # Every rank may have had every entry: if even then gathering moves less, gather again.
        most = total.indices().shape[1] * self._process_set.size()
        if not _moves_more_than_dense(most, total.indices().t(), total.values(), dense.shape):
            _dense_names().discard((self._process_set.required_id(), self._name))
        return total


def _dense_names() -> set[tuple[int, str]]:
    """Which sums, by process set and name, travel as dense ones: equal on all their ranks."""
    return runtime.session().dense_sums


def _moves_more_than_dense(
    entries: int, indices: torch.Tensor, values: torch.Tensor, shape: torch.Size
) -> bool:
    width = values.element_size()
    each = indices.shape[1] * indices.element_size() + values[:1].numel() * width
    if values.shape[0] == 0:
        return False
    # A dense allreduce moves each element to its owner and back.
    return entries * each > 2 * shape.numel() * width


def empty_sparse(like: torch.Tensor, sparse_dims: int) -> torch.Tensor:
    """A sparse tensor without entries, to take part with where other ranks have some."""
    shape = like.shape
    return torch.sparse_coo_tensor(
        torch.empty((sparse_dims, 0), dtype=torch.int64),
        torch.empty((0, *shape[sparse_dims:]), dtype=like.dtype),
        shape,
        is_coalesced=True,
        check_invariants=False,
    )


def sparse_allreduce_async(
    tensor: torch.Tensor,
    name: str,
    op: ReduceOp | None = None,
    process_set: ProcessSet = global_process_set,
) -> Handle:
    """Starts summing sparse tensors over the ranks; call or `synchronize` the handle it gives.

    Errors: TypeError for a dense tensor; ValueError for an op other than Sum and Average.
    """
    reduction = _reduction(op, None)
    if reduction not in (Sum, Average):
        raise ValueError(f"sparse_allreduce: op={reduction.name}, but only Sum and Average exist")
    if not isinstance(tensor, torch.Tensor) or tensor.layout != torch.sparse_coo:
        kind = tensor.layout if isinstance(tensor, torch.Tensor) else type(tensor).__name__
        raise TypeError(
            f"sparse_allreduce: expected a sparse COO tensor, got {kind}; use allreduce"
        )
    is_dense = (process_set.required_id(), name) in _dense_names()
    start = _Densified if is_dense else _Gathered
    return start(tensor, name, reduction, process_set)
