"""Tensors as the engine sees them: an address, an element type and a shape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from hora.constants import DType

CODES: dict[torch.dtype, int] = {
    torch.uint8: int(DType.UINT8),
    torch.int8: int(DType.INT8),
    torch.int16: int(DType.INT16),
    torch.int32: int(DType.INT32),
    torch.int64: int(DType.INT64),
    torch.float16: int(DType.FLOAT16),
    torch.bfloat16: int(DType.BFLOAT16),
    torch.float32: int(DType.FLOAT32),
    torch.float64: int(DType.FLOAT64),
    torch.bool: int(DType.BOOL),
}
_TYPES = {code: dtype for dtype, code in CODES.items()}


def check(tensor: torch.Tensor) -> None:
    """Errors: TypeError or ValueError for what can't be sent, and what to do instead."""
    if not isinstance(tensor, torch.Tensor):
        kind = type(tensor).__name__
        hint = "; send torch.from_numpy(it)" if kind == "ndarray" else ""
        if isinstance(tensor, int | float):
            hint = f"; send torch.tensor({tensor!r})"
        raise TypeError(f"expected a torch.Tensor, got {kind}{hint}")
    if tensor.layout != torch.strided:
        raise ValueError(
            f"the tensor is {tensor.layout}: send tensor.to_dense(), or use sparse_allreduce_async"
        )
    if tensor.dtype not in CODES:
        raise ValueError(f"{tensor.dtype} can't be sent; view or cast it, for example to float32")
    if tensor.device.type != "cpu":
        raise NotImplementedError(
            f"the tensor is on {tensor.device}: this version moves host memory only; send .cpu()"
        )


def readable(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor, or a contiguous copy of it, as memory to read."""
    check(tensor)
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    return tensor.detach() if tensor.is_contiguous() else tensor.detach().contiguous()


def from_result(result: tuple[Any, int, tuple[int, ...]]) -> torch.Tensor:
    """A tensor over memory that the engine allocated; takes it over."""
    memory, code, shape = result
    if memory is None:
        return torch.empty(shape, dtype=_TYPES[code])
    return torch.frombuffer(memory, dtype=_TYPES[code]).view(shape)


def is_dense(tensor: torch.Tensor) -> bool:
    """Do the elements fill their memory without gap or overlap, in whatever order of dimensions?"""
    expected = 1
    for stride, dim in sorted(zip(tensor.stride(), tensor.shape, strict=True)):
        if dim == 1:
            continue
        if stride != expected:
            return False
        expected *= dim
    return True


def shape_in_memory(shape: Sequence[int], strides: Sequence[int]) -> tuple[int, ...]:
    """The dimensions of a dense tensor, the slowest first, as they lie in memory."""
    order = sorted(range(len(shape)), key=lambda i: (-strides[i], i))
    return tuple(shape[i] for i in order)
