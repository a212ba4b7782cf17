"""Calls made before: in-place allreduces of the same name, shape and terms cost one look-up.

Checking a call and handing over its fourteen terms takes longer than the engine needs for a small
tensor. So what was checked once is kept, as a prepared request, by name.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from hora import _native
from hora.constants import Op
from hora.torch.tensors import CODES

if TYPE_CHECKING:
    from hora.runtime import Session

_LIMIT = 65_536  # names
_strided = torch.strided


def _plain(tensor: Any) -> bool:
    """Is it memory that can be reduced where it lies?"""
    return (
        isinstance(tensor, torch.Tensor)
        and tensor.layout is _strided
        and tensor.is_cpu
        and tensor.is_contiguous()
        and not tensor.is_neg()
    )


class _One:
    __slots__ = ("dtype", "request", "shape", "terms")

    def __init__(
        self, session: Session, tensor: torch.Tensor, name: str, terms: tuple[Any, ...]
    ) -> None:
        self.terms = terms
        self.shape = tensor.shape
        self.dtype = tensor.dtype
        reduction, prescale, postscale, process_set = terms
        self.request = _native.PreparedRequest(
            *(session.engine, Op.ALLREDUCE, CODES[tensor.dtype], tuple(tensor.shape), name),
            *(reduction, process_set.required_id(), prescale, postscale, "none", 0, 0),
        )


class _Group:
    __slots__ = ("request", "shapes", "tensors", "terms")

    def __init__(
        self, session: Session, tensors: list[torch.Tensor], name: str, terms: tuple[Any, ...]
    ) -> None:
        self.terms = terms
        self.tensors = [weakref.ref(tensor) for tensor in tensors]
        self.shapes = [tensor.shape for tensor in tensors]
        reduction, prescale, postscale, process_set = terms
        self.request = _native.PreparedGroup(
            *(session.engine, Op.ALLREDUCE, CODES[tensors[0].dtype]),
            *([tuple(shape) for shape in self.shapes], name),
            *(reduction, process_set.required_id(), prescale, postscale, "none"),
        )


def submit(session: Session, tensor: Any, name: str, terms: tuple[Any, ...]) -> int:
    """Submits a call like one remembered; 0 if it is new."""
    call = session.calls.get(name)
    if (
        call.__class__ is not _One
        or call.terms != terms
        or not _plain(tensor)
        or tensor.dtype is not call.dtype
        or tensor.shape != call.shape
    ):
        return 0
    handle = call.request.submit(tensor.data_ptr(), 0.0, 0)
    session.borrowed[handle] = tensor
    return handle


def submit_group(
    session: Session, tensors: list[torch.Tensor], name: str, terms: tuple[Any, ...]
) -> int:
    """The same for a group, which must be of the same tensors."""
    call = session.calls.get(name)
    if call.__class__ is not _Group or call.terms != terms or len(call.tensors) != len(tensors):
        return 0
    for known, tensor in zip(call.tensors, tensors, strict=True):
        if known() is not tensor or not tensor.is_contiguous():
            return 0
    if [tensor.shape for tensor in tensors] != call.shapes:
        return 0
    handle = call.request.submit([tensor.data_ptr() for tensor in tensors])
    session.borrowed[handle] = tensors
    return handle


def remember(
    session: Session,
    tensors: Sequence[torch.Tensor],
    name: str,
    terms: tuple[Any, ...],
    group: bool,
) -> None:
    """Keeps a call that went well, if the next one like it may take the short way."""
    if not all(_plain(tensor) for tensor in tensors):
        return
    if len(session.calls) >= _LIMIT:
        session.calls.clear()
    if group:
        session.calls[name] = _Group(session, list(tensors), name, terms)
    else:
        session.calls[name] = _One(session, tensors[0], name, terms)
