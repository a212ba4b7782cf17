"""What the engine does, for people: timelines and metrics. See docs/timeline.md."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any

from hora import runtime


def start_timeline(file_path: str | os.PathLike[str], mark_cycles: bool = False) -> None:
    """From now on writes what happens to every tensor, a Chrome trace for each rank.

    Rank 0 writes to `file_path`, rank 3 to the path with .3 before its extension. Every file stays
    below HORA_TIMELINE_BYTES. Each rank may start and stop when it likes. `mark_cycles` is
    Horovod's: Hora has no cycles.

    Errors: ValueError if a timeline is on, or the file cannot be written.
    """
    del mark_cycles
    runtime.session().engine.start_timeline(os.fspath(file_path))


def stop_timeline() -> None:
    """Ends the timeline. The file is whole when this returns; nothing to do if none is on.

    Errors: HoraError if not everything could be written.
    """
    runtime.session().engine.stop_timeline()


@contextlib.contextmanager
def timeline_range(name: str) -> Iterator[None]:
    """Shows what the program does, such as "backward", beside what the engine does meanwhile."""
    engine = runtime.session().engine
    began = engine.begin_range()
    try:
        yield
    finally:
        engine.end_range(name, began)


def metrics() -> dict[str, Any]:
    """What this rank has done since `init()`.

    `requests` completed, `errors` among them, `operations` by kind, `buckets` (collectives run),
    `bytes` of tensors in them, `wire_bytes` sent to other ranks for them, `control_bytes` sent by
    the control plane. `compressed_bytes` is what compressed tensors would have sent as they are,
    `compressed_wire_bytes` what they did: the first by the second is the real ratio.

    Histograms: `phases` by name and `waits` in nanoseconds, `bucket_bytes`, `bucket_tensors`; each
    has `count`, `sum` and `buckets`, whose entry i counts the values below 2**i that are not below
    2**(i - 1).
    """
    return runtime.session().engine.counters()


def metrics_text() -> str:
    """The same in Prometheus' text format, times in seconds, labeled with this rank."""
    return runtime.session().engine.metrics_text()
