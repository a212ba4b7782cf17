"""Goal: a job of several hosts computes what it should, names who is lost, and is not disturbed by
strangers.

Method: hosts are network namespaces with links between them (links.py); the first runs horarun,
which gets to the others through a stand-in for ssh. Sums are of small integers, so they are exact.
"""

import contextlib
import json
import pathlib
import re
import subprocess
import sys
import time

import pytest
from links import Links, needs_links
from support import HORARUN, needs_horarun

pytestmark = needs_horarun
LIMIT = 90  # seconds; a job takes a few, most of it to import torch
FAILURE_TIMEOUT = 3
SUMS = pathlib.Path(__file__).parent.parent / "faults" / "rank.py"

# Small and large, in one tensor and in several at once, and what is not a sum.
COLLECTIVES = """
import torch, hora.torch as hvd
hvd.init()
n, me = hvd.size(), hvd.rank()
for count in (1, 1000, 300_000):
    x = (torch.arange(count) % 1000).float()
    total = hvd.allreduce(x * (me + 1), op=hvd.Sum, name=f"sum{count}")
    assert torch.equal(total, x * (n * (n + 1) // 2)), count
many = [hvd.allreduce_async(torch.full((7,), float(i + me)), op=hvd.Sum, name=f"m{i}")
        for i in range(50)]
for i, handle in enumerate(many):
    assert hvd.synchronize(handle).tolist() == [i * n + n * (n - 1) / 2] * 7
gathered = hvd.allgather(torch.full((me + 1,), me)).tolist()
assert gathered == [rank for rank in range(n) for _ in range(rank + 1)]
assert hvd.broadcast(torch.tensor([me]), root_rank=n - 1).item() == n - 1
print(f"fine {hvd.local_size()} {hvd.cross_size()}")
hvd.shutdown()
"""

# One bit between hosts, and a memory of a shard: in forty steps the mean comes through.
BETWEEN_HOSTS = """
import torch, hora, hora.torch as hvd
hvd.init()
n, me = hvd.size(), hvd.rank()
torch.manual_seed(me)
weight, total = torch.randn(300, 500), 0
for step in range(40):
    mean = hvd.allreduce(weight, op=hvd.Average, name="w", compression="onebit;link=inter")
    digest = mean.view(torch.int32).sum(dtype=torch.int64).reshape(1)
    assert len(set(hvd.allgather(digest, name="digest").tolist())) == 1, step
    total = total + mean
true = hvd.allreduce(weight, op=hvd.Average, name="true", compression="none")
error = (total / 40 - true).norm() / true.norm()
assert 0 < error < 0.25 < (mean - true).norm() / true.norm(), error
(memory,) = hora.compression_memories()["tensors"]
assert 440_000 < memory["bytes"] < 460_000, memory  # half a residual, half of that as an owner
print("fine")
hvd.shutdown()
"""

# Sums until something ends it; prints how it ended.
ENDLESS = """
import os, sys, torch, hora.torch as hvd
hvd.init()
me, doomed = hvd.rank(), int(sys.argv[1])
for step in range(10**9):
    if step == 20:
        print("under way", flush=True)
    if step == 40 and me == doomed:
        os.kill(os.getpid(), 9)
    try:
        hvd.allreduce(torch.ones(1000), name="x")
    except hvd.HorovodInternalError as error:
        print("ended:", str(error).replace("\\n", " "), flush=True)
        sys.exit(1)
"""


def words(links, tmp_path, slots, *program, backend="tcp"):
    hosts = ",".join(f"{address}:{slots}" for address in links.addresses)
    return [
        *(HORARUN, "--rsh", links.rsh(tmp_path), "-H", hosts, "--backend", backend),
        *("--failure-timeout", f"{FAILURE_TIMEOUT}s", "--grace", "3s"),
        *("-x", "OMP_NUM_THREADS=1", sys.executable, "-c", *program),
    ]


def sums(links, tmp_path, slots, steps, **options):
    """A job of ranks that check their sums and note in files how they fare; without torch."""
    *launch, _, _ = words(links, tmp_path, slots, "", **options)
    return [*launch, SUMS, tmp_path, steps]


def notes_of(tmp_path, rank):
    """What a rank of `sums` has noted, without times and details."""
    path = tmp_path / f"rank.{rank}"
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line)[1] for line in lines if line.endswith("\n")]


