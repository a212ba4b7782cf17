"""Training that goes on when ranks die, leave or join, in Horovod's terms.

A *state* holds what training needs to go on: model, optimizer, the number of the epoch. `commit()`
keeps a copy in memory; when a rank is lost the others go back to it, meet again, take rank 0's
state, and go on in the same processes. docs/elastic.md tells how.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterable
from typing import Any

from hora import _native, runtime

#: What collectives raise when a rank is lost.
HorovodInternalError = _native.HoraError

# Errors that meeting again would not help against: the same would happen once more.
_NOT_THE_EPOCHS = (
    _native.Joined,
    _native.Mismatch,
    _native.OutOfMemory,
    _native.SetRemoved,
)


class HostsUpdatedInterrupt(RuntimeError):
    """Ranks are to join or leave. Raised on all ranks at the same `commit()`.

    `skip_sync`: all ranks have the same state already.
    """

    def __init__(self, skip_sync: bool = False) -> None:
        super().__init__("the ranks of the job change")
        self.skip_sync = skip_sync


class State:
    """What survives a change of ranks. Subclasses say how to keep, restore and share it."""

    def __init__(self, bcast_object: Callable[[Any], Any], get_rank: Callable[[], int]) -> None:
        self._bcast_object = bcast_object
        self._rank = get_rank
        self._reset_callbacks: list[Callable[[], None]] = []

    def register_reset_callbacks(self, callbacks: Iterable[Callable[[], None]]) -> None:
        """To be called, in order, when the ranks have met again and before `sync()`: to adapt a
        learning rate to the new size, for example."""
        self._reset_callbacks.extend(callbacks)

    def on_reset(self) -> None:
        """The ranks have met again."""
        self.reset()
        for callback in self._reset_callbacks:
            callback()

    def commit(self) -> None:
        """`save()`, and `check_host_updates()`. On all ranks at the same point of training."""
        self.save()
        self.check_host_updates()

    def check_host_updates(self) -> None:
        """Raises HostsUpdatedInterrupt, on all ranks, if ranks are to join or leave.

        A small collective: all ranks call it at the same point of training.
        """
        if runtime.is_elastic() and self._agree(runtime.change_wanted()):
            raise HostsUpdatedInterrupt

    def _agree(self, wanted: bool) -> bool:
        """Rank 0's `wanted`."""
        return bool(self._bcast_object(wanted))

    def save(self) -> None:
        """Keeps a copy of the state in memory."""
        raise NotImplementedError

    def restore(self) -> None:
        """Goes back to the last `save()`."""
        raise NotImplementedError

    def sync(self) -> None:
        """Makes all ranks' state rank 0's, and keeps it."""
        raise NotImplementedError

    def reset(self) -> None:
        """The world has changed: a chance to drop what depended on it."""


class ObjectState(State):
    """Any values, as attributes: `ObjectState(broadcast_object, rank, epoch=0)`.

    They are copied deeply when saved, and pickled when shared.
    """

    def __init__(
        self, bcast_object: Callable[[Any], Any], get_rank: Callable[[], int], **kwargs: Any
    ) -> None:
        super().__init__(bcast_object, get_rank)
        for name, value in kwargs.items():
            setattr(self, name, value)
        self._saved_state = copy.deepcopy(kwargs)

    def save(self) -> None:
        self._saved_state = copy.deepcopy(self._attrs())

    def restore(self) -> None:
        self._set_attrs()

    def sync(self) -> None:
        if self._saved_state:
            self._saved_state = self._bcast_object(self._attrs())
            self._set_attrs()

    def _attrs(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self._saved_state}

    def _set_attrs(self) -> None:
        for name, value in copy.deepcopy(self._saved_state).items():
            setattr(self, name, value)


def run_fn(func: Callable[..., Any], reset: Callable[[], None]) -> Callable[..., Any]:
    """`func(state, ...)` made to start again, on a new epoch, when ranks are lost or change.

    Errors: what `func` raises; a lost rank too if the job is not elastic, since then nobody could
    take its place.
    """

    @functools.wraps(func)
    def wrapper(state: State, *args: Any, **kwargs: Any) -> Any:
        meet_again = skip_sync = False
        while True:
            if meet_again:
                reset()
            try:
                if meet_again:
                    state.on_reset()
                if not skip_sync:
                    state.sync()
                return func(state, *args, **kwargs)
            except HorovodInternalError as error:
                if isinstance(error, _NOT_THE_EPOCHS) or not runtime.is_elastic():
                    raise
                state.restore()
                skip_sync = False
            except HostsUpdatedInterrupt as interrupt:
                skip_sync = interrupt.skip_sync
            meet_again = True

    return wrapper
