"""The engine of this process: its start and end, and what one may ask about the job.

One engine at a time. `init()` makes it, `shutdown()` ends it, and the interpreter's exit ends it if
the program did not. After `os.fork()` the child's calls raise an error that names fork.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pathlib
import sys
import threading
import traceback
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from hora import _native
from hora.constants import Op

if TYPE_CHECKING:
    from hora.process_sets import ProcessSet


class Place(NamedTuple):
    """Which rank this is. Kept apart from the engine: a forked data loader's worker asks, too."""

    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int


class Session:
    """What belongs to one engine, from `init()` to `shutdown()`.

    Adapters keep here what must live as long as the engine uses it: `borrowed` holds, by handle,
    what was lent to requests that nobody has waited for yet.
    """

    def __init__(self, engine: _native.Engine, watch: _Watch | None = None) -> None:
        self.engine = engine
        self.watch = watch
        self.place = Place(*(getattr(engine, name) for name in Place._fields))
        self.borrowed: dict[int, Any] = {}
        self.calls = _native.Calls(engine)  # what was called before, by name
        self.process_sets: dict[int, ProcessSet] = {}
        self.dense_sums: set[tuple[int, str]] = set()  # see hora.torch.sparse
        self._domains: Counter[int] = Counter()
        self._stacks = threading.Thread(
            target=_answer_questions, args=(engine,), name="hora-stacks", daemon=True
        )
        self._stacks.start()

    def next_domain(self, set_id: int) -> int:
        """A number for one more optimizer of a process set; members must ask in the same order."""
        if self._domains[set_id] == 0xFFFF:
            raise ValueError("more than 65535 distributed optimizers since hora.init()")
        self._domains[set_id] += 1
        return self._domains[set_id]

    def control(
        self, op: Op, name: str = "", set_id: int = 0, root: int = 0, members: Sequence[int] = ()
    ) -> int:
        """Runs an operation without tensors and gives its value."""
        handle = self.engine.submit_control(op, name, set_id, root, list(members))
        return self.engine.fetch(handle)[2]

    def end(self) -> None:
        """Leaves the job."""
        try:
            self.engine.shutdown()
        finally:
            self._stacks.join()
            if self.watch is not None:
                self.watch.end()


class _Watch:
    """Waits, on rank 0 of an epoch of an elastic job, until the launcher wants the ranks to meet
    again. Its own thread, so that asking `wanted` costs nothing."""

    def __init__(self, membership: _native.Membership, epoch: int) -> None:
        self.wanted = False
        self._membership = membership
        self._epoch = epoch
        self._thread = threading.Thread(target=self._wait, name="hora-elastic", daemon=True)
        self._thread.start()

    def _wait(self) -> None:
        self.wanted = self._membership.await_change(self._epoch)

    def end(self) -> None:
        self._membership.leave(self._epoch)
        self._thread.join()


def _stack_of_main_thread() -> str:
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return "".join(traceback.format_stack(frame)) if frame else "the main thread has ended"


def _answer_questions(engine: _native.Engine) -> None:
    """Tells other ranks' stall reports where this one is; its own thread, since all may be busy."""
    while engine.next_question():
        engine.answer(_stack_of_main_thread()[-4000:])


_session: Session | None = None
_lock = threading.Lock()
# Ranks that meet again must not find what they left in the store when they met before.
_starts = 0
# What the compression `auto` has chosen: ranks that meet again keep it, and what it remembers.
_choices = ""
# Of an elastic job; opened by the first init().
_membership: _native.Membership | None = None
# An epoch in which somebody dies before all have met is given up, and the launcher makes another.
_MEETINGS = 10


def session() -> Session:
    """The session. Errors: ValueError before `init()` and after `shutdown()`."""
    if _session is None:
        raise ValueError(f"Hora has not been initialized; use hora.init().{_about_children()}")
    return _session


def _about_children() -> str:
    if multiprocessing.parent_process() is None:
        return ""
    return (
        " This is a child process. If it is a DataLoader's worker, it cannot join the job: ask "
        "rank() and size() in the rank's own process and hand the numbers over."
    )


def init(
    comm: Sequence[int] | None = None, process_sets: Sequence[ProcessSet] | str | None = None
) -> None:
    """Joins the job that the environment describes; alone, if nobody launched this process.

    `process_sets` are added at once, the same on every rank; "dynamic" is accepted, since sets may
    always be added later. A second call does nothing.

    Errors: ValueError names a variable that makes no sense; HoraError names the ranks that are
    missing after HORA_START_TIMEOUT.

    In an elastic job it waits until the launcher has a place for this process; SystemExit if there
    will be none.
    """
    global _session
    if comm is not None:
        raise ValueError(
            "init(comm=...): Hora takes its ranks from the launcher; start a smaller job, or use "
            "process_sets=[hora.ProcessSet(ranks)]"
        )
    if isinstance(process_sets, str) and process_sets.lower() != "dynamic":
        raise ValueError(f'init(process_sets="{process_sets}"): the only word allowed is "dynamic"')
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise RuntimeError(
            "hora.init() was reached while a child process (a DataLoader's worker, for example) "
            'imports your program. Put what only ranks should run under if __name__ == "__main__":'
        )
    with _lock:
        if _session is not None:
            _session.engine.check_health()
            return
        try:
            _session = _start()
        except (ValueError, _native.HoraError) as error:
            if about_children := _about_children():
                error.add_note(about_children.strip())
            raise
    if process_sets and not isinstance(process_sets, str):
        from hora.process_sets import add_process_set

        for process_set in process_sets:
            add_process_set(process_set)