def await_notes(tmp_path, ranks, what, count):
    """Until each rank has noted it so often."""
    deadline = time.monotonic() + LIMIT
    while any(notes_of(tmp_path, rank).count(what) < count for rank in range(ranks)):
        assert time.monotonic() < deadline, [notes_of(tmp_path, rank) for rank in range(ranks)]
        time.sleep(0.01)


@contextlib.contextmanager
def running(links, tmp_path, slots, *program):
    """The job as a Popen; ended at the latest when the test is over."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with links.start(0, *words(links, tmp_path, slots, *program), **pipes) as job:
        try:
            yield job
        finally:
            job.terminate()


def wait_until_under_way(job, ranks):
    lines = []
    while sum("under way" in line for line in lines) < ranks:
        line = job.stdout.readline()
        assert line, "".join(lines)
        lines.append(line)


def rest_of(job):
    """What the job printed, as long as it ends by itself; else nothing."""
    try:
        return job.communicate(timeout=LIMIT)[0]
    except subprocess.TimeoutExpired:
        job.kill()
        pytest.fail(f"not done after {LIMIT} s; printed:\n{job.communicate()[0]}")


@needs_links
def test_compression_between_hosts_only_brings_all_ranks_the_mean(tmp_path):
    with Links(2, rate="1gbit") as links:
        job = links.run(0, *words(links, tmp_path, 2, BETWEEN_HOSTS), timeout=LIMIT)
        assert job.returncode == 0, job.stdout
        assert len(re.findall(r"^\[\d+\] fine$", job.stdout, re.MULTILINE)) == 4


@needs_links
@pytest.mark.parametrize(("hosts", "slots"), [(2, 1), (2, 2), (4, 1)])
@pytest.mark.parametrize("backend", ["tcp", "gloo"])
def test_collectives_between_hosts_are_exact(tmp_path, hosts, slots, backend):
    with Links(hosts, rate="1gbit") as links:
        job = links.run(
            0, *words(links, tmp_path, slots, COLLECTIVES, backend=backend), timeout=LIMIT
        )
        assert job.returncode == 0, job.stdout
        fine = re.findall(r"^\[\d+\] fine (\d) (\d)$", job.stdout, re.MULTILINE)
        assert fine == [(str(slots), str(hosts))] * (hosts * slots)
        sent = [host[0] for host in links.counts()]
        assert min(sent) > 1_000_000  # it was between the hosts


@needs_links
@pytest.mark.parametrize("hosts", [2, 3])
def test_a_job_finds_out_how_slow_its_links_are(tmp_path, hosts):
    with Links(hosts, rate="100mbit", delay_ms=20) as links:
        tell = ["--log-level", "info"]
        launch, *rest = words(links, tmp_path, 1, COLLECTIVES)
        job = links.run(0, launch, *tell, *rest, timeout=LIMIT)
        assert job.returncode == 0, job.stdout
        found = rf"slowest link between {hosts} hosts: ([\d.]+) Mbit/s, ([\d.]+) ms one way"
        (told,) = re.findall(found, job.stdout)  # Gbit/s would be what it is taken for unmeasured
        assert float(told[1]) >= 20


@needs_links
def test_a_job_that_is_told_of_its_links_does_not_measure_them(tmp_path):
    with Links(2) as links:
        launch, *rest = words(links, tmp_path, 1, COLLECTIVES)
        tell = ["--log-level", "info", "--links", "100mbit,20ms"]
        job = links.run(0, launch, *tell, *rest, timeout=LIMIT)
        assert job.returncode == 0, job.stdout
        assert "slowest link" not in job.stdout


@needs_links
def test_sums_are_exact_over_a_link_that_loses_packets(tmp_path):
    with Links(2, rate="1gbit", delay_ms=1, loss=0.01) as links:
        job = links.run(0, *words(links, tmp_path, 1, COLLECTIVES), timeout=LIMIT)
        assert job.returncode == 0, job.stdout
        assert sum(host[2] for host in links.counts()) > 0


@needs_links
@pytest.mark.parametrize("backend", ["tcp", "gloo"])
def test_sums_are_exact_over_a_slow_and_long_link(tmp_path, backend):
    with Links(2, rate="100mbit", delay_ms=20) as links:
        job = links.run(0, *sums(links, tmp_path, 2, 6, backend=backend), timeout=LIMIT)
    assert job.returncode == 0, job.stdout
    assert [notes_of(tmp_path, rank)[-1] for rank in range(4)] == ["left"] * 4


@needs_links
def test_two_hosts_of_four_ranks_compute_exact_sums(tmp_path):
    steps = 30
    with Links(2, rate="1gbit") as links:
        job = links.run(0, *sums(links, tmp_path, 4, steps), timeout=LIMIT)
    assert job.returncode == 0, job.stdout
    assert [notes_of(tmp_path, rank)[-1] for rank in range(8)] == ["left"] * 8


@needs_links
def test_a_job_goes_on_after_a_cut_shorter_than_the_failure_timeout(tmp_path):
    with Links(2, rate="1gbit") as links, links.start(0, *sums(links, tmp_path, 1, 10**9)) as job:
        try:
            await_notes(tmp_path, 2, "joined", 1)
            links.cut(0, 1)
            time.sleep(FAILURE_TIMEOUT / 3)
            links.restore(0, 1)
            gone_on = max(notes_of(tmp_path, rank).count("goes on") for rank in range(2))
            await_notes(tmp_path, 2, "goes on", gone_on + 2)
            # Before the end: the rank that hears of it last sees the other one leave.
            notes = [notes_of(tmp_path, rank) for rank in range(2)]
        finally:
            job.terminate()
    for said in notes:
        assert not {"error", "wrong"} & set(said)


@needs_links
def test_a_killed_rank_is_named_on_the_other_hosts(tmp_path):
    with Links(3) as links:
        with running(links, tmp_path, 1, ENDLESS, 1) as job:
            output = rest_of(job)
        assert job.returncode != 0
        for rank in (0, 2):
            assert re.search(rf"^\[{rank}\] ended: .*rank 1", output, re.MULTILINE), output
        assert "rank 1 on 10.77.0.2 (pid " in output


@needs_links
@pytest.mark.parametrize("direction", ["both", "one"])
def test_a_link_that_is_cut_is_named_within_the_failure_timeout(tmp_path, direction):
    with Links(2) as links, running(links, tmp_path, 1, ENDLESS, -1) as job:
        wait_until_under_way(job, 2)
        if direction == "both":
            links.cut(0, 1)
        else:
            links.half_open(1, 0)
        output = rest_of(job)
    assert job.returncode != 0
    assert re.search(r"^\[0\] ended: .*rank 1", output, re.MULTILINE), output
    assert re.search(r"^\[1\] ended: .*rank 0", output, re.MULTILINE), output


@needs_links
def test_a_cut_between_hosts_that_only_exchange_data_is_named_by_all(tmp_path):
    """In the control tree both are neighbors of the first host, and not of each other."""
    with Links(3, rate="1gbit") as links, links.start(0, *sums(links, tmp_path, 1, 10**9)) as job:
        try:
            await_notes(tmp_path, 3, "joined", 1)
            links.cut(1, 2)
            job.wait(LIMIT)
        finally:
            job.kill()
    for rank in range(3):
        *_, (_, what, text) = map(json.loads, (tmp_path / f"rank.{rank}").read_text().splitlines())
        assert what == "error"
        assert {"1", "2"} <= set(re.findall(r"rank (\d)", text)), text
        assert f"for {FAILURE_TIMEOUT} s" in text


# Sends to each port that somebody listens at on this host what no rank sends, and stays.
STRANGER = """
import pathlib, socket, sys, time
held = []
rows = [line.split() for path in pathlib.Path("/proc/net").glob("tcp*")
        for line in path.read_text().splitlines()[1:]]
ports = {int(row[1].split(":")[1], 16) for row in rows if row[3] == "0A"}  # listening
for port in ports:
    for text in (b"", b"GET / HTTP/1.1\\r\\n\\r\\n", bytes(range(256)) * 300):
        try:
            peer = socket.create_connection((sys.argv[1], port), timeout=2)
            held.append(peer)
            peer.sendall(text)
        except OSError:  # it is not for other hosts, or does not listen to that
            pass
print(len(held), flush=True)
time.sleep(60)
"""


@needs_links
def test_strangers_change_nothing(tmp_path):
    with Links(2) as links, running(links, tmp_path, 1, ENDLESS, -1) as job:
        wait_until_under_way(job, 2)
        strangers = [
            links.start(
                *(host, sys.executable, "-c", STRANGER, links.addresses[host]),
                stdout=subprocess.PIPE,
                text=True,
            )
            for host in (0, 1)
        ]
        assert all([int(stranger.stdout.readline()) > 0 for stranger in strangers])
        with pytest.raises(subprocess.TimeoutExpired):
            job.wait(timeout=2 * FAILURE_TIMEOUT)
        job.terminate()
        assert "ended:" not in rest_of(job)
        for stranger in strangers:
            stranger.kill()
            stranger.communicate()
