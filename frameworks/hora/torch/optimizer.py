"""DistributedOptimizer: any torch optimizer, on the mean of all ranks' gradients."""

from __future__ import annotations

import contextlib
import math
import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch

from hora import runtime
from hora.constants import ReduceOp
from hora.process_sets import ProcessSet, global_process_set
from hora.torch.adasum import AdasumMixin, Steps
from hora.torch.compression import Compression, Compressor, chain_of
from hora.torch.functions import mean_loss
from hora.torch.reducer import Reducer, Terms
from hora.torch.wrapping import (
    Portable,
    bind,
    check_momentum,
    check_optimizer,
    decides_by_loss,
    note_step,
    unnamed,
)


class DistributedMixin(Portable):
    """What `DistributedOptimizer` puts in front of the optimizer's own class."""

    _hora_reducer: Reducer
    _hora_should_synchronize: bool
    _hora_synchronized: bool
    _hora_is_scaled: bool
    _hora_groups: int  # so many of the parameter groups are taken care of

    def synchronize(self) -> None:
        """Waits until every `p.grad` is the mean over the ranks. See `Reducer.synchronize`."""
        self._reduce()
        self._hora_synchronized = True

    @contextlib.contextmanager
    def skip_synchronize(self) -> Iterator[None]:
        """Inside, `step()` takes the gradients as they are: after `synchronize()`."""
        self._hora_should_synchronize = False
        try:
            yield
        finally:
            self._hora_should_synchronize = True

    def set_backward_passes_per_step(self, passes: int) -> None:
        """How many backward passes add up before gradients are reduced."""
        _check_passes(passes)
        self._hora_reducer.set_passes(passes)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """`synchronize()`, unless inside `skip_synchronize()`, and the optimizer's own step.

        With a closure, gradients are reduced each time after it was called. An optimizer that
        decides by the closure's loss, as LBFGS does, is given the mean.
        """
        note_step(self)
        in_flight = self._hora_reducer.in_flight
        if self._hora_should_synchronize and (in_flight or not self._hora_is_scaled):
            if self._hora_synchronized and not in_flight:
                warnings.warn(
                    "optimizer.step() called without optimizer.skip_synchronize() context after "
                    "optimizer.synchronize(). This can cause training slowdown. You may want to "
                    "consider using optimizer.skip_synchronize() context if you use "
                    "optimizer.synchronize() in your code.",
                    stacklevel=2,
                )
            if closure is None or in_flight:
                self.synchronize()
            if closure is not None:
                closure = self._reducing(closure)
        self._hora_synchronized = self._hora_is_scaled = False
        return super().step(closure)  # type: ignore[misc]

    # The class's own step runs the hooks of steps; torch, seeing none here, would add them again.
    step.hooked = True  # type: ignore[attr-defined]

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """What torch's GradScaler asks first of all in its `step`.

        It unscales gradients next, in place, so this is the moment to wait for them; the step that
        it calls last, or not at all, then takes them as they are.
        """
        is_reduced = self._hora_synchronized and not self._hora_reducer.in_flight
        if self._hora_should_synchronize and not is_reduced:
            self.synchronize()
            self._hora_is_scaled = True
        return bool(self.__dict__.get("_step_supports_amp_scaling", False))

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, supports: bool) -> None:
        self.__dict__["_step_supports_amp_scaling"] = supports

    def _reduce(self) -> None:
        self._adopt_new_groups()
        self._hora_reducer.synchronize()

    def _adopt_new_groups(self) -> None:
        # They may have been added to the plain optimizer, which has the same list.
        groups = range(self._hora_groups, len(self.param_groups))  # type: ignore[attr-defined]
        if groups:
            self._hora_groups = groups.stop
            _adopt(self, unnamed(self, groups))

    def _reducing(self, closure: Callable[[], Any]) -> Callable[[], Any]:
        def reduced() -> Any:
            loss = closure()
            self._reduce()
            if not decides_by_loss(type(self._hora_plain)):
                return loss
            return mean_loss(loss, self._hora_reducer.process_set)

        return reduced

    def zero_grad(self, *args: Any, **kwargs: Any) -> None:
        """As the optimizer's. Errors: AssertionError while gradients are in flight."""
        if self._hora_reducer.in_flight:
            raise AssertionError(
                "optimizer.zero_grad() was called after loss.backward() but before "
                "optimizer.step() or optimizer.synchronize(). This is prohibited as it can cause "
                "a race condition."
            )
        self._hora_synchronized = self._hora_is_scaled = False
        super().zero_grad(*args, **kwargs)  # type: ignore[misc]

    def state_dict(self) -> dict[str, Any]:
        """As the optimizer's, and under "hora" what this rank's compression remembers, if anything.

        Errors: AssertionError while gradients are in flight.
        """
        state = super().state_dict()  # type: ignore[misc]
        if entries := self._hora_reducer.save_memories():
            state["hora"] = entries
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As the optimizer's, and what compression remembers: see `hora.torch.memories`."""
        entries = state_dict.get("hora", {})
        plain = {key: value for key, value in state_dict.items() if key != "hora"}
        super().load_state_dict(plain)  # type: ignore[misc]
        self._hora_reducer.load_memories(entries)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As the optimizer's; the same on all ranks."""
        super().add_param_group(param_group)  # type: ignore[misc]
        self._adopt_new_groups()


