"""Goal: training goes on, exactly, when ranks of another host die, when the whole host is lost, and
when hosts come and go; and each epoch's ranks know where they stand.

Method: elastic jobs over hosts that are network namespaces (links.py), or over a stand-in for ssh.
Gradients are small integers that depend on the batch only, as in test_elastic.py.
"""

import sys

import pytest
from links import Links, needs_links
from support import HORARUN, needs_horarun
from test_elastic import START, UNTIL, reports_of, weights_after
from test_horarun_hosts import rsh, run  # noqa: F401

pytestmark = needs_horarun
LIMIT = 150

PLACES = """
def places():
    mine = hvd.local_rank(), hvd.local_size(), hvd.cross_rank(), hvd.cross_size()
    return [tuple(place) for place in hvd.allgather_object(mine)]
"""
# Runs once in a job: `mark` is a file of this test.
ONCE = """
def once(condition):
    if not condition or os.path.exists(os.environ["MARK"]):
        return False
    open(os.environ["MARK"], "w").close()
    return True
def parent_of(pid):
    with open(f"/proc/{pid}/stat") as file:
        return int(file.read().rpartition(")")[2].split()[1])
"""


def run_between(links, tmp_path, text, *options):
    """An elastic job on hosts that are apart; horarun is on the first."""
    words = ["--rsh", links.rsh(tmp_path), "--failure-timeout", "3s", "--grace", "3s", *options]
    words += ["-x", "OMP_NUM_THREADS=1", "-x", f"MARK={tmp_path / 'mark'}"]
    program = START + PLACES + ONCE + text
    return links.run(0, HORARUN, *words, sys.executable, "-c", program, timeout=LIMIT)


@needs_links
def test_survivors_on_both_hosts_go_on_without_a_killed_rank(tmp_path):
    text = (
        "def trouble(state):\n"
        "    if hvd.size() == 4 and hvd.rank() == 2 and state.batch == 13:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "train_with(trouble, 20)\n"
        "report(places=places())\n"
    )
    with Links(2) as links:
        hosts = f"{links.addresses[0]}:2,{links.addresses[1]}:2"
        job = run_between(
            links, tmp_path, text, "-H", hosts, "-np", 4, "--min-np", 2, "--blacklist-after", 1
        )
    assert job.returncode == 0, job.stdout
    reports = reports_of(job)
    assert [(r["rank"], r["size"]) for r in reports] == [(0, 3), (1, 3), (2, 3)], job.stdout
    for report in reports:
        assert report["starts"] == [(4, 0), (3, 10)]
        assert report["weights"] == weights_after(20)
        assert report["places"] == [(0, 2, 0, 2), (1, 2, 0, 2), (0, 1, 1, 2)]
    assert "rank 2 on 10.77.0.2 (pid " in job.stdout


@needs_links
def test_a_lost_host_is_a_lost_set_of_ranks_and_joins_again(tmp_path):
    text = UNTIL + (
        "def trouble(state):\n"
        "    if once(hvd.rank() == 3 and state.batch == 7):\n"
        "        os.kill(parent_of(os.getppid()), signal.SIGKILL)\n"
        "        time.sleep(60)\n"
        "def done(state):\n"
        "    return 2 in state.sizes and state.sizes[-1] == 4\n"
        "train_until(done, trouble)\n"
        "report(places=places())\n"
    )
    with Links(2) as links:
        hosts = f"{links.addresses[0]}:2,{links.addresses[1]}:2"
        cooldown = ["--blacklist-cooldown-range", "100ms", "1s"]
        job = run_between(links, tmp_path, text, "-H", hosts, "-np", 4, "--min-np", 2, *cooldown)
    assert job.returncode == 0, job.stdout
    assert "horarun: host 10.77.0.2: " in job.stdout
    reports = reports_of(job)
    assert [(r["rank"], r["size"]) for r in reports] == [(r, 4) for r in range(4)], job.stdout
    for report in reports:
        sizes = report["sizes"]
        # Only a commit in which some ranks had a batch that others had not is done again.
        assert sizes[:7] == [4] * 7 and set(sizes[7:-1]) >= {2} and sizes[-1] == 4
        assert report["weights"] == weights_after(len(sizes))
        assert report["places"] == [(0, 2, 0, 2), (1, 2, 0, 2), (0, 2, 1, 2), (1, 2, 1, 2)]


