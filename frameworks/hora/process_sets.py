"""Process sets: some ranks of the job that run operations among themselves."""

from __future__ import annotations

from collections.abc import Iterable

from hora import runtime
from hora.constants import Op


class ProcessSet:
    """Ranks that act together, once `add_process_set` was called with it on *all* ranks of the job.

    `process_set_id` is None until then, and again after `remove_process_set` or `shutdown`.
    """

    def __init__(self, ranks: Iterable[int]) -> None:
        self.ranks: list[int] | None = sorted(int(rank) for rank in ranks)
        self.process_set_id: int | None = None
        if len(set(self.ranks)) != len(self.ranks):
            raise ValueError(f"ProcessSet({self.ranks}): a rank is named twice")

    def required_id(self) -> int:
        """The id. Errors: ValueError if the set was not added."""
        if self.process_set_id is None:
            raise ValueError(f"{self} was not added; call add_process_set with it on all ranks")
        return self.process_set_id

    def size(self) -> int:
        """How many members it has."""
        self.required_id()
        return len(self._members())

    def rank(self) -> int:
        """This process's number in the set. Errors: ValueError if it is no member."""
        self.required_id()
        own = runtime.rank()
        if own not in self._members():
            raise ValueError(f"rank {own} is not a member of {self}")
        return self._members().index(own)

    def included(self) -> bool:
        """Is this process a member?"""
        self.required_id()
        return runtime.rank() in self._members()

    def _members(self) -> list[int]:
        assert self.ranks is not None
        return self.ranks

    def _forget(self) -> None:
        self.process_set_id = None

    def __str__(self) -> str:
        return f"ProcessSet(process_set_id={self.process_set_id}, ranks={self.ranks})"

    __repr__ = __str__


class _GlobalProcessSet(ProcessSet):
    """All ranks; always there."""

    def __init__(self) -> None:
        self.process_set_id = 0

    @property
    def ranks(self) -> list[int] | None:  # type: ignore[override]
        return list(range(runtime.size())) if runtime.is_initialized() else None

    def size(self) -> int:
        return runtime.size()

    def rank(self) -> int:
        return runtime.rank()

    def included(self) -> bool:
        return True


global_process_set = _GlobalProcessSet()


def add_process_set(process_set: ProcessSet | Iterable[int]) -> ProcessSet:
    """Makes a set known. Every rank of the job must call it with the same ranks.

    Errors: Mismatch if ranks disagree; ValueError for ranks that do not exist, or an added set.
    """
    if not isinstance(process_set, ProcessSet):
        process_set = ProcessSet(process_set)
    if process_set.process_set_id is not None:
        raise ValueError(f"{process_set} was added before")
    session = runtime.session()
    members = process_set._members()
    process_set.process_set_id = session.control(Op.ADD_SET, members=members)
    session.process_sets[process_set.process_set_id] = process_set
    return process_set


def remove_process_set(process_set: ProcessSet) -> bool:
    """Takes a set away, on every rank of the job; False if there is nothing to remove.

    Requests of the set that are not decided fail with SetRemoved.
    """
    if process_set is global_process_set or process_set.process_set_id is None:
        return False
    session = runtime.session()
    session.control(Op.REMOVE_SET, root=process_set.process_set_id)
    session.process_sets.pop(process_set.process_set_id, None)
    process_set._forget()
    return True
