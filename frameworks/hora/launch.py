"""Functions run as jobs: `hora.run(train, np=2)` from a program or a notebook.

The function travels by value, pickled, through a folder that only this user may read. Each rank is
a new process, `python -m hora.launched FOLDER`, which leaves its result there.
"""

from __future__ import annotations

import json
import os
import pathlib
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import Any

# What Horovod's run() takes and has no meaning here, or needs more than one host.
_WITHOUT_MEANING = {"use_gloo", "use_mpi", "mpi_args", "disable_cache", "verbose"}
_LOCAL = ("localhost", "127.0.0.1")


def run(
    func: Callable[..., Any],
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    np: int | None = None,
    *,
    num_proc: int | None = None,
    start_timeout: float | None = None,
    env: Mapping[str, str] | None = None,
    executable: str | None = None,
    hosts: str | None = None,
    **others: Any,
) -> list[Any]:
    """Runs `func(*args, **kwargs)` on `np` new ranks of this host and gives their results.

    The function calls `hora.init()` itself. What ranks print appears here, with their rank before
    it. `env` is added to their environment, and `executable` is their Python. Ctrl-C ends the job.

    Errors: ValueError for what can't be meant or pickled; RuntimeError, with the traceback, if a
    rank fails, and if horarun is not installed.
    """
    ranks = _checked_ranks(np, num_proc, hosts, others)
    call = _pickled(func, tuple(args), dict(kwargs or {}))
    command = [_horarun(), "-n", str(ranks)]
    if start_timeout is not None:
        command += ["-x", f"HORA_START_TIMEOUT={start_timeout}"]
    for variable, value in (env or {}).items():
        command += ["-x", f"{variable}={value}"]
    with tempfile.TemporaryDirectory(prefix="hora-run-") as name:
        folder = pathlib.Path(name)
        # Modules are found as they are here; before the call is read, which may need them.
        (folder / "path").write_text(json.dumps([os.path.abspath(part) for part in sys.path]))
        (folder / "call").write_bytes(call)
        command += [executable or sys.executable, "-m", "hora.launched", name]
        code = _run_and_show(command)
        return _results(folder, ranks, code)


def _checked_ranks(
    np: int | None, num_proc: int | None, hosts: str | None, others: Mapping[str, Any]
) -> int:
    for option, value in others.items():
        if option not in _WITHOUT_MEANING and value is not None:
            raise ValueError(f"run({option}=...): there is no such option, or not yet on one host")
    if hosts is not None:
        places = [part.split(":") for part in hosts.split(",")]
        if any(place[0] not in _LOCAL for place in places):
            raise NotImplementedError(f'run(hosts="{hosts}"): jobs run on this host only')
    if np is not None and num_proc is not None and np != num_proc:
        raise ValueError(f"run(np={np}, num_proc={num_proc}): they mean the same; give one")
    ranks = np if np is not None else num_proc if num_proc is not None else 1
    if isinstance(ranks, bool) or not isinstance(ranks, int) or ranks < 1:
        raise ValueError(f"run(np={ranks!r}): must be a number of ranks, at least 1")
    return ranks


def _pickled(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    if not callable(func):
        raise ValueError(f"run({func!r}): expected a function")
    try:
        import cloudpickle as by_value  # also takes what a notebook or __main__ defines
    except ImportError:
        by_value = None
    if by_value is None and getattr(func, "__module__", None) == "__main__":
        raise ValueError(
            f"run: {getattr(func, '__qualname__', func)} is defined in __main__, which new "
            "processes cannot import. Install cloudpickle, or move the function to a module."
        )
    try:
        return (by_value or pickle).dumps((func, args, kwargs))
    except Exception as error:
        advice = "" if by_value else "; install cloudpickle, which can do more"
        raise ValueError(f"run: the function or its arguments: {error}{advice}") from error


def _horarun() -> str:
    beside = pathlib.Path(sys.executable).parent / "horarun"
    found = shutil.which("horarun") or (str(beside) if beside.exists() else None)
    if found is None:
        raise RuntimeError("run: no horarun in PATH or beside Python; is Hora installed?")
    return found


def _run_and_show(command: list[str]) -> int:
    """Runs and prints as this program prints, which in a notebook is not file descriptor 1."""
    pipes: dict[str, Any] = {
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "stdin": subprocess.DEVNULL,
    }
    # In a session of its own: the terminal's Ctrl-C comes through us, once.
    with subprocess.Popen(
        command, text=True, errors="replace", start_new_session=True, **pipes
    ) as job:
        try:
            for line in job.stdout:
                print(line, end="", flush=True)
        except BaseException:
            job.send_signal(signal.SIGINT)
            raise
    return job.returncode


def _results(folder: pathlib.Path, ranks: int, code: int) -> list[Any]:
    paths = [folder / f"result.{rank}" for rank in range(ranks)]
    there = [path for path in paths if path.exists()]
    told = {path: pickle.loads(path.read_bytes()) for path in there}
    failed = [path for path in there if not told[path][0]]
    if failed:
        # The first to fail; others usually fail because it did.
        first = min(failed, key=lambda path: path.stat().st_mtime_ns)
        rank = paths.index(first)
        raise RuntimeError(f"run: rank {rank} of {ranks} failed:\n{told[first][1]}")
    if code != 0 or len(there) < ranks:
        lost = [rank for rank, path in enumerate(paths) if path not in told]
        raise RuntimeError(f"run: exit code {code}; no result from ranks {lost}")
    return [told[path][1] for path in paths]
