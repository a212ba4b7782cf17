"""Optimizers whose exchange is part of their equations: Signum, 1-bit Adam and 0/1 Adam.

They reduce by themselves: do not wrap them in a DistributedOptimizer. All ranks of `process_set`
must make the same parameters learn and call `step()` equally often; a parameter without a gradient
takes part with zeros. `compression` is the chain of the compressed exchanges; with "none" one gets
the equations without the rounding. Gradients stay each rank's own and are not changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch

from hora import runtime
from hora.constants import ReduceOp
from hora.process_sets import ProcessSet, global_process_set
from hora.torch import memories
from hora.torch.ops import _reduce, synchronize

Params = Iterable[torch.Tensor] | Iterable[dict[str, Any]]


class CommunicatingOptimizer(torch.optim.Optimizer):
    """What these optimizers have in common: names, exchanges, and state with memories.

    After `hora.shutdown()` and `init()` memories of compression begin anew. Errors: those of
    an allreduce, from `step()`.
    """

    #: What is exchanged with compression: the suffix of its names.
    _exchanged = ""

    def __init__(
        self,
        params: Params,
        defaults: dict[str, Any],
        compression: str,
        process_set: ProcessSet,
    ) -> None:
        if not defaults["lr"] >= 0:
            raise ValueError(f"lr={defaults['lr']}: must not be negative")
        super().__init__(params, defaults)
        self._compression = compression
        self._process_set = process_set
        self._session: runtime.Session | None = None
        self._domain = 0

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One step on this rank's gradients; gives the closure's loss. All ranks must call it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._step()
        return loss

    def _step(self) -> None:
        raise NotImplementedError

    def _learning(self) -> list[tuple[str, dict[str, Any], torch.Tensor, torch.Tensor]]:
        """(name, group, parameter, gradient) of all that learn."""
        return [
            (
                f"{number}.{place}",
                group,
                param,
                torch.zeros_like(param) if param.grad is None else param.grad,
            )
            for number, group in enumerate(self.param_groups)
            for place, param in enumerate(group["params"])
            if param.requires_grad and param.numel()
        ]

    def _name(self, key: str, what: str) -> str:
        if (session := runtime.session()) is not self._session:
            self._session = session
            self._domain = session.next_domain(self._process_set.required_id())
        return f"{type(self).__name__}.{key}.{what}@{self._domain}"

    def _reduced(
        self, tensors: dict[str, torch.Tensor], what: str, op: ReduceOp, compression: str
    ) -> None:
        """Reduces all tensors in place, each with its own name."""
        if not self._process_set.included():
            return
        terms = (op, (1.0, 1.0), compression, self._process_set, False)
        handles = [
            _reduce([tensor], [tensor], self._name(key, what), *terms)
            for key, tensor in tensors.items()
        ]
        for handle in handles:
            synchronize(handle)

    def _names(self) -> list[tuple[str, str]]:
        return [(key, self._name(key, self._exchanged)) for key, *_ in self._learning()]

    def state_dict(self) -> dict[str, Any]:
        """As any optimizer's, and under "hora" what compression remembers on this rank."""
        state = super().state_dict()
        if runtime.is_initialized() and (names := self._names()):
            engine, set_id = runtime.session().engine, self._process_set.required_id()
            if entries := memories.save(engine, set_id, names):
                state["hora"] = entries
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Takes what `state_dict()` gave; after `hora.init()`. See `hora.torch.memories`."""
        plain = {key: value for key, value in state_dict.items() if key != "hora"}
        super().load_state_dict(plain)
        if entries := state_dict.get("hora"):
            engine, set_id = runtime.session().engine, self._process_set.required_id()
            memories.load(engine, set_id, self._names(), entries)


class Signum(CommunicatingOptimizer):
    """Signs of momenta, and the majority's vote: one bit each way for each parameter.

    Bernstein et al., "signSGD: Compressed Optimisation for Non-Convex Problems", ICML 2018, and
    "signSGD with Majority Vote is Communication Efficient and Fault Tolerant", ICLR 2019:

        m = momentum m + (1 - momentum) g        on each rank, of its own gradient
        V = sign of the sum over ranks of sign(m)
        x = x - lr (V + weight_decay x)

    sign(0) is +1, also for a tie. Momenta are each rank's own and no rank's file has those of
    others. A usual learning rate is a tenth to a thousandth of that for SGD, since every element
    moves by lr.
    """

    _exchanged = "vote"

    def __init__(
        self,
        params: Params,
        lr: float = 1e-4,
        momentum: float = 0.9,
        weight_decay: float = 0.0,
        compression: str = "signum",
        process_set: ProcessSet = global_process_set,
    ) -> None:
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: must be from 0 to below 1")
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults, compression, process_set)

    def _step(self) -> None:
        learning = self._learning()
        votes = {}
        for key, group, param, grad in learning:
            state = self.state[param]
            if not state:
                state["momentum"] = torch.zeros_like(param)
            state["momentum"].lerp_(grad, 1 - group["momentum"])
            votes[key] = _signs(state["momentum"])
        self._reduced(votes, self._exchanged, ReduceOp.SUM, self._compression)
        for key, group, param, _ in learning:
            param.mul_(1 - group["lr"] * group["weight_decay"])
            param.sub_(_signs(votes[key]), alpha=group["lr"])


def _signs(values: torch.Tensor) -> torch.Tensor:
    return torch.where(values >= 0, 1.0, -1.0).to(values.dtype)


class _Adaptive(CommunicatingOptimizer):
    """What the two forms of Adam have in common: their variance, and steps divided by it."""

    def __init__(
        self,
        params: Params,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        compression: str,
        process_set: ProcessSet,
    ) -> None:
        if not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"betas={betas}: each must be from 0 to below 1")
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, compression, process_set)

    def _begin(self, param: torch.Tensor, **more: Any) -> None:
        zeros = torch.zeros_like
        self.state[param].update(
            step=0, updates=0, momentum=zeros(param), variance=zeros(param), **more
        )

    def _mean_gradients(self, learning: list[Any]) -> dict[str, torch.Tensor]:
        means = {key: grad.clone() for key, _, _, grad in learning}
        self._reduced(means, "gradient", ReduceOp.AVERAGE, "none")
        return means

    @staticmethod
    def _vary(state: dict[str, Any], group: dict[str, Any], mean: torch.Tensor) -> None:
        beta = group["betas"][1]
        state["variance"].mul_(beta).addcmul_(mean, mean, value=1 - beta)
        state["updates"] += 1

    @staticmethod
    def _divided(
        state: dict[str, Any], group: dict[str, Any], amount: torch.Tensor
    ) -> torch.Tensor:
        """`amount` by the root of the variance. One bit cannot say zero, and noise by nothing is
        infinite: an element that never had a gradient while the variance was learned stays."""
        correction = 1 - group["betas"][1] ** state["updates"]
        variance = state["variance"]
        divided = amount / ((variance / correction).sqrt() + group["eps"])
        return divided.masked_fill_(variance == 0, 0.0)


class OneBitAdam(_Adaptive):
    """Adam whose variance is frozen after a warm-up, so that momenta may be compressed.

    Tang et al., "1-bit Adam: Communication Efficient Large-Scale Training with Adam's Convergence
    Speed", ICML 2021. The first `freeze_step` steps are Adam's on the uncompressed mean gradient
    (decoupled weight decay, as AdamW's). After them, with v as it is:

        m_i = beta1 m + (1 - beta1) g_i      on each rank, of its own gradient
        m   = mean over ranks of m_i, compressed both ways with error feedback
        x   = x - lr (m / (1 - beta1^t) / (sqrt(v / (1 - beta2^freeze_step)) + eps)
                      + weight_decay x)

    The corrections of the bias are Adam's; the paper writes none. The paper's warm-up is 15 to 20 %
    of all steps; stop it when the variance has settled. Elements without any gradient in the
    warm-up do not move later.
    """

    _exchanged = "momentum"

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        freeze_step: int = 100,
        compression: str = "onebit",
        process_set: ProcessSet = global_process_set,
    ) -> None:
        if freeze_step < 1:
            raise ValueError(f"freeze_step={freeze_step}: the variance needs at least one step")
        super().__init__(params, lr, betas, eps, weight_decay, compression, process_set)
        self._freeze_step = freeze_step

    def _step(self) -> None:
        learning = self._learning()
        for _, _, param, _ in learning:
            if not self.state[param]:
                self._begin(param)
        warm = [row for row in learning if self.state[row[2]]["step"] < self._freeze_step]
        means = self._mean_gradients(warm)
        momenta = {}
        for key, group, param, grad in learning:
            state = self.state[param]
            state["step"] += 1
            state["momentum"].lerp_(means.get(key, grad), 1 - group["betas"][0])
            if key in means:
                self._vary(state, group, means[key])
            else:
                momenta[key] = state["momentum"]
        self._reduced(momenta, self._exchanged, ReduceOp.AVERAGE, self._compression)
        for _, group, param, _ in learning:
            state = self.state[param]
            unbiased = state["momentum"] / (1 - group["betas"][0] ** state["step"])
            param.mul_(1 - group["lr"] * group["weight_decay"])
            param.sub_(self._divided(state, group, unbiased), alpha=group["lr"])


class ZeroOneAdam(_Adaptive):
    """Adam that learns its variance now and then, and skips exchanges altogether later.

    Lu et al., "Maximizing Communication Efficiency for Large-Scale Training via 0/1 Adam", ICLR
    2023, its algorithm 1. Step t on rank i, with sets of steps T_v and T_u:

        t in T_v:  v = beta2 v + (1 - beta2) (mean over ranks of g)^2, uncompressed
        m_i = beta1 m_i + (1 - beta1) g_i
        x_i = x_i - lr m_i / (sqrt(v) + eps),   u_i = u_i + lr m_i
        t in T_u:  u = mean over ranks of u_i, compressed both ways with error feedback;
                   m_i = u / (sum of lr since the last one);
                   x_i = x of the last one - u / (sqrt(v) + eps);   u_i = 0

    T_v: intervals of 2^(j / `variance_scaler`) after j updates, until step `freeze_step`. T_u: all
    steps until then, later one of 2^((t - freeze_step) / `local_scaler`), at most `local_limit`;
    both quotients rounded down. So between exchanges ranks have models of their own: evaluate and
    save where `is_synchronized`.

    One bit is all there is from the first step on, when v knows little: the learning rate must
    warm up and decay, as in the paper. With a constant one the noise does not die out.

    Our choices: v is updated before it is used and corrected for its bias by the number of updates,
    since the paper's first step would divide by eps; the policies' parameters are those of its
    section on experiments as we understand it; weight decay is decoupled and applied where ranks
    meet. Elements without any gradient until `freeze_step` do not move.
    """

    _exchanged = "update"

    def __init__(
        self,
        params: Params,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        freeze_step: int = 1000,
        variance_scaler: int = 16,
        local_scaler: int = 1000,
        local_limit: int = 16,
        compression: str = "onebit",
        process_set: ProcessSet = global_process_set,
    ) -> None:
        for name, value in (
            ("freeze_step", freeze_step),
            ("variance_scaler", variance_scaler),
            ("local_scaler", local_scaler),
            ("local_limit", local_limit),
        ):
            if value < 1:
                raise ValueError(f"{name}={value}: must be at least 1")
        super().__init__(params, lr, betas, eps, weight_decay, compression, process_set)
        self._freeze_step = freeze_step
        self._variance_scaler = variance_scaler
        self._local_scaler, self._local_limit = local_scaler, local_limit

    @property
    def is_synchronized(self) -> bool:
        """Do all ranks have the same model?"""
        return all(not state or state["rates"] == 0 for state in self.state.values())

    def _varies(self, state: dict[str, Any]) -> bool:
        return state["step"] < self._freeze_step and state["step"] == state["next_variance"]

    def _meets(self, state: dict[str, Any]) -> bool:
        late = state["step"] - self._freeze_step
        if late < 0:
            return True
        doublings = min(late // self._local_scaler, self._local_limit.bit_length())
        interval = min(2**doublings, self._local_limit)
        return bool(state["step"] - state["last_meeting"] >= interval)

    def _step(self) -> None:
        learning = self._learning()
        for _, _, param, _ in learning:
            if not self.state[param]:
                update, start = torch.zeros_like(param), param.detach().clone()
                self._begin(
                    param, next_variance=0, last_meeting=-1, rates=0.0, update=update, start=start
                )
        varying = [row for row in learning if self._varies(self.state[row[2]])]
        means = self._mean_gradients(varying)
        for key, group, param, _ in varying:
            state = self.state[param]
            state["next_variance"] += 2 ** (state["updates"] // self._variance_scaler)
            self._vary(state, group, means[key])
        for _, group, param, grad in learning:
            state = self.state[param]
            state["momentum"].lerp_(grad, 1 - group["betas"][0])
            param.sub_(self._divided(state, group, state["momentum"]), alpha=group["lr"])
            state["update"].add_(state["momentum"], alpha=group["lr"])
            state["rates"] += group["lr"]
        meeting = [row for row in learning if self._meets(self.state[row[2]])]
        updates = {key: self.state[param]["update"] for key, _, param, _ in meeting}
        self._reduced(updates, self._exchanged, ReduceOp.AVERAGE, self._compression)
        for _, group, param, _ in meeting:
            self._meet(self.state[param], group, param)
        for _, _, param, _ in learning:
            self.state[param]["step"] += 1

    def _meet(self, state: dict[str, Any], group: dict[str, Any], param: torch.Tensor) -> None:
        if state["rates"] > 0:
            torch.div(state["update"], state["rates"], out=state["momentum"])
        state["start"].mul_(1 - state["rates"] * group["weight_decay"])
        state["start"].sub_(self._divided(state, group, state["update"]))
        param.copy_(state["start"])
        state["update"].zero_()
        state["rates"] = 0.0
        state["last_meeting"] = state["step"]
