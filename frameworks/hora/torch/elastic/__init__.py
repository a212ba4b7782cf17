"""Elastic training with torch, under Horovod's names.

    state = hvd.elastic.TorchState(model=model, optimizer=optimizer, epoch=0, batch=0)

    @hvd.elastic.run
    def train(state): ...
        state.commit()

    train(state)

under `horarun --min-np 2 python train.py`. Between `hora.init()` and the function that `run` wraps
nothing may be sent: a rank that starts later would wait for others that are past it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hora import runtime
from hora.elastic import (
    HorovodInternalError,
    HostsUpdatedInterrupt,
    ObjectState,
    State,
    run_fn,
)
from hora.torch.elastic.sampler import ElasticSampler
from hora.torch.elastic.state import TorchState


def reset() -> None:
    """Leaves the ranks of before, and meets those of now."""
    runtime.shutdown()
    runtime.init()


def run(func: Callable[..., Any]) -> Callable[..., Any]:
    """Decorates `func(state, ...)`: it runs with rank 0's state on all ranks, and again from the
    last commit when a rank is lost, or from where it is when ranks join or leave."""
    return run_fn(func, reset)


__all__ = [
    "ElasticSampler",
    "HorovodInternalError",
    "HostsUpdatedInterrupt",
    "ObjectState",
    "State",
    "TorchState",
    "reset",
    "run",
    "run_fn",
]
