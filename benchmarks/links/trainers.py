"""Who trains: Hora with a chain, DDP with a hook, and nobody who communicates.

`trainer_named("hora dgc")` gives what sets up a rank. `ddp powersgd` has one bucket: with more, its
hook's second and third allreduce start in an order that differs from rank to rank, and Gloo hangs.
DDP's bf16 hook is not here: torch refuses it without NCCL or XCCL.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import nn

MOMENTUM = 0.9
ONE_BUCKET_MB = 1000

HORA = {
    "hora": "none",
    "hora bf16": "bf16",
    "hora onebit": "onebit",
    "hora drop": "drop",
    "hora drop 0.1%": "drop:ratio=0.1%",
    "hora dgc": "dgc",
    "hora dryden": "dryden",
    "hora powersgd": "powersgd",
}
# Of single layers: the paper's three beside quantizers that are no presets.
LAYER_CHAINS = {
    "hora strom": "strom",
    "hora int8": "ef+quant:bits=8,round=nearest",
    "hora int4": "ef+quant:bits=4,round=nearest",
}
DDP = ("ddp", "ddp fp16", "ddp powersgd")
ALONE = "no communication"
TRAINERS = (ALONE, *HORA, *DDP)


class Trainer(NamedTuple):
    """A model and optimizer to train with, what says how many bytes were sent, and what ends it."""

    net: nn.Module
    optimizer: Any
    sent: Callable[[], int]
    end: Callable[[], None]


def chain_named(name: str) -> str:
    """The chain of one of Hora's trainers."""
    return HORA.get(name) or LAYER_CHAINS.get(name) or name.removeprefix("hora ")


def trainer_named(name: str, net: nn.Module, rate: float) -> Trainer:
    """Errors: KeyError for a name that is not in TRAINERS and is no `hora CHAIN`."""
    if name == ALONE:
        return Trainer(net, _sgd(net, rate), lambda: 0, lambda: None)
    if name in DDP:
        return _ddp(name.removeprefix("ddp").strip(), net, rate)
    return _hora(chain_named(name), net, rate)


def _sgd(net: nn.Module, rate: float, momentum: float = MOMENTUM) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=rate, momentum=momentum)


def _hora(chain: str, net: nn.Module, rate: float) -> Trainer:
    import hora.torch as hora

    hora.init()
    hora.broadcast_parameters(net.state_dict(), root_rank=0)
    # A chain with momentum correction has the momentum.
    plain = _sgd(net, rate, 0.0 if chain.startswith("dgc") else MOMENTUM)
    optimizer = hora.DistributedOptimizer(plain, net.named_parameters(), chain)
    return Trainer(net, optimizer, lambda: hora.metrics()["wire_bytes"], hora.shutdown)


def _ddp(hook: str, net: nn.Module, rate: float) -> Trainer:
    import torch.distributed as dist
    from torch.distributed.algorithms.ddp_comm_hooks import default_hooks
    from torch.distributed.algorithms.ddp_comm_hooks import powerSGD_hook as power
    from torch.nn.parallel import DistributedDataParallel

    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    meeting = f"file://{os.environ['LINKS_MEETING']}"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=size)
    cap = {"bucket_cap_mb": ONE_BUCKET_MB} if hook == "powersgd" else {}
    wrapped = DistributedDataParallel(net, gradient_as_bucket_view=True, **cap)
    if hook == "fp16":
        wrapped.register_comm_hook(None, default_hooks.fp16_compress_hook)
    elif hook == "powersgd":
        state = power.PowerSGDState(None, matrix_approximation_rank=1, start_powerSGD_iter=2)
        wrapped.register_comm_hook(state, power.powerSGD_hook)
    return Trainer(wrapped, _sgd(net, rate), lambda: 0, dist.destroy_process_group)
