"""Collectives on torch tensors, under Horovod's names.

Every operation comes in up to four forms: `x` gives the result, `x_` writes it into its argument;
`x_async` and `x_async_` return a handle at once, and `synchronize(handle)` gives the result. From
the call until then nobody may touch the tensor. Ranks pair operations by name, in whatever order
they arrive; without a name, the n-th unnamed operation of a kind pairs with the n-th of the others.

Errors: ValueError and TypeError for what can't be meant, and nothing is sent; `hora.Mismatch` on
every rank if ranks disagree, and the job goes on; the other `hora.HoraError` say what happened.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import torch

from hora import runtime
from hora._native import HoraError
from hora.constants import Op, ReduceOp
from hora.process_sets import ProcessSet, global_process_set
from hora.torch.compression import Compression, Compressor, chain_of
from hora.torch.tensors import CODES, check, from_result, readable

Average = ReduceOp.AVERAGE
Sum = ReduceOp.SUM
Adasum = ReduceOp.ADASUM
Min = ReduceOp.MIN
Max = ReduceOp.MAX
Product = ReduceOp.PRODUCT

Handle = int | Callable[[], Any]
_PLAIN = (torch.Tensor, torch.nn.Parameter)


class _Pending:
    """A request in flight: what it borrows, and how its result is made."""

    __slots__ = ("borrowed", "finish")

    def __init__(self, borrowed: Any, finish: Callable[[Any, int], Any]) -> None:
        self.borrowed = borrowed
        self.finish = finish


def _begin(handle: int, borrowed: Any, finish: Callable[[Any, int], Any]) -> int:
    runtime.session().borrowed[handle] = _Pending(borrowed, finish)
    return handle


def poll(handle: Handle) -> bool:
    """Has the operation ended? Then `synchronize` does not wait."""
    if callable(handle):
        return all(poll(part) for part in handle.handles)  # type: ignore[attr-defined]
    session = runtime.session()
    known = handle in session.borrowed or session.calls.holds(handle)
    return not known or session.engine.poll(handle)


def synchronize(handle: Handle) -> Any:
    """Waits until the operation has ended and gives its result; None if it was given before.

    Errors: those of the operation. Ctrl-C ends the wait, not the operation: the handle stays good.
    """
    session = runtime._session or runtime.session()
    if (result := session.calls.finish(handle)) is not None:
        return result
    if callable(handle):
        return handle()
    pending = session.borrowed.get(handle)
    if pending is None:
        return None
    try:
        result = pending.finish(session.engine, handle)
    except (HoraError, ValueError):
        del session.borrowed[handle]
        raise
    del session.borrowed[handle]
    return result


class JointHandle:
    """Several handles that are one; a subclass says in `_join` what their results make.

    All have ended when an error is raised, which is the first. Ctrl-C leaves the rest as it is.
    """

    def __init__(self, handles: list[int]) -> None:
        self.handles = handles
        self._results: list[Any] = []
        self._error: Exception | None = None

    def __call__(self) -> Any:
        if not self.handles:
            return None  # it was given before
        for handle in self.handles[len(self._results) :]:
            result = None
            try:
                result = synchronize(handle)
            except (HoraError, ValueError) as failed:
                self._error = self._error or failed
            self._results.append(result)
        results, self._results, self.handles = self._results, [], []
        if self._error is not None:
            raise self._error
        return self._join(results)

    def _join(self, results: list[Any]) -> Any:
        raise NotImplementedError


def _reduction(op: ReduceOp | None, average: bool | None) -> ReduceOp:
    if average is not None:
        if op is not None:
            raise ValueError(
                "The op parameter supersedes average. Please provide only one of them."
            )
        warnings.warn(
            "Parameter `average` has been replaced with `op`", DeprecationWarning, stacklevel=4
        )
        return Average if average else Sum
    if op is None:
        return Average
    return ReduceOp(op)


def _chain(compression: Compressor | str, dtype: torch.dtype) -> str:
    # Half precision is what the wire would carry anyway; other types travel as they are.
    return chain_of(compression) if dtype == torch.float32 else "none"


class _Group(JointHandle):
    """A group of the engine has tensors of one type only; this is one of several types."""

    def __init__(self, parts: list[tuple[int, list[int]]]) -> None:
        super().__init__([handle for handle, _ in parts])
        self._places = [places for _, places in parts]

    def _join(self, results: list[Any]) -> list[torch.Tensor]:
        found: dict[int, torch.Tensor] = {}
        for places, result in zip(self._places, results, strict=True):
            found.update(zip(places, result, strict=True))
        return [found[place] for place in range(len(found))]


def _start_group(
    tensors: Sequence[torch.Tensor],
    name: str | None,
    start: Callable[[list[int], str | None], int],
) -> Handle:
    """Calls `start` with the places of the tensors of each type, and a name for them."""
    for tensor in tensors:
        check(tensor)
    # Sorted: an order that ranks agree on even if their groups are ordered differently.
    types = sorted({tensor.dtype for tensor in tensors}, key=CODES.__getitem__)
    if len(types) <= 1:
        return start(list(range(len(tensors))), name)
    parts = []
    for dtype in types:
        places = [i for i, tensor in enumerate(tensors) if tensor.dtype == dtype]
        parts.append((start(places, f"{name}.{dtype}" if name else None), places))
    return _Group(parts)


def _reduce_group(
    inputs: list[torch.Tensor], outputs: list[torch.Tensor], name: str | None, *terms: Any
) -> Handle:
    def start(places: list[int], name: str | None) -> int:
        ours, results = [inputs[i] for i in places], [outputs[i] for i in places]
        return _reduce(ours, results, name, *terms, True)

    return _start_group(inputs, name, start)


def _reduce(
    inputs: list[torch.Tensor],
    outputs: list[torch.Tensor],
    name: str | None,
    op: ReduceOp,
    scales: tuple[float, float],
    compression: Compressor | str,
    process_set: ProcessSet,
    grouped: bool,
) -> int:
    """Submits an allreduce of `inputs` into `outputs`, which may be the same tensors."""
    if not inputs:
        raise ValueError("a group needs at least one tensor")
    sources, targets = [], []
    for source, output in zip(inputs, outputs, strict=True):
        if output is source:
            check(output)
            target = readable(output)
            sources.append(target)
        else:
            target = output
            sources.append(readable(source))
        targets.append(target)
    engine = runtime.session().engine
    chain = _chain(compression, inputs[0].dtype)
    terms = (name or "", op, process_set.required_id(), 0, *scales, chain)
    if grouped:
        rows = [
            (s.data_ptr(), t.data_ptr(), CODES[s.dtype], tuple(s.shape))
            for s, t in zip(sources, targets, strict=True)
        ]
        handle = engine.submit_group(Op.ALLREDUCE, rows, *terms, [])
    else:
        source = sources[0]
        handle = engine.submit(
            Op.ALLREDUCE,
            source.data_ptr(),
            targets[0].data_ptr(),
            CODES[source.dtype],
            tuple(source.shape),
            *terms,
            0,
            0,
        )

    def finish(running: Any, ended: int) -> Any:
        running.wait(ended)
        for target, output in zip(targets, outputs, strict=True):
            if target.data_ptr() != output.data_ptr():
                output.detach().copy_(target)
        return outputs if grouped else outputs[0]

    return _begin(handle, (sources, targets, outputs), finish)


def _remember(
    tensors: list[torch.Tensor],
    name: str | None,
    op: ReduceOp | None,
    scales: tuple[float, float],
    process_set: ProcessSet,
    reduction: ReduceOp,
) -> None:
    """Lets the next call like this one, in place, take the short way."""
    # Subclasses may mean something else by their memory.
    if name and all(type(tensor) in _PLAIN for tensor in tensors):
        runtime.session().calls.remember(
            tensors, name, op, *scales, process_set, reduction, process_set.required_id()
        )


def _result_like(tensor: torch.Tensor) -> torch.Tensor:
    check(tensor)
    return torch.empty(tensor.shape, dtype=tensor.dtype)


def allreduce_async(
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    compression: Compressor | str = Compression.none,
) -> int:
    """Starts reducing `tensor` over the ranks; `synchronize` gives a new tensor."""
    reduction = _reduction(op, average)
    scales = (prescale_factor, postscale_factor)
    output = [_result_like(tensor)]
    return _reduce([tensor], output, name, reduction, scales, compression, process_set, False)


def allreduce_async_(
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    compression: Compressor | str = Compression.none,
) -> int:
    """Starts reducing `tensor` over the ranks, in place."""
    session = runtime._session or runtime.session()
    plain = average is None and compression is Compression.none
    if (
        name
        and plain
        and (
            handle := session.calls.submit(
                tensor, name, op, prescale_factor, postscale_factor, process_set
            )
        )
    ):
        return handle
    scales = (prescale_factor, postscale_factor)
    reduction = _reduction(op, average)
    handle = _reduce([tensor], [tensor], name, reduction, scales, compression, process_set, False)
    if plain:
        _remember([tensor], name, op, scales, process_set, reduction)
    return handle


def allreduce_(
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
    compression: Compressor | str = Compression.none,
) -> torch.Tensor:
    """Reduces `tensor` over the ranks, in place."""
    scales = (prescale_factor, postscale_factor)
    return synchronize(
        allreduce_async_(tensor, average, name, op, *scales, process_set, compression)
    )


def _of_gradient(name: str | None, part: str = "gradient") -> str | None:
    """What the backward pass calls its own operation."""
    return f"{name}.{part}" if name else None


class _Allreduce(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grouped, name, op, scales, compression, process_set, *tensors):  # type: ignore[no-untyped-def]
        ctx.call = (grouped, name, op, scales, compression, process_set)
        outputs = [_result_like(tensor) for tensor in tensors]
        terms = (op, scales, compression, process_set)
        if grouped:
            synchronize(_reduce_group(list(tensors), outputs, name, *terms))
        else:
            synchronize(_reduce(list(tensors), outputs, name, *terms, False))
        return tuple(outputs)

    @staticmethod
    def backward(ctx, *gradients):  # type: ignore[no-untyped-def]
        grouped, name, op, *rest = ctx.call
        if op not in (Sum, Average):
            raise NotImplementedError(f"allreduce with op={op.name} has no gradient")
        return (None,) * 6 + _Allreduce.apply(grouped, _of_gradient(name), op, *rest, *gradients)


def _reduced(
    tensors: Sequence[torch.Tensor],
    grouped: bool,
    name: str | None,
    op: ReduceOp,
    scales: tuple[float, float],
    compression: Compressor | str,
    process_set: ProcessSet,
) -> list[torch.Tensor]:
    terms = (grouped, name, op, scales)
    if op in (Sum, Average) or isinstance(compression, str):
        return list(_Allreduce.apply(*terms, compression, process_set, *tensors))
    # The engine's chains are for sums; elsewhere a compressor is the cast that its name says.
    pairs = [compression.compress(tensor) for tensor in tensors]
    sent = [tensor for tensor, _ in pairs]
    results = _Allreduce.apply(*terms, Compression.none, process_set, *sent)
    return [
        compression.decompress(part, ctx) for part, (_, ctx) in zip(results, pairs, strict=True)
    ]


def allreduce(
    tensor: torch.Tensor,
    average: bool | None = None,
    name: str | None = None,
    compression: Compressor | str = Compression.none,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> torch.Tensor:
    """Reduces `tensor` over the ranks into a new tensor; differentiable for Sum and Average."""
    scales = (prescale_factor, postscale_factor)
    reduction = _reduction(op, average)
    return _reduced([tensor], False, name, reduction, scales, compression, process_set)[0]


def grouped_allreduce_async(
    tensors: Sequence[torch.Tensor],
    average: bool | None = None,
    name: str | None = None,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> Handle:
    """Starts reducing several tensors as one operation; `synchronize` gives a list."""
    reduction = _reduction(op, average)
    scales = (prescale_factor, postscale_factor)
    outputs = [_result_like(tensor) for tensor in tensors]
    return _reduce_group(
        list(tensors), outputs, name, reduction, scales, Compression.none, process_set
    )


def grouped_allreduce_async_(
    tensors: Sequence[torch.Tensor],
    average: bool | None = None,
    name: str | None = None,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> Handle:
    """Starts reducing several tensors as one operation, in place."""
    scales = (prescale_factor, postscale_factor)
    both = list(tensors)
    calls = runtime.session().calls
    if (
        name
        and average is None
        and (handle := calls.submit_group(both, name, op, *scales, process_set))
    ):
        return handle
    reduction = _reduction(op, average)
    handle = _reduce_group(both, both, name, reduction, scales, Compression.none, process_set)
    if average is None and len(both) > 1 and not callable(handle):
        _remember(both, name, op, scales, process_set, reduction)
    return handle


def grouped_allreduce_(
    tensors: Sequence[torch.Tensor],
    average: bool | None = None,
    name: str | None = None,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> list[torch.Tensor]:
    """Reduces several tensors as one operation, in place."""
    return synchronize(
        grouped_allreduce_async_(
            tensors, average, name, op, prescale_factor, postscale_factor, process_set
        )
    )


def grouped_allreduce(
    tensors: Sequence[torch.Tensor],
    average: bool | None = None,
    name: str | None = None,
    compression: Compressor | str = Compression.none,
    op: ReduceOp | None = None,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
    process_set: ProcessSet = global_process_set,
) -> list[torch.Tensor]:
    """Reduces several tensors as one operation into new ones; differentiable like `allreduce`."""
    scales = (prescale_factor, postscale_factor)
    reduction = _reduction(op, average)
    return _reduced(tensors, True, name, reduction, scales, compression, process_set)


def _submit_allocating(
    op: Op,
    tensors: Sequence[torch.Tensor],
    name: str | None,
    process_set: ProcessSet,
    finish: Callable[[Any, int], Any],
    reduce: ReduceOp = Sum,
    scales: tuple[float, float] = (1.0, 1.0),
    splits: Sequence[int] = (),
) -> int:
    """Submits an operation whose results the engine allocates."""
    if not tensors:
        raise ValueError("a group needs at least one tensor")
    sources = [readable(tensor) for tensor in tensors]
    rows = [(s.data_ptr(), 0, CODES[s.dtype], tuple(s.shape)) for s in sources]
    handle = runtime.session().engine.submit_group(
        op, rows, name or "", reduce, process_set.required_id(), 0, *scales, "none", list(splits)
    )
    return _begin(handle, sources, finish)


def _fetch_one(engine: Any, handle: int) -> torch.Tensor:
    return from_result(engine.fetch(handle)[0][0])


def _fetch_all(engine: Any, handle: int) -> list[torch.Tensor]:
    return [from_result(result) for result in engine.fetch(handle)[0]]


def _need_rows(tensor: torch.Tensor, op: str) -> None:
    check(tensor)
    if tensor.dim() == 0:
        raise ValueError(f"{op} works on the first dimension, and a scalar has none; reshape(1)")


def allgather_async(
    tensor: torch.Tensor, name: str | None = None, process_set: ProcessSet = global_process_set
) -> int:
    """Starts joining the ranks' tensors along their first dimension, which may differ."""
    _need_rows(tensor, "allgather")
    return _submit_allocating(Op.ALLGATHER, [tensor], name, process_set, _fetch_one)


