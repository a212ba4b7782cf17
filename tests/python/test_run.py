"""Goal: a function of a program or notebook runs as a job, and its results or its failure return.

Method: `hora.run` as a user calls it, under the real horarun, from this process and from programs
whose function lives in __main__.
"""

import os
import subprocess
import sys

import pytest
from support import needs_horarun

import hora

pytestmark = needs_horarun


def run(*args, **kwargs):
    return hora.run(*args, env={"OMP_NUM_THREADS": "1"}, **kwargs)


def program(text, tmp_path):
    path = tmp_path / "train.py"
    path.write_text(text)
    command = [sys.executable, str(path)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    return subprocess.run(command, timeout=100, **pipes)


def test_results_come_in_rank_order_and_what_ranks_print_is_shown(capsys):
    offset = 10  # closures travel, too

    def train(word, times=1):
        hora.init()
        total = hora.runtime.session().control(hora.constants.Op.BARRIER)
        print(word, "from", hora.rank())
        return offset + hora.rank(), hora.size(), word * times, total

    results = run(train, ("ha",), {"times": 2}, np=2)
    assert [result[:3] for result in results] == [(10, 2, "haha"), (11, 2, "haha")]
    shown = capsys.readouterr().out.splitlines()
    assert {"[0] ha from 0", "[1] ha from 1"} <= set(shown)


def test_the_rank_that_failed_first_is_named_with_its_traceback():
    def train():
        hora.init()
        if hora.rank() == 1:
            raise LookupError("no such batch")
        try:
            hora.barrier()
        except hora.HoraError:
            raise SystemExit("because another one failed") from None

    with pytest.raises(RuntimeError, match=r"rank 1 of 2 failed:\n(.|\n)*LookupError: no such"):
        run(train, np=2)


def test_a_rank_that_dies_is_named():
    def train():
        import signal

        if os.environ["HORA_RANK"] == "1":
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError, match=r"exit code 137; no result from ranks \[(0, )?1\]"):
        run(train, num_proc=2)


def test_a_function_of_a_program_runs_by_value(tmp_path):
    job = program(
        "import hora.torch as hvd\n"
        "import torch\n"
        "class Model(torch.nn.Linear):\n    pass\n"
        "def train(model):\n"
        "    hvd.init()\n"
        "    hvd.broadcast_parameters(model.state_dict(), 0)\n"
        "    hvd.allreduce_(model.weight.data.fill_(hvd.rank()), op=hvd.Sum, name='w')\n"
        "    return model\n"
        "models = hvd.run(train, (Model(1, 1),), np=2)\n"
        "print(*[(type(m).__name__, m.weight.item()) for m in models])\n",
        tmp_path,
    )
    assert job.stdout.splitlines()[-1] == "('Model', 1.0) ('Model', 1.0)", job.stdout


def test_without_cloudpickle_a_function_of_main_is_refused_with_advice(tmp_path):
    job = program(
        "import sys\n"
        "sys.modules['cloudpickle'] = None\n"
        "import hora\n"
        "def train(): pass\n"
        "try:\n    hora.run(train, np=2)\n"
        "except ValueError as error:\n    print(error)\n",
        tmp_path,
    )
    assert "train is defined in __main__" in job.stdout and "cloudpickle" in job.stdout


def test_what_cannot_be_meant_is_refused_before_anything_starts():
    for wrong, text in [
        ({"np": 0}, "at least 1"),
        ({"np": 2, "num_proc": 3}, "give one"),
        ({"np": 2, "slots": 3}, "no such option"),
        ({"np": 2, "args": (sys._getframe(),)}, "arguments"),
    ]:
        with pytest.raises(ValueError, match=text):
            hora.run(print, **wrong)
    with pytest.raises(ValueError, match="expected a function"):
        hora.run("train.py", np=2)
    with pytest.raises(NotImplementedError, match="this host only"):
        hora.run(print, np=2, hosts="localhost:1,there:1")
