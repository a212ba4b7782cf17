"""Goal: with `HORA_TLS=1` ranks work as without, and those who were not all told so learn it.

Method: real jobs whose data goes over TCP on loopback. What is on the wire: `tcp_tls_test.cc`.
"""

from support import lines_of, needs_horarun, run_program
from test_other_launchers import EXPECTED, free_port, output_of, variables_of_two_hosts, words_of

SUM = """
import os
if os.environ.pop("ONLY_ONE", "") and os.environ["HORA_RANK"] == "1":
    os.environ["HORA_TLS"] = "0"
import torch
import hora.torch as hora
hora.init()
for count in (1, 1000, 1_000_000):
    mean = hora.allreduce(torch.full((count,), float(hora.rank() + 1)))
    assert mean.eq(1.5).all(), mean
hora.shutdown()
print("good")
"""
ENCRYPTED = {"HORA_TLS": "1", "HORA_BACKEND": "tcp"}


@needs_horarun
def test_two_ranks_reduce_over_connections_that_are_encrypted():
    job = run_program(2, SUM, environment=ENCRYPTED)
    assert job.returncode == 0, job.stdout
    assert sorted(line[-4:] for line in lines_of(job)) == ["good", "good"]


@needs_horarun
def test_ranks_of_one_host_that_differ_are_told_the_setting_and_both_values():
    job = run_program(2, SUM, environment={**ENCRYPTED, "ONLY_ONE": "yes"})
    assert job.returncode != 0
    assert "rank 0 has HORA_TLS=1, rank 1 has HORA_TLS=0: this setting must be equal" in job.stdout


def test_ranks_of_two_hosts_meet_at_a_store_that_is_encrypted():
    port = free_port()
    environments = [variables_of_two_hosts("torchrun", rank, port) for rank in "10"]
    output = output_of([{**environment, "HORA_TLS": "1"} for environment in environments])
    expected = [line.replace("local 1", "local 0") for line in EXPECTED]
    assert words_of(output) == expected, output


def test_ranks_of_two_hosts_that_differ_do_not_wait_for_each_other():
    port = free_port()
    one, zero = (variables_of_two_hosts("torchrun", rank, port) for rank in "10")
    zero = {**zero, "HORA_TLS": "1", "HORA_START_TIMEOUT": "10 s"}
    output = output_of([one, zero])
    assert words_of(output) == [], output
    assert "it encrypts: HORA_TLS=1 is set there and not here" in output
    assert "it does not encrypt: HORA_TLS=1 is set here and not there" in output