def grouped_allgather_async(
    tensors: Sequence[torch.Tensor],
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> Handle:
    """`allgather_async` of several tensors as one operation."""
    for tensor in tensors:
        _need_rows(tensor, "allgather")

    def start(places: list[int], name: str | None) -> int:
        ours = [tensors[i] for i in places]
        return _submit_allocating(Op.ALLGATHER, ours, name, process_set, _fetch_all)

    return _start_group(tensors, name, start)


class _Allgather(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grouped, name, process_set, *tensors):  # type: ignore[no-untyped-def]
        ctx.process_set, ctx.name = process_set, name
        ctx.rows = [tensor.shape[0] if tensor.dim() else 0 for tensor in tensors]
        if grouped:
            return tuple(synchronize(grouped_allgather_async(tensors, name, process_set)))
        return (synchronize(allgather_async(tensors[0], name, process_set)),)

    @staticmethod
    def backward(ctx, *gradients):  # type: ignore[no-untyped-def]
        members = ctx.process_set
        rows = torch.tensor([ctx.rows])
        table = allgather(rows, _of_gradient(ctx.name, "rows"), members)
        first = table[: members.rank()].sum(0).tolist()
        means = grouped_allreduce(gradients, name=_of_gradient(ctx.name), process_set=members)
        own = [m.narrow(0, f, n) for m, f, n in zip(means, first, ctx.rows, strict=True)]
        return (None, None, None, *own)


def allgather(
    tensor: torch.Tensor, name: str | None = None, process_set: ProcessSet = global_process_set
) -> torch.Tensor:
    """Joins the ranks' tensors along their first dimension, which may differ; differentiable."""
    return _Allgather.apply(False, name, process_set, tensor)[0]


def grouped_allgather(
    tensors: Sequence[torch.Tensor],
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> list[torch.Tensor]:
    """`allgather` of several tensors as one operation."""
    return list(_Allgather.apply(True, name, process_set, *tensors))


def _broadcast(
    tensor: torch.Tensor,
    output: torch.Tensor,
    root_rank: int,
    name: str | None,
    process_set: ProcessSet,
) -> int:
    source = readable(tensor)
    target = source if output is tensor else output
    session = runtime.session()
    handle = session.engine.submit(
        Op.BROADCAST,
        source.data_ptr(),
        target.data_ptr(),
        CODES[source.dtype],
        tuple(source.shape),
        name or "",
        Sum,
        process_set.required_id(),
        root_rank,
        1.0,
        1.0,
        "none",
        0,
        0,
    )

    def finish(engine: Any, ended: int) -> torch.Tensor:
        engine.wait(ended)
        if target.data_ptr() != output.data_ptr():
            output.detach().copy_(target)
        return output

    return _begin(handle, (source, target, output), finish)


def broadcast_async(
    tensor: torch.Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> int:
    """Starts sending root's tensor to all; `synchronize` gives a new tensor."""
    return _broadcast(tensor, _result_like(tensor), root_rank, name, process_set)


def broadcast_async_(
    tensor: torch.Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> int:
    """Starts sending root's tensor into everybody's."""
    return _broadcast(tensor, tensor, root_rank, name, process_set)


def broadcast_(
    tensor: torch.Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> torch.Tensor:
    """Sends root's tensor into everybody's. `root_rank` counts in the whole job."""
    return synchronize(broadcast_async_(tensor, root_rank, name, process_set))


class _Broadcast(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, root_rank, name, process_set):  # type: ignore[no-untyped-def]
        ctx.root_rank, ctx.name, ctx.process_set = root_rank, name, process_set
        return synchronize(broadcast_async(tensor, root_rank, name, process_set))

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        name = _of_gradient(ctx.name)
        mean = allreduce(gradient, name=name, process_set=ctx.process_set)
        if runtime.rank() != ctx.root_rank:
            mean = torch.zeros_like(mean)
        return mean, None, None, None


def broadcast(
    tensor: torch.Tensor,
    root_rank: int,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> torch.Tensor:
    """Root's tensor, on all ranks; differentiable."""
    return _Broadcast.apply(tensor, root_rank, name, process_set)


def _scatter_reduction(op: ReduceOp | None) -> ReduceOp:
    reduction = _reduction(op, None)
    if reduction not in (Sum, Average):
        raise ValueError(f"reducescatter: op={reduction.name}, but only Sum and Average exist")
    return reduction


def reducescatter_async(
    tensor: torch.Tensor,
    name: str | None = None,
    op: ReduceOp = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> int:
    """Starts reducing `tensor` over the ranks, each of which gets its part of the rows.

    If they do not divide evenly, the first ranks get one row more.
    """
    _need_rows(tensor, "reducescatter")
    scales = (prescale_factor, postscale_factor)
    return _submit_allocating(
        Op.REDUCE_SCATTER, [tensor], name, process_set, _fetch_one, _scatter_reduction(op), scales
    )


def grouped_reducescatter_async(
    tensors: Sequence[torch.Tensor],
    name: str | None = None,
    op: ReduceOp = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> Handle:
    """`reducescatter_async` of several tensors as one operation."""
    for tensor in tensors:
        _need_rows(tensor, "reducescatter")
    terms = (_scatter_reduction(op), (prescale_factor, postscale_factor))

    def start(places: list[int], name: str | None) -> int:
        ours = [tensors[i] for i in places]
        return _submit_allocating(Op.REDUCE_SCATTER, ours, name, process_set, _fetch_all, *terms)

    return _start_group(tensors, name, start)


class _Reducescatter(torch.autograd.Function):
    @staticmethod
    def forward(ctx, grouped, name, op, scales, process_set, *tensors):  # type: ignore[no-untyped-def]
        ctx.op, ctx.scales, ctx.process_set = _scatter_reduction(op), scales, process_set
        ctx.name = name
        call = grouped_reducescatter_async if grouped else reducescatter_async
        argument = list(tensors) if grouped else tensors[0]
        result = synchronize(call(argument, name, op, process_set, *scales))
        return tuple(result) if grouped else (result,)

    @staticmethod
    def backward(ctx, *gradients):  # type: ignore[no-untyped-def]
        # Horovod's convention: the gradient of a mean over ranks is not divided by their number.
        factor = ctx.scales[0] * ctx.scales[1]
        if ctx.op == Sum:
            factor *= ctx.process_set.size()
        scaled = [gradient if factor == 1 else gradient * factor for gradient in gradients]
        name = _of_gradient(ctx.name)
        return (None,) * 5 + tuple(grouped_allgather(scaled, name, ctx.process_set))


def reducescatter(
    tensor: torch.Tensor,
    name: str | None = None,
    compression: Compressor | str = Compression.none,
    op: ReduceOp = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> torch.Tensor:
    """Reduces over the ranks and gives this rank's part of the rows; differentiable."""
    return _reducescatter(
        False, [tensor], name, compression, op, process_set, (prescale_factor, postscale_factor)
    )[0]


def grouped_reducescatter(
    tensors: Sequence[torch.Tensor],
    name: str | None = None,
    compression: Compressor | str = Compression.none,
    op: ReduceOp = Average,
    process_set: ProcessSet = global_process_set,
    prescale_factor: float = 1.0,
    postscale_factor: float = 1.0,
) -> list[torch.Tensor]:
    """`reducescatter` of several tensors as one operation."""
    return _reducescatter(
        True, tensors, name, compression, op, process_set, (prescale_factor, postscale_factor)
    )


def _reducescatter(
    grouped: bool,
    tensors: Sequence[torch.Tensor],
    name: str | None,
    compression: Compressor | str,
    op: ReduceOp,
    process_set: ProcessSet,
    scales: tuple[float, float],
) -> list[torch.Tensor]:
    if isinstance(compression, str) and chain_of(compression) != "none":
        raise NotImplementedError(
            f"reducescatter does not compress by {compression!r}; use Compression.fp16 or none"
        )
    wire = Compression.none if isinstance(compression, str) else compression
    pairs = [wire.compress(tensor) for tensor in tensors]
    sent = [tensor for tensor, _ in pairs]
    results = _Reducescatter.apply(grouped, name, op, scales, process_set, *sent)
    return [wire.decompress(part, ctx) for part, (_, ctx) in zip(results, pairs, strict=True)]


def alltoall_async(
    tensor: torch.Tensor,
    splits: torch.Tensor | Sequence[int] | None = None,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> int:
    """Starts sending `splits[i]` rows, in order, to member i; equal parts without `splits`.

    `synchronize` gives (what the members sent to this rank, how many rows from each).
    """
    _need_rows(tensor, "alltoall")
    counts = _checked_splits(splits, tensor, process_set)

    def finish(engine: Any, handle: int) -> tuple[torch.Tensor, torch.Tensor]:
        outputs, received, _ = engine.fetch(handle)
        dtype = splits.dtype if isinstance(splits, torch.Tensor) else torch.int32
        return from_result(outputs[0]), torch.tensor(received, dtype=dtype)

    return _submit_allocating(Op.ALLTOALL, [tensor], name, process_set, finish, splits=counts)


def _checked_splits(
    splits: torch.Tensor | Sequence[int] | None, tensor: torch.Tensor, process_set: ProcessSet
) -> list[int]:
    rows, members = tensor.shape[0], process_set.size()
    if splits is None or len(splits) == 0:
        if rows % members:
            raise ValueError(
                f"alltoall: {rows} rows do not divide among {members} ranks; use splits"
            )
        return []
    if isinstance(splits, torch.Tensor):
        if splits.dtype not in (torch.int32, torch.int64) or splits.dim() != 1:
            raise ValueError("alltoall: splits must be a one-dimensional tensor of int32 or int64")
        counts = splits.tolist()
    else:
        counts = [int(count) for count in splits]
    if len(counts) != members:
        raise ValueError(f"alltoall: {len(counts)} splits for {members} ranks")
    if min(counts) < 0 or sum(counts) > rows:
        raise ValueError(f"alltoall: splits {counts} do not fit a tensor of {rows} rows")
    if sum(counts) != rows:
        raise ValueError(
            f"alltoall: splits add up to {sum(counts)}, but the tensor has {rows} rows"
        )
    return counts


class _Alltoall(torch.autograd.Function):
    @staticmethod
    def forward(ctx, tensor, splits, name, process_set):  # type: ignore[no-untyped-def]
        output, received = synchronize(alltoall_async(tensor, splits, name, process_set))
        ctx.received, ctx.name, ctx.process_set = received, name, process_set
        ctx.mark_non_differentiable(received)
        return output, received

    @staticmethod
    def backward(ctx, gradient, _):  # type: ignore[no-untyped-def]
        own, _ = alltoall(gradient, ctx.received, _of_gradient(ctx.name), ctx.process_set)
        return own, None, None, None


def alltoall(
    tensor: torch.Tensor,
    splits: torch.Tensor | Sequence[int] | None = None,
    name: str | None = None,
    process_set: ProcessSet = global_process_set,
) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
    """Sends rows to every member and gives those received; differentiable.

    With `splits`, gives (rows, how many from each member).
    """
    output, received = _Alltoall.apply(tensor, splits, name, process_set)
    return output if splits is None else (output, received)
