"""Goal: a job starts, ends, is interrupted and loses ranks without hanging and without leaks.

Method: small programs under the real horarun; each says what it saw, and ends within a bound.
"""

import os

from support import lines_of, needs_horarun, run_program

pytestmark = needs_horarun

START = """
import os, signal, sys, threading, time, warnings
import torch
import hora
import hora.torch as hvd
hvd.init()
rank = hvd.rank()
"""


def test_a_program_may_end_without_shutdown():
    job = run_program(
        2,
        START + "hvd.allreduce(torch.ones(3), name='a')\n"
        "p = torch.nn.Parameter(torch.ones(3))\n"
        "opt = hvd.DistributedOptimizer(torch.optim.SGD([p], lr=1.0))\n"
        "p.sum().backward(); opt.step(); print('done')\n",
        check=True,
    )
    assert lines_of(job) == ["[0] done", "[1] done"] or lines_of(job) == ["[1] done", "[0] done"]


def test_alone_without_horarun():
    import subprocess
    import sys

    clean = {name: value for name, value in os.environ.items() if not name.startswith("HORA")}
    text = START + "print(hvd.size(), hvd.allreduce(torch.ones(2)).tolist()); hvd.shutdown()"
    command = [sys.executable, "-c", text]
    job = subprocess.run(command, env=clean, capture_output=True, text=True, timeout=60)
    assert (job.returncode, job.stdout, job.stderr) == (0, "1 [1.0, 1.0]\n", "")


def test_eight_ranks_on_few_cores():
    text = START + (
        "for i in range(20):\n"
        "    x = torch.full((1000,), float(rank))\n"
        "    assert hvd.allreduce(x, op=hvd.Sum, name=f'x{i % 3}')[0] == 28\n"
        "print('ok')\n"
    )
    job = run_program(8, text, timeout=120, check=True)
    assert sum(line.endswith("ok") for line in lines_of(job)) == 8


def test_who_left_is_named_to_those_who_wait():
    text = START + (
        "if rank == 1:\n"
        "    hvd.shutdown(); sys.exit(0)\n"
        "try:\n"
        "    hvd.allreduce(torch.ones(2), name='lonely')\n"
        "except hora.PeerLeft as error:\n"
        "    print('PeerLeft:', error)\n"
    )
    job = run_program(3, text, check=True)
    told = [line for line in lines_of(job) if "PeerLeft:" in line]
    assert len(told) == 2 and all("1" in line.split("PeerLeft:")[1] for line in told), job.stdout


def test_who_died_is_named_to_those_who_wait():
    text = START + (
        "if rank == 1:\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "try:\n"
        "    hvd.allreduce(torch.ones(2), name='lonely')\n"
        "except hora.PeerLost as error:\n"
        "    print('PeerLost:', error, flush=True)\n"
    )
    job = run_program(3, text)
    told = [line for line in lines_of(job) if "PeerLost:" in line]
    assert job.returncode != 0
    assert len(told) == 2 and all("1" in line.split("PeerLost:")[1] for line in told), job.stdout


def test_ctrl_c_ends_a_wait_and_the_operation_goes_on():
    text = START + (
        # Whatever started the tests may ignore Ctrl-C, which children inherit.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "if rank == 0:\n"
        "    handle = hvd.allreduce_async(torch.ones(2), name='slow', op=hvd.Sum)\n"
        "    threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT)).start()\n"
        "    try:\n"
        "        hvd.synchronize(handle)\n"
        "    except KeyboardInterrupt:\n"
        "        print('interrupted')\n"
        "    hvd.barrier()\n"
        "else:\n"
        "    hvd.barrier()\n"
        "    handle = hvd.allreduce_async(torch.ones(2), name='slow', op=hvd.Sum)\n"
        "print(hvd.synchronize(handle).tolist())\n"
    )
    job = run_program(2, text, check=True)
    assert "[0] interrupted" in lines_of(job)
    assert {"[0] [2.0, 2.0]", "[1] [2.0, 2.0]"} <= set(lines_of(job))


