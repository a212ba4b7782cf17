"""Optimizers with op=Adasum: every rank makes its own step, and the steps are combined.

Adasum weighs vectors by their directions, and what moves the model is the step, not the gradient:
momentum and Adam's scaling turn it. So each rank steps on its own gradients, and the changes of the
parameters are adaptively summed. State such as momentum stays each rank's own.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch

from hora import runtime
from hora._native import HoraError
from hora.process_sets import ProcessSet
from hora.torch.compression import Compressor
from hora.torch.ops import Adasum, allreduce_async_, synchronize
from hora.torch.wrapping import Portable, note_step, unnamed


class _Step:
    """One parameter's step: where it began, and what it changed."""

    def __init__(self, name: str, param: torch.Tensor) -> None:
        self.name = name
        self.param = param
        self.start = torch.empty_like(param, requires_grad=False)
        self.change = torch.empty_like(self.start)


class Steps:
    """The steps of an optimizer's parameters, combined over the ranks of a process set.

    A parameter takes part from the first step on at which it requires a gradient: with a change of
    zero if it has none here, since other ranks may have one.
    """

    def __init__(self, wire: Compressor, process_set: ProcessSet) -> None:
        self._wire = wire
        self._process_set = process_set
        self._session: runtime.Session | None = None
        self._domain = 0
        self._waiting: list[tuple[str, torch.Tensor]] = []
        self._steps: list[_Step] = []
        self._enter_session()

    def adopt(self, named: list[tuple[str, torch.Tensor, int]]) -> None:
        """Takes care of (name, parameter, its group's index) from now on."""
        self._waiting += [(name, param) for name, param, _ in named if param.numel()]

    def _enter_session(self) -> None:
        if (session := runtime.session()) is not self._session:
            self._session = session
            self._domain = session.next_domain(self._process_set.required_id())

    @torch.no_grad()
    def begin(self) -> list[_Step]:
        """Remembers where the parameters are; gives those that take part."""
        self._enter_session()
        if not self._process_set.included() or self._process_set.size() == 1:
            return []
        learning = [pair for pair in self._waiting if pair[1].requires_grad]
        self._waiting = [pair for pair in self._waiting if not pair[1].requires_grad]
        self._steps += [_Step(name, param) for name, param in learning]
        for step in self._steps:
            step.start.copy_(step.param)
        return self._steps

    @torch.no_grad()
    def combine(self, steps: list[_Step]) -> None:
        """Moves the parameters from where they were by the combined steps.

        All have ended when an error is raised; a parameter whose step failed is where it was.
        """
        sent = []
        for step in steps:
            torch.sub(step.param, step.start, out=step.change)
            change, was = self._wire.compress(step.change)
            name = f"adasum.{step.name}@{self._domain}"
            terms = (None, name, Adasum, 1.0, 1.0, self._process_set)
            sent.append((step, allreduce_async_(change, *terms), was))
        error = None
        for step, handle, was in sent:
            try:
                change = self._wire.decompress(synchronize(handle), was)
                torch.add(step.start, change, out=step.param.data)
            except (HoraError, ValueError) as failed:
                step.param.copy_(step.start)
                error = error or failed
        if error is not None:
            raise error


class AdasumMixin(Portable):
    """What `DistributedOptimizer` puts in front of the optimizer's own class for op=Adasum."""

    _hora_steps: Steps
    _hora_groups: int  # so many of the parameter groups are taken care of

    def synchronize(self) -> None:
        """Nothing: gradients stay this rank's own, and `step()` waits for the steps."""

    @contextlib.contextmanager
    def skip_synchronize(self) -> Iterator[None]:
        """Errors: AssertionError, since a step of this rank alone would part the models."""
        raise AssertionError(
            "Skipping synchronization is not supported when using Adasum optimizer."
        )
        yield

    def set_backward_passes_per_step(self, passes: int) -> None:
        """Nothing: gradients add up here as in any optimizer, until `step()`."""

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The optimizer's own step, on this rank's gradients; then the ranks' steps are combined.

        Every rank must call it. One whose GradScaler found an Inf takes part with no step.
        """
        note_step(self)
        self._adopt_new_groups()
        steps = self._hora_steps.begin()
        with self._unscaled() as may_step:
            loss = super().step(closure) if may_step else None  # type: ignore[misc]
        self._hora_steps.combine(steps)
        return loss

    # The class's own step runs the hooks of steps; torch, seeing none here, would add them again.
    step.hooked = True  # type: ignore[attr-defined]

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Tells torch's GradScaler to call `step` in any case: it must not skip on one rank."""
        return True

    @_step_supports_amp_scaling.setter
    def _step_supports_amp_scaling(self, supports: bool) -> None:
        self.__dict__["_step_supports_amp_scaling"] = supports

    @contextlib.contextmanager
    def _unscaled(self) -> Iterator[bool]:
        """What a GradScaler leaves to optimizers that say they support it. Gives: may it step?"""
        given = self.__dict__
        if "found_inf" not in given or given.get("_step_supports_amp_scaling", False):
            yield True
            return
        told = {name: given.pop(name) for name in ("grad_scale", "found_inf")}
        if told["grad_scale"] is not None:
            for group in self.param_groups:  # type: ignore[attr-defined]
                for param in group["params"]:
                    if param.grad is not None:
                        param.grad.div_(told["grad_scale"])
        try:
            yield not bool(told["found_inf"])
        finally:
            given.update(told)  # the scaler takes them away itself

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As the optimizer's; the same on all ranks."""
        super().add_param_group(param_group)  # type: ignore[misc]
        self._adopt_new_groups()

    def _adopt_new_groups(self) -> None:
        groups = range(self._hora_groups, len(self.param_groups))  # type: ignore[attr-defined]
        if groups:
            self._hora_groups = groups.stop
            self._hora_steps.adopt(unnamed(self, groups))