def DistributedOptimizer(  # noqa: N802 (Horovod's name)
    optimizer: torch.optim.Optimizer,
    named_parameters: Iterable[tuple[str, torch.Tensor]] | None = None,
    compression: Compressor | str = Compression.none,
    backward_passes_per_step: int = 1,
    op: ReduceOp = ReduceOp.AVERAGE,
    gradient_predivide_factor: float = 1.0,
    num_groups: int = 0,
    groups: Any = None,
    sparse_as_dense: bool = False,
    process_set: ProcessSet = global_process_set,
) -> torch.optim.Optimizer:
    """An optimizer of the same class, state and parameters that steps on reduced gradients.

    Each gradient is on its way while the backward pass still computes others; `step()` waits for
    all. A parameter that has no gradient here takes part with zeros, since other ranks may have
    one; one that is frozen everywhere stays without.

    `compression` is `Compression.none` (what HORA_COMPRESSION says), `Compression.fp16` or a chain
    such as "onebit"; "none" is values as they are. With `backward_passes_per_step` gradients add up
    over so many passes and are then reduced. `gradient_predivide_factor` f divides by f before the
    sum and by size / f after it. `groups` (a number, or lists of tensors) is checked and otherwise
    left to the engine, which fuses by itself and gives the same result. Sparse gradients stay
    sparse, unless `sparse_as_dense`. Ranks outside `process_set` step on their own gradients. With
    op=Adasum all do, and the steps are combined: see hora.torch.adasum; of the other options only
    names, `process_set` and `Compression.fp16` have a meaning then.

    A chain with momentum correction (`mc`, `dgc`) has the optimizer's momentum: give the optimizer
    none. Parameters that a rule leaves uncompressed then have none at all.

    Errors: ValueError for names that are missing or not unique, for groups that name a tensor
    twice, for a `gradient_predivide_factor` with an op other than Average, for a chain that cannot
    be parsed, and for two momenta.
    """
    check_optimizer(optimizer)
    if gradient_predivide_factor != 1.0 and op != ReduceOp.AVERAGE:
        raise ValueError("gradient_predivide_factor not supported with op != Average")
    if not 0 < gradient_predivide_factor < math.inf:
        raise ValueError(f"gradient_predivide_factor={gradient_predivide_factor}: must be above 0")
    _check_passes(backward_passes_per_step)
    if num_groups:
        warnings.warn(
            "Parameter `num_groups` has been replaced by `groups`", DeprecationWarning, stacklevel=2
        )
    _check_groups(num_groups if groups is None else groups)
    names = _checked_names(optimizer, named_parameters)

    if op == ReduceOp.ADASUM:
        return _stepping_apart(optimizer, names, compression, process_set)
    chain = chain_of(compression, runtime.session().engine.compression)
    check_momentum(optimizer, chain)
    wrapped = _wrapped(optimizer, DistributedMixin)
    wrapped._hora_should_synchronize = True
    wrapped._hora_synchronized = wrapped._hora_is_scaled = False

    divide = gradient_predivide_factor
    terms = Terms(
        ReduceOp(op),
        (1.0 / divide, divide),
        chain,
        backward_passes_per_step,
        sparse_as_dense,
        process_set,
    )
    weak = weakref.ref(wrapped)

    def rate_of(group: int) -> float:
        living = weak()
        rate = living.param_groups[group].get("lr", 0.0) if living is not None else 0.0
        return rate if isinstance(rate, float) else 0.0

    reducer = wrapped._hora_reducer = Reducer(terms, rate_of)
    bind(optimizer, wrapped, lambda: reducer.in_flight)
    weakref.finalize(wrapped, wrapped._hora_reducer.close).atexit = False
    _adopt(wrapped, names)
    return wrapped


