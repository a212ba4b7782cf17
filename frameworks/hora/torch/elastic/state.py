"""TorchState: a model, its optimizer, samplers and plain values, kept and shared as a whole."""

from __future__ import annotations

import copy
from typing import Any

import torch

from hora import runtime
from hora.elastic import ObjectState
from hora.torch.elastic.sampler import ElasticSampler
from hora.torch.functions import (
    allgather_object,
    broadcast_object,
    broadcast_optimizer_state,
    broadcast_parameters,
)
from hora.torch.ops import broadcast_


class StateHandler:
    """Keeps and shares one value by its `state_dict()`: a learning-rate scheduler, a scaler."""

    def __init__(self, value: Any) -> None:
        self.value = value
        self.save()

    def save(self) -> None:
        """Copies the state."""
        self._saved = copy.deepcopy(self.value.state_dict())

    def restore(self) -> None:
        """Back to the last `save()`."""
        # Some keep what they load.
        self.value.load_state_dict(copy.deepcopy(self._saved))

    def sync(self) -> None:
        """Rank 0's state on all ranks."""
        self.value.load_state_dict(broadcast_object(self.value.state_dict(), 0))

    def set_value(self, value: Any) -> None:
        """Another object from now on."""
        self.value = value
        self.save()


class ModelStateHandler(StateHandler):
    """A module: parameters and buffers."""

    def sync(self) -> None:
        broadcast_parameters(self.value.state_dict(), 0)


class OptimizerStateHandler(StateHandler):
    """An optimizer, distributed or not."""

    def restore(self) -> None:
        # Gradients of the step that failed: part of them reduced, part not.
        for group in self.value.param_groups:
            for param in group["params"]:
                param.grad = None
        super().restore()

    def sync(self) -> None:
        broadcast_optimizer_state(self.value, 0)


class SamplerStateHandler(StateHandler):
    """An ElasticSampler: what all ranks have processed."""

    def __init__(self, value: Any) -> None:
        self._saves = 0
        super().__init__(value)

    def save(self) -> None:
        super().save()
        self._saves += 1

    def sync(self) -> None:
        # A rank may have saved once more, or once less, than rank 0, whose model counts, before a
        # third one was lost: what it knows does not belong to that model.
        states = allgather_object((self._saves, self.value.state_dict()))
        self._saves, state = states[0]
        same = [other["processed_indices"] for saves, other in states if saves == self._saves]
        state["processed_indices"] = set().union(*same)
        self.value.load_state_dict(state)


def _handler_of(value: Any) -> StateHandler | None:
    if isinstance(value, torch.nn.Module):
        return ModelStateHandler(value)
    if isinstance(value, torch.optim.Optimizer):
        return OptimizerStateHandler(value)
    if isinstance(value, ElasticSampler):
        return SamplerStateHandler(value)
    if hasattr(value, "state_dict") and hasattr(value, "load_state_dict"):
        return StateHandler(value)
    return None


class TorchState(ObjectState):
    """The state of training with torch: `TorchState(model=model, optimizer=optimizer, epoch=0)`.

    Modules, optimizers, ElasticSamplers and whatever has a `state_dict()` are kept and shared by
    it, in place; all else as plain values. Each is an attribute.
    """

    def __init__(
        self,
        model: torch.nn.Module | None = None,
        optimizer: torch.optim.Optimizer | None = None,
        **kwargs: Any,
    ) -> None:
        values = {"model": model, "optimizer": optimizer, **kwargs}
        handlers = {name: _handler_of(value) for name, value in values.items()}
        self._handlers = {name: handler for name, handler in handlers.items() if handler}
        for name, handler in self._handlers.items():
            object.__setattr__(self, name, handler.value)
        plain = {name: value for name, value in values.items() if name not in self._handlers}
        super().__init__(broadcast_object, runtime.rank, **plain)

    def save(self) -> None:
        for handler in self._handlers.values():
            handler.save()
        super().save()

    def restore(self) -> None:
        for handler in self._handlers.values():
            handler.restore()
        super().restore()

    def sync(self) -> None:
        for handler in self._handlers.values():
            handler.sync()
        super().sync()
        # All ranks have the same from here on, also if one is lost before the next commit.
        self.save()

    def _agree(self, wanted: bool) -> bool:
        flag = torch.tensor([wanted], dtype=torch.uint8)
        return bool(broadcast_(flag, 0, "elastic.change_wanted"))

    def __setattr__(self, name: str, value: Any) -> None:
        if name != "_handlers" and name in self._handlers:
            self._handlers[name].set_value(value)
        super().__setattr__(name, value)
