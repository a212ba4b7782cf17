"""Gradients on their way through the engine: from the backward pass's hooks to the mean.

The gradient of a parameter that is not compressed lives in the engine's arena: `p.grad` is a view
of this rank's own slice, and is reduced in place. That is checked at every submit and never
assumed, since anybody may put another tensor there (`zero_grad(set_to_none=True)` does). Then the
values are copied into the slice, and `p.grad` points to it again. Compressed gradients are reduced
in their own memory. From submit until `synchronize` a gradient is in flight, and adding to it is
refused.

A gradient kept from an earlier step (`saved = p.grad`) is noticed and not overwritten; one kept as
a view (`p.grad.view(-1)`) is not: clone what must survive the next backward pass.
"""

from __future__ import annotations

import itertools
import sys
import weakref
from collections.abc import Callable
from typing import Any

import torch

from hora import _native, runtime
from hora.constants import Op, ReduceOp
from hora.process_sets import ProcessSet
from hora.torch import memories
from hora.torch.ops import synchronize
from hora.torch.sparse import empty_sparse, sparse_allreduce_async
from hora.torch.tensors import CODES, check, is_dense, shape_in_memory

_TOO_MANY = (
    "Gradients were computed more than backward_passes_per_step times before call to step(). "
    "Increase backward_passes_per_step to accumulate gradients locally. If you do call step() "
    "after each backward pass: is it step() of what DistributedOptimizer returned?"
)
_TOUCHED = (
    "The gradient of {} was changed after loss.backward(), while it was on its way to the other "
    "ranks. To clip or scale gradients, first call optimizer.synchronize(), then change them, then "
    "call step() inside `with optimizer.skip_synchronize():`"
)
# Slices of the arena begin at cache lines.
_ALIGNMENT = 64
# In the place of a handle: its request has ended; and `p.grad` is the result, too. Those of other
# gradients may not have.
_ARRIVED, _ENDED = 0, -1


class Terms:
    """What all gradients of an optimizer have in common."""

    def __init__(
        self,
        op: ReduceOp,
        scales: tuple[float, float],
        chain: str,
        passes: int,
        sparse_as_dense: bool,
        process_set: ProcessSet,
    ) -> None:
        self.op = op
        self.scales = scales
        self.chain = chain
        self.passes = passes
        self.sparse_as_dense = sparse_as_dense
        self.process_set = process_set


class _Gradient:
    """One parameter's gradient."""

    __slots__ = (
        "count",
        "countdown",
        "dtype",
        "group",
        "handle",
        "hooks",
        "is_missing",
        "lent",
        "name",
        "param",
        "request",
        "sent",
        "sparse_dims",
        "strides",
        "version",
    )

    def __init__(self, name: str, param: torch.Tensor, group: int, passes: int) -> None:
        self.name = name
        self.param = param
        self.group = group
        self.countdown = passes
        self.handle: Any = None
        self.lent: Any = None  # what is in flight instead of the view, and must be kept
        self.sent: torch.Tensor | None = None  # p.grad when it was submitted
        self.version = 0  # its count of changes then
        self.request: Any = None
        self.is_missing = False  # this rank had none and sends zeros
        self.sparse_dims = 0  # of its last sparse gradient; 0: the last one was dense
        self.hooks: list[Any] = []
        self.describe()

    @property
    def view(self) -> torch.Tensor | None:
        """Its slice of the arena; only the request holds it."""
        return self.request.view if self.request is not None else None

    def describe(self) -> None:
        """Takes note of what the parameter is like: `model.to(dtype)` changes it in place."""
        param = self.param
        dense = is_dense(param)
        self.strides = param.stride() if dense else torch.empty(param.shape, device="meta").stride()
        self.dtype, self.count = param.dtype, param.numel()

    def has_changed(self) -> bool:
        """Is the parameter not what it was? Then its request and memory are for something else."""
        return self.param.dtype is not self.dtype or self.param.numel() != self.count

    def note_sent(self) -> None:
        """Remembers what `p.grad` is at submit."""
        self.sent = self.param.grad
        self.version = _version(self.sent)

    def check_untouched(self) -> None:
        """Errors: RuntimeError if the gradient was written or replaced while it was in flight.

        Ranks would go on with a mixture of changed and reduced values, each with its own.
        """
        grad = self.param.grad
        if grad is not self.sent or _version(grad) != self.version:
            raise RuntimeError(_TOUCHED.format(self.name))

    def blank(self) -> torch.Tensor:
        """New memory for the gradient, in the order in which it is sent."""
        return torch.empty_strided(self.param.shape, self.strides, dtype=self.param.dtype)

    def is_in_order(self, grad: torch.Tensor) -> bool:
        """Can `grad` be sent as it lies in memory?"""
        if grad.dtype != self.param.dtype:
            return False
        return grad.stride() == self.strides or (
            grad.is_contiguous() and self.param.is_contiguous()
        )


