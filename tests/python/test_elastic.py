"""Goal: training goes on, exactly, in the same processes, when ranks die, leave or join; and a job
that can't go on ends and says why.

Method: real elastic jobs under horarun. Gradients are small integers that depend on the batch only,
so the weights at the end are known whatever happens: a step done twice, lost, or half done shows.
"""

import ast
import json
import os
import random
import signal
import sys
import threading
import time

import pytest
from support import lines_of, needs_horarun, run_job, run_program

pytestmark = needs_horarun

# Training with one commit in five batches. `trouble(state)` is called before each batch.
START = """
import os, signal, sys, time
import torch
import hora
import hora.torch as hvd
torch.set_num_threads(1)
hvd.init()
model = torch.nn.Linear(3, 2, bias=False)
torch.nn.init.constant_(model.weight, 5.0 + hvd.rank())
optimizer = torch.optim.SGD(model.parameters(), lr=1.0, momentum=0.0)
optimizer = hvd.DistributedOptimizer(optimizer, model.named_parameters())
state = hvd.elastic.TorchState(model=model, optimizer=optimizer, batch=0, sizes=[])
starts = []

def train_with(trouble, batches):
    @hvd.elastic.run
    def train(state):
        starts.append((hvd.size(), state.batch))
        while state.batch < batches:
            trouble(state)
            optimizer.zero_grad()
            (model.weight.sum() * (state.batch + 1)).backward()
            optimizer.step()
            state.batch += 1
            state.sizes.append(hvd.size())
            if state.batch % 5 == 0:
                state.commit()
    train(state)

def report(**more):
    weights = sorted(set(model.weight.flatten().tolist()))
    print("done", dict(rank=hvd.rank(), size=hvd.size(), pid=os.getpid(), batch=state.batch,
                       weights=weights, starts=starts, sizes=state.sizes, **more), flush=True)
"""


def run_elastic(text, *options, before="", timeout=180, environment=None):
    """Runs `text` after START under `horarun *options`."""
    words = [*options, sys.executable, "-c", before + START + text]
    return run_job(*words, timeout=timeout, environment=environment)


def reports_of(job):
    """What `report` printed, by rank."""
    found = [ast.literal_eval(s.split("done ", 1)[1]) for s in lines_of(job) if "done {" in s]
    return sorted(found, key=lambda report: report["rank"])


def weights_after(batches):
    """Rank 0's weights, less the gradients 1, 2, ..."""
    return [5.0 - sum(range(1, batches + 1))]


def test_survivors_of_a_kill_go_on_from_the_last_commit_in_their_processes():
    seed = random.randrange(1000)
    print("seed", seed)
    victim, batch = random.Random(seed).randrange(3), random.Random(seed).randrange(6, 29)
    text = (
        "print('pid', os.getpid(), flush=True)\n"
        "def trouble(state):\n"
        f"    if hvd.size() == 3 and hvd.rank() == {victim} and state.batch == {batch}:\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "train_with(trouble, 30)\n"
        "report()\n"
    )
    job = run_elastic(text, "-np", "3", "--min-np", "2", "--blacklist-after", "1")
    assert job.returncode == 0, job.stdout
    pids = [
        int(line.split()[-1]) for line in lines_of(job) if "pid " in line and "rank" not in line
    ]
    reports = reports_of(job)
    assert [(r["rank"], r["size"]) for r in reports] == [(0, 2), (1, 2)], job.stdout
    assert len(pids) == 3 and {r["pid"] for r in reports} < set(pids)
    committed = batch // 5 * 5
    for report in reports:
        assert report["starts"] == [(3, 0), (2, committed)]
        assert report["sizes"] == [3] * committed + [2] * (30 - committed)
        assert report["weights"] == weights_after(30)
    assert f"rank {victim} (pid" in job.stdout and "was killed by signal 9" in job.stdout


@pytest.mark.parametrize("how", ["raise ValueError('a mistake')", "sys.exit(4)", "os._exit(5)"])
def test_other_ways_to_fail_are_survived_too(how):
    text = (
        "def trouble(state):\n"
        "    if hvd.size() == 2 and hvd.rank() == 0 and state.batch == 7:\n"
        f"        {how}\n"
        "train_with(trouble, 12)\n"
        "report()\n"
    )
    job = run_elastic(text, "-np", "2", "--min-np", "1", "--blacklist-after", "1")
    assert job.returncode == 0, job.stdout
    (report,) = reports_of(job)
    assert report["starts"] == [(2, 0), (1, 5)]
    assert report["weights"] == weights_after(12)


