"""Ranks for tests: real processes under the real horarun.

`@on_ranks(2, 4)` makes a test whose body runs on every rank. All such tests of a file share one job
for each number of ranks, since starting torch takes seconds; each has its own time limit, after
which the rank that hangs raises and goes on with the next. `run_ranks` starts a program as ranks.
"""

from __future__ import annotations

import functools
import importlib.util
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback

import pytest

HORARUN = os.environ.get("HORARUN") or shutil.which("horarun") or ""
needs_horarun = pytest.mark.skipif(not HORARUN, reason="no horarun in HORARUN or PATH")
TEST_SECONDS = 30
JOB_SECONDS = 150


def run_job(*words, timeout=60, environment=None):
    """Runs `horarun *words`, for so long, and gives the CompletedProcess."""
    words = [HORARUN, *map(str, words)]
    variables = {**os.environ, "OMP_NUM_THREADS": "1", **(environment or {})}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(words, env=variables, start_new_session=True, **pipes) as job:
        try:
            output, _ = job.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            job.kill()
            output, _ = job.communicate()
            pytest.fail(f"not done after {timeout} s; printed:\n{output}")
    return subprocess.CompletedProcess(words, job.returncode, output)


def run_ranks(size, *command, check=False, **options):
    """Runs `python *command` as `size` ranks; options as `run_job` has them."""
    job = run_job("-n", size, sys.executable, *command, **options)
    if check:
        assert job.returncode == 0, f"exit code {job.returncode}; printed:\n{job.stdout}"
    return job


def run_program(size, text, **options):
    """`run_ranks` of a program given as text."""
    return run_ranks(size, "-c", text, **options)


def lines_of(job):
    """What the ranks printed, line by line."""
    return job.stdout.splitlines()


def on_ranks(*sizes):
    """Makes a test out of a function without arguments that is to run on every rank."""

    def decorate(body):
        @needs_horarun
        @pytest.mark.parametrize("ranks", sizes)
        def test(ranks):
            outcome = _outcomes(sys.modules[body.__module__].__file__, ranks)
            errors = [
                f"rank {rank}:\n{results.get(body.__name__, 'did not get that far')}"
                for rank, results in enumerate(outcome["results"])
                if results.get(body.__name__, "missing") != "ok"
            ]
            if errors:
                pytest.fail("\n".join(errors + ["the job printed:", outcome["output"]]), False)

        test.__name__, test.__doc__, test.__module__ = body.__name__, body.__doc__, body.__module__
        test.body, test.sizes = body, sizes
        return test

    return decorate


@functools.cache
def _outcomes(file, size):
    with tempfile.TemporaryDirectory() as folder:
        try:
            output = run_ranks(size, __file__, file, folder, timeout=JOB_SECONDS).stdout
        except pytest.fail.Exception as timed_out:
            output = str(timed_out)
        results = [{} for _ in range(size)]
        for rank in range(size):
            path = pathlib.Path(folder, str(rank))
            for line in path.read_text().splitlines() if path.exists() else []:
                results[rank].update(json.loads(line))
    return {"results": results, "output": output}


def _raise_timeout(*_):
    raise TimeoutError(f"not done after {TEST_SECONDS} s")


def _one_rank(file, folder):
    """What each rank of a file's job runs."""
    import torch

    import hora.torch as hvd

    sys.path.insert(0, os.path.dirname(file))
    spec = importlib.util.spec_from_file_location(pathlib.Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    torch.set_num_threads(1)
    signal.signal(signal.SIGALRM, _raise_timeout)
    hvd.init()
    with open(pathlib.Path(folder, str(hvd.rank())), "w") as results:
        for name, test in list(vars(module).items()):
            if hvd.size() not in getattr(test, "sizes", ()):
                continue
            torch.manual_seed(1)
            signal.alarm(TEST_SECONDS)
            try:
                test.body()
                outcome = "ok"
            except Exception:
                outcome = traceback.format_exc()
            signal.alarm(0)
            print(json.dumps({name: outcome}), file=results, flush=True)
    hvd.shutdown()


if __name__ == "__main__":
    _one_rank(*sys.argv[1:])
