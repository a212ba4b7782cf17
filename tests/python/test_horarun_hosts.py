"""Goal: horarun starts ranks on several hosts, tells what is wrong with one by its name, and leaves
nothing on any of them, however the job or the connection ends.

Method: the real program, with a stand-in for ssh that starts the command here, with as little of an
environment as a remote login has. `tests/python/test_namespaces_*.py` has hosts that are apart.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys
import time

import pytest
from support import HORARUN, needs_horarun

pytestmark = needs_horarun
LIMIT = 40  # seconds; no test needs more than a few

RSH = """#!/bin/sh
host=$1; shift
echo $$ >> {folder}/connections
case $host in
  bad) echo "Could not resolve hostname bad" >&2; exit 255 ;;
  silent) exec sleep 100 ;;
  bare) set -- exec no-such-program ;;
  other) echo 'I am no agent'; exit 0 ;;
  chatty) echo 'Last login: yesterday'; cd / ;;
esac
exec env -i HOME={folder} PATH=/usr/bin:/bin FROM_LOGIN=yes sh -c "$*"
"""


@pytest.fixture
def rsh(tmp_path):
    path = tmp_path / "rsh"
    path.write_text(RSH.format(folder=tmp_path))
    path.chmod(0o755)
    return path


def run(rsh, *words, program=None, **options):
    command = [HORARUN, "--rsh", str(rsh), *map(str, words)]
    if program is not None:
        command += [sys.executable, "-S", "-c", program]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT, **options)


def start(rsh, *words, program):
    command = [HORARUN, "--rsh", str(rsh), *words, sys.executable, "-S", "-c", program]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def alive(pid):
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def all_gone(pids):
    for _ in range(LIMIT * 10):
        if not any(map(alive, pids)):
            return True
        time.sleep(0.1)
    return False


SHOW = """
import os
print(*(os.environ[name] for name in (
    "HORA_RANK", "HORA_SIZE", "HORA_LOCAL_RANK", "HORA_LOCAL_SIZE", "HORA_CROSS_RANK",
    "HORA_CROSS_SIZE", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")))
"""
# Children of the rank, too, must not stay.
SLEEP = """
import os, subprocess, time
child = subprocess.Popen(["sleep", "100"])
print(os.getpid(), child.pid, flush=True)
time.sleep(100)
"""


def test_ranks_are_numbered_host_by_host(rsh):
    job = run(rsh, "--no-prefix", "-H", "a:2,localhost:1,b:2", program=SHOW)
    assert job.returncode == 0, job.stderr
    assert sorted(job.stdout.splitlines()) == [
        "0 5 0 2 0 3 0 5 0 2",
        "1 5 1 2 0 2 1 5 1 2",
        "2 5 0 1 1 3 2 5 0 1",
        "3 5 0 2 2 3 3 5 0 2",
        "4 5 1 2 1 2 4 5 1 2",
    ]
    connections = (rsh.parent / "connections").read_text().split()
    assert len(connections) == 2  # one for each other host


def test_a_hostfile_is_a_list_of_hosts_too(rsh, tmp_path):
    hosts = tmp_path / "hosts"
    hosts.write_text("a slots=1\nb slots=3 max_slots=3\n")
    job = run(rsh, "-np", 3, "--hostfile", hosts, "sh", "-c", "echo $HORA_LOCAL_SIZE")
    assert sorted(job.stdout.splitlines()) == ["[0] 1", "[1] 2", "[2] 2"]
    hosts.write_text("a slots=1\nb slot=3\n")
    job = run(rsh, "--hostfile", hosts, "true")
    assert job.returncode == 2
    assert f"{hosts}:2: `slot=3`: did you mean `slots=N`?" in job.stderr


def test_ranks_work_in_our_folder_with_our_variables_and_the_login_s_home(rsh, tmp_path):
    words = "echo $PWD $MINE $OURS $HOME $FROM_LOGIN"
    job = run(
        rsh,
        *("-H", "a:1", "-x", "MINE=1", "sh", "-c", words),
        cwd=tmp_path,
        env={**os.environ, "OURS": "two words"},
    )
    assert job.stdout == f"[0] {tmp_path} 1 two words {tmp_path} yes\n"


def test_the_secret_is_in_no_command_line(rsh):
    program = (
        "import os, pathlib\n"
        "secret = os.environ['HORA_SECRET'].encode()\n"
        "lines = [p.read_bytes() for p in pathlib.Path('/proc').glob('[0-9]*/cmdline')]\n"
        "print(len(secret), sum(secret in line for line in lines))\n"
    )
    job = run(rsh, "-H", "a:1,localhost:1", program=program)
    assert sorted(job.stdout.splitlines()) == ["[0] 64 0", "[1] 64 0"]


def test_output_of_all_hosts_comes_here(rsh, tmp_path):
    program = "import sys; print('out'); print('bar', end='\\r'); print('err', file=sys.stderr)"
    job = run(rsh, "-H", "a:1,chatty:1", program=program)
    assert sorted(job.stdout.splitlines()) == ["[0] bar", "[0] out", "[1] bar", "[1] out"]
    assert sorted(job.stderr.splitlines()) == ["[0] err", "[1] err"]
    run(rsh, "-H", "a:1,localhost:1", "--output-dir", tmp_path / "logs", program=program)
    for rank in (0, 1):
        assert (tmp_path / f"logs/rank.{rank}/stdout").read_bytes() == b"out\nbar\r"
        assert (tmp_path / f"logs/rank.{rank}/stderr").read_text() == "err\n"


def test_much_output_is_complete(rsh):
    job = run(rsh, "--no-prefix", "-H", "a:1", program="for i in range(200000): print(i)")
    assert job.stdout.splitlines() == [str(i) for i in range(200000)]


@pytest.mark.parametrize(
    ("host", "why"),
    [
        ("bad", "bad` failed: Could not resolve hostname bad"),
        ("silent", "silent` within 1 s (--start-timeout)"),
        ("bare", "there is no horarun, neither "),
        ("other", "other` exited with code 0"),
    ],
)
def test_a_host_that_cannot_start_is_named_with_the_reason_and_nothing_starts(rsh, host, why):
    timeout = ["--start-timeout", "1s"] if host == "silent" else []
    job = run(rsh, *timeout, "-H", f"a:1,{host}:1,localhost:1", program="print('started')")
    assert job.returncode == 1
    assert job.stdout == ""
    assert f"horarun: host {host}: " in job.stderr
    assert why in job.stderr


def test_a_program_or_folder_that_a_host_lacks_is_told_with_its_name(rsh, tmp_path):
    job = run(rsh, "-H", "a:1", "no-such-program")
    assert job.returncode == 1
    assert job.stderr == "horarun: host a: program no-such-program was not found in PATH\n"


def test_the_rank_that_fails_first_is_named_with_its_host(rsh):
    program = (
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1':\n"
        "    sys.exit('my reason')\n"
        "time.sleep(100)\n"
    )
    job = run(rsh, "--grace", "0.2s", "-H", "a:1,b:1,localhost:1", program=program)
    assert job.returncode == 1
    assert "horarun: rank 1 on b failed first; its last 1 lines of stderr:\n[1] my reason\n" in (
        job.stderr
    )
    assert "exited with code 1" in job.stderr


def test_a_lost_connection_names_the_host_and_ends_its_ranks(rsh):
    with start(rsh, "--grace", "0.2s", "-H", "a:1,b:1", program=SLEEP) as job:
        lines = [job.stdout.readline().split() for _ in range(2)]
        pids = {line[0]: [int(pid) for pid in line[1:]] for line in lines}
        agent = parent_of(parent_of(pids["[1]"][0]))
        os.kill(agent, signal.SIGKILL)
        _, errors = job.communicate(timeout=LIMIT)
    assert job.returncode == 1
    assert "rank 1 on b was lost: host b: " in errors
    assert "was killed by signal 9" in errors
    assert all_gone(pids["[0]"] + pids["[1]"])


def parent_of(pid):
    stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[1])


@pytest.mark.parametrize("elastic", [[], ["--min-np", "3"]], ids=["fixed", "elastic"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_nothing_stays_on_any_host_when_horarun_is_ended(rsh, number, elastic):
    with start(rsh, *elastic, "-H", "a:1,b:1,localhost:1", program=SLEEP) as job:
        pids = [int(pid) for _ in range(3) for pid in job.stdout.readline().split()[-2:]]
        assert all(map(alive, pids))
        job.send_signal(number)
        job.communicate(timeout=LIMIT)
    assert job.returncode == (-9 if number == signal.SIGKILL else 128 + number)
    assert all_gone(pids)


def test_mistakes_are_told_before_anything_starts(rsh):
    for words, text in [
        (["-H", "a:1", "--hostfile", "x"], "--hosts and --hostfile: give one of them"),
        (["-H", "a:0"], "--hosts: `a:0`: expected HOST:SLOTS"),
        (["-H", "-oProxyCommand=x:1"], "`-oProxyCommand=x:1` is not the name of a host"),
        (["-np", "3", "-H", "a:1,b:1"], "-np 3: a:1,b:1 have 2 slots"),
        (["-H", "a:2", "--min-np", "3"], "-np 3: a:2 have 2 slots"),
        (["--hostfile", "/no/such/file"], "--hostfile /no/such/file: No such file"),
    ]:
        job = run(rsh, *words, "true")
        assert job.returncode == 2, words
        assert text in job.stderr
    assert not (rsh.parent / "connections").exists()


def doctor(rsh, *words):
    command = [pathlib.Path(HORARUN).with_name("hora"), "doctor", "--rsh", str(rsh), *words]
    return subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)


def test_the_doctor_sees_that_all_hosts_reach_each_other(rsh):
    visit = doctor(rsh, "--hosts", "a,b")
    assert visit.returncode == 0, visit.stdout
    for host in ("a", "b"):
        clock = rf"^{host} +hora [\d.]+, \d+ cores, clock [-+][\d.]+ ms "
        assert re.search(clock, visit.stdout, re.MULTILINE), visit.stdout
    for pair in ("this machine, a", "this machine, b", "a, this machine", "a, b", "b, a"):
        speed = rf"^{pair}: [\d.]+ ms, [\d.]+ Gbit/s$"
        assert re.search(speed, visit.stdout, re.MULTILINE), visit.stdout


def test_a_plan_for_hosts_with_names_measures_their_links(rsh):
    hora = pathlib.Path(HORARUN).with_name("hora")
    command = [hora, "plan", "--rsh", str(rsh), "--hosts", "a:2,b:2", "--most", "4"]
    visit = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT)
    assert visit.returncode == 0, visit.stdout + visit.stderr
    first, second = visit.stdout.splitlines()[:2]
    assert re.match(r"the slowest link: [\d.e+-]+ Gbit/s, [\d.]+ m?u?s one way$", first), first
    assert second == "allreduce over 4 ranks: 2 on each of 2"


def test_the_doctor_names_the_host_that_fails_and_looks_at_the_others(rsh):
    visit = doctor(rsh, "--start-timeout", "2", "--hosts", "bad,silent,a")
    assert visit.returncode == 1
    assert re.search("^bad +FAILED: .*Could not resolve", visit.stdout, re.MULTILINE)
    assert re.search("^silent +FAILED: no answer within 2 s$", visit.stdout, re.MULTILINE)
    assert re.search("^this machine, a: [\\d.]+ ms", visit.stdout, re.MULTILINE)
