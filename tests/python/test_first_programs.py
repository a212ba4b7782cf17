"""Goal: whole programs of newcomers, with workers, prints and mistakes, end as they should.

Method: each is a file or a text under the real horarun, or under plain python.
"""

import os
import subprocess
import sys

from support import lines_of, needs_horarun, run_program, run_ranks

pytestmark = needs_horarun

LOADER = """
import torch
import hora.torch as hvd
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler


class Numbers(Dataset):
    def __len__(self):
        return 8

    def __getitem__(self, i):
        return torch.tensor([float(i)])


def main():
    hvd.init()
    data = Numbers()
    sampler = DistributedSampler(data, hvd.size(), hvd.rank(), shuffle=False)
    loader = DataLoader(
        data, 2, sampler=sampler, num_workers=1, multiprocessing_context="spawn"
    )
    sums = [hvd.allreduce(batch.sum(), op=hvd.Sum, name="sum").item() for batch in loader]
    print("sums", sums)
"""


KINDS = ("fork", "spawn")


def alone(path):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("HORA")}
    command = [sys.executable, str(path)]
    return subprocess.run(command, env=clean, capture_output=True, text=True, timeout=120)


def test_spawned_data_loader_workers_do_not_disturb(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(LOADER + "\n\nif __name__ == '__main__':\n    main()\n")
    job = run_ranks(2, program, timeout=120, check=True)
    assert {f"[{r}] sums [6.0, 22.0]" for r in (0, 1)} <= set(lines_of(job))


def test_a_program_without_a_main_guard_is_told_by_its_spawned_worker(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(LOADER + "\n\nmain()\n")
    job = alone(program)
    assert job.returncode != 0
    assert "hora.init() was reached while a child process" in job.stderr
    assert 'if __name__ == "__main__":' in job.stderr


def test_workers_may_ask_which_rank_they_work_for_if_forked_and_are_told_if_spawned(tmp_path):
    text = (
        "import torch\n"
        "import hora.torch as hvd\n"
        "from torch.utils.data import DataLoader, IterableDataset\n\n\n"
        "class Shard(IterableDataset):\n"
        "    def __iter__(self):\n"
        "        if hvd.is_initialized():\n"
        "            yield from range(hvd.rank(), 8, hvd.size())\n"
        "        for call in hvd.size, hvd.init:\n"
        "            try:\n"
        "                call()\n"
        "            except (ValueError, hvd.HoraError) as error:\n"
        "                yield str(error) + ''.join(getattr(error, '__notes__', ()))\n\n\n"
        "if __name__ == '__main__':\n"
        "    hvd.init()\n"
        "    for kind in 'fork', 'spawn':\n"
        "        loader = DataLoader(\n"
        "            Shard(), None, num_workers=1, multiprocessing_context=kind\n"
        "        )\n"
        "        print(kind, [one.item() if hasattr(one, 'item') else one for one in loader])\n"
        "    print(hvd.allreduce(torch.ones(1), op=hvd.Sum, name='after').item())\n"
    )
    program = tmp_path / "train.py"
    program.write_text(text)
    job = run_ranks(2, program, timeout=120, check=True)
    for rank in (0, 1):
        mine = [line for line in lines_of(job) if line.startswith(f"[{rank}] ")]
        fork, spawn = (next(line for line in mine if f"] {kind} [" in line) for kind in KINDS)
        assert f"[{rank}, {2 + rank}, {4 + rank}, {6 + rank}, " in fork
        assert "made by fork()" in fork
        assert spawn.count("ask rank() and size() in the rank's own process") == 2
        assert f"[{rank}] 2.0" in mine


def test_who_forgets_init_is_told_by_whatever_comes_first(tmp_path):
    program = tmp_path / "train.py"
    program.write_text(
        "import torch\n"
        "import hora.torch as hvd\n"
        "p = torch.nn.Parameter(torch.ones(2))\n"
        "state = torch.nn.Linear(1, 1).state_dict()\n"
        "for call in (hvd.rank, hvd.size, hvd.local_rank, hvd.barrier,\n"
        "             lambda: hvd.allreduce(torch.ones(2)),\n"
        "             lambda: hvd.broadcast_parameters(state, root_rank=0),\n"
        "             lambda: hvd.broadcast_object(1),\n"
        "             lambda: hvd.DistributedOptimizer(torch.optim.SGD([p], lr=1.0))):\n"
        "    try:\n"
        "        call()\n"
        "    except ValueError as error:\n"
        "        assert 'use hora.init()' in str(error), error\n"
        "        print('told')\n"
    )
    job = alone(program)
    assert (job.returncode, job.stdout) == (0, "told\n" * 8), job.stderr


def test_a_metric_that_only_rank_0_reduces_is_named_with_the_rank_that_does_not():
    text = (
        "import torch, hora\n"
        "import hora.torch as hvd\n"
        "hvd.init()\n"
        "if hvd.rank() == 0:\n"
        "    try:\n"
        "        hvd.allreduce(torch.ones(1), name='accuracy')\n"
        "    except hora.HoraError as error:\n"
        "        print('ended:', error)\n"
        "else:\n"
        "    try:\n"
        "        hvd.allreduce(torch.ones(1), name='next.step')\n"
        "    except hora.HoraError as error:\n"
        "        print('ended:', error)\n"
    )
    environment = {"HORA_STALL_WARNING": "500ms", "HORA_STALL_ABORT": "4s"}
    job = run_program(2, text, environment=environment)
    lines = lines_of(job)
    assert sum("ended:" in line for line in lines) == 2, job.stdout
    for waiting, late in (("accuracy", 1), ("next.step", 0)):
        told = [i for i, line in enumerate(lines) if f"'{waiting}' has waited" in line]
        assert told, job.stdout
        assert f"rank {late} has not submitted it" in job.stdout


def test_prints_and_progress_bars_of_all_ranks_stay_whole():
    """As tqdm writes: carriage returns, no newline until the end, characters of several bytes."""
    text = (
        "import os, sys\n"
        "rank = os.environ['HORA_RANK']\n"
        "for i in range(1, 6):\n"
        "    bar = chr(0x2588) * i + ' ' * (5 - i)\n"
        "    sys.stderr.write(f'\\rrank {rank}: {20 * i:3}%|{bar}| {i}/5')\n"
        "    sys.stderr.flush()\n"
        "    print('loss of', rank, 'is', i)\n"
        "sys.stderr.write('\\n')\n"
        "print('no newline at the end', end='')\n"
    )
    job = run_program(3, text, check=True)
    lines = lines_of(job)
    for rank in range(3):
        mine = [line for line in lines if line.startswith(f"[{rank}] ")]
        assert [line for line in mine if "loss" in line] == [
            f"[{rank}] loss of {rank} is {i}" for i in range(1, 6)
        ]
        assert [line for line in mine if "%" in line] == [
            f"[{rank}] rank {rank}: {20 * i:3}%|{chr(0x2588) * i + ' ' * (5 - i)}| {i}/5"
            for i in range(1, 6)
        ]
        assert f"[{rank}] no newline at the end" in mine
    assert len(lines) == 3 * 11