# Goes on, slowly and with a commit in each batch, until `done(state)`, for two minutes at most.
UNTIL = """
def train_until(done, trouble):
    end = time.monotonic() + 120
    def patiently(state):
        trouble(state)
        state.commit()
        time.sleep(0.01)
        late = hvd.broadcast_object(done(state) or time.monotonic() > end, 0)
        if late:
            raise StopIteration
    try:
        train_with(patiently, 1 << 30)
    except StopIteration:
        pass
"""


def test_a_failed_rank_is_replaced_and_the_new_one_joins_at_a_commit(tmp_path):
    text = UNTIL + (
        "mark = os.environ['MARK']\n"
        "def trouble(state):\n"
        "    if hvd.rank() == 1 and state.batch == 7 and not os.path.exists(mark):\n"
        "        open(mark, 'w').close()\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "def done(state):\n"
        "    return 1 in state.sizes and hvd.size() == 2 and state.sizes[-1] == 2\n"
        "train_until(done, trouble)\n"
        "report()\n"
    )
    options = ["-np", "2", "--min-np", "1", "--blacklist-cooldown-range", "100ms", "1s"]
    job = run_elastic(text, *options, environment={"MARK": str(tmp_path / "mark")})
    assert job.returncode == 0, job.stdout
    first, second = reports_of(job)
    assert (first["rank"], second["rank"]) == (0, 1)
    assert first["sizes"] == second["sizes"] == sorted(first["sizes"][:-1], reverse=True) + [2]
    assert first["sizes"][6:8] == [2, 1] and second["starts"] == [(2, first["batch"] - 1)]
    assert first["weights"] == second["weights"] == weights_after(first["batch"])


