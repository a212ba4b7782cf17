"""Goal: no rank hangs or leaves anything behind when another one dies, stops or forks.

Method: real jobs under horarun whose rank 1 meets its end while data loaders are alive; what the
others say, and which processes and files are left.
"""

import os
import time

from support import lines_of, needs_horarun, run_program

pytestmark = needs_horarun

START = """
import os, signal, subprocess, sys, time
import torch
import hora
import hora.torch as hvd
hvd.init()
rank = hvd.rank()

def work_until_lost():
    end = time.monotonic() + 30
    while time.monotonic() < end:
        try:
            hvd.allreduce_(torch.ones(20000), name='work')
        except hora.PeerLost as error:
            return print('PeerLost:', error, flush=True)
    print('nobody noticed', flush=True)
"""


def alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


def test_data_loader_workers_do_not_hide_a_kill_and_do_not_outlive_it():
    text = START + (
        "from torch.utils.data import DataLoader\n"
        "batches = iter(DataLoader(range(100000), batch_size=2, num_workers=2))\n"
        "next(batches)\n"
        "print('workers', *[w.pid for w in batches._workers], flush=True)\n"
        "if rank == 1:\n"
        "    for step in range(20):\n"
        "        next(batches); hvd.allreduce_(torch.ones(20000), name='work')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "work_until_lost()\n"
    )
    job = run_program(3, text)
    told = [line for line in lines_of(job) if "PeerLost:" in line]
    assert job.returncode == 128 + 9
    assert len(told) == 2 and all("rank 1" in line for line in told), job.stdout
    workers = [
        int(pid)
        for line in lines_of(job)
        if "workers" in line
        for pid in line.split("workers")[1].split()
    ]
    assert len(workers) == 6, job.stdout
    end = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not [pid for pid in workers if alive(pid)]


def test_a_stopped_rank_is_found_by_its_silence():
    text = START + (
        "if rank == 1:\n"
        "    hvd.allreduce_(torch.ones(20000), name='work')\n"
        "    wake = f'sleep 5; kill -CONT {os.getpid()}'\n"
        "    subprocess.Popen(['sh', '-c', wake], start_new_session=True)\n"
        "    os.kill(os.getpid(), signal.SIGSTOP)\n"
        "work_until_lost()\n"
    )
    job = run_program(2, text, environment={"HORA_FAILURE_TIMEOUT": "1"})
    told = [line for line in lines_of(job) if "PeerLost:" in line]
    assert len(told) == 2 and all("rank 1" in line for line in told), job.stdout


def test_nothing_of_ours_lies_in_dev_shm():
    text = START + (
        "before = set(os.listdir('/dev/shm'))\n"
        "hvd.allreduce_(torch.ones(5000000), name='large')\n"
        "mine = [name for name in set(os.listdir('/dev/shm')) - before if 'hora' in name]\n"
        "maps = [line for line in open('/proc/self/maps') if '/dev/shm' in line]\n"
        "print('shm', mine, maps, flush=True)\n"
    )
    job = run_program(2, text, check=True)
    told = [line.split("shm ")[1] for line in lines_of(job) if "shm " in line]
    assert told == ["[] []"] * 2, job.stdout
    assert os.path.isdir("/dev/shm")
