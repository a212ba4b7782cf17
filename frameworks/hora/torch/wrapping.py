"""What wrapping an optimizer must not break, and mistakes around it that are told at once."""

from __future__ import annotations

import copy
import re
import warnings
import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch

from hora import _native
from hora.torch.optim import CommunicatingOptimizer


def _blank(kind: type) -> Any:
    return kind.__new__(kind)


class Portable:
    """Copies of a distributed optimizer, and files with one, hold a plain optimizer.

    Who reduces gradients belongs to this process and this job, so it is in no file and no copy.
    """

    _hora_plain: torch.optim.Optimizer

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        state = self.__getstate__()  # type: ignore[attr-defined]
        return _blank, (type(self._hora_plain),), state

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.optim.Optimizer:
        kind = type(self._hora_plain)
        warnings.warn(
            f"the copy of a DistributedOptimizer is a plain {kind.__name__}, which steps on this "
            "rank's own gradients; give it to hora.DistributedOptimizer to train with it",
            stacklevel=3,
        )
        state = copy.deepcopy(self.__getstate__(), memo)  # type: ignore[attr-defined]
        copied = _blank(kind)
        memo[id(self)] = copied
        copied.__setstate__(state)
        return copied


def check_optimizer(optimizer: Any) -> None:
    """Errors: TypeError for what is no optimizer; ValueError for one that is wrapped already."""
    if not isinstance(optimizer, torch.optim.Optimizer):
        what = optimizer.__name__ if isinstance(optimizer, type) else type(optimizer).__name__
        raise TypeError(
            f"DistributedOptimizer: expected a torch.optim.Optimizer, got {what}; "
            "for example torch.optim.SGD(model.parameters(), lr=0.1)"
        )
    if isinstance(optimizer, CommunicatingOptimizer):
        raise ValueError(
            f"DistributedOptimizer: {type(optimizer).__name__} exchanges what it needs by itself; "
            "use it as it is"
        )
    if isinstance(optimizer, Portable):
        raise ValueError(
            "DistributedOptimizer: this optimizer is wrapped already, and its gradients would be "
            "reduced twice. Wrap it once; in a notebook, make a new torch optimizer in the cell "
            "that wraps it"
        )


def check_momentum(optimizer: torch.optim.Optimizer, chain: str) -> None:
    """Errors: ValueError if the chain keeps a momentum (`mc`) and the optimizer one, too.

    Both would be applied, one after the other. Only the chain's can be right: an element that is
    sent late must arrive with its momentum (Lin et al. 2018).
    """
    if not _KEEPS_MOMENTUM.search(_native.canonical_compression(chain)):
        return
    for group in optimizer.param_groups:
        for key in ("momentum", "betas"):
            value = group.get(key, 0)
            if not (value[0] if isinstance(value, tuple | list) else value):
                continue
            kind = type(optimizer).__name__
            instead = "0" if key == "momentum" else f"(0, {value[1]})"
            m = value if key == "momentum" else value[0]
            raise ValueError(
                f"compression={chain!r} keeps a momentum itself, and {kind} with {key}={value} "
                f"would apply another one to its result. Write {kind}(..., {key}={instead}), and "
                f"the momentum into the chain: m={m}, as in 'dgc:m={m}' or 'mc:m={m}+topk'; or "
                "leave it to the optimizer with m=0 in the chain"
            )


# The memory `mc` in the canonical form of a setting, with a momentum that is not zero.
_KEEPS_MOMENTUM = re.compile(r"\bmc:([a-z]+=[^,+;]*,)*m=(?!0(\.0*)?([,+;]|$))")


def bind(plain: torch.optim.Optimizer, wrapped: Any, in_flight: Callable[[], bool]) -> None:
    """Ties a wrapper to the optimizer that it was made from.

    From now on `plain.step()` is refused while gradients are on their way: it would use a mixture
    of reduced and local ones. What one of the two loads, both have.
    """
    wrapped._hora_plain = plain
    weak, plain_ref = weakref.ref(wrapped), weakref.ref(plain)

    def refuse(stepping: torch.optim.Optimizer, *_: Any) -> None:
        if stepping is plain_ref() and weak() is not None and in_flight():
            raise RuntimeError(
                f"{type(stepping).__name__}.step() was called on the optimizer that "
                "DistributedOptimizer wraps, while its gradients are on their way. Call step() of "
                "what DistributedOptimizer returned"
            )

    def share(loaded: torch.optim.Optimizer) -> None:
        # Loading makes new groups, and a scheduler may hold the other one.
        for other in (plain_ref(), weak()):
            if other is not None:
                other.param_groups, other.state = loaded.param_groups, loaded.state

    # Both have these hooks: the wrapper was made from what the plain one holds.
    plain.register_step_pre_hook(refuse)
    plain.register_load_state_dict_post_hook(share)


def unnamed(optimizer: Any, groups: Iterable[int]) -> list[tuple[str, torch.Tensor, int]]:
    """(name, parameter, group) of all parameters of these groups, with names made up."""
    return [
        (f"noname.{group}.{i}", param, group)
        for group in groups
        for i, param in enumerate(optimizer.param_groups[group]["params"])
    ]


def decides_by_loss(kind: type) -> bool:
    """Does the `step` of such optimizers do more with a closure's loss than return it?

    Of torch's own only LBFGS does. One of somebody else may.
    """
    stepping = next(base for base in kind.__mro__ if "step" in vars(base))
    own = stepping.__module__.startswith("torch.optim.")
    return not own or issubclass(stepping, torch.optim.LBFGS)


def note_step(wrapped: Any) -> None:
    """A learning-rate scheduler made before wrapping asks whether the plain optimizer stepped."""
    wrapped._hora_plain._opt_called = True