def test_a_forked_child_is_told_and_harms_nobody():
    text = START + (
        "warnings.simplefilter('ignore')\n"
        "pending = hvd.allreduce_async(torch.ones(2), name='p', op=hvd.Sum)\n"
        "place = (hvd.rank(), hvd.size(), hvd.local_rank())\n"
        "child = os.fork()\n"
        "if child == 0:\n"
        "    assert (hvd.rank(), hvd.size(), hvd.local_rank()) == place\n"
        "    calls = [hvd.init, hvd.barrier, lambda: hvd.synchronize(pending),\n"
        "             lambda: hvd.allreduce_async(torch.ones(2))]\n"
        "    for call in calls:\n"
        "        try:\n"
        "            call(); sys.exit(3)\n"
        "        except hora.HoraError as error:\n"
        "            assert 'fork' in str(error), error\n"
        "    sys.exit(7)\n"
        "assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7\n"
        "print(hvd.synchronize(pending).tolist())\n"
    )
    job = run_program(2, text, check=True)
    assert {"[0] [2.0, 2.0]", "[1] [2.0, 2.0]"} <= set(lines_of(job))


def test_data_loader_workers_do_not_disturb():
    text = START + (
        "warnings.simplefilter('ignore')\n"
        "loader = torch.utils.data.DataLoader(torch.arange(8.0), batch_size=2, num_workers=2)\n"
        "print([hvd.allreduce(batch, op=hvd.Sum, name='batch').sum().item() for batch in loader])\n"
    )
    job = run_program(2, text, check=True)
    assert {f"[{r}] [2.0, 10.0, 18.0, 26.0]" for r in (0, 1)} <= set(lines_of(job))


def test_fifty_jobs_in_a_row_leave_no_descriptors_or_threads():
    text = START + (
        "p = torch.nn.Parameter(torch.ones(3))\n"
        "def cycle():\n"
        "    hvd.init()\n"
        "    opt = hvd.DistributedOptimizer(torch.optim.SGD([p], lr=1.0))\n"
        "    p.sum().backward(); opt.step()\n"
        "    assert torch.equal(p.grad, torch.ones(3))\n"
        "    hvd.shutdown()\n"
        "    p.grad = None\n"
        "def count(what): return len(os.listdir(f'/proc/self/{what}'))\n"
        "def settled():\n"  # a joined thread may be listed for a moment longer
        "    end = time.monotonic() + 5\n"
        "    while count('task') > 1 and time.monotonic() < end: time.sleep(0.01)\n"
        "    return count('fd'), count('task')\n"
        "cycle(); cycle(); cycle()\n"
        "before = settled()\n"
        "for _ in range(50): cycle()\n"
        "assert settled() == before, (before, settled())\n"
        "print('ok')\n"
    )
    job = run_program(2, text, timeout=120, check=True)
    assert sum(line.endswith("ok") for line in lines_of(job)) == 2


def test_gradients_outlive_the_engine():
    text = START + (
        "p = torch.nn.Parameter(torch.ones(300000))\n"
        "opt = hvd.DistributedOptimizer(torch.optim.SGD([p], lr=1.0))\n"
        "p.sum().backward(); opt.step(); del opt\n"
        "gathered = hvd.allgather(torch.ones(300000))\n"
        "hvd.shutdown()\n"
        "assert p.grad.sum() == 300000 and gathered.sum() == 600000\n"
        "p.grad.zero_(); print('ok')\n"
    )
    job = run_program(2, text, check=True)
    assert sum(line.endswith("ok") for line in lines_of(job)) == 2


def test_after_shutdown_one_is_told_to_init():
    text = START + (
        "hvd.shutdown(); hvd.shutdown()\n"
        "assert not hvd.is_initialized()\n"
        "try:\n"
        "    hvd.rank()\n"
        "except ValueError as error:\n"
        "    print(error)\n"
    )
    job = run_program(1, text, check=True)
    assert lines_of(job) == ["[0] Hora has not been initialized; use hora.init()."]


def test_a_wrong_setting_is_a_value_error_that_names_it():
    text = (
        "import hora\n"
        "import os\n"
        "os.environ['HORA_LANES'] = 'many'\n"
        "try:\n"
        "    hora.init()\n"
        "except ValueError as error:\n"
        "    print('HORA_LANES' in str(error))\n"
    )
    assert lines_of(run_program(1, text, check=True)) == ["[0] True"]


def test_a_stall_report_shows_where_python_is():
    text = START + (
        "def busy_somewhere():\n"
        "    time.sleep(4)\n"
        "if rank == 1: busy_somewhere()\n"
        "hvd.allreduce(torch.ones(2), name='late')\n"
    )
    job = run_program(2, text, environment={"HORA_STALL_WARNING": "1s"}, check=True)
    assert "late" in job.stdout and "busy_somewhere" in job.stdout, job.stdout