@needs_links
def test_hosts_come_and_go_as_the_discovery_script_says(tmp_path):
    hosts = tmp_path / "hosts"
    text = UNTIL + (
        "def trouble(state):\n"
        "    a, b, ever = '10.77.0.1:1', '10.77.0.2:2', set(state.sizes)\n"
        "    wanted = [a] if len(state.sizes) < 3 else [a, b] if 3 not in ever else [b]\n"
        "    if hvd.rank() == 0:\n"
        f"        with open('{hosts}.new', 'w') as file:\n"
        "            print(*wanted, sep='\\n', file=file)\n"
        f"        os.rename('{hosts}.new', '{hosts}')\n"
        "def done(state):\n"
        "    return 3 in state.sizes and state.sizes[-1] == 2\n"
        "train_until(done, trouble)\n"
        "report(places=places())\n"
    )
    with Links(2) as links:
        hosts.write_text("10.77.0.1:1\n")
        options = ["--min-np", 1, "--max-np", 3, "--host-discovery-script", f"cat {hosts}"]
        job = run_between(links, tmp_path, text, *options)
    assert job.returncode == 0, job.stdout
    reports = reports_of(job)
    assert [report["rank"] for report in reports] == [0, 1], job.stdout
    sizes = reports[0]["sizes"]
    assert {1, 2, 3} == set(sizes) and sizes[0] == 1 and sizes[-1] == 2
    for report in reports:
        assert report["weights"] == weights_after(len(sizes))
        assert report["places"] == [(0, 2, 0, 1), (1, 2, 0, 1)]
    assert "Traceback" not in job.stdout  # the rank that left, left well


SHOW = """
import hora
hora.init()
hora.barrier()
print(hora.rank(), hora.size(), hora.local_rank(), hora.cross_rank(), hora.cross_size())
"""


def test_a_host_that_cannot_be_had_is_told_and_done_without(rsh):  # noqa: F811
    options = ["-np", 3, "--min-np", 2, "--blacklist-after", 1, "--no-prefix"]
    words = [*options, "-H", "bad:1,a:1,localhost:1", sys.executable, "-c", SHOW]
    job = run(rsh, *words)
    assert job.returncode == 0, job.stderr
    assert sorted(job.stdout.splitlines()) == ["0 2 0 0 2", "1 2 0 1 2"]
    assert "host bad: " in job.stderr and "Could not resolve hostname bad" in job.stderr
    assert "slot 0 of bad has failed once" in job.stderr


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo 'a 1'", "`a 1`: expected one HOST:SLOTS; going on with none"),
        ("echo -x:1", "`-x:1` is not the name of a host"),
    ],
)
def test_a_script_that_prints_no_hosts_is_told(rsh, script, why):  # noqa: F811
    options = ["--elastic-timeout", "2s", "--min-np", 1, "--host-discovery-script", script]
    job = run(rsh, *options, program=SHOW)
    assert job.returncode == 1
    assert f"--host-discovery-script: {why}" in job.stderr


# In the second epoch another chain would be quicker by some percent.
AUTO = """
import os, signal
import torch
import hora.torch as hvd
os.environ["HORA_CODEC_SPEEDS"] = "int8=0.1/0.1/0.1,fp8=1/1/1"
hvd.init()
os.environ["HORA_CODEC_SPEEDS"] = "int8=0.5/0.5/0.1,fp8=0.1/0.1/0.1"
torch.set_num_threads(1)
model = torch.nn.Linear(1024, 1024, bias=False)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
optimizer = hvd.DistributedOptimizer(optimizer, model.named_parameters())
state = hvd.elastic.TorchState(model=model, optimizer=optimizer, batch=0)

@hvd.elastic.run
def train(state):
    while state.batch < 6:
        if hvd.size() == 3 and hvd.rank() == 1 and state.batch == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        optimizer.zero_grad()
        model(torch.ones(2, 1024)).square().mean().backward()
        optimizer.step()
        state.batch += 1
        state.commit()

train(state)
other = torch.ones(1024, 1025)
hvd.allreduce(other, name="other", compression="auto:error=0.05")
memories = hvd.compression_memories()
rows = sorted(memories["tensors"], key=lambda row: "other" in row["tensor"])
seen = [(row["exchanges"], "levels" in row["chain"]) for row in rows]
print("done", hvd.size(), memories["lost"], *seen)
"""


def test_what_auto_chose_outlasts_a_lost_rank_with_what_it_remembers(rsh):  # noqa: F811
    options = ["-np", 3, "--min-np", 2, "--blacklist-after", 1, "--no-prefix", "--grace", "3s"]
    for setting in ("HORA_COMPRESSION=auto:error=0.05", "HORA_LINKS=1Gbit"):
        options += ["-x", setting]
    words = [*options, "-H", "localhost:1,a:1,b:1", sys.executable, "-c", AUTO]
    job = run(rsh, *words)
    assert job.returncode == 0, job.stderr
    # "other", which had no chain before, has the one that is quicker now.
    assert sorted(job.stdout.splitlines()) == ["done 2 0.0 (6, True) (1, False)"] * 2