def test_ranks_join_and_leave_as_the_discovery_script_says(tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("localhost:1\n")
    text = UNTIL + (
        "def trouble(state):\n"
        "    ever = set(state.sizes)\n"
        "    wanted = 1 if len(state.sizes) < 3 else 3 if 3 not in ever else 2\n"
        "    if hvd.rank() == 0:\n"
        "        with open(os.environ['HOSTS'] + '.new', 'w') as file:\n"
        "            file.write(f'localhost:{wanted}\\n')\n"
        "        os.rename(os.environ['HOSTS'] + '.new', os.environ['HOSTS'])\n"
        "def done(state):\n"
        "    return 3 in state.sizes and state.sizes[-1] == 2\n"
        "train_until(done, trouble)\n"
        "report()\n"
    )
    options = ["--min-np", "1", "--max-np", "3", "--host-discovery-script", f"cat {hosts}"]
    job = run_elastic(text, *options, environment={"HOSTS": str(hosts)})
    assert job.returncode == 0, job.stdout
    reports = reports_of(job)
    assert [report["rank"] for report in reports] == [0, 1], job.stdout
    sizes = reports[0]["sizes"]
    assert {1, 2, 3} == set(sizes) and sizes[0] == 1 and sizes[-1] == 2
    assert reports[0]["starts"][0] == (1, 0) and len(reports[0]["starts"]) >= 3
    for report in reports:
        assert report["weights"] == weights_after(len(sizes))
    assert "Traceback" not in job.stdout  # the rank that left, left well


class Killer(threading.Thread):
    """Kills ranks of a job of three, one and then two at a time, whenever three have met, and then
    lets it end. The processes' numbers are in the folder's file `members`."""

    def __init__(self, folder, seed):
        super().__init__(daemon=True)
        self.folder = folder
        self.chance = random.Random(seed)
        self.killed = []
        self.members = []
        self.start()

    def run(self):
        try:
            for deaths in (1, 2):
                self.await_three()
                time.sleep(self.chance.uniform(0, 0.2))
                for pid in self.chance.sample(self.members, deaths):
                    self.killed.append(pid)
                    os.kill(pid, signal.SIGKILL)
                    time.sleep(self.chance.uniform(0, 0.02))
            self.await_three()
        finally:
            (self.folder / "stop").touch()

    def await_three(self):
        end = time.monotonic() + 120
        file = self.folder / "members"
        while True:
            self.members = json.loads(file.read_text()) if file.exists() else []
            if len(self.members) == 3 and not set(self.members) & set(self.killed):
                return
            assert time.monotonic() < end
            time.sleep(0.01)


def test_kills_at_random_moments_leave_exact_weights_and_no_process(tmp_path):
    seed = random.randrange(1000)
    print("seed", seed)
    text = UNTIL + (
        "import json\n"
        "folder, met = os.environ['FOLDER'], 0\n"
        "def trouble(state):\n"
        "    global met\n"
        "    if met == len(starts):\n"
        "        return\n"
        "    met = len(starts)\n"
        "    members = hvd.allgather_object(os.getpid())\n"
        "    if hvd.rank() == 0:\n"
        "        with open(os.path.join(folder, 'new'), 'w') as file:\n"
        "            json.dump(members, file)\n"
        "        os.rename(os.path.join(folder, 'new'), os.path.join(folder, 'members'))\n"
        "def done(state):\n"
        "    return os.path.exists(os.path.join(folder, 'stop'))\n"
        "train_until(done, trouble)\n"
        "report()\n"
    )
    killer = Killer(tmp_path, seed)
    options = ["-np", "3", "--min-np", "1", "--blacklist-cooldown-range", "10ms", "10ms"]
    job = run_elastic(text, *options, environment={"FOLDER": str(tmp_path)})
    killer.join()
    assert job.returncode == 0, job.stdout
    reports = reports_of(job)
    assert [(r["rank"], r["size"]) for r in reports] == [(0, 3), (1, 3), (2, 3)], job.stdout
    # Whoever was not killed is still there, in its process.
    assert len(killer.killed) == 3
    assert [r["pid"] for r in reports] == killer.members, job.stdout
    for report in reports:
        assert report["weights"] == weights_after(report["batch"]), job.stdout
        assert report["batch"] == reports[0]["batch"] == len(report["sizes"])
    for pid in killer.members + killer.killed:
        assert not os.path.exists(f"/proc/{pid}")


def test_every_sample_is_visited_once_whether_a_rank_is_lost_or_ranks_change():
    text = (
        "data = list(range(48))\n"
        "sampler = hvd.elastic.ElasticSampler(data, shuffle=True, seed=3)\n"
        "state = hvd.elastic.TorchState(model=model, optimizer=optimizer, sampler=sampler,\n"
        "                               batch=0, sizes=[], seen=[])\n"
        "def visit(state):\n"
        "    loader = torch.utils.data.DataLoader(data, sampler=state.sampler, batch_size=2)\n"
        "    for i, batch in enumerate(loader):\n"
        "        if hvd.size() == 3 and hvd.rank() == 1 and len(state.seen) >= 18:\n"
        "            os.kill(os.getpid(), signal.SIGKILL)\n"
        "        state.seen = state.seen + hvd.allgather(batch, name='seen').tolist()\n"
        "        state.sampler.record_batch(i, 2)\n"
        "        state.batch += 1\n"
        "        if hvd.size() == 2 and state.batch == 5:\n"
        "            raise hvd.elastic.HostsUpdatedInterrupt\n"
        "        if state.batch % 2 == 0:\n"
        "            state.commit()\n"
        "@hvd.elastic.run\n"
        "def train(state):\n"
        "    starts.append((hvd.size(), state.batch))\n"
        "    while state.sampler.epoch < 2:\n"
        "        visit(state)\n"
        "        print('epoch', hvd.rank(), sorted(state.seen), flush=True)\n"
        "        state.seen, state.batch = [], 100\n"
        "        state.sampler.set_epoch(state.sampler.epoch + 1)\n"
        "train(state)\n"
        "report()\n"
    )
    job = run_elastic(text, "-np", "3", "--min-np", "2", "--blacklist-after", "1")
    assert job.returncode == 0, job.stdout
    # Three batches of 6 samples, of which two were committed; then of 4 samples.
    for report in reports_of(job):
        assert report["starts"] == [(3, 0), (2, 2), (2, 5)], job.stdout
    epochs = [s.split("epoch ", 1)[1] for s in lines_of(job) if "] epoch " in s]
    assert len(epochs) == 4, job.stdout
    for epoch in epochs:
        assert ast.literal_eval(epoch.split(" ", 1)[1]) == list(range(48))


def test_reset_callbacks_run_before_the_state_is_shared_and_nothing_is_left_behind():
    text = (
        "calls, left = [], []\n"
        "def call():\n"
        "    calls.append((hvd.size(), state.batch))\n"
        "    state.extra = 100 + hvd.rank()\n"
        "state = hvd.elastic.TorchState(model=model, optimizer=optimizer, batch=0, sizes=[],\n"
        "                               extra=0)\n"
        "state.register_reset_callbacks([call])\n"
        "def resources():\n"
        "    maps = open('/proc/self/maps').read()\n"
        "    return (len(os.listdir('/proc/self/fd')), len(os.listdir('/proc/self/task')),\n"
        "            maps.count('memfd'))\n"
        "def trouble(state):\n"
        "    if state.batch % 3 == 2 and len(calls) < 6 and state.batch // 3 == len(calls):\n"
        "        left.append(resources())\n"
        "        raise hvd.elastic.HostsUpdatedInterrupt\n"
        "train_with(trouble, 25)\n"
        "report(calls=calls, left=left, extra=state.extra)\n"
    )
    job = run_elastic(text, "-np", "2", "--min-np", "2")
    assert job.returncode == 0, job.stdout
    for report in reports_of(job):
        assert report["calls"] == [(2, batch) for batch in (2, 5, 8, 11, 14, 17)]
        assert report["weights"] == weights_after(25)
        assert report["extra"] == 100
        # The first steps load what is loaded once.
        assert report["left"][1:] == [report["left"][1]] * 5, job.stdout


def test_when_all_ranks_die_the_job_ends_with_their_code_and_says_so():
    text = (
        "def trouble(state):\n"
        "    if state.batch == 7:\n"
        "        os._exit(3)\n"
        "train_with(trouble, 12)\n"
    )
    job = run_elastic(text, "-np", "2", "--min-np", "1", "--blacklist-after", "1")
    assert job.returncode == 3, job.stdout
    assert "have failed: nobody has the state any longer" in job.stdout


def test_fewer_than_the_minimum_without_a_slot_to_start_another_ends_the_job():
    text = (
        "def trouble(state):\n"
        "    if hvd.rank() == 1 and state.batch == 7:\n"
        "        os._exit(3)\n"
        "train_with(trouble, 12)\n"
    )
    job = run_elastic(text, "-np", "2", "--min-np", "2", "--blacklist-after", "1")
    assert job.returncode == 3, job.stdout
    assert "1 rank is left, fewer than --min-np 2, and no slot to start another" in job.stdout


def test_ranks_that_meet_again_too_often_end_the_job():
    text = (
        "def trouble(state):\n"
        "    if state.batch == 7:\n"
        "        raise hvd.elastic.HostsUpdatedInterrupt\n"
        "train_with(trouble, 12)\n"
    )
    job = run_elastic(text, "-np", "2", "--min-np", "2", "--reset-limit", "2")
    assert job.returncode == 1, job.stdout
    assert "the ranks have met again 2 times, which is the limit (--reset-limit)" in job.stdout


def test_a_rank_that_hangs_is_given_up_and_ended():
    text = (
        "def trouble(state):\n"
        "    if hvd.size() == 2 and hvd.rank() == 0 and state.batch == 7:\n"
        "        print('stopped', os.getpid(), flush=True)\n"
        "        os.kill(os.getpid(), signal.SIGSTOP)\n"
        "train_with(trouble, 12)\n"
        "report()\n"
    )
    words = ["--failure-timeout", "5s", "--elastic-timeout", "10s", "--grace", "1s"]
    job = run_elastic(text, "-np", "2", "--min-np", "1", *words, before="import hora; hora.init()")
    assert job.returncode == 0, job.stdout
    (report,) = reports_of(job)
    assert report["starts"] == [(2, 0), (1, 5)]
    assert report["weights"] == weights_after(12)
    assert "rank 0 did not come to meet the others again for 10 s" in job.stdout
    (stopped,) = [int(line.split()[-1]) for line in lines_of(job) if "stopped" in line]
    assert not os.path.exists(f"/proc/{stopped}")


def test_too_few_slots_for_too_long_end_the_job():
    words = ["--min-np", "2", "--elastic-timeout", "2s"]
    job = run_elastic("", *words, "--host-discovery-script", "echo localhost:1")
    assert job.returncode == 1
    assert "0 of at least 2 ranks were ready to go on for 2 s" in job.stdout
    assert "slots found: 1" in job.stdout


def test_without_an_elastic_job_the_program_runs_and_a_lost_rank_is_an_error():
    text = START + (
        "def trouble(state):\n"
        "    if hvd.rank() == 1 and state.batch == 7:\n"
        "        os._exit(3)\n"
        "try:\n"
        "    train_with(trouble, 12)\n"
        "except hvd.PeerLost as error:\n"
        "    report()\n"
    )
    (report,) = reports_of(run_program(2, text))
    assert (report["rank"], report["batch"]) == (0, 7)
