"""Goal: ranks that something else than horarun started find each other.

Method: real torchrun and mpirun where they are installed; for all launchers, processes with the
variables that these set.
"""

import os
import shutil
import subprocess
import sys

import pytest

LIMIT = 60
PROGRAM = """
import os
import hora
def say(line):
    os.write(1, (line + '\\n').encode())  # at once: launchers mix what their ranks write
hora.init()
hora.barrier()
say(f'rank {hora.rank()} of {hora.size()} local {hora.local_rank()}')
hora.shutdown()
hora.init()
hora.barrier()
say(f'again {hora.rank()}')
"""
EXPECTED = ["again 0", "again 1", "rank 0 of 2 local 0", "rank 1 of 2 local 1"]
LAUNCHERS = ("HORA_", "HOROVOD_", "OMPI_", "PMI", "SLURM_", "MPI_LOCAL", "MASTER_", "TORCHELASTIC")
CLEAN = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(LAUNCHERS)
    and name not in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
}


def words_of(output):
    return sorted(line for line in output.splitlines() if line.startswith(("rank", "again")))


def variables(launcher, rank):
    job = str(os.getpid())  # other jobs may run beside this one
    return {
        "torchrun": {"RANK": rank, "WORLD_SIZE": "2", "MASTER_PORT": job},
        "Open MPI": {
            "OMPI_COMM_WORLD_RANK": rank,
            "OMPI_COMM_WORLD_SIZE": "2",
            "OMPI_COMM_WORLD_LOCAL_RANK": rank,
            "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
            "PMIX_NAMESPACE": job,
        },
        "MPICH": {
            "PMI_RANK": rank,
            "PMI_SIZE": "2",
            "MPI_LOCALRANKID": rank,
            "MPI_LOCALNRANKS": "2",
        },
        "srun": {
            "SLURM_PROCID": rank,
            "SLURM_STEP_NUM_TASKS": "2",
            "SLURM_LOCALID": rank,
            "SLURM_JOB_ID": job,
            "SLURM_STEP_ID": "0",
        },
    }[launcher]


@pytest.mark.parametrize("launcher", ["torchrun", "Open MPI", "MPICH", "srun"])
def test_ranks_with_a_launchers_variables_meet_and_meet_again(launcher):
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**CLEAN, **variables(launcher, rank)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for rank in "10"
    ]
    try:
        output = "".join(rank.communicate(timeout=LIMIT)[0] for rank in ranks)
    finally:
        for rank in ranks:
            rank.kill()
    assert words_of(output) == EXPECTED, output


@pytest.mark.parametrize(
    "command",
    [
        ["torchrun", "--nproc-per-node", "2", "--master-port", "29477"],
        ["mpirun", "-np", "2", "--oversubscribe", "--allow-run-as-root"],
    ],
    ids=lambda command: command[0],
)
def test_a_real_launcher(command, tmp_path):
    if not shutil.which(command[0]):
        pytest.skip(f"no {command[0]}")
    if command[0] == "mpirun":
        command = [*command, sys.executable]
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    done = subprocess.run(
        [*command, program], capture_output=True, text=True, timeout=LIMIT, env=CLEAN
    )
    assert done.returncode == 0, done.stderr
    assert words_of(done.stdout) == EXPECTED, done.stdout + done.stderr


def test_plain_python_is_alone():
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=LIMIT, env=CLEAN
    )
    assert words_of(done.stdout) == ["again 0", "rank 0 of 1 local 0"], done.stderr
