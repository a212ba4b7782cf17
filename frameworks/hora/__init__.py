"""Hora: collectives and distributed optimizers for data-parallel training.

Start with `import hora.torch as hvd`; this package alone holds what needs no framework.
"""

from hora._native import VERSION as __version__
from hora._native import (
    HoraError,
    Joined,
    Mismatch,
    OutOfMemory,
    PeerLeft,
    PeerLost,
    SetRemoved,
    Shutdown,
    Timeout,
    Unavailable,
)
from hora.launch import run
from hora.memories import compression_memories, compression_state, load_compression_state
from hora.process_sets import (
    ProcessSet,
    add_process_set,
    global_process_set,
    remove_process_set,
)
from hora.runtime import (
    barrier,
    ccl_built,
    cross_rank,
    cross_size,
    cuda_built,
    ddl_built,
    dump_flight_record,
    gloo_built,
    gloo_enabled,
    init,
    is_homogeneous,
    is_initialized,
    join,
    local_rank,
    local_size,
    mpi_built,
    mpi_enabled,
    mpi_threads_supported,
    nccl_built,
    rank,
    rocm_built,
    shutdown,
    size,
)
from hora.timeline import (
    metrics,
    metrics_text,
    start_timeline,
    stop_timeline,
    timeline_range,
)

#: The name under which Horovod's scripts catch what went wrong.
HorovodInternalError = HoraError

__all__ = [
    "HoraError",
    "HorovodInternalError",
    "Joined",
    "Mismatch",
    "OutOfMemory",
    "PeerLeft",
    "PeerLost",
    "ProcessSet",
    "SetRemoved",
    "Shutdown",
    "Timeout",
    "Unavailable",
    "__version__",
    "add_process_set",
    "barrier",
    "ccl_built",
    "compression_memories",
    "compression_state",
    "cross_rank",
    "cross_size",
    "cuda_built",
    "ddl_built",
    "dump_flight_record",
    "global_process_set",
    "gloo_built",
    "gloo_enabled",
    "init",
    "is_homogeneous",
    "is_initialized",
    "join",
    "load_compression_state",
    "local_rank",
    "local_size",
    "metrics",
    "metrics_text",
    "mpi_built",
    "mpi_enabled",
    "mpi_threads_supported",
    "nccl_built",
    "rank",
    "remove_process_set",
    "rocm_built",
    "run",
    "shutdown",
    "size",
    "start_timeline",
    "stop_timeline",
    "timeline_range",
]