def _wrapped(optimizer: torch.optim.Optimizer, mixin: type) -> Any:
    kind = type(type(optimizer).__name__, (mixin, type(optimizer)), {})
    kind.__module__ = type(optimizer).__module__
    wrapped = kind.__new__(kind)
    # A learning-rate scheduler wraps the step of the instance it knows; its wrapper stays there.
    wrapped.__dict__.update((k, v) for k, v in optimizer.__dict__.items() if k != "step")
    wrapped._hora_groups = len(optimizer.param_groups)
    return wrapped


def _stepping_apart(
    optimizer: torch.optim.Optimizer,
    names: list[tuple[str, torch.Tensor, int]],
    compression: Compressor | str,
    process_set: ProcessSet,
) -> torch.optim.Optimizer:
    wire = Compression.none if compression == "none" else compression
    if not isinstance(wire, Compressor):
        raise ValueError(
            f"op=Adasum does not go with compression={compression!r}; use Compression.fp16 or none"
        )
    wrapped = _wrapped(optimizer, AdasumMixin)
    wrapped._hora_steps = Steps(wire, process_set)
    bind(optimizer, wrapped, lambda: False)
    wrapped._hora_steps.adopt(names)
    return wrapped


def _check_passes(passes: int) -> None:
    if passes < 1:
        raise ValueError(f"backward_passes_per_step={passes}: must be at least 1")


def _check_groups(groups: Any) -> None:
    if isinstance(groups, list | tuple):
        if not all(isinstance(group, list | tuple) for group in groups):
            raise ValueError("groups should consist of lists of tensors")
        tensors = [tensor for group in groups for tensor in group]
        if not all(isinstance(tensor, torch.Tensor) for tensor in tensors):
            raise ValueError("groups should consist of lists of tensors")
        if len({id(tensor) for tensor in tensors}) != len(tensors):
            raise ValueError("groups: a tensor may appear only once")
    elif not isinstance(groups, int) or groups < 0:
        raise ValueError("groups should be a non-negative integer or a list of list of tensors")


def _checked_names(
    optimizer: torch.optim.Optimizer, named_parameters: Iterable[tuple[str, torch.Tensor]] | None
) -> list[tuple[str, torch.Tensor, int]]:
    """(name, parameter, group) of the optimizer's parameters, in its order."""
    pairs = list(named_parameters or [])
    if any(not isinstance(pair, tuple) or len(pair) != 2 for pair in pairs):
        raise ValueError(
            "named_parameters should be a sequence of tuples (name, parameter), usually produced "
            "by model.named_parameters()."
        )
    duplicates = sorted(name for name, n in Counter(name for name, _ in pairs).items() if n > 1)
    if duplicates:
        raise ValueError(
            "Parameter names in named_parameters must be unique. Found duplicates: "
            + ", ".join(duplicates)
        )
    names = {id(param): name for name, param in pairs}
    found = unnamed(optimizer, range(len(optimizer.param_groups)))
    if named_parameters is None:
        return found
    missing = [place for place, param, _ in found if id(param) not in names]
    if missing:
        raise ValueError(
            "named_parameters was specified, but one or more model parameters were not named: "
            f"{', '.join(missing)} (group and position in the optimizer)"
        )
    return [(names[id(param)], param, group) for _, param, group in found]


def _adopt(wrapped: Any, named: list[tuple[str, torch.Tensor, int]]) -> None:
    process_set = wrapped._hora_reducer.process_set
    # Alone now; but others may join.
    if process_set.included() and (process_set.size() > 1 or runtime.is_elastic()):
        wrapped._hora_reducer.adopt(named)