def _start() -> Session:
    global _starts, _membership
    if _membership is None:
        _membership = _native.Membership.open()
    if _membership is None:
        _starts += 1
        return Session(_native.Engine.start(_starts - 1, _choices))
    for last in range(1, _MEETINGS + 1):
        try:
            place = _membership.next_place()
        except _native.Shutdown:
            raise SystemExit(0) from None  # the job has fewer slots now
        try:
            engine = _native.Engine.start_at(place, _choices)
        except (_native.PeerLost, _native.Timeout, _native.Unavailable):
            if last == _MEETINGS:
                raise
            continue
        return Session(engine, _Watch(_membership, place.epoch) if place.rank == 0 else None)
    raise AssertionError


def is_elastic() -> bool:
    """May ranks of this job come and go? Known after `init()`."""
    return _membership is not None


def change_wanted() -> bool:
    """On rank 0 of an elastic job: does the launcher want the ranks to meet again?"""
    watch = session().watch
    return watch is not None and watch.wanted


def shutdown() -> None:
    """Leaves the job; peers' operations that need this rank fail with PeerLeft. Idempotent."""
    global _session, _choices
    with _lock:
        ending, _session = _session, None
        if ending is None:
            return
        _choices = ending.engine.automatic_choices
        for process_set in list(ending.process_sets.values()):
            process_set._forget()
        ending.end()


# Kept past the interpreter's end: tensors may use an arena longer than modules live.
_kept: list[Session] = []


def _note_the_exception(ending: Session) -> None:
    """`hora explain` tells what ended this rank, unless it is what Hora has told it."""
    error = getattr(sys, "last_value", None)
    if error is None or isinstance(error, _native.HoraError):
        return
    last = traceback.extract_tb(error.__traceback__)[-1:]
    place = "".join(f" ({frame.filename}:{frame.lineno})" for frame in last)
    text = "".join(traceback.format_exception_only(error)).strip()
    ending.engine.note(text[:1000] + place)


def _at_exit() -> None:
    if _session is not None:
        _kept.append(_session)
        try:
            _note_the_exception(_session)
            shutdown()
        except _native.HoraError:
            pass  # the job is over for us; who lost whom was said by the operation that failed


def _in_forked_child() -> None:
    global _lock
    _lock = threading.Lock()  # another thread may have held it at the time of the fork
    atexit.unregister(_at_exit)
    if _session is not None:
        _session.engine.disown()


atexit.register(_at_exit)
os.register_at_fork(after_in_child=_in_forked_child)


def is_initialized() -> bool:
    """Has `init()` been called, and `shutdown()` not?"""
    return _session is not None


def rank() -> int:
    """This process's number in the job, from 0."""
    return session().place.rank


def size() -> int:
    """How many processes the job has."""
    return session().place.size


def local_rank() -> int:
    """This process's number among those of its host: which GPU to use."""
    return session().place.local_rank


def local_size() -> int:
    """How many of the job's processes run on this host."""
    return session().place.local_size


def cross_rank() -> int:
    """This host's number among the hosts."""
    return session().place.cross_rank


def cross_size() -> int:
    """How many hosts the job has."""
    return session().place.cross_size


def is_homogeneous() -> bool:
    """Do all hosts run equally many processes?"""
    return len(set(Counter(session().engine.hosts).values())) <= 1


def barrier(process_set: ProcessSet | None = None) -> None:
    """Returns when every member of `process_set` (the whole job by default) has called it."""
    set_id = 0 if process_set is None else process_set.required_id()
    session().control(Op.BARRIER, set_id=set_id)


def join(device: int = -1) -> int:
    """This rank has run out of data: until all have, it takes part in allreduces with zeros.

    Gives the rank that joined last. `device` is Horovod's and not needed.
    """
    del device
    return session().control(Op.JOIN)


def dump_flight_record(directory: str | os.PathLike[str]) -> None:
    """Writes this rank's last 1000 operations to `directory`, for `hora explain directory`.

    With HORA_FLIGHT_DIR every rank does so by itself when the job fails or stalls, and at the end.
    Errors: Unavailable says why the file could not be written.
    """
    session().engine.dump_flight_record(os.fspath(directory))


def _has_plugin(name: str) -> bool:
    return (pathlib.Path(_native.__file__).parent / f"libhora_{name}.so").exists()


def gloo_built() -> bool:
    """Is the Gloo backend part of this installation?"""
    return _has_plugin("gloo")


def gloo_enabled() -> bool:
    """Does this installation work without MPI? Always: Hora has its own transports."""
    return True


def mpi_built() -> bool:
    """Is the MPI backend part of this installation?"""
    return _has_plugin("mpi")


def mpi_enabled() -> bool:
    """Does the job run over MPI?"""
    return False


def mpi_threads_supported() -> bool:
    """May MPI be called from several threads beside Hora? Hora does not initialize MPI."""
    return False


def nccl_built() -> int:
    """The version of NCCL that this installation supports; 0: none."""
    return 0


def cuda_built() -> bool:
    """Can this installation move memory of NVIDIA GPUs itself?"""
    return _has_plugin("cuda")


def rocm_built() -> bool:
    """Never: AMD GPUs are not supported."""
    return False


def ddl_built() -> bool:
    """Never: IBM DDL is not supported."""
    return False


def ccl_built() -> bool:
    """Never: oneCCL is not supported."""
    return False
