"""Goal: ranks that something else than horarun started find each other.

Method: real torchrun and mpirun where they are installed; for all launchers, processes with the
variables that these set. Ranks of several hosts are on one by the variables' word only, or, under
torchrun, in network namespaces.
"""

import os
import shutil
import socket
import subprocess
import sys

import pytest
from links import Links, needs_links

LIMIT = 60
SECRET = "5e" * 32
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


def output_of(environments):
    """What ranks with these variables print."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM],
            env={**CLEAN, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for environment in environments
    ]
    try:
        return "".join(rank.communicate(timeout=LIMIT)[0] for rank in ranks)
    finally:
        for rank in ranks:
            rank.kill()
            rank.communicate()


@pytest.mark.parametrize("launcher", ["torchrun", "Open MPI", "MPICH", "srun"])
def test_ranks_with_a_launchers_variables_meet_and_meet_again(launcher):
    output = output_of([variables(launcher, rank) for rank in "10"])
    assert words_of(output) == EXPECTED, output


def free_port():
    """A port that is free, as the next one is."""
    while True:
        with socket.socket() as first, socket.socket() as second:
            first.bind(("", 0))
            port = first.getsockname()[1]
            try:
                second.bind(("", port + 1))
            except OSError:
                continue
            return port


def variables_of_two_hosts(launcher, rank, port):
    """With one rank on each."""
    store = {"HORA_STORE": f"tcp://127.0.0.1:{port}"}
    more = {
        "torchrun": {
            "LOCAL_RANK": "0",
            "LOCAL_WORLD_SIZE": "1",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        },
        "Open MPI": {
            "OMPI_COMM_WORLD_LOCAL_RANK": "0",
            "OMPI_COMM_WORLD_LOCAL_SIZE": "1",
            **store,
        },
        "MPICH": {"MPI_LOCALRANKID": "0", "MPI_LOCALNRANKS": "1", **store},
        "srun": {
            "SLURM_LOCALID": "0",
            "SLURM_NODEID": rank,
            "SLURM_STEP_NUM_NODES": "2",
            "SLURM_STEP_TASKS_PER_NODE": "1(x2)",
            "SLURM_STEP_NODELIST": "localhost,none.invalid",
        },
    }[launcher]
    return {**variables(launcher, rank), "HORA_SECRET": SECRET, **more}


@pytest.mark.parametrize("launcher", ["torchrun", "Open MPI", "MPICH", "srun"])
def test_ranks_of_several_hosts_meet_and_meet_again(launcher):
    port = free_port()
    output = output_of([variables_of_two_hosts(launcher, rank, port) for rank in "10"])
    expected = [line.replace("local 1", "local 0") for line in EXPECTED]
    assert words_of(output) == expected, output


def test_ranks_with_another_secret_do_not_meet():
    port = free_port()
    environments = [variables_of_two_hosts("torchrun", rank, port) for rank in "10"]
    environments[0]["HORA_SECRET"] = "0" * 64
    environments[1]["HORA_START_TIMEOUT"] = "10 s"  # it serves the store, and waits for rank 1
    output = output_of(environments)
    assert words_of(output) == [], output
    assert "its HORA_SECRET is another" in output
    assert "it does not know the job's secret" in output
    assert "0" * 64 not in output and SECRET not in output


@pytest.mark.parametrize(
    ("launcher", "missing", "advice"),
    [
        ("torchrun", "HORA_SECRET", "openssl rand -hex 32"),
        ("Open MPI", "HORA_STORE", "HORA_STORE=tcp://HOST:PORT"),
    ],
)
def test_what_ranks_of_several_hosts_lack_is_told(launcher, missing, advice):
    environment = variables_of_two_hosts(launcher, "0", 4711)
    del environment[missing]
    output = output_of([environment])
    assert f"=2 on 2 hosts: {missing} is not set" in output
    assert advice in output


@needs_links
def test_a_real_torchrun_of_two_hosts(tmp_path):
    if not shutil.which("torchrun"):
        pytest.skip("no torchrun")
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    environment = {**CLEAN, "HORA_SECRET": SECRET}
    with Links(2) as links:
        words = ["torchrun", "--nnodes", "2", "--nproc-per-node", "2"]
        words += ["--master-addr", links.addresses[0], "--master-port", "29477"]
        nodes = [
            links.start(
                *(node, *words, "--node-rank", node, program),
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for node in (0, 1)
        ]
        output = "".join(node.communicate(timeout=LIMIT)[0] for node in nodes)
    assert words_of(output) == [
        *(f"again {rank}" for rank in range(4)),
        *(f"rank {rank} of 4 local {rank % 2}" for rank in range(4)),
    ], output


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