class Reducer:
    """Submits each gradient when it is complete and waits for all of them.

    Threads: hooks run in any, under the interpreter's lock; `synchronize` in one at a time.
    """

    def __init__(self, terms: Terms, rate_of: Callable[[int], float]) -> None:
        self._terms = terms
        self._rate_of = rate_of
        self._gradients: list[_Gradient] = []
        self._frozen: list[tuple[str, torch.Tensor, int]] = []
        self._session: runtime.Session | None = None
        self._is_prepared = False
        self._set_id = self._domain = 0
        self._step = 0
        self._flying = 0
        self._lost = ""  # a parameter that another reducer took over
        self._backward_began = 0
        self._kept: memories.Entries = {}  # loaded, and to be told to the next session

    def adopt(self, named: list[tuple[str, torch.Tensor, int]]) -> None:
        """Takes care of (name, parameter, its group's index) from now on.

        Of a frozen parameter from the first `synchronize` on that finds it requires a gradient.
        """
        for name, param, group in named:
            if param.numel() == 0:
                continue  # no rank has anything to say
            check(param)
            if not param.requires_grad:
                self._frozen.append((name, param, group))
                continue
            self._take_over(name, param)
            gradient = _Gradient(name, param, group, self._terms.passes)
            gradient.hooks = [
                param.register_hook(self._guard(gradient)),
                param.register_post_accumulate_grad_hook(self._collector(gradient)),
            ]
            self._gradients.append(gradient)
        self._is_prepared = False
        self._enter_session()

    def close(self) -> None:
        """Lets go of the parameters. What is in flight stays borrowed by the session."""
        for gradient in self._gradients:
            self._let_go(gradient)
        self._gradients.clear()

    def _let_go(self, gradient: _Gradient) -> None:
        for hook in gradient.hooks:
            hook.remove()
        if isinstance(gradient.handle, int) and gradient.handle > 0 and self._session is not None:
            self._session.borrowed[gradient.handle] = (gradient.lent, gradient.view)

    def _take_over(self, name: str, param: torch.Tensor) -> None:
        # A notebook's cell is run again and the earlier optimizer still lives somewhere: with the
        # hooks of both, each gradient would be reduced twice.
        for hook in list((param._post_accumulate_grad_hooks or {}).values()):
            owner = getattr(hook, "hora_owner", lambda: None)()
            if owner is None or owner is self:
                continue
            for gradient in [one for one in owner._gradients if one.param is param]:
                owner._let_go(gradient)
                owner._gradients.remove(gradient)
                owner._lost = owner._lost or name

    @property
    def process_set(self) -> ProcessSet:
        """Whose gradients they are."""
        return self._terms.process_set

    @property
    def in_flight(self) -> bool:
        """Was a gradient submitted that `synchronize` did not return yet?"""
        return self._flying > 0 and self._session is runtime._session

    def set_passes(self, passes: int) -> None:
        """How many backward passes make a gradient, from the next one on."""
        self._terms.passes = passes
        for gradient in self._gradients:
            gradient.countdown = passes

    def synchronize(self) -> None:
        """Waits until every parameter's gradient is the ranks' result, and puts it into `p.grad`.

        A parameter without a gradient takes part with zeros: other ranks may have one. All have
        ended when an error is raised; the first one is. Ctrl-C leaves the rest in flight, and the
        next call goes on.
        """
        if self._lost:
            raise RuntimeError(
                f"the parameter {self._lost} belongs to another DistributedOptimizer by now, made "
                "later than this one; call step() of that one"
            )
        if any(param.requires_grad for _, param, _ in self._frozen):
            again, self._frozen = self._frozen, []
            self.adopt(again)
        self._join_session()
        if self._backward_began and self._session is not None:
            self._session.engine.end_range("backward", self._backward_began)
            self._backward_began = 0
        for gradient in self._gradients:
            if gradient.handle is None:
                self._submit(gradient)
        assert self._session is not None
        self._session.engine.flush(self._domain)
        failures = dict(self._wait_all(self._session.engine))
        error = None
        for index, gradient in enumerate(self._gradients):
            try:
                if index in failures:
                    raise failures[index]
                self._take(gradient)
            except (RuntimeError, ValueError) as failed:
                error = error or failed
                gradient.handle = _ENDED
        self._land()
        self._step += 1
        if error is not None:
            raise error

    def _wait_all(self, engine: _native.Engine) -> list[tuple[int, Exception]]:
        handles = [gradient.handle for gradient in self._gradients]
        try:
            return engine.wait_all(handles)
        finally:
            for gradient, handle in zip(self._gradients, handles, strict=True):
                gradient.handle = handle

    def _guard(self, gradient: _Gradient) -> Callable[[torch.Tensor], None]:
        # Autograd adds to p.grad before the hook below runs: too late to refuse.
        def refuse_while_in_flight(_: torch.Tensor) -> None:
            if gradient.handle is not None and self._session is runtime._session:
                raise AssertionError(_TOO_MANY)

        # Who saves a tensor with hooks is warned that they are not saved; these should not be.
        refuse_while_in_flight.__torch_unserializable__ = True  # type: ignore[attr-defined]
        return refuse_while_in_flight

    def _collector(self, gradient: _Gradient) -> Callable[[torch.Tensor], None]:
        def collect(param: torch.Tensor) -> None:
            if self._session is not runtime._session:
                self._join_session()
            if gradient.handle is not None:
                raise AssertionError(_TOO_MANY)
            gradient.countdown -= 1
            if gradient.countdown > 0:
                return
            if self._flying == 0 and self._session is not None:
                self._backward_began = self._session.engine.begin_range()
            request = gradient.request
            if request is not None and (handle := request.submit_gradient(param, self._step)):
                self._note(gradient, handle)
                gradient.sparse_dims = 0
                gradient.is_missing = False
            else:
                self._join_session()
                self._submit(gradient)

        collect.hora_owner = weakref.ref(self)  # type: ignore[attr-defined]
        return collect

    def _enter_session(self) -> _native.Engine:
        session = runtime.session()
        if session is not self._session:
            self._land()  # what was in flight ended with its session
            kept = self._kept or self._remembered()
            self._kept = {}
            self._session = session
            self._set_id = self.process_set.required_id()
            self._domain = session.next_domain(self._set_id)
            for gradient in self._gradients:
                gradient.request = None
            self._is_prepared = False
            if kept:
                self._load(session.engine, kept, ours=True)
        return session.engine

    def save_memories(self, slabs: bool = True) -> memories.Entries:
        """What compression remembers of the gradients, by parameter; or only its clocks.

        Errors: AssertionError while gradients are in flight.
        """
        if self.in_flight:
            raise AssertionError(
                "optimizer.state_dict() was called after loss.backward() but before "
                "optimizer.step(): part of what compression remembers is in messages"
            )
        if runtime.is_initialized() and self._gradients:
            self._enter_session()
        return dict(self._kept) or self._remembered(slabs)

    def load_memories(self, entries: memories.Entries) -> None:
        """Takes what `save_memories` gave, here or on other ranks.

        When the ranks are about to meet again, it is kept for then, as this rank's own.
        """
        if not entries or not self._gradients:
            return
        if not _is_healthy():
            self._kept = dict(entries)
            return
        self._load(self._enter_session(), entries)

    def _load(self, engine: _native.Engine, entries: memories.Entries, ours: bool = False) -> None:
        memories.load(engine, self._set_id, self._compressed(), entries, ours)

    def _remembered(self, slabs: bool = True) -> memories.Entries:
        if self._session is None:
            return {}
        return memories.save(self._session.engine, self._set_id, self._compressed(), slabs)

    def _compressed(self) -> list[tuple[str, str]]:
        return [
            (gradient.name, self._name(gradient))
            for gradient in self._gradients
            if self._is_compressed(gradient.dtype)
        ]

    def _join_session(self) -> None:
        engine = self._enter_session()
        if not self._is_prepared:
            self._prepare(engine)
            self._is_prepared = True

    def _is_compressed(self, dtype: torch.dtype) -> bool:
        return self._terms.chain != "none" and dtype not in (torch.float64,)

    def _prepare(self, engine: _native.Engine) -> None:
        """Makes the requests, and the slices of the arena, that do not exist yet."""
        new = [gradient for gradient in self._gradients if gradient.request is None]
        for gradient in new:
            gradient.request = self._request(engine, gradient)
        in_arena = [gradient for gradient in new if not self._is_compressed(gradient.param.dtype)]
        sizes = [gradient.param.numel() * gradient.param.element_size() for gradient in in_arena]
        starts = [0, *itertools.accumulate(-(-size // _ALIGNMENT) * _ALIGNMENT for size in sizes)]
        if not in_arena:
            return
        memory = engine.allocate(starts[-1])
        for gradient, start in zip(in_arena, starts, strict=False):
            # A storage of its own for each: copies and files hold whole storages.
            part = torch.frombuffer(
                memory, dtype=gradient.dtype, count=gradient.count, offset=start
            )
            gradient.request.view = part.as_strided(gradient.param.shape, gradient.strides)

    def _request(self, engine: _native.Engine, gradient: _Gradient) -> _native.PreparedRequest:
        terms, param = self._terms, gradient.param
        return _native.PreparedRequest(
            engine,
            Op.ALLREDUCE,
            CODES[param.dtype],
            shape_in_memory(param.shape, gradient.strides),
            self._name(gradient),
            terms.op,
            terms.process_set.required_id(),
            *terms.scales,
            terms.chain if self._is_compressed(param.dtype) else "none",
            0,
            self._domain,
        )

    def _name(self, gradient: _Gradient) -> str:
        # Two optimizers may have parameters of the same name.
        suffix = "" if self._domain == 1 else f"@{self._domain}"
        return f"allreduce.{gradient.name}{suffix}"

    def _submit(self, gradient: _Gradient) -> None:
        if gradient.has_changed():
            self._describe_again(gradient)
        with torch.no_grad():
            grad = gradient.param.grad
            if grad is None and gradient.sparse_dims:
                grad = empty_sparse(gradient.param, gradient.sparse_dims)
            gradient.sparse_dims = 0
            if grad is not None and grad.layout != torch.strided:
                if not self._terms.sparse_as_dense:
                    gradient.sparse_dims = grad.sparse_dim()
                    self._submit_sparse(gradient, grad)
                    return
                grad = gradient.param.grad = grad.to_dense()
            memory = self._place(gradient, grad)
        rate = self._rate_of(gradient.group)
        self._note(gradient, gradient.request.submit(memory.data_ptr(), rate, self._step))

    def _note(self, gradient: _Gradient, handle: Any) -> None:
        gradient.handle = handle
        gradient.note_sent()
        self._flying += 1

    def _describe_again(self, gradient: _Gradient) -> None:
        check(gradient.param)
        gradient.describe()
        gradient.request = None
        assert self._session is not None
        self._prepare(self._session.engine)

    def _submit_sparse(self, gradient: _Gradient, grad: torch.Tensor) -> None:
        terms, name = self._terms, self._name(gradient)
        self._note(gradient, sparse_allreduce_async(grad, name, terms.op, terms.process_set))

    def _place(self, gradient: _Gradient, grad: torch.Tensor | None) -> torch.Tensor:
        """The memory to reduce in place; `p.grad` is it, or gets the result in `_take`."""
        param, view = gradient.param, gradient.view
        gradient.is_missing = grad is None
        if grad is None:
            # Not computed here, but perhaps elsewhere.
            if view is None or _is_kept_elsewhere(view):
                view = gradient.blank()
                gradient.lent = (view, None)
            param.grad = view.zero_()
            return view
        if view is not None:
            if grad is view or _same_memory(grad, view):
                return view
            if not grad.requires_grad and not _is_kept_elsewhere(view):
                param.grad = view.copy_(grad)
                return view
        # By pointer: compressed, part of a graph, or the slice is still somebody's.
        if gradient.is_in_order(grad):
            gradient.lent = (grad, None)
            return grad
        copy = gradient.blank().copy_(grad.detach())
        gradient.lent = (copy, grad)
        return copy

    def _take(self, gradient: _Gradient) -> None:
        """Puts what has arrived into `p.grad`."""
        handle = gradient.handle
        if handle == _ENDED:
            return
        if handle == _ARRIVED:
            gradient.check_untouched()
            if gradient.lent is not None and gradient.lent[1] is not None:
                gradient.lent[1].data.copy_(gradient.lent[0])
            # A frozen parameter with a gradient of zeros would still decay.
            if gradient.is_missing and not gradient.param.requires_grad:
                if gradient.param.grad is not None and not gradient.param.grad.any():
                    gradient.param.grad = None
        else:
            mean = synchronize(handle)
            gradient.check_untouched()
            gradient.param.grad = mean
        gradient.handle = _ENDED

    def _land(self) -> None:
        """Nothing is in flight any longer."""
        self._flying = 0
        for gradient in self._gradients:
            gradient.handle = gradient.lent = gradient.sent = None
            gradient.countdown = self._terms.passes


def _is_healthy() -> bool:
    try:
        runtime.session().engine.check_health()
    except (_native.HoraError, ValueError):
        return False
    return True


def _version(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor._version


def _same_memory(grad: torch.Tensor, view: torch.Tensor) -> bool:
    return (
        grad.data_ptr() == view.data_ptr()
        and grad.shape == view.shape
        and grad.stride() == view.stride()
        and grad.dtype == view.dtype
        and not grad.requires_grad
    )


def _is_kept_elsewhere(view: torch.Tensor) -> bool:
    # Ours in the slot, the callers' variables and parameter, and getrefcount's own.
    return sys.getrefcount(view) > _OWN_REFERENCES


def _count_own_references() -> int:
    """How `_is_kept_elsewhere` sees a view that only its slot holds: measured, not assumed."""

    def called(view: torch.Tensor) -> int:
        return sys.getrefcount(view)

    slot = [torch.empty(0)]
    view = slot[0]
    return called(view)


_OWN_REFERENCES = _count_own_references()
