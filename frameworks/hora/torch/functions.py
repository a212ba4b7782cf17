"""Whole objects and states: what ranks agree on before they train."""

from __future__ import annotations

import copy
import ctypes
import pickle
from collections.abc import Iterable, Mapping
from typing import Any

import torch

from hora import runtime
from hora.process_sets import ProcessSet, global_process_set
from hora.torch.ops import allgather, allreduce, broadcast_, broadcast_async_, synchronize

try:
    import cloudpickle as _pickler  # also takes lambdas and what __main__ defines
except ImportError:
    _pickler = pickle


def _bytes_of(obj: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(_pickler.dumps(obj)), dtype=torch.uint8)


def _try_bytes_of(obj: Any) -> tuple[torch.Tensor, Exception | None]:
    try:
        return _bytes_of(obj), None
    except Exception as error:  # whatever the object's own methods raise; the peers are waiting
        return torch.empty(0, dtype=torch.uint8), error


def _check_pickled(lengths: list[int], ranks: list[int], own: Exception | None) -> None:
    """A pickle has at least a byte: none says that its rank failed, to all alike."""
    if own is not None:
        raise own
    failed = [rank for rank, length in zip(ranks, lengths, strict=True) if length == 0]
    if failed:
        raise ValueError(f"rank {failed[0]} could not pickle its object; its own error says why")


def _as_bytes(data: torch.Tensor) -> bytes:
    # Without numpy, which is optional.
    return ctypes.string_at(data.data_ptr(), data.numel())


def _object_of(data: torch.Tensor) -> Any:
    return pickle.loads(_as_bytes(data))


def broadcast_object(
    obj: Any = None,
    root_rank: int = 0,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Any:
    """Root's `obj`, on all ranks. It is pickled, and read by peers of the same job only.

    Errors: where root cannot pickle it, root has that error and the others a ValueError.
    """
    prefix = f"{name or 'broadcast_object'}."
    is_root = runtime.rank() == root_rank
    data, error = _try_bytes_of(obj) if is_root else (None, None)
    length = torch.tensor([0 if data is None else data.numel()])
    broadcast_(length, root_rank, f"{prefix}size", process_set)
    _check_pickled([int(length)], [root_rank], error)
    if data is None:
        data = torch.empty(int(length), dtype=torch.uint8)
    broadcast_(data, root_rank, f"{prefix}data", process_set)
    return obj if is_root else _object_of(data)


def broadcast_object_fn(
    root_rank: int = 0, name: str | None = None, process_set: ProcessSet = global_process_set
) -> Any:
    """`broadcast_object` with everything but the object bound."""

    def broadcast(obj: Any) -> Any:
        return broadcast_object(obj, root_rank, name, process_set)

    return broadcast


def allgather_object(
    obj: Any, name: str | None = None, process_set: ProcessSet = global_process_set
) -> list[Any]:
    """Every rank's `obj`, in rank order.

    Errors: where a rank cannot pickle its own, it has that error and the others a ValueError.
    """
    prefix = name or "allgather_object"
    data, error = _try_bytes_of(obj)
    lengths = allgather(torch.tensor([data.numel()]), f"{prefix}.size", process_set)
    _check_pickled(lengths.tolist(), process_set.ranks or [], error)
    joined = allgather(data, f"{prefix}.data", process_set)
    return [_object_of(part) for part in joined.split(lengths.tolist())]


def mean_loss(loss: Any, process_set: ProcessSet) -> Any:
    """The ranks' mean of a closure's loss, as the same type; what is no number stays as it is."""
    if not process_set.included() or process_set.size() == 1:
        return loss
    terms: dict[str, Any] = {"compression": "none", "process_set": process_set}
    if isinstance(loss, float):
        sent = torch.tensor(loss, dtype=torch.float64)
        return float(allreduce(sent, name="loss of a closure", **terms))
    if isinstance(loss, torch.Tensor) and loss.numel() == 1 and loss.is_floating_point():
        return allreduce(loss.detach(), name="loss of a closure", **terms)
    return loss


def _named(params: Any) -> list[tuple[str, Any]]:
    if isinstance(params, torch.nn.Module):
        # Some modules can be iterated over, and their parts are no tensors.
        raise ValueError(f"invalid params of type: {type(params)}; pass model.state_dict()")
    if isinstance(params, Mapping):
        return sorted(params.items())
    if isinstance(params, Iterable) and not isinstance(params, torch.Tensor | str):
        pairs = list(params)
        return [pair if isinstance(pair, tuple) else (str(i), pair) for i, pair in enumerate(pairs)]
    raise ValueError(f"invalid params of type: {type(params)}")


def broadcast_parameters(
    params: Mapping[str, Any] | Iterable[Any],
    root_rank: int,
    process_set: ProcessSet = global_process_set,
) -> None:
    """Makes all ranks' parameters root's: a `state_dict()`, `named_parameters()` or tensors.

    What is no tensor is left alone, as is an empty tensor.
    """
    handles = [
        broadcast_async_(value, root_rank, f"broadcast.{name}", process_set)
        for name, value in _named(params)
        if isinstance(value, torch.Tensor) and value.numel()
    ]
    for handle in handles:
        synchronize(handle)


class _Placeholder:
    """Where a tensor was in a state whose tensors travel on their own."""

    def __init__(self, tensor: torch.Tensor) -> None:
        self.shape, self.dtype = tuple(tensor.shape), tensor.dtype


def _map(state: Any, kind: type, change: Any) -> Any:
    """`state` with every leaf of a kind changed, in a fixed order."""
    if isinstance(state, kind):
        return change(state)
    if isinstance(state, dict):
        return {key: _map(value, kind, change) for key, value in state.items()}
    if isinstance(state, list | tuple):
        values = [_map(value, kind, change) for value in state]
        return type(state)(values) if type(state) in (list, tuple) else copy.copy(state)
    return state


def broadcast_optimizer_state(
    optimizer: torch.optim.Optimizer, root_rank: int, model: torch.nn.Module | None = None
) -> None:
    """Makes all ranks' optimizers continue where root's is: state, learning rates and the rest.

    Also where only root has made steps yet. `model` is Horovod's and not needed.
    """
    del model
    is_root = runtime.rank() == root_rank
    tensors: list[torch.Tensor] = []

    def take_out(tensor: torch.Tensor) -> _Placeholder:
        tensors.append(tensor.detach())
        return _Placeholder(tensor)

    def put_in(hole: _Placeholder) -> torch.Tensor:
        tensors.append(torch.empty(hole.shape, dtype=hole.dtype))
        return tensors[-1]

    # What compression remembers stays with each rank; its clocks must be the same.
    reducer = getattr(optimizer, "_hora_reducer", None)
    state, clocks = None, None
    if is_root:
        plain = getattr(optimizer, "_hora_plain", optimizer)
        state = _map(plain.state_dict(), torch.Tensor, take_out)
        clocks = reducer.save_memories(slabs=False) if reducer is not None else None
    state, clocks = broadcast_object((state, clocks), root_rank, "optimizer_state")
    if not is_root:
        state = _map(state, _Placeholder, put_in)
    broadcast_parameters([(f"optimizer_state.{i}", t) for i, t in enumerate(tensors)], root_rank)
    if not is_root:
        optimizer.load_state_dict(state)
        if reducer is not None:
            reducer.load_memories(clocks or {})
